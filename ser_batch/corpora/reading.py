"""Finds out which corpus a folder holds, and reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ser_batch.corpora.files import audio_files
from ser_batch.corpora.folders import has_emotion_folders
from ser_batch.errors import DataError, InputError, PluginError, SerBatchError
from ser_batch.records import Corpus, LabelledClip
from ser_batch.text import did_you_mean

__all__ = ["detect_corpus", "read_corpus"]


def detect_corpus(folder: Path, corpora: Sequence[Corpus]) -> Corpus:
    """Return the corpus that the files below `folder` look like; ``data/raw`` and label files come last.

    Raises
    ------
    InputError
        The folder does not exist.
    DataError
        It looks like none of them.
    """
    if not folder.is_dir():
        raise InputError(f"Data folder {folder} does not exist.")
    # Names from all over the folder: several corpora side by side are none of them.
    files = audio_files(folder)
    names = [path.name for path in files[:: 1 + len(files) // 1000]]
    if names:
        general = ("raw", "labels")
        for corpus in sorted(corpora, key=lambda item: item.name in general):
            # Folders named by emotion say more than the file names of whatever was sorted into them.
            if (corpus.name == "raw" or not has_emotion_folders(folder)) and corpus.looks_like(folder, names):
                return corpus
    known = ", ".join(corpus.name for corpus in corpora)
    what = "holds no audio files" if not names else "looks like none of the known corpora"
    raise DataError(
        f"Folder {folder} {what}. Expected a corpus as downloaded ({known}), or folders named by emotion "
        f"such as {folder}/anger/; name the corpus: `ser-batch train --corpus NAME={folder}`."
    )


def read_corpus(folder: Path, corpora: Sequence[Corpus], name: str | None = None) -> list[LabelledClip]:
    """Read the clips of a folder, as corpus `name` or as what it looks like, sorted by path.

    A folder that holds several corpora, each in a folder of its own, is read corpus by corpus.

    Raises
    ------
    InputError
        The folder does not exist.
    DataError
        Unknown corpus name, labels that cannot be used, or no clip of the corpus in the folder.
    PluginError
        The reader of the corpus raised something else; the message names the corpus.
    """
    if not folder.is_dir():
        raise InputError(f"Data folder {folder} does not exist.")
    if name is None:
        try:
            corpus = detect_corpus(folder, corpora)
        except DataError:
            parts = [item for item in sorted(folder.iterdir()) if item.is_dir() and not item.name.startswith(".")]
            if not parts or any(not _detectable(item, corpora) for item in parts):
                raise
            return [clip for item in parts for clip in read_corpus(item, corpora)]
    else:
        by_name = {corpus.name: corpus for corpus in corpora}
        if name not in by_name:
            raise DataError(f"No corpus {name!r}.{did_you_mean(name, by_name)} Known: {', '.join(by_name)}.")
        corpus = by_name[name]
    try:
        clips = sorted(corpus.read(folder), key=lambda clip: clip.path)
    except SerBatchError:
        raise
    except Exception as error:  # a plugin's reader can raise anything; the user needs to know whose it was
        reason = f"{type(error).__name__}: {error}"
        raise PluginError(f"The reader of corpus {corpus.name!r} failed on {folder}: {reason}") from error
    if not clips:
        raise DataError(f"No clip of {corpus.title} in {folder}: the file names are not those of the corpus.")
    return clips


def _detectable(folder: Path, corpora: Sequence[Corpus]) -> bool:
    try:
        detect_corpus(folder, corpora)
    except DataError:
        return False
    return True
