"""Folders named by emotion, the shape of ``data/raw/<emotion>/``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ser_batch.corpora.emotions import EMOTIONS, canonical_emotion
from ser_batch.corpora.files import audio_files
from ser_batch.corpora.labels import label_rows
from ser_batch.errors import DataError
from ser_batch.records import Corpus, LabelledClip
from ser_batch.text import did_you_mean

__all__ = ["SPEAKERS_FILE", "folders_by_emotion", "has_emotion_folders"]

#: Beside the emotion folders: columns file, speaker and sex.
SPEAKERS_FILE = "speakers.csv"


def folders_by_emotion(downloads: Sequence[str]) -> Corpus:
    """Return the corpus ``raw``; speakers of `downloads` carry their corpus before a hyphen, sorted or not."""
    read = partial(_read, downloads)
    return Corpus("raw", "data/raw/<emotion>/", "your own", "", "", read, has_emotion_folders)


def has_emotion_folders(folder: Path, _names: Sequence[str] = ()) -> bool:
    """Say whether a folder in `folder` is called by an emotion."""
    return any(canonical_emotion(item.name) for item in folder.iterdir() if item.is_dir())


def _read(downloads: Sequence[str], folder: Path) -> Iterable[LabelledClip]:
    """Speakers are those of ``speakers.csv``, else the name up to its first underscore."""
    table = folder / SPEAKERS_FILE
    listed = {row["file"]: row for row in label_rows(table, ("file", "speaker"))} if table.is_file() else {}
    clips: list[LabelledClip] = []
    unlisted: list[int] = []
    for directory in sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith(".")):
        emotion = _emotion_of(directory)
        files = audio_files(directory)
        if not files:
            raise DataError(f"Folder {directory} holds no audio: add clips of {emotion}, or remove the empty folder.")
        for path in files:
            relative = path.relative_to(folder).as_posix()
            row = listed.get(relative) or listed.get(path.name) or {}
            token = path.stem.split("_", 1)[0] if "_" in path.stem else ""
            speaker = row.get("speaker") or ("" if canonical_emotion(token) else token)
            corpus = next((name for name in downloads if speaker.startswith(f"{name}-")), folder.name)
            unlisted += [] if row else [len(clips)]
            clips.append(LabelledClip(str(path), emotion, speaker, row.get("sex", "").lower(), corpus, emotion))
    tokens = {clips[index].speaker for index in unlisted}
    # A leading token that never comes again numbers the clips; it does not name who speaks.
    if len(tokens) == len(unlisted) and tokens.isdisjoint(row["speaker"] for row in listed.values()):
        for index in unlisted:
            clips[index] = replace(clips[index], speaker="")
    return clips


def _emotion_of(directory: Path) -> str:
    emotion = canonical_emotion(directory.name)
    if emotion is None:
        names = [name for emotion, others in EMOTIONS.items() for name in (emotion, *others)]
        hint = did_you_mean(directory.name, names)
        raise DataError(
            f"Folder {directory} names an emotion that nobody knows.{hint} Known: {', '.join(EMOTIONS)}. "
            f"Rename the folder, or move it out of {directory.parent}."
        )
    return emotion
