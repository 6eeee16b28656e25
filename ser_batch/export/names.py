"""Names of label tracks: one for each recording, in the tree of the recordings, distinct on any file system."""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import PurePosixPath

import numpy as np

from ser_batch.errors import RunError
from ser_batch.text import printable

__all__ = ["TrackNames"]

#: Longest name of a file or folder, in bytes, on the file systems of today.
_LONGEST_NAME_BYTES = 255

_MARK = re.compile(r"~[0-9a-f]{16}", re.IGNORECASE)


class TrackNames:
    """The names of the label tracks of a run.

    A track is called like its recording, with a suffix. Where that name is too long, or would be that of something
    else too were neither case nor the composition of accents to count, it ends in a mark made from its ``clip_id``; so
    it does not depend on which recordings are exported. Holds eight bytes for each recording.

    Parameters
    ----------
    clip_ids : iterable of str
        All recordings of the run.
    suffix : str
        Suffix of the tracks, with its dot.

    Raises
    ------
    RunError
        A clip_id leads out of the folder of the run; only a run that was tampered with holds such a name.
    """

    def __init__(self, clip_ids: Iterable[str], suffix: str) -> None:
        self._suffix = suffix
        tracks, folders = array("Q"), array("Q")
        folder: list[str] = []
        for clip_id in clip_ids:
            names = self._names(clip_id)
            if names[:-1] != folder:
                folder = names[:-1]
                folders.extend(_key(folder[:depth]) for depth in range(1, len(folder) + 1))
            tracks.append(_key(names))
        keys = np.sort(np.frombuffer(tracks, np.uint64))
        repeated = keys[1:][keys[1:] == keys[:-1]]
        self._taken = {*repeated.tolist(), *np.intersect1d(keys, np.frombuffer(folders, np.uint64)).tolist()}

    def path(self, clip_id: str) -> PurePosixPath:
        """Return where the track of a recording goes, relative to the folder of all tracks."""
        names = self._names(clip_id)
        return PurePosixPath(*(self._names(clip_id, marked=True) if _key(names) in self._taken else names))

    def _names(self, clip_id: str, marked: bool = False) -> list[str]:
        """Return the names of the folders of a track and its own."""
        names = clip_id.split("/")
        if not {"", ".", ".."}.isdisjoint(names) or "\0" in clip_id:
            raise RunError(
                f"The run names a recording {printable(clip_id)!r}, which lies outside of its folder: not exported."
            )
        # Folders too: a byte that is not UTF-8 is four characters in a clip_id.
        folders = [_fitting(name, "/".join(names[: depth + 1])) for depth, name in enumerate(names[:-1])]
        return [*folders, _fitting(names[-1], clip_id, self._suffix, marked)]


def _fitting(name: str, path: str, suffix: str = "", marked: bool = False) -> str:
    """Return a name that file systems take; `path`, of which there is one in a run, makes its mark."""
    room = _LONGEST_NAME_BYTES - len(suffix)
    # A name that looks like one with a mark gets its own, so that no name of a recording is that of a marked one.
    if marked or len(name.encode()) > room or _MARK.search(name):
        mark = f"~{blake2b(path.encode(), digest_size=8).hexdigest()}"
        name = name.encode()[: room - len(mark)].decode(errors="ignore") + mark
    return name + suffix


def _key(names: list[str]) -> int:
    """Return a number that is the same for all paths that some file system takes for one."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", "/".join(names)).casefold())
    plain = "/".join(name.rstrip(". ") for name in folded.split("/"))
    return int.from_bytes(blake2b(plain.encode(), digest_size=8).digest())
