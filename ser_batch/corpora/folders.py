"""Folders named by emotion, the shape of ``data/raw/<emotion>/``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ser_batch.corpora.emotions import EMOTIONS, canonical_emotion, near_emotion
from ser_batch.corpora.files import audio_files
from ser_batch.corpora.labels import has_labels, label_rows, table_beside
from ser_batch.corpora.speakers import speakers_of
from ser_batch.errors import DataError
from ser_batch.records import Corpus, CorpusItem, LabelledClip, PassedOver, Remark

__all__ = ["RAW", "SPEAKERS_FILE", "has_emotion_folders", "read_folders"]

#: Beside the emotion folders: columns file, speaker, sex, and the corpus that a clip was sorted from.
SPEAKERS_FILE = "speakers.csv"


def has_emotion_folders(folder: Path, _names: Sequence[str] = ()) -> bool:
    """Say whether a folder in `folder` is called by an emotion."""
    return any(canonical_emotion(item.name) for item in folder.iterdir() if item.is_dir())


def read_folders(
    folder: Path, files: Sequence[Path], collection: str, downloads: Sequence[str] = ()
) -> Iterable[CorpusItem]:
    """Read clips from folders that are named by their label.

    Parameters
    ----------
    folder : Path
        Holds a folder per label: an emotion by any of its names, or a label of its own.
    files : sequence of Path
        Those below `folder` that count.
    collection : str
        Name of this collection, which tells its speakers from others of the same names.
    downloads : sequence of str
        Corpora whose speakers carry their name, sorted or not.

    Raises
    ------
    DataError
        A folder named by an emotion is empty, a name may be a slip of the pen, or ``speakers.csv`` cannot be used.
    """
    inside = [path for path in files if len(path.relative_to(folder).parts) > 1]
    yield from (PassedOver(str(path), "beside the folders") for path in files if path.parent == folder)
    if has_labels(folder):
        yield Remark(
            f"The labels file in {folder} is not read, since folders there are named by emotion. "
            f"To read it: `ser-batch train --corpus labels={folder}`."
        )
    labels = {path: path.relative_to(folder).parts[0] for path in inside}
    _check_names(folder, set(labels.values()))
    listed: dict[Path, dict[str, str]] = {}
    table = table_beside(folder, Path(SPEAKERS_FILE).stem)
    if table is not None:
        listed, remarks = label_rows(table, folder, inside, ("speaker",))
        yield from (Remark(text) for text in remarks)
    unlisted = [path for path in inside if path not in listed]
    by_name = dict(zip(unlisted, speakers_of([path.stem for path in unlisted]), strict=True))
    for path in inside:
        row = listed.get(path, {})
        speaker = row.get("speaker") or by_name.get(path, "")
        corpus = row.get("corpus") or next((name for name in downloads if speaker.startswith(f"{name}-")), collection)
        if speaker and not speaker.startswith(f"{corpus}-"):
            speaker = f"{corpus}-{speaker}"
        label = canonical_emotion(labels[path]) or labels[path]
        yield LabelledClip(str(path), label, speaker, row.get("sex", ""), corpus, label)


def _check_names(folder: Path, used: set[str]) -> None:
    for item in sorted(folder.iterdir()):
        if item.name.startswith(".") or not item.is_dir():
            continue
        emotion = canonical_emotion(item.name)
        if emotion and item.name not in used:
            raise DataError(f"Folder {item} holds no audio: add clips of {emotion}, or remove the empty folder.")
        near = near_emotion(item.name) if item.name in used and not emotion else None
        if near:
            raise DataError(
                f"Folder {item} names an emotion that nobody knows. Did you mean {near!r}? Rename the folder, or move "
                f"it out of {folder}. Known: {', '.join(EMOTIONS)}; a label of your own may have any name that is "
                f"not so near to one of these."
            )


def _read(folder: Path) -> Iterable[CorpusItem]:
    return read_folders(folder, audio_files(folder), folder.name)


RAW = Corpus("raw", "data/raw/<emotion>/", "your own", "", "", _read, has_emotion_folders)
