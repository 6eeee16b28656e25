"""Who writes a run on a disk without ``flock``: a file per generation, made by one process and by no other.

Whoever wants to write makes ``.owner-G``, one above the newest, which the file system grants to one process alone. It
says who that is and beats, so that others see it live. One that is gone, by its process on this machine and by its
silence on another, is succeeded. A process that was merely frozen, or cut off, learns of its successor before it
writes anything; and what it appends to the journal in that very moment is of a lower generation than a line before it,
and so does not count. No clocks are compared.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import psutil

from ser_batch.atomic import NO_FOLLOW, read_file
from ser_batch.births import BIRTH_TOLERANCE_S, born_s
from ser_batch.errors import RunError
from ser_batch.kinds import AMOUNT, COUNT, TEXT, Kind, problem_with, read_json
from ser_batch.run.journal import JOURNAL, Filesystem, Journal, highest_generation, reign

__all__ = ["FencedFilesystem", "Owner", "in_use", "is_alive", "living_owner", "newest_owner", "owned"]

_NAME = re.compile(r"\.owner-(\d{8})")
_LAST = 99_999_999
#: A record is written over in place, so all have one length.
_RECORD_BYTES = 512
#: How often an owner beats, and how long one of another machine may be silent before it is succeeded.
_BEAT_S = 2.0
_SILENCE_S = 20.0


@dataclass(frozen=True, slots=True)
class Owner:
    """What a file says of its maker."""

    process: int = 0
    host: str = ""
    #: Tells machines, and containers on one, apart.
    machine: str = ""
    began_s: float = 0.0
    beat: int = 0
    is_done: bool = False
    #: Of an owner that is an object: one above that of the owner before.
    generation: int = 0

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}" if self.process else "another process"

    @classmethod
    def of_this_process(cls) -> Owner:
        return cls(os.getpid(), platform.node()[:100], _machine(), born_s(os.getpid()))

    @classmethod
    def parse(cls, data: bytes) -> Owner:
        """Take what an owner has written; what is not whole says nothing of its maker."""
        try:
            values = read_json(data)
        except ValueError:
            return cls()
        is_one = isinstance(values, dict) and values.keys() <= _FIELDS.keys() and not problem_with(values, _FIELDS)
        return cls(**values) if is_one else cls()

    @classmethod
    def read(cls, path: Path) -> Owner:
        return cls.parse(read_file(path, NO_FOLLOW))

    def record(self) -> bytes:
        """Return what `parse` takes, of one length."""
        return json.dumps(asdict(self)).encode().ljust(_RECORD_BYTES - 1) + b"\n"


_FIELDS = {
    "process": COUNT,
    "generation": COUNT,
    "host": TEXT,
    "machine": TEXT,
    "began_s": AMOUNT,
    "beat": COUNT,
    "is_done": Kind(lambda value: isinstance(value, bool), "true or false"),
}


class FencedFilesystem(Filesystem):
    """Writes a run as long as its owner has no successor, and marks what it appends with its generation."""

    def __init__(self, run_dir: Path, generation: int) -> None:
        self._run_dir, self._generation = run_dir, generation

    def check(self) -> None:
        """See that no other process has taken over.

        Raises
        ------
        RunError
            One has; the message names it.
        OSError
            The folder of the run is gone, or cannot be looked into.
        """
        newest = _newest(self._run_dir)
        if not newest:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._run_dir)
        if newest != self._generation:
            owner = Owner()
            with suppress(OSError):
                owner = Owner.read(_path(self._run_dir, newest))
            raise RunError(
                f"{self._run_dir} was taken over by {owner}, since nothing was heard of this process for a while. What "
                f"it had committed is whole; nothing more is written by it."
            )

    def write(self, path: Path, data: bytes | memoryview) -> None:
        self.check()
        super().write(path, data)

    def append(self, path: Path, data: bytes) -> None:
        """Append to the journal, as a block of this generation."""
        self.check()
        super().append(path, reign(self._generation) + data)
        self.check()

    def replace(self, path: Path, data: bytes | memoryview) -> None:
        """Write a file in the place of another; the journal begins with this generation then."""
        super().replace(path, reign(self._generation) + bytes(data) if path.name == JOURNAL else data)

    def rename(self, source: Path, target: Path) -> None:
        self.check()
        super().rename(source, target)


@contextmanager
def owned(run_dir: Path) -> Iterator[FencedFilesystem]:
    """Own a run alone.

    Raises
    ------
    RunError
        Another process does, and the message says which.
    OSError
        The file cannot be made or written.
    """
    generation = _claim(run_dir)
    path = _path(run_dir, generation)
    me = Owner.of_this_process()
    ended = threading.Event()

    def beat() -> None:
        n_beats = 0
        while not ended.wait(_BEAT_S):
            n_beats += 1
            # One that fails is a beat that others miss.
            with suppress(OSError):
                _write(path, replace(me, beat=n_beats))

    beating = threading.Thread(target=beat, name="ser-batch owner", daemon=True)
    try:
        _write(path, me)
        beating.start()
        filesystem = FencedFilesystem(run_dir, generation)
        if (journal := run_dir / JOURNAL).exists():
            # A last line that is not whole goes. What comes from those before after this does not count.
            Journal(journal, filesystem).read()
            filesystem.append(journal, b"")
        yield filesystem
    finally:
        ended.set()
        if beating.ident is not None:
            beating.join()
        # A successor has deleted it; else it stays, so that its number is not given again.
        with suppress(OSError):
            _write(path, replace(me, is_done=True))


def living_owner(run_dir: Path) -> str:
    """Name the process that owns a run, "" for none; that of another machine is listened to for a while."""
    generation = newest_owner(run_dir)
    if not generation:
        return ""
    try:
        owner = Owner.read(_path(run_dir, generation))
        path = _path(run_dir, generation)
        return str(owner) if is_alive(owner, lambda: Owner.read(path)) else ""
    except FileNotFoundError:
        # Succeeded this moment.
        return living_owner(run_dir)
    except OSError:
        return str(Owner())


def newest_owner(run_dir: Path) -> int:
    """Return the number of the newest owner, 0 where there was none."""
    try:
        return _newest(run_dir)
    except OSError:
        return 0


def _newest(run_dir: Path) -> int:
    names = os.listdir(run_dir)  # noqa: PTH208 - names alone
    return max((int(found[1]) for name in names if (found := _NAME.fullmatch(name))), default=0)


def in_use(run_dir: Path | str, holder: str) -> RunError:
    """Return the error that says who writes a run."""
    return RunError(f"{run_dir} is being written by {holder}. Wait for it or stop it, or use another run folder.")


def _claim(run_dir: Path) -> int:
    while True:
        # The number is fixed before it is looked whether anybody lives: whoever comes in between takes that very
        # number, and is not overtaken. A copy may have the journal without the files of its owners.
        generation = max(newest_owner(run_dir), highest_generation(run_dir / JOURNAL)) + 1
        if holder := living_owner(run_dir):
            raise in_use(run_dir, holder)
        if generation > _LAST:
            raise RunError(
                f"{run_dir} says that process number {generation - 1:,} owned it, which is edited or damaged: move its "
                f'files .owner-* away, and lines with "generation" out of its journal.'
            )
        try:
            os.close(os.open(_path(run_dir, generation), os.O_WRONLY | os.O_CREAT | os.O_EXCL | NO_FOLLOW, 0o666))
        except FileExistsError:
            continue  # somebody was faster
        if newest_owner(run_dir) == generation:
            break
        # Numbers below the newest are free again, and mean nothing.
        _path(run_dir, generation).unlink(missing_ok=True)
    for older in run_dir.glob(".owner-*"):
        if (found := _NAME.fullmatch(older.name)) and int(found[1]) < generation:
            older.unlink(missing_ok=True)
    return generation


def is_alive(owner: Owner, again: Callable[[], Owner]) -> bool:
    """Tell whether an owner lives: by its process on this machine, by its beats on another, listened to for a while.

    Parameters
    ----------
    owner : Owner
        As it was read.
    again : callable
        Reads it once more.
    """
    if owner.is_done:
        return False
    if owner.machine == _machine():
        try:
            return abs(born_s(owner.process) - owner.began_s) < BIRTH_TOLERANCE_S
        except psutil.Error:
            return False
    deadline = time.monotonic() + _SILENCE_S
    while time.monotonic() < deadline:
        time.sleep(min(_BEAT_S, _SILENCE_S) / 4)
        now = again()
        if now != owner:
            return not now.is_done
    return False


def _path(run_dir: Path, generation: int) -> Path:
    return run_dir / f".owner-{generation:08d}"


def _write(path: Path, owner: Owner) -> None:
    # Opened anew each time, which is when network file systems look and show.
    descriptor = os.open(path, os.O_WRONLY | NO_FOLLOW)
    try:
        os.pwrite(descriptor, owner.record(), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@cache
def _machine() -> str:
    """Return what tells this machine, since it was started, and this container, if it is one, from others."""
    parts = [platform.node()[:100]]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - it leads nowhere
    return " ".join(parts)
