"""A run that is written into a bucket: each step that it takes on a disk is a request here, in the same order.

There is no rename and no append. So a part is staged under a name made of what it holds, and gets its own name by a
copy within the store; and the journal is written anew with each commit, in the place of the very version that was
known. That swap is the commit, and it is the fence: whoever begins to write a run swaps the journal first, so that a
process that had it before, and was only frozen or cut off, commits nothing any more.

An object ``.owner`` says who writes. It is swapped, too, and beats. What the scan needs of the run lies in a folder of
this machine meanwhile, and is worth nothing once the process is gone.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ser_batch.errors import RunError
from ser_batch.run.copy import REPORTS, RunObjects, copy_in, is_staged, no_room, staged_name
from ser_batch.run.folder import refuse_foreign
from ser_batch.run.journal import JOURNAL, Filesystem, highest_generation, reign
from ser_batch.run.owner import Owner, in_use, is_alive
from ser_batch.run.store import RunStore
from ser_batch.storage.address import Address
from ser_batch.storage.objects import Version

__all__ = ["BucketRun", "bucket_run", "holder_in"]

_OWNER, _MANIFEST = ".owner", "run.json"
#: How often an owner beats, and for how long it writes after a beat without looking whether it still is the owner.
_BEAT_S, _LEASE_S = 5.0, 10.0
#: A version that no object has.
_NO_VERSION = Version('"00000000000000000000000000000000"', "1")
#: Tables of which a scan keeps copies: its counts and its report are made of them.
_KEPT = ("files", "windows", "segments")
#: Addresses of the runs that this process writes.
_held: set[str] = set()


def _owner_of(objects: RunObjects) -> Owner:
    """Return what the owner of a run says of itself, or the last one has said.

    Raises
    ------
    OSError
        It cannot be read.
    """
    there = objects.bucket.get(objects.key(_OWNER))
    return Owner.parse(there.data) if there else Owner(is_done=True)


class Ownership:
    """The word that this process writes a run in a bucket, and nobody else."""

    def __init__(self, objects: RunObjects) -> None:
        self._objects, self._bucket, self._key = objects, objects.bucket, objects.key(_OWNER)
        self._name = objects.address.url
        self._me, self._version = Owner.of_this_process(), _NO_VERSION
        self._confirmed_s, self._successor = 0.0, ""
        self._busy, self._ended = threading.RLock(), threading.Event()
        self._beating = threading.Thread(target=self._beat_on, name="ser-batch owner", daemon=True)

    def claim(self, above: int) -> int:
        """Become the owner; return the generation, higher than `above` and than that of any owner before.

        Raises
        ------
        RunError
            Another process is, and the message says which; or the store does not heed conditions.
        OSError
            The store refuses, or cannot be reached.
        """
        while True:
            there = self._bucket.get(self._key)
            before = Owner.parse(there.data) if there else Owner(is_done=True)
            # What an earlier scan of this process has left, since it could not say that it was done, is nothing.
            is_own = replace(self._me, beat=before.beat, generation=before.generation) == before
            if not (is_own and self._name not in _held) and is_alive(before, lambda: _owner_of(self._objects)):
                raise in_use(self._name, str(before))
            me = replace(self._me, generation=max(before.generation, above) + 1)
            try:
                self._swap(me, there.version if there else None)
                break
            except FileExistsError:
                continue  # somebody was faster, or the owner has beaten at last
        self._check_conditions()
        _held.add(self._name)
        self._beating.start()
        return me.generation

    def _check_conditions(self) -> None:
        """See that the store lets nobody write in the place of what somebody else has written."""
        for known in (None, _NO_VERSION):
            try:
                self._bucket.swap(self._key, replace(self._me, beat=1).record(), known)
            except FileExistsError:
                continue
            self._bucket.delete(self._key)
            raise RunError(
                f"{self._name} cannot be used for a run: its store ignores conditions (If-None-Match, If-Match), so "
                f"that two scans could write it at once. Scan into a folder, and copy it there once it is done."
            )

    def _swap(self, me: Owner, known: Version | None) -> None:
        begun_s = time.monotonic()
        self._version = self._bucket.swap(self._key, me.record(), known)
        self._me, self._confirmed_s = me, begun_s

    def _beat(self) -> None:
        try:
            self._swap(replace(self._me, beat=self._me.beat + 1), self._version)
        except FileExistsError:
            self._successor = str(_owner_of(self._objects))

    def _beat_on(self) -> None:
        while not self._ended.wait(_BEAT_S) and not self._successor:
            # One that fails is a beat that others miss.
            with suppress(OSError), self._busy:
                self._beat()

    def check(self, at_once: bool = False) -> None:
        """See that no other process has taken over; `at_once` asks, whenever that was seen last.

        Raises
        ------
        RunError
            One has; the message names it.
        OSError
            The store cannot be asked.
        """
        with self._busy:
            if not self._successor and (at_once or time.monotonic() - self._confirmed_s > _LEASE_S):
                self._beat()
        if self._successor:
            raise RunError(
                f"{self._name} was taken over by {self._successor}, since nothing was heard of this process for a "
                f"while. What it had committed is whole; nothing more is written by it."
            )

    def release(self) -> None:
        """Say that this process is done."""
        self._ended.set()
        self._beating.join()
        _held.discard(self._name)
        # Else its end is known by its process, or its silence.
        with suppress(OSError):
            if not self._successor:
                self._swap(replace(self._me, is_done=True), self._version)


class BucketFilesystem(Filesystem):
    """Does to the objects of a run what is done to the copy of it, the objects first."""

    #: Each commit writes the whole journal.
    most_parts = 1_024

    def __init__(self, objects: RunObjects, owner: Ownership, generation: int) -> None:
        self._objects, self._bucket, self._owner = objects, objects.bucket, owner
        self._reign = reign(generation)
        #: Of what is swapped: name -> the version that is known.
        self._versions: dict[str, Version | None] = {}
        #: Copy of a staged table -> name of its object.
        self._staged: dict[Path, str] = {}
        #: Whether anything of the run was changed.
        self.has_written = False

    def begin(self) -> None:
        """Shut out whoever wrote the run before, and copy what is needed of it.

        Raises
        ------
        RunError
            Somebody has shut out this process.
        OSError
            The store refuses, or cannot be reached.
        """
        objects, journal = self._objects, self._objects.folder / JOURNAL
        while True:
            known = objects.fetch_object(JOURNAL)
            whole = (journal.read_bytes() if known else b"") + self._reign
            try:
                self._versions[JOURNAL] = self._bucket.swap(objects.key(JOURNAL), whole, known)
                break
            except FileExistsError:
                self._owner.check(at_once=True)
        journal.write_bytes(whole)
        self._versions[_MANIFEST] = objects.fetch_object(_MANIFEST)
        objects.look()
        self._staged = objects.fetch_staged()
        for name in [name for name in objects.listed if is_staged(name) and name not in self._staged.values()]:
            self._bucket.delete(objects.key(name))
        # Of a run that was cut off on a disk and then copied here.
        hidden = [name for name in objects.listed if "/." in name and RunStore.is_own_name(name.rpartition("/")[2])]
        objects.fetch(hidden)
        self._staged |= {objects.folder / name: name for name in hidden}
        objects.fetch_for_scan()

    def _name(self, path: Path) -> str:
        return path.relative_to(self._objects.folder).as_posix()

    def write(self, path: Path, data: bytes | memoryview) -> None:
        self._owner.check()
        part = int(path.name.split(".")[1].removeprefix("part-"))
        self._staged[path] = staged_name(path.parent.name, part, hashlib.sha256(data).hexdigest())
        self._bucket.put(self._objects.key(self._staged[path]), data)
        path.write_bytes(data)

    def append(self, path: Path, data: bytes) -> None:
        self._owner.check()
        self._swap(path, path.read_bytes() + data)

    def rename(self, source: Path, target: Path) -> None:
        self._owner.check()
        staged, name = self._objects.key(self._staged[source]), self._name(target)
        try:
            self._bucket.copy(staged, self._objects.key(name))
        except FileNotFoundError:
            # A successor has tidied up.
            self._owner.check(at_once=True)
            raise
        self._bucket.delete(staged)
        self._objects.listed.pop(self._staged.pop(source), None)
        source.replace(target)
        self._objects.note(name, target.stat().st_size)
        if target.parent.name not in _KEPT:
            target.unlink()

    def replace(self, path: Path, data: bytes | memoryview) -> None:
        self._owner.check()
        if path.name in self._versions:
            self._swap(path, (self._reign if path.name == JOURNAL else b"") + bytes(data))
        else:
            self._bucket.put(self._objects.key(self._name(path)), data)
            path.write_bytes(data)

    def _swap(self, path: Path, data: bytes) -> None:
        name, key = path.name, self._objects.key(path.name)
        while True:
            try:
                self._versions[name] = self._bucket.swap(key, data, self._versions[name])
                break
            except FileExistsError:
                self._owner.check(at_once=True)
                if name == JOURNAL:
                    raise RunError(
                        f"{path} was replaced by something else than a scan. What is committed is whole. Give the same "
                        f"command again: it goes on from what is there now."
                    ) from None
                # By the owner before, in its last moment.
                there = self._bucket.get(key)
                self._versions[name] = there.version if there else None
        self.has_written = True
        path.write_bytes(data)

    def remove(self, path: Path) -> None:
        # What is still on its way when a successor has begun could hit a part of that by the same name: the next scan
        # then finds it missing, and makes it again.
        if self._objects.listed.pop(name := self._name(path), None):
            self._owner.check()
            self._bucket.delete(self._objects.key(name))
        path.unlink(missing_ok=True)

    def size_bytes(self, path: Path) -> int:
        item = self._objects.listed.get(self._name(path))
        if item is None:
            raise FileNotFoundError
        return item.size_bytes

    def names(self, folder: Path) -> list[str]:
        below = f"{self._name(folder)}/"
        return [name.removeprefix(below) for name in self._objects.listed if name.startswith(below)]

    def is_far(self, path: Path) -> bool:
        return self._name(path) in self._objects.listed and not path.exists()

    def fetch(self, path: Path) -> None:
        if self.is_far(path):
            try:
                self._objects.fetch([self._name(path)])
            except OSError as error:
                raise RunError(f"{path} cannot be fetched: {error.strerror or error}.") from None

    def flush_folder(self, folder: Path) -> None:
        """Nothing: what a store has answered is there."""


class BucketRun:
    """A run in a bucket, as a scan writes it; `bucket_run` makes it.

    Parameters
    ----------
    address : Address
    folder : Path
        An empty folder of this machine, for a copy.
    """

    def __init__(self, address: Address, folder: Path) -> None:
        self.folder = folder
        self.name: Path | str = address.url
        self._objects = RunObjects(address, folder)
        self._filesystem: BucketFilesystem | None = None

    def told(self, text: str) -> str:
        """Return a text in which the run has its name, and not that of its copy."""
        return text.replace(str(self.folder), str(self.name))

    def look(self) -> None:
        """Copy what is needed to plan a scan, and change nothing.

        Raises
        ------
        RunError
            Something else lies there, another process writes the run, or it cannot be read.
        """
        with self._store_says():
            self._refuse_foreign()
            if holder := holder_in(self._objects.address):
                raise in_use(self.name, holder)
            self._objects.fetch_object(_MANIFEST)
            self._objects.look()
            self._objects.fetch_staged()
            self._objects.fetch_for_scan()

    @contextmanager
    def held(self) -> Iterator[Filesystem]:
        """Own the run alone; give what writes it for as long as that is so.

        Raises
        ------
        RunError
            Something else lies there, another process writes the run, or the store does not do what that takes.
        """
        with ExitStack() as stack:
            with self._store_says():
                self._refuse_foreign()
                owner = Ownership(self._objects)
                generation = owner.claim(highest_generation(self.folder / JOURNAL))
                stack.callback(owner.release)
                self._filesystem = BucketFilesystem(self._objects, owner, generation)
                self._filesystem.begin()
            yield self._filesystem

    def _refuse_foreign(self) -> None:
        names = self._objects.bucket.names(self._objects.address.key)
        if JOURNAL in names:
            self._objects.fetch_object(JOURNAL)
        refuse_foreign(self.folder, names)

    @contextmanager
    def _store_says(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno is not None:  # of the disk here
                raise no_room(self._objects.address, self.folder.parent.parent, error) from error
            raise RunError(f"{self.name} cannot be used for a run: {error}.") from None

    def has_report(self) -> bool:
        """Tell whether there is a report of the run as it is."""
        if self._filesystem is None or self._filesystem.has_written:
            return False
        report, manifest = (self._objects.listed.get(name) for name in (REPORTS[0], _MANIFEST))
        times = [item.modified for item in (manifest, report) if item and item.modified]
        return len(times) == 2 and times[0] <= times[1]

    def fetch_for_report(self) -> None:
        """Copy what a report is made of. Raises as `look`."""
        with self._store_says():
            self._objects.fetch(
                [name for name in self._objects.listed if name.startswith(tuple(f"{table}/part-" for table in _KEPT))]
            )

    def publish_report(self) -> bool:
        """Put the report that lies beside the copy into the bucket, if there is one. Raises as `look`."""
        if not (self.folder / REPORTS[0]).exists():
            return False
        with self._store_says():
            self._objects.bucket.put(self._objects.key(REPORTS[0]), (self.folder / REPORTS[0]).read_bytes())
        return True


@contextmanager
def bucket_run(address: Address) -> Iterator[BucketRun]:
    """Give a run in a bucket for a scan into it; errors name it by its address.

    Raises
    ------
    RunError
        There is no room for its copy.
    """
    with copy_in(address) as copy:
        yield BucketRun(address, copy.folder)


def holder_in(address: Address) -> str:
    """Name the process that is writing a run, "" for none; one of another machine is listened to for a while.

    Raises
    ------
    RunError
        It cannot be seen.
    """
    objects = RunObjects(address, Path())
    try:
        owner = _owner_of(objects)
        return str(owner) if is_alive(owner, lambda: _owner_of(objects)) else ""
    except OSError as error:
        raise RunError(f"{address.url} cannot be read: {error}.") from None
