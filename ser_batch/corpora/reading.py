"""Finds out what the files of some folders are, and reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ser_batch.corpora.account import Account, Reading, without_twins
from ser_batch.corpora.files import is_film, media_files
from ser_batch.corpora.folders import read_folders
from ser_batch.corpora.labels import read_labels
from ser_batch.corpora.recognise import OWN, Part, claimed, described
from ser_batch.errors import DataError, InputError
from ser_batch.records import Corpus, CorpusItem, LabelledClip, PassedOver
from ser_batch.text import did_you_mean

__all__ = ["read_corpora", "read_corpus"]

#: Folders that part one collection, and do not make two.
_SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"})


def read_corpus(folder: Path, corpora: Sequence[Corpus], name: str | None = None) -> Reading:
    """Read the clips of one folder; see `read_corpora`."""
    return read_corpora([(folder, name)], corpora)


def read_corpora(sources: Sequence[tuple[Path, str | None]], corpora: Sequence[Corpus]) -> Reading:
    """Read the clips of some folders, each as the corpus that is named, or as what its files look like.

    A folder may hold several corpora, in folders of their own or side by side. Every audio file and video found is
    accounted for. Audio that is there twice is taken once.

    Parameters
    ----------
    sources
        Folders, each with the name of its corpus or None.
    corpora
        All that are known, checked as `hooks.register_corpora` gives them.

    Returns
    -------
    reading : Reading
        Its clips are sorted by path.

    Raises
    ------
    InputError
        A folder does not exist or cannot be listed.
    DataError
        Unknown corpus name, labels that cannot be used, the same audio under two labels, no clip of the corpus in the
        folder, or of more than a tenth of the files nobody knows what they are.
    PluginError
        The reader of a corpus raised something else; the message names its plugin.
    """
    parts: list[Part] = []
    for folder, name in sources:
        if not folder.is_dir():
            raise InputError(f"Data folder {folder} does not exist.")
        files = media_files(folder)
        if name is None:
            parts += described(folder, files, corpora)
        else:
            parts.append(Part(_by_name(name, corpora), folder, folder, files, is_named=True))
    return _Reader(corpora, parts).read()


def _by_name(name: str, corpora: Sequence[Corpus]) -> Corpus:
    known = {corpus.name: corpus for corpus in corpora}
    if name not in known:
        raise DataError(f"No corpus {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")
    return known[name]


def _key(path: str | os.PathLike[str]) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - resolve() would take links for what they lead to


class _Reader:
    """Reads parts, and keeps the books."""

    def __init__(self, corpora: Sequence[Corpus], parts: list[Part]) -> None:
        self._corpora, self._parts = corpora, parts
        self._known = {_key(path) for part in parts for path in part.files}
        self._collections = _collections(parts)
        self._taken: dict[str, tuple[LabelledClip, Account]] = {}
        self._reading = Reading()

    def read(self) -> Reading:
        reading = self._reading
        accounts: dict[tuple[str, Path], Account] = {}
        # Reading a part may show that some of its files are of another corpus: these come last.
        for part in self._parts:
            # A corpus of 24 folders has one account.
            name = part.corpus.name if part.corpus else ""
            folder = part.folder if name in OWN else part.source
            account = accounts.setdefault((name, folder), Account(folder, name))
            self._read_part(part, account)
            if part.is_named and part.corpus and not account.n_taken + account.n_twice:
                raise DataError(f"No clip of {part.corpus.title} is taken. {account.line()}")
        reading.accounts = list(accounts.values())
        if not self._taken:
            raise DataError(f"No clip is taken. {' '.join(account.line() for account in reading.accounts)}")
        reading.clips, twins = without_twins([clip for clip, _ in self._taken.values()])
        for clip in twins:
            account = self._taken[_key(clip.path)][1]
            account.n_taken -= 1
            account.n_twice += 1
        reading.clips.sort(key=lambda clip: clip.path)
        return reading

    def _read_part(self, part: Part, account: Account) -> None:
        clips: dict[str, LabelledClip] = {}
        reasons: dict[str, str] = {}
        for item in self._items(part):
            if isinstance(item, LabelledClip):
                clips[_key(item.path)] = item
            elif isinstance(item, PassedOver):
                reasons[_key(item.path)] = item.reason
            else:
                self._reading.remarks.append(item.text)
        paths = {_key(path): path for path in part.files}
        # A reader may know files by suffixes that nobody else knows.
        paths |= {key: Path(clips[key].path) for key in clips.keys() - self._known}
        strays: dict[str, Part] = {}
        for key, path in paths.items():
            if key not in clips and key not in reasons:
                other = self._other(part, path)
                if other is not None and not part.is_named:
                    stray = Part(other, part.source, part.folder, [], is_stray=True)
                    strays.setdefault(other.name, stray).files.append(path)
                    continue
                reasons[key] = _reason(path, part, other)
            account.n_found += 1
            if key not in clips:
                account.passed_over[reasons[key]] += 1
            elif key in self._taken:
                account.n_twice += 1
            else:
                account.n_taken += 1
                self._taken[key] = clips[key], account
        self._parts += strays.values()

    def _other(self, part: Part, path: Path) -> Corpus | None:
        """Return the corpus that a file is of which is not of the corpus it was found among."""
        if part.corpus is None or part.is_stray:
            return None
        return claimed(part.folder, path, [corpus for corpus in self._corpora if corpus is not part.corpus])

    def _items(self, part: Part) -> Iterable[CorpusItem]:
        corpus = part.corpus
        if corpus is None:
            return ()
        audio = [path for path in part.files if not is_film(path)]
        collection = self._collections.get(part.folder, "")
        if corpus.name == "raw":
            downloads = [corpus.name for corpus in self._corpora if corpus.name not in OWN]
            return read_folders(part.folder, audio, collection, downloads)
        if corpus.name == "labels":
            return read_labels(part.folder, audio, collection)
        return corpus.read(part.folder)


def _reason(path: Path, part: Part, other: Corpus | None) -> str:
    if is_film(path):
        return "videos, whose sound is not read"
    if part.corpus is None:
        return "of which nobody knows what they are"
    return f"clips of {other.name}" if other else f"named otherwise than those of {part.corpus.name}"


def _collections(parts: Sequence[Part]) -> dict[Path, str]:
    """Give each folder of one's own clips a name, two names to two folders that are called alike.

    Speakers carry the name of their collection: ``spk1`` of one is not ``spk1`` of another.
    """
    names: dict[Path, str] = {}
    found: dict[Path, str] = {}
    for part in parts:
        if part.corpus is None or part.corpus.name not in OWN:
            continue
        folder = Path(_key(part.folder))
        while folder.name.lower() in _SPLITS:
            folder = folder.parent
        # A copy that an archive was unpacked into once more is no other collection.
        twins = (other for other in names if folder.is_relative_to(other) or other.is_relative_to(folder))
        twin = next((other for other in twins if other.name == folder.name), folder)
        if twin not in names:
            length = 1
            while (name := "/".join(twin.parts[-length:])) in names.values():
                length += 1
            names[twin] = name
        found[part.folder] = names[twin]
    return found
