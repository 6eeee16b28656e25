"""The folder of a run: whose it is, what lies in it for a while, and words for a disk that refuses."""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ser_batch.errors import RunError
from ser_batch.run.journal import JOURNAL, Entry, is_reign
from ser_batch.run.layout import TABLES
from ser_batch.run.lock import LOCK_FILE
from ser_batch.run.parquet import openable
from ser_batch.stages.watch import end_orphans

__all__ = ["check_ours", "claim", "clear_scratch", "refuse_foreign", "scratch_folder", "writing"]

#: What a scan makes before its ``run.json``, once it holds the lock.
_BEGINNINGS = {*TABLES, "metadata.csv", "metadata.parquet", "files-from.list", "plan.json"}

_SCRATCH = ".scratch-"
_SCRATCH_NAME = re.compile(re.escape(_SCRATCH) + r"[a-z0-9_]{8}")
#: A file in each scratch folder: whatever lacks it is somebody else's.
_MARK = "made-by-ser-batch"


def claim(run_dir: Path) -> None:
    """Make the folder, unless it is there.

    Raises
    ------
    RunError
        It holds something else than a run, or cannot be made.
    """
    check_ours(run_dir)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{run_dir} cannot be used for a run: {error.strerror}.") from None


def check_ours(run_dir: Path) -> None:
    """Refuse a folder that holds something else than a run; hidden files of others are let be.

    Raises
    ------
    RunError
        It does, or cannot be looked into, or its name is none that a run can have.
    """
    openable(run_dir)
    try:
        names = {path.name for path in run_dir.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise RunError(f"{run_dir} is a file. Give a folder that is new, empty or a run.") from None
    except OSError as error:
        raise RunError(f"{run_dir} cannot be used for a run: {error.strerror}.") from None
    refuse_foreign(run_dir, names)


def refuse_foreign(run_dir: Path, names: Collection[str]) -> None:
    """Do what `check_ours` does, for a folder that holds these names.

    Raises
    ------
    RunError
        It holds something else than a run.
    """
    visible = {name for name in names if not name.startswith(".")}
    foreign = visible - _BEGINNINGS if LOCK_FILE in names else visible
    if "run.json" in names or (JOURNAL in names and _is_journal(run_dir / JOURNAL)) or not foreign:
        return
    raise RunError(
        f"{run_dir} exists and is not a run of ser-batch (it holds {sorted(foreign)[0]!r}). "
        f"Give a folder that is new, empty or a run."
    )


def _is_journal(path: Path) -> bool:
    """Tell whether a file without its ``run.json`` is the journal of a run."""
    try:
        with path.open("rb") as lines:
            line = lines.readline(10_000)
            is_begun = is_reign(line)
            while is_reign(line):
                line = lines.readline(10_000)
            if line or not is_begun:
                Entry.parse(line)
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def scratch_folder(run_dir: Path) -> Iterator[Path]:
    """A folder inside the run for what workers write; gone at the end, or when the run is next opened."""
    with writing("worker files"):
        folder = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=run_dir))
        (folder / _MARK).touch()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_scratch(run_dir: Path) -> None:
    """Delete the scratch folders of scans that were killed, and end their workers."""
    for folder in run_dir.iterdir():
        if not _SCRATCH_NAME.fullmatch(folder.name) or folder.is_symlink():
            continue
        if (folder / _MARK).is_file():
            end_orphans(folder)
            shutil.rmtree(folder, ignore_errors=True)
        else:
            # Killed before it was marked, it is empty; else it is not ours.
            with suppress(OSError):
                folder.rmdir()


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_OURS = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn an error of the disk into what to do about it.

    Raises
    ------
    RunError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno == errno.ELOOP:
            cure = "A link stands in its place, and is not followed: remove it"
        elif error.errno in _FORBIDDEN:
            cure = "Make the folder of the run writable"
        elif error.errno in _NOT_OURS:
            cure = "Something else stands in its place: move it away"
        else:
            # Errors of stores of objects have no number, and say more.
            cure = "Mend that" if error.errno is None else "Mend the disk"
            cure = "Free some space" if error.errno in _FULL else cure
        raise RunError(
            f"Cannot write {what} of the run: {error.strerror or error}. What was committed is whole. {cure}, and give "
            f"the same command again: it goes on from there."
        ) from error
