"""Finds out which corpus the files of a folder are, by their names and those of folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ser_batch.corpora.emotions import canonical_emotion
from ser_batch.corpora.files import is_film
from ser_batch.corpora.folders import has_emotion_folders
from ser_batch.errors import DataError
from ser_batch.records import Corpus

__all__ = ["OWN", "Part", "claimed", "described"]

#: Collections of one's own; published corpora are looked for first.
OWN = ("raw", "labels")
#: Share of files of which nobody knows what they are, above which nothing is read.
_MOST_UNKNOWN = 0.1
_N_NAMES = 1000


@dataclass(slots=True)
class Part:
    """Files that are read as one corpus, or of which nobody knows what they are."""

    corpus: Corpus | None
    #: The folder that was given, and the one in it that is read.
    source: Path
    folder: Path
    files: list[Path]
    #: The user said so.
    is_named: bool = False
    #: Found among those of another corpus, by their single names.
    is_stray: bool = False


def described(folder: Path, files: Sequence[Path], corpora: Sequence[Corpus]) -> list[Part]:
    """Part the files of a folder by what they are.

    Parameters
    ----------
    folder : Path
    files : sequence of Path
        Audio files and videos below `folder`.
    corpora : sequence of Corpus
        All that are known.

    Raises
    ------
    DataError
        There are no files, or of more than a tenth of them nobody knows what they are.
    """
    recognition = _Recognition(folder, corpora)
    parts = recognition.parts(folder, files)
    if not any(part.corpus for part in parts):
        parts = recognition.named_by_folders(files) or parts
    unknown = [path for part in parts if part.corpus is None for path in part.files]
    if len(unknown) > _MOST_UNKNOWN * len(files) or not files:
        raise DataError(_what_is_unknown(folder, files, unknown, corpora))
    return parts


def claimed(folder: Path, path: Path, corpora: Sequence[Corpus]) -> Corpus | None:
    """Return the published corpus that a single file is of by its name, or None."""
    name = path.relative_to(folder).as_posix()
    return next((corpus for corpus in corpora if corpus.name not in OWN and corpus.looks_like(folder, [name])), None)


class _Recognition:
    """Looks at one folder that was given."""

    def __init__(self, source: Path, corpora: Sequence[Corpus]) -> None:
        self._source, self._corpora = source, corpora
        self._raw = next((corpus for corpus in corpora if corpus.name == "raw"), None)

    def parts(self, folder: Path, files: Sequence[Path]) -> list[Part]:
        by_emotion = has_emotion_folders(folder)
        # Folders named by emotion say more than the file names of whatever was sorted into them.
        whole = None if by_emotion else self._whole(folder, files)
        if whole is not None:
            return [Part(whole, self._source, folder, list(files))]
        parts: list[Part] = []
        own: list[Path] = []
        for name, members in _by_folder(folder, files).items():
            if by_emotion and canonical_emotion(name):
                own += members
                continue
            inner = self.parts(folder / name, members) if name else self._side_by_side(folder, members)
            if by_emotion:  # what is nothing else bears labels of the user's own
                own += (path for part in inner if part.corpus is None for path in part.files)
                inner = [part for part in inner if part.corpus]
            parts += inner
        return [*parts, Part(self._raw, self._source, folder, own)] if own else parts

    def _whole(self, folder: Path, files: Sequence[Path]) -> Corpus | None:
        """Return the corpus that nearly all files are of; label files come last."""
        # Names from all over the folder: several corpora side by side are none of them.
        sample = [path.relative_to(folder).as_posix() for path in files[:: 1 + len(files) // _N_NAMES]]
        candidates = [corpus for corpus in self._corpora if corpus.name != "raw"]
        candidates.sort(key=lambda corpus: corpus.name in OWN)
        return next((corpus for corpus in candidates if sample and corpus.looks_like(folder, sample)), None)

    def _side_by_side(self, folder: Path, files: Sequence[Path]) -> list[Part]:
        parts: dict[str, Part] = {}
        for path in files:
            corpus = claimed(folder, path, self._corpora)
            part = parts.setdefault(corpus.name if corpus else "", Part(corpus, self._source, folder, []))
            part.files.append(path)
        return list(parts.values())

    def named_by_folders(self, files: Sequence[Path]) -> list[Part]:
        """Take the names of folders for labels, where there are two or more and little beside them."""
        folder = self._source
        groups = _by_folder(folder, files)
        while len(groups) == 1 and "" not in groups:  # an archive unpacked into a folder of its own
            folder = folder / next(iter(groups))
            groups = _by_folder(folder, files)
        loose = groups.pop("", [])
        if self._raw is None or len(groups) < 2 or len(loose) > _MOST_UNKNOWN * len(files):
            return []
        return [Part(self._raw, self._source, folder, list(files))]


def _by_folder(folder: Path, files: Sequence[Path]) -> dict[str, list[Path]]:
    """Group files by the folder in `folder` that they lie in; ``""`` for those in none."""
    groups: dict[str, list[Path]] = {}
    for path in files:
        first, *rest = path.relative_to(folder).parts
        groups.setdefault(first if rest else "", []).append(path)
    return groups


def _what_is_unknown(folder: Path, files: Sequence[Path], unknown: Sequence[Path], corpora: Sequence[Corpus]) -> str:
    known = ", ".join(corpus.name for corpus in corpora)
    cure = (
        f"Expected a corpus as downloaded ({known}), folders named by emotion such as {folder}/anger/, or a table "
        f"{folder}/labels.csv with the columns file, emotion, speaker."
    )
    if all(is_film(path) for path in files):
        videos = f", but {len(files):,} videos; extract their sound first" if files else ""
        return f"Folder {folder} holds no audio files{videos}. {cure}"
    if len(unknown) == len(files):
        return (
            f"Folder {folder} looks like none of the known corpora. {cure} Or name the corpus: "
            f"`ser-batch train --corpus NAME={folder}`."
        )
    return (
        f"Folder {folder}: nobody knows what {len(unknown):,} of its {len(files):,} files are, for example "
        f"{unknown[0]}. Move them out, or give the folders that are to be read one by one. {cure}"
    )
