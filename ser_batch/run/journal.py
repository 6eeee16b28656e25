"""What makes a run survive: the lock, the file system's operations in one place, and the journal of commits."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ser_batch.atomic import NO_FOLLOW, flush_folder, open_new
from ser_batch.errors import RunError

__all__ = ["Entry", "Filesystem", "Journal", "holder_of", "in_use", "lock_run", "sha256_of"]


class Filesystem:
    """The few operations by which a run is written; each reaches the disk before it returns.

    They are those of `ser_batch.atomic`, one by one: a part becomes visible in other steps than a single file. This is
    where tests break the disk.
    """

    def write(self, path: Path, data: bytes | memoryview) -> None:
        """Write a whole new file and flush it to disk."""
        with open_new(path) as file:
            file.write(data)
            file.flush()
            self.flush(file.fileno())

    def append(self, path: Path, data: bytes) -> None:
        """Append to a file and flush it; where that fails, the file is as it was before."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | NO_FOLLOW, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                self.flush(descriptor)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Put a file in the place of another, at once for whoever looks."""
        source.replace(target)

    def flush(self, descriptor: int) -> None:
        """Wait until a file is on disk."""
        os.fsync(descriptor)

    def flush_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on disk."""
        flush_folder(folder)

    def replace(self, path: Path, data: bytes | memoryview) -> None:
        """Write a file so that a reader sees the old one or the new one, whole."""
        staged = path.with_name(f".{path.name}.tmp")
        self.write(staged, data)
        self.rename(staged, path)
        self.flush_folder(path.parent)


@dataclass(frozen=True, slots=True)
class Entry:
    """One commit: a part's two files as they are once it is done. Hashes are SHA-256."""

    part: int
    fingerprint: str
    #: When, ISO 8601, UTC; "" for a part that was adopted.
    at: str
    #: Files that this commit processed; fewer than `n_files` where a part was rewritten for some of its files.
    n_processed: int
    n_files: int
    n_windows: int
    files_bytes: int
    files_sha256: str
    windows_bytes: int
    windows_sha256: str


class Journal:
    """The commits of a run, one JSON line each; a part's last line counts.

    A line is the commit: before it is on disk, a staged part is nothing; after, its renames are certain to be done, by
    this process or by the next one that opens the run.
    """

    def __init__(self, path: Path, filesystem: Filesystem) -> None:
        self._path, self._filesystem = path, filesystem
        self._entries: dict[int, Entry] = {}
        #: All commits, the oldest first; only the renames of the last one may be outstanding.
        self.commits: list[Entry] = []

    def read(self, mend: bool = True) -> dict[int, Entry]:
        """Read all commits, part -> entry.

        Parameters
        ----------
        mend : bool
            Cut off a last line that is not whole: it never counted. For the process that holds the run alone.

        Raises
        ------
        RunError
            A line before the last is damaged: that is no crash but a broken disk or an editor.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        whole, _, rest = data.rpartition(b"\n")
        if rest and mend:
            os.truncate(self._path, len(data) - len(rest))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = Entry(**json.loads(line))
            except (ValueError, TypeError):
                raise RunError(
                    f"{self._path}, line {number} is damaged. Delete the file: the journal is rebuilt from the parts."
                ) from None
            self._entries[entry.part] = entry
            self.commits.append(entry)
        return dict(self._entries)

    @property
    def entries(self) -> dict[int, Entry]:
        return dict(self._entries)

    def append(self, entry: Entry) -> None:
        """Commit."""
        self._filesystem.append(self._path, json.dumps(asdict(entry)).encode() + b"\n")
        self._entries[entry.part] = entry
        self.commits.append(entry)

    def rewrite(self, entries: list[Entry]) -> None:
        """Replace the whole journal, when parts were lost or found without it."""
        lines = b"".join(json.dumps(asdict(entry)).encode() + b"\n" for entry in entries)
        self._filesystem.replace(self._path, lines)
        self._entries = {entry.part: entry for entry in entries}
        self.commits = list(entries)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def lock_run(run_dir: Path) -> Iterator[None]:
    """Hold a run for this process; the system lets go of it when the process ends, however it ends.

    Raises
    ------
    RunError
        Another process holds it; the message names it.
    """
    with (run_dir / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise in_use(run_dir, holder) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def in_use(run_dir: Path, holder: str) -> RunError:
    """Return the error that says who writes a run."""
    return RunError(f"{run_dir} is being written by {holder}. Wait for it or stop it, or use another run folder.")


def holder_of(run_dir: Path) -> str:
    """Name the process that is writing a run, "" for none."""
    try:
        with (run_dir / ".lock").open(encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip() or "another process"
    except FileNotFoundError:
        pass
    return ""
