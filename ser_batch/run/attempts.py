"""What nodes write into a run while they work on its plan, without holding it.

``.attempts/PLAN/`` has a folder each for what is staged, for manifests (one per part, the first one wins), for nodes
that are at work, for tries (who has which files in hand), and for what came second. Nothing here is a result: whoever
holds the run commits what manifests name.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import stat
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from ser_batch.atomic import NO_FOLLOW, make_folder, read_file
from ser_batch.births import BIRTH_TOLERANCE_S, born_s
from ser_batch.errors import RunError
from ser_batch.kinds import AMOUNT, COUNT, OBJECT, TEXT, or_null, problem_with, read_json
from ser_batch.run.journal import Entry, Filesystem
from ser_batch.run.layout import ATTEMPTS, TABLES

__all__ = ["DEAD_S", "Attempts", "Manifest", "Span", "check_folder", "this_process"]

#: How often a node says that it lives, and after how long a silence it is taken for dead.
_BEAT_S, DEAD_S = 5.0, 120.0
_MANIFEST_NAME = re.compile(r"part-(\d{5,9})\.json")
_TRY_NAME = re.compile(r"(\d+)-(\d+)(-alone)?\.(\d+)")
_STAGED_NAME = re.compile(rf"([0-9a-f]{{12}})-\d+\.({'|'.join(TABLES)})\.parquet")
_NODE_NAME = re.compile(r"([0-9a-f]{12})\.json")

#: Rows of a plan: first, and past the last.
Span = tuple[int, int]

_FIELDS = {
    "plan": TEXT,
    "part": COUNT,
    "node": TEXT,
    "host": TEXT,
    "base": TEXT,
    "n_kept": COUNT,
    "wall_s": AMOUNT,
    "entry": or_null(OBJECT),
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a node says of a part that it has staged whole."""

    plan: str
    part: int
    node: str
    host: str
    #: As `PlannedPart.base`: what was there when the part was made.
    base: str
    #: Files that could not be looked at, of which the run keeps what it had.
    n_kept: int
    #: What the part took the node, in s.
    wall_s: float
    #: None where the part stays as it is.
    entry: Entry | None

    def as_json(self) -> bytes:
        values = {name: getattr(self, name) for name in _FIELDS}
        values |= {"entry": self.entry and self.entry.values()}
        return json.dumps(values, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Raises ValueError where it is none."""
        values = read_json(data)
        if not isinstance(values, dict):
            raise ValueError("it is no manifest")
        if problem := problem_with(values, _FIELDS, _FIELDS):
            raise ValueError(problem)
        entry = Entry.of(values["entry"]) if values["entry"] is not None else None
        return cls(**{name: values[name] for name in _FIELDS if name != "entry"}, entry=entry)


def this_process() -> dict[str, Any]:
    """Return what tells this process from all others, also on other machines."""
    machine = platform.node()
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        machine = f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - it is no path
    return {"host": platform.node(), "machine": machine, "pid": os.getpid(), "born_s": born_s(os.getpid())}


class Attempts:
    """The folder in which nodes work on one plan.

    Parameters
    ----------
    run_dir : Path
    plan_id : str
    filesystem : Filesystem
        Does the writing.
    """

    def __init__(self, run_dir: Path, plan_id: str, filesystem: Filesystem | None = None) -> None:
        self._filesystem = filesystem or Filesystem()
        self.folder = run_dir / ATTEMPTS / plan_id
        self.staged, self._manifests = self.folder / "staged", self.folder / "manifests"
        self._nodes, self._tries, self._second = (self.folder / name for name in ("nodes", "tries", "second"))
        for folder in (self.folder.parent, self.folder, *self._folders()):
            check_folder(folder)

    def _folders(self) -> tuple[Path, ...]:
        return self.staged, self._manifests, self._nodes, self._tries, self._second

    def create(self) -> None:
        """Make the folders, unless they are there."""
        for folder in self._folders():
            make_folder(folder)

    # Nodes.

    @contextlib.contextmanager
    def alive(self, node: str, told: Mapping[str, Any]) -> Iterator[None]:
        """Say all the while that a node is at work; `told` is for others."""
        path, ended = self._nodes / f"{node}.json", threading.Event()
        data = json.dumps({**this_process(), **told}).encode() + b"\n"
        self._filesystem.write(path, data)

        def beat() -> None:
            while not ended.wait(_BEAT_S):
                with suppress(OSError):
                    try:
                        os.utime(path)
                    except FileNotFoundError:
                        # Swept: taken for dead, as a machine is that was asleep.
                        self._filesystem.write(path, data)

        thread = threading.Thread(target=beat, name="ser-batch node", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            with suppress(OSError):
                path.unlink()

    def living(self) -> dict[str, dict[str, Any]]:
        """Return the nodes that are at work: node -> what it says of itself. See `_living`."""
        return _living(self._nodes)

    # Tries.

    def tries(self) -> dict[tuple[Span, bool], list[str]]:
        """Return who has, or had as it died, which rows of the plan in hand, and whether with nothing beside them."""
        found: dict[tuple[Span, bool], list[str]] = {}
        for name in _names_in(self._tries):
            if not (match := _TRY_NAME.fullmatch(name)):
                continue
            try:
                node = read_file(self._tries / name, NO_FOLLOW)[:12].decode("ascii", "replace")
            except OSError:
                continue
            found.setdefault(((int(match[1]), int(match[2])), bool(match[3])), []).append(node)
        return found

    def begin_try(self, span: Span, node: str, is_alone: bool) -> Path | None:
        """Take rows of the plan in hand, with nothing beside them or not; None where another node was faster."""
        begin = f"{span[0]}-{span[1]}{'-alone' if is_alone else ''}."
        others = (name for name in _names_in(self._tries) if name.startswith(begin) and _TRY_NAME.fullmatch(name))
        numbers = [int(name.rpartition(".")[2]) for name in others]
        path = self._tries / f"{begin}{max(numbers, default=-1) + 1}"
        return path if self._filesystem.create(path, f"{node}\n".encode()) else None

    def give_back(self, node: str) -> None:
        """Let go of all that a node has in hand: it was not lost."""
        for name in _names_in(self._tries):
            path = self._tries / name
            with suppress(OSError):
                if read_file(path, NO_FOLLOW)[:12] == node.encode():
                    path.unlink()

    # Manifests.

    def published(self) -> set[int]:
        """Return the parts that have a manifest."""
        return {int(found[1]) for name in _names_in(self._manifests) if (found := _MANIFEST_NAME.fullmatch(name))}

    def is_published(self, part: int) -> bool:
        return self._manifest(part).exists()

    def _manifest(self, part: int) -> Path:
        return self._manifests / f"part-{part:05d}.json"

    def publish(self, manifest: Manifest) -> bool:
        """Say that a part is staged whole; False where another node was faster. What it has staged goes then."""
        if manifest.entry is not None:
            self._filesystem.flush_folder(self.staged)
        if self._filesystem.create(self._manifest(manifest.part), manifest.as_json()):
            return True
        (self._second / f"part-{manifest.part:05d}.{uuid.uuid4().hex[:12]}").touch()
        if manifest.entry is not None:
            self.drop_staged(manifest.entry.attempt)
        return False

    def n_second(self) -> int:
        """Count the parts that came second."""
        return len(_names_in(self._second))

    def manifest(self, part: int) -> Manifest:
        """Read the manifest of a part.

        Raises
        ------
        ValueError
            It is none.
        OSError
            It is gone or cannot be read.
        """
        path = self._manifest(part)
        if not stat.S_ISREG(path.lstat().st_mode):
            raise ValueError("it is no file")
        return Manifest.parse(read_file(path, NO_FOLLOW))

    def is_in_the_making(self, part: int) -> bool:
        """Tell whether a manifest may be whole soon: on a disk where it cannot appear whole at once."""
        path = self._manifest(part)
        try:
            is_old = path.lstat().st_mtime < _now_s(self._nodes) - DEAD_S
            return not is_old and stat.S_ISREG(path.lstat().st_mode) and not read_file(path).endswith(b"\n")
        except OSError:
            return True

    def refuse(self, part: int) -> Path:
        """Set a manifest aside that is none, so that another node does the part; return where it is."""
        path = self._manifest(part)
        aside = path.with_name(f"{path.stem}.refused-{uuid.uuid4().hex[:6]}")
        path.rename(aside)
        return aside

    # What is left over.

    def drop_staged(self, attempt: str) -> None:
        """Delete what an attempt has staged."""
        name = attempt.partition("/")[2]
        for table in TABLES:
            with suppress(FileNotFoundError):
                (self.staged / f"{name}.{table}.parquet").unlink()

    def left(self) -> dict[Path, str]:
        """Return what nodes have staged, and what says that they are at work: file -> node.

        Read before `living`: what is of none of those then is garbage, and what comes later is not in here.
        """
        left: dict[Path, str] = {}
        for folder, kind in ((self.staged, _STAGED_NAME), (self._nodes, _NODE_NAME)):
            found = ((name, kind.fullmatch(name)) for name in _names_in(folder))
            left |= {folder / name: match[1] for name, match in found if match}
        return left

    def sweep(self, garbage: Iterable[Path], done: Mapping[Span, bool], keep_staged: bool) -> None:
        """Delete what dead nodes have left that no manifest names; call it once all that are named are committed.

        Parameters
        ----------
        garbage : iterable of Path
            Of what `left` has returned, what is of no living node.
        done : mapping
            Rows of the plan -> whether nothing of them is left to do.
        keep_staged : bool
            Leave what is staged: a manifest that may name it cannot be read yet.
        """
        for path in garbage:
            if not (keep_staged and path.parent == self.staged):
                _remove(path)
        for name in _names_in(self._tries):
            match = _TRY_NAME.fullmatch(name)
            if match and done.get((int(match[1]), int(match[2]))):
                _remove(self._tries / name)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def check_folder(path: Path) -> None:
    """Refuse to write where something else stands in the place of a folder, such as a link, which may lead anywhere.

    Raises
    ------
    RunError
        It does, or cannot be looked at.
    """
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise RunError(f"{path} is no folder, but a link or a file, and nodes do not work there: remove it.")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RunError(f"{path} cannot be looked at: {error.strerror}.") from None


def _living(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the nodes that are at work by their files in a folder.

    A node that is silent for `DEAD_S`, by the clock of whoever keeps the files, is taken for dead; one of this machine
    as soon as its process is gone. That a node is taken for dead by mistake costs time, and no result.
    """
    names = [match[1] for name in _names_in(folder) if (match := _NODE_NAME.fullmatch(name))]
    if not names:
        return {}
    here, now_s = this_process()["machine"], _now_s(folder)
    living: dict[str, dict[str, Any]] = {}
    for node in names:
        path = folder / f"{node}.json"
        try:
            age_s = now_s - path.lstat().st_mtime
            told = read_json(read_file(path, NO_FOLLOW))
        except (OSError, ValueError):
            continue
        # From the future where the clock was set meanwhile: a node that lives says so by the new one.
        if isinstance(told, dict) and abs(age_s) < DEAD_S and not (told.get("machine") == here and _is_gone(told)):
            living[node] = told | {"age_s": age_s}
    return living


def _is_gone(told: Mapping[str, Any]) -> bool:
    try:
        pid = int(told["pid"])
        is_other = abs(born_s(pid) - float(told["born_s"])) > BIRTH_TOLERANCE_S
        return is_other or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except (psutil.Error, KeyError, TypeError, ValueError):
        return True


def _now_s(folder: Path) -> float:
    """Return the time by the clock that stamps the files of a folder, or of this machine where that cannot be had."""
    path = folder / f".clock-{uuid.uuid4().hex}"
    try:
        path.touch()
        now_s = path.stat().st_mtime
        path.unlink()
    except OSError:
        return time.time()
    return now_s


def _remove(path: Path) -> None:
    """Delete a file; one that is gone, or is a folder that somebody put there, is let be."""
    with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
        path.unlink()


def _names_in(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are all that is needed
    except FileNotFoundError:
        return []
