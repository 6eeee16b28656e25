"""Finds audio files: a walk that cannot loop, does not open anything, and keeps rows on disk once there are many.

Names are bytes. A `clip_id` is the name relative to the root with bytes that are not UTF-8 as ``\\xNN``; the path that
is opened keeps them. Hidden files and folders (leading dot) are skipped and counted; so are folders that systems make
for themselves, and what has no audio suffix. What cannot be looked at costs itself, and nothing beside it.
"""

from __future__ import annotations

import codecs
import fnmatch
import io
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from ser_batch.audio import AUDIO_SUFFIXES
from ser_batch.errors import InputError
from ser_batch.segments.files import SEGMENT_SUFFIXES
from ser_batch.segments.marked import state_key
from ser_batch.stages.found import NOT_SEEN_NS, Found, Gathering, Names, Row
from ser_batch.storage.address import is_url, local_or_url
from ser_batch.storage.objects import Listed, Unlisted
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.stages.bucket import Marks, Objects

#: Folders of systems and servers: waste baskets, thumbnails, copies of what is elsewhere.
_SYSTEM_FOLDERS = frozenset(("$recycle.bin", "lost+found", "@eadir", "system volume information", "__macosx"))
#: A list of files is read so many bytes at a time.
_BLOCK_BYTES = 2**20
#: Longest path that systems take.
_LONGEST_PATH_BYTES = 4_096
#: Control characters, but for those that names are known to have: tab, line feed, carriage return.
_NOT_IN_PATHS = re.compile(rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")

#: Folders whose names are remembered: a walk needs one, a list that jumps about some more.
_MOST_FOLDERS = 64
#: Times that a table can hold, years 1677 to 2262.
_TIMES_NS = (-(2**63) + 1, 2**63 - 1)

__all__ = ["NOT_SEEN_NS", "FileList", "Found", "discover", "plain_inputs", "read_file_list"]


@dataclass(frozen=True, slots=True)
class FileList:
    """Paths out of a list; one that is missing becomes a failed row, unlike a missing input."""

    paths: Sequence[str]
    source: str


def read_file_list(path: Path) -> FileList:
    """Read paths, one a line, or separated by NUL where there is one (``find -print0``); relative to where we are.

    Text is UTF-8, with a byte order mark or without, or UTF-16, as PowerShell writes it; names that are not UTF-8 stay
    as they are.

    Raises
    ------
    InputError
        The list is missing, cannot be read, or is none.
    """
    try:
        source = Path("/dev/stdin") if str(path) == "-" else path
        # It is read twice, which standard input cannot be.
        with source.open("rb") as stream, tempfile.SpooledTemporaryFile(2**23) as copy:
            shutil.copyfileobj(stream, copy, 2**20)
            return FileList(Names(_listed(copy, path)), str(path))
    except OSError as error:
        raise InputError(f"The list of files {path} cannot be read: {error.strerror}.") from None


def _listed(file: IO[bytes], path: Path) -> Iterator[str]:
    """Yield the paths of a list."""
    file.seek(0)
    head = file.read(3)
    if head[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        file.seek(0)
        # PowerShell's, which nobody fills with millions.
        file = io.BytesIO(file.read().decode("utf-16", "replace").encode())
        head = file.read(3)
    begin = len(codecs.BOM_UTF8) if head == codecs.BOM_UTF8 else 0
    file.seek(begin)
    is_nul = any(b"\0" in block for block in _blocks(file))
    file.seek(begin)
    for number, name in enumerate(_entries(file, re.compile(rb"\0" if is_nul else rb"\r\n|\r|\n")), 1):
        if len(name) > _LONGEST_PATH_BYTES or _NOT_IN_PATHS.search(name):
            raise InputError(
                f"{printable(path)} is no list of files: entry {number:,} is no path. "
                f"Give a text with one path a line, or what find -print0 prints."
            )
        if name.strip():
            yield os.fsdecode(name)


def _entries(file: IO[bytes], separator: re.Pattern[bytes]) -> Iterator[bytes]:
    rest = b""
    for block in _blocks(file):
        rest += block
        # A line feed may follow in the next block.
        held = b"\r" if rest.endswith(b"\r") else b""
        *names, rest = separator.split(rest.removesuffix(held))
        rest += held
        yield from names
        if len(rest) > _LONGEST_PATH_BYTES + 2:
            break
    yield from separator.split(rest)


def _blocks(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block


def plain_inputs(inputs: Sequence[str | os.PathLike[str]] | FileList) -> list[str] | FileList:
    """Return inputs as paths and addresses that may be shown and kept.

    Raises
    ------
    InputError
        An address holds a password, or is of something that cannot be read.
    """
    if isinstance(inputs, FileList):
        return replace(inputs, paths=Names(map(local_or_url, inputs.paths)))
    return [local_or_url(os.fspath(path)) for path in inputs]


def discover(
    inputs: Sequence[str | os.PathLike[str]] | FileList,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    with_segments: bool = False,
) -> Found:
    """Find the audio files below some inputs.

    Parameters
    ----------
    inputs : sequence of path, or FileList
        Directories, walked with everything below; or files, taken whatever their suffix. Or all of them addresses of
        one bucket, such as ``s3://bucket/prefix``.
    include, exclude : sequence of str
        Shell patterns, matched against the clip_id (``*`` crosses ``/``) and, without a ``/``, against the name
        alone. A file is taken if any pattern of `include` matches, or there is none, and no pattern of `exclude`
        does. An `include` that ends in a suffix, like ``*.m4a``, makes that suffix one of audio, for plugins that
        read it.
    with_segments : bool
        Find the files beside recordings that say who speaks when: of the same stem, in the same folder, with one of
        `ser_batch.segments.files.SEGMENT_SUFFIXES`.

    Returns
    -------
    found : Found

    Raises
    ------
    InputError
        An input does not exist or cannot be listed; is the address of something that cannot be read; or there are
        addresses of several buckets, or addresses and paths.
    """
    inputs = plain_inputs(inputs)
    walk = _Walk(include, exclude, with_segments)
    is_list = isinstance(inputs, FileList)
    names = inputs.paths if isinstance(inputs, FileList) else inputs
    if any(map(is_url, names)):
        from ser_batch.stages.bucket import look_into_bucket  # noqa: PLC0415 - for those who have buckets

        walk.take_objects(look_into_bucket(names, is_list, with_segments))
        return walk.sorted()
    if isinstance(inputs, FileList):
        walk.found.root = _common_root(map(os.path.abspath, inputs.paths), files=True)
        for path in map(os.path.abspath, inputs.paths):
            walk.add_listed(path)
        return walk.sorted()
    paths = [os.path.abspath(os.fspath(path)) for path in inputs]  # noqa: PTH100
    modes = [_mode(path) for path in paths]
    folders = [stat.S_ISDIR(mode) for mode in modes]
    walk.found.root = paths[0] if len(paths) == 1 and folders[0] else _common_root(paths, files=not all(folders))
    for path, is_folder in zip(paths, folders, strict=True):
        if is_folder:
            walk.descend(path)
        else:
            walk.add_listed(path)
    return walk.sorted()


def _mode(path: str) -> int:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116
        if stat.S_ISDIR(mode):
            os.scandir(path).close()
        return mode
    except FileNotFoundError:
        raise InputError(f"Input {printable(path)} does not exist.") from None
    except OSError as error:
        raise InputError(f"Input {printable(path)} cannot be read: {error.strerror}.") from None


def _time_ns(info: os.stat_result) -> int:
    # Some file systems hold times of any year, and some cameras and recorders set them.
    return min(max(info.st_mtime_ns, _TIMES_NS[0]), _TIMES_NS[1])


def _common_root(paths: Iterable[str], files: bool) -> str:
    root = ""
    for path in paths:
        parent = os.path.dirname(path) if files else path  # noqa: PTH120
        if not root:
            root = parent
        elif parent != root and not parent.startswith(f"{root.rstrip('/')}/"):
            root = os.path.commonpath((root, parent))
    return root or os.getcwd()  # noqa: PTH109


class _Walk:
    """One search: what it looks for, and what it has found."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str], with_segments: bool) -> None:
        self.found = Found("")
        self._beside = _Beside() if with_segments else None
        self._include, self._exclude = _Patterns(include), _Patterns(exclude)
        self._suffixes = AUDIO_SUFFIXES | {PurePosixPath(pattern).suffix.lower() for pattern in include} - {""}
        self._seen_folders: set[tuple[int, int]] = set()
        self._rows = Gathering()
        #: What lies beside objects, and how their keys begin where clip_ids do not.
        self._marks: tuple[Marks, str] | None = None

    def descend(self, top: str) -> None:
        """Walk a folder. Linked folders come last, so that a folder reached twice goes by its own name."""
        waiting: list[str] = [top]
        linked: list[str] = []
        while waiting or linked:
            folder = waiting.pop() if waiting else linked.pop(0)
            folders: list[tuple[str, bool]] = []
            try:
                info = os.stat(folder)  # noqa: PTH116
                if (info.st_dev, info.st_ino) in self._seen_folders:
                    continue
                self._seen_folders.add((info.st_dev, info.st_ino))
                with os.scandir(folder) as entries:
                    self._list(folder, entries, folders)
            except OSError as error:
                self._unlisted(folder, error)
            for path, is_link in sorted(folders, reverse=True):
                (linked if is_link else waiting).append(path)
            linked.sort()

    def _unlisted(self, folder: str, error: OSError) -> None:
        self.found.unreadable.append(f"{printable(folder)}: {error.strerror}")
        relative = os.fsencode(self._prefix(folder)).decode("utf-8", "backslashreplace")
        self.found.unlisted.append(relative)

    def _prefix(self, folder: str) -> str:
        relative = folder[len(self.found.root) :].strip("/")
        return f"{relative}/" if relative else ""

    def _list(self, folder: str, entries: Iterator[os.DirEntry[str]], folders: list[tuple[str, bool]]) -> None:
        """Take the files of one folder; add its folders to `folders`, each with whether it is a link."""
        prefix = self._prefix(folder)
        found, suffixes = self.found, self._suffixes
        filtered = self._include.used or self._exclude.used
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                found.n_hidden += 1
                continue
            dot = name.rfind(".")
            is_audio = dot > 0 and name[dot:].lower() in suffixes
            # Without a stat, but for links: the kind of an entry comes with its name.
            try:
                is_folder = entry.is_dir()
            except OSError as error:  # a link to itself, or to where we may not look
                if not is_audio:
                    self._unlisted(entry.path, error)
                    continue
                is_folder = False
            if is_folder:
                if name.lower() in _SYSTEM_FOLDERS:
                    found.n_system += 1
                else:
                    folders.append((entry.path, entry.is_symlink()))
                continue
            if not is_audio or (filtered and not self._wanted(prefix + name)):
                found.n_unmatched += 1
                continue
            try:
                info = entry.stat()
            except OSError:
                self._add(prefix + name, 0, NOT_SEEN_NS)
                continue
            if stat.S_ISREG(info.st_mode):
                self._add(prefix + name, info.st_size, _time_ns(info), folder)
            else:
                found.n_unmatched += 1

    def add_listed(self, path: str) -> None:
        """Take a file that was named by itself."""
        relative = os.path.relpath(path, self.found.root)
        if not self._wanted(relative):
            self.found.n_unmatched += 1
            return
        try:
            info = os.stat(path)  # noqa: PTH116
        except OSError:
            self._add(relative, 0, NOT_SEEN_NS)
            return
        self._add(relative, info.st_size, _time_ns(info), os.path.dirname(path))  # noqa: PTH120

    def take_objects(self, objects: Objects) -> None:
        """Take what was found in a bucket, by the rules for files."""
        from ser_batch.stages.bucket import Marks  # noqa: PLC0415 - for those who have buckets

        found, root = self.found, objects.root
        found.root = root.url
        depth = len(root.key) + 1 if root.key else 0
        marks = Marks(root)
        hidden: set[str] = set()
        system: set[str] = set()
        for item in objects.below:
            if isinstance(item, Unlisted):
                found.unreadable.append(f"{printable(root.at(item.prefix).url)}: {item.error}")
                found.unlisted.append(f"{item.prefix[depth:]}/")
                continue
            relative = item.key[depth:]
            if entry := _left_out(relative):
                (hidden if entry.rpartition("/")[2][0] == "." else system).add(entry)
                continue
            marks.take(item)
            suffix = os.path.splitext(relative)[1].lower()  # noqa: PTH122 - a million
            if suffix in self._suffixes and self._wanted(relative):
                self._add_object(relative, item)
            elif item.size_bytes or suffix:  # or else it stands for a folder
                found.n_unmatched += 1
        for item in objects.beside:
            marks.take(item)
        for item in objects.named:
            relative = item.key[depth:]
            if self._wanted(relative):
                self._add_object(relative, item)
            else:
                found.n_unmatched += 1
        found.n_hidden, found.n_system = len(hidden), len(system)
        if self._beside is not None:
            self._marks = marks, f"{root.key}/" if root.key else ""

    def _add_object(self, relative: str, item: Listed) -> None:
        time = item.modified
        time_ns = NOT_SEEN_NS if time is None else int(time.timestamp()) * 10**9 + time.microsecond * 1_000
        self._add(relative, item.size_bytes, time_ns, etag=item.etag)

    def _wanted(self, relative: str) -> bool:
        return (not self._include.used or self._include.match(relative)) and not self._exclude.match(relative)

    def _add(self, relative: str, n_bytes: int, mtime_ns: int, folder: str = "", etag: str = "") -> None:
        """Take a file; `folder` is where it lies, "" for one that cannot be looked at."""
        source = self._beside.of(folder, relative) if self._beside is not None and folder else ()
        clip_id = relative
        if not relative.isascii():
            clip_id = os.fsencode(relative).decode("utf-8", "backslashreplace")
        self._rows.add(Row(clip_id, "" if clip_id == relative else relative, n_bytes, mtime_ns, source, etag))

    def sorted(self) -> Found:
        """Return what was found, each file and each id once."""
        found = self.found
        found.files = self._rows.sorted()
        if self._marks is not None:
            marks, begin = self._marks
            sources = ((clip_id, marks.of(begin + clip_id)) for clip_id in found.clip_ids)
            found.segments = {clip_id: source for clip_id, source in sources if source}
        return found


def _left_out(relative: str) -> str:
    """Return the hidden entry, or the folder of a system, by which a path is left out; "" where it is not."""
    parts = relative.split("/")
    for place, part in enumerate(parts):
        if part[:1] == "." or (place < len(parts) - 1 and part.lower() in _SYSTEM_FOLDERS):
            return "/".join(parts[: place + 1])
    return ""


class _Patterns:
    """Shell patterns, compiled once."""

    def __init__(self, patterns: Iterable[str]) -> None:
        whole = [pattern for pattern in patterns if "/" in pattern]
        names = [pattern for pattern in patterns if "/" not in pattern]
        self._whole = re.compile("|".join(map(fnmatch.translate, [*whole, *names]))) if whole or names else None
        self._names = re.compile("|".join(map(fnmatch.translate, names))) if names else None
        self.used = bool(whole or names)

    def match(self, relative: str) -> bool:
        if self._whole is None:
            return False
        name = relative.rpartition("/")[2]
        return bool(self._whole.match(relative) or (self._names is not None and self._names.match(name)))


class _Beside:
    """Files that lie beside recordings and say who speaks when."""

    def __init__(self) -> None:
        #: Folder -> stem -> names, in the order in which they count; of the folders of late.
        self._names: dict[str, dict[str, list[str]]] = {}

    def of(self, folder: str, relative: str) -> tuple[Any, ...]:
        """Return key and paths of what lies beside a recording, () for nothing; see `SegmentSource`."""
        names = self._names.get(folder)
        if names is None:
            if len(self._names) >= _MOST_FOLDERS:
                self._names.clear()
            names = self._names[folder] = self._listed(folder)
        if not names:
            return ()
        name = relative.rpartition("/")[2]
        paths, state = [], []
        for other in names.get(name[: name.rfind(".")], ()):
            path = os.path.join(folder, other)  # noqa: PTH118 - Path normalises names
            try:
                info = os.stat(path)  # noqa: PTH116
            except OSError:
                continue
            if other != name and stat.S_ISREG(info.st_mode):
                paths.append(path)
                state += [other, info.st_size, info.st_mtime_ns]
        return (state_key(*state), tuple(paths)) if paths else ()

    @staticmethod
    def _listed(folder: str) -> dict[str, list[str]]:
        names: dict[str, list[str]] = {}
        try:
            every = os.listdir(folder)  # noqa: PTH208 - Path cannot hold every name
        except OSError:
            return names
        for name in sorted(every):
            dot = name.rfind(".")
            if dot > 0 and name[0] != "." and name[dot:].lower() in SEGMENT_SUFFIXES:
                names.setdefault(name[:dot], []).append(name)
        for beside in names.values():
            beside.sort(key=lambda name: SEGMENT_SUFFIXES.index(name[name.rfind(".") :].lower()))
        return names
