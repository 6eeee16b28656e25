"""What became of a worker that died: how it ended, where in Python it was, and what it said last."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ser_batch.stages.worker import FATAL_PREFIX, LOG_PREFIX
from ser_batch.text import printable

__all__ = ["Cause", "cause_of", "innermost_lines", "last_words"]

#: Frames of Python that a row quotes, the innermost first: that of a library alone says little.
_N_FRAMES = 3
_WORDS_BYTES = 4096
_WORDS_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a worker died."""

    #: TimedOut, OutOfMemory or Killed; ends the error type of a row.
    kind: str
    text: str


def cause_of(code: int | None) -> Cause:
    """Put the exit code of a process into words; None where nobody knows it."""
    if code is None:
        return Cause("Killed", "worker died")
    if code >= 0:
        return Cause("Killed", f"worker exited with code {code}")
    name = signal.strsignal(-code)
    return Cause("Killed", f"worker killed by signal {-code}" + (f" ({name})" if name else ""))


def innermost_lines(folder: Path, pid: int) -> str:
    """Return where in Python a worker crashed, as faulthandler saw it; "" where it saw nothing."""
    text = _tail(folder / f"{FATAL_PREFIX}{pid}", head=True)
    frames = re.findall(r'^  File "(.+)", line (\d+) in (.+)$', text, re.MULTILINE)[:_N_FRAMES]
    return ", called at ".join(f"{'/'.join(Path(file).parts[-2:])}:{line} in {name}" for file, line, name in frames)


def last_words(folder: Path, pids: Iterable[int]) -> str:
    """Return the last lines that one of some workers printed, on one line; "" where none did."""
    for pid in pids:
        lines = [line.strip() for line in _tail(folder / f"{LOG_PREFIX}{pid}").splitlines() if line.strip()]
        if lines:
            return printable(" | ".join(lines[-3:])[-_WORDS_CHARACTERS:])
    return ""


def _tail(path: Path, head: bool = False) -> str:
    """Read the end of a file, or its beginning."""
    try:
        with path.open("rb") as file:
            if not head:
                file.seek(max(path.stat().st_size - _WORDS_BYTES, 0))
            return file.read(_WORDS_BYTES).decode(errors="replace")
    except OSError:
        return ""
