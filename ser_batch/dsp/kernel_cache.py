"""Where compiled kernels are kept on disk, and whether those of this machine are there; loads no numba.

Kernels belong to a processor, a Python and a numba. Once a process has compiled all that an extractor needs, a marker
beside them says so, so that the parent of a scan need not load a compiler to know that its workers will find them.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ser_batch.atomic import write_atomic

__all__ = ["kernel_folder", "mark_warm", "not_warm", "processor_class", "share_out", "unsaved"]

#: Kernels that this process has compiled and could not keep.
unsaved: set[str] = set()

_SOURCES = Path(__file__).parent
#: Kernels take 7 MB; a folder with less room than this is of no use.
_ROOM_BYTES = 32 * 2**20
#: In the file of units, in the place of one that is compiled and kept.
_DONE = b"1"


def kernel_folder() -> Path | None:
    """Return the first folder that holds this machine's kernels or could; None where none can be written.

    ``NUMBA_CACHE_DIR`` comes first, as for all of numba; then ``__pycache__`` beside the sources; then the user's own
    cache folder.
    """
    return next((folder for folder in _candidates() if _marker(folder).exists() or _has_room(folder)), None)


def not_warm(extractors: Iterable[str]) -> set[str]:
    """Return those of some built-in extractors whose kernels are not known to be compiled."""
    folder = kernel_folder()
    return set(extractors) - (_marked(folder) if folder else set())


def mark_warm(extractors: Iterable[str]) -> None:
    """Say that the kernels of these extractors are compiled, unless this process could not keep one."""
    folder = kernel_folder()
    if folder is not None and not unsaved:
        with suppress(OSError):
            write_atomic(_marker(folder), "\n".join(sorted({*extractors, *_marked(folder)})))


def share_out(units: Mapping[int, Callable[[], object]]) -> None:
    """Compile in units, each in one of the processes that are at it on this machine; return when all are done.

    Units have the same numbers in all processes. One whose process dies is left to another process. Where there is no
    folder for kernels, or no lock to be had in it, each process does all.
    """
    folder = kernel_folder()
    try:
        file = os.open(folder / f"units-{_machine()}", os.O_RDWR | os.O_CREAT, 0o666) if folder else -1
    except OSError:
        file = -1
    try:
        # First what nobody has in hand; then what others are at, or have left.
        for has_to_wait in (False, True):
            for place, unit in units.items():
                _compile_unit(file, place, unit, has_to_wait)
    finally:
        if file >= 0:
            os.close(file)


def _compile_unit(file: int, place: int, unit: Callable[[], object], has_to_wait: bool) -> None:
    """Run a unit unless it is done, or another process is at it and this one need not wait."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if has_to_wait else fcntl.LOCK_NB), 1, place)
    except BlockingIOError:
        return
    except (OSError, ValueError):
        if not has_to_wait:
            unit()
        return
    try:
        if os.pread(file, 1, place) != _DONE:
            unit()
            if not unsaved:
                with suppress(OSError):
                    os.pwrite(file, _DONE, place)
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, 1, place)


def _candidates() -> Iterator[Path]:
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        yield Path(chosen, "ser-batch").absolute()
    yield _SOURCES / "__pycache__"
    caches = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    # Not Path.home(), which raises where an account has no home.
    own = os.path.expanduser(caches)  # noqa: PTH111
    if os.path.isabs(own):  # noqa: PTH117
        yield Path(own, "ser-batch", "kernels")


def _has_room(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        disk = os.statvfs(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK) and disk.f_bavail * disk.f_frsize >= _ROOM_BYTES


def _marked(folder: Path) -> set[str]:
    try:
        return set(_marker(folder).read_text().split())
    except (OSError, ValueError):
        return set()


def _marker(folder: Path) -> Path:
    return folder / f"compiled-{_machine()}"


@functools.cache
def _machine() -> str:
    """A hash of the sources of all kernels, of what compiles them and of what they are compiled for."""
    known = hashlib.sha256()
    for source in sorted(_SOURCES.glob("*.py")):
        known.update(source.read_bytes())
    told = [os.environ.get(name, "") for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")]
    for fact in (sys.version, importlib.metadata.version("numba"), os.uname().machine, _processor(), *told):
        known.update(fact.encode(errors="replace") + b"\0")
    return known.hexdigest()[:16]


def _processor() -> str:
    """Model and features of the first processor, which decide what numba compiles for."""
    try:
        with open("/proc/cpuinfo", "rb") as file:  # noqa: PTH123
            lines = file.read(8192).split(b"\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return b"\n".join(line for line in lines if line.startswith((b"model name", b"flags", b"Features"))).decode()


@functools.cache
def processor_class() -> str:
    """Return what tells processors apart for which kernels are compiled, and whose numbers may differ by rounding."""
    told = [os.environ.get(name, "") for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")]
    known = "\0".join((_processor(), *told)).encode(errors="replace")
    return f"{os.uname().machine}-{hashlib.sha256(known).hexdigest()[:8]}"
