"""Folders with a table that says what each file is: ``labels.tsv`` or ``labels.csv``, and nEMO's ``data.tsv``."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ser_batch.corpora.emotions import canonical_emotion
from ser_batch.errors import DataError
from ser_batch.records import Corpus, LabelledClip

__all__ = ["LABELS", "LABEL_COLUMNS", "has_labels", "label_rows", "labelled_reader"]

#: Column names that label files use for the same thing.
LABEL_COLUMNS = {
    "file": ("file", "file_id", "filename", "path"),
    "emotion": ("emotion", "label"),
    "speaker": ("speaker", "speaker_id", "actor", "ActorID"),
    "sex": ("sex", "gender", "Sex"),
}
_LABEL_FILES = ("labels.tsv", "labels.csv", "data.tsv")


def label_rows(path: Path, needed: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a label file with the keys of `LABEL_COLUMNS`, ``""`` where it has no such column.

    Raises
    ------
    DataError
        The file is not UTF-8, or lacks one of the columns in `needed`.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"Labels file {path} is not UTF-8: {error}.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    header = [name.strip() for name in reader.fieldnames or ()]
    reader.fieldnames = header
    chosen = {key: next((name for name in names if name in header), None) for key, names in LABEL_COLUMNS.items()}
    for key in needed:
        if chosen[key] is None:
            raise DataError(
                f"Labels file {path} has no column {key!r} (nor {', '.join(LABEL_COLUMNS[key][1:])}). "
                f"Its columns are: {', '.join(header) or 'none'}."
            )
    return [{key: (row.get(name or "") or "").strip() for key, name in chosen.items()} for row in reader]


def has_labels(folder: Path, _names: Sequence[str] = ()) -> bool:
    """Say whether there is a label file in `folder`."""
    return any((folder / name).is_file() for name in _LABEL_FILES)


def labelled_reader(corpus: str | None = None) -> Callable[[Path], Iterable[LabelledClip]]:
    """Return the reader of folders with a label file; the corpus is called `corpus`, or like its folder."""

    def read(folder: Path) -> Iterable[LabelledClip]:
        labels = next((folder / name for name in _LABEL_FILES if (folder / name).is_file()), None)
        if labels is None:
            raise DataError(f"No {' or '.join(_LABEL_FILES)} in {folder}.")
        prefix = corpus or folder.name
        for row in label_rows(labels, ("file", "emotion", "speaker")):
            names = (row["file"], f"samples/{row['file']}", f"{row['file']}.wav", f"samples/{row['file']}.wav")
            path = next((folder / name for name in names if (folder / name).is_file()), None)
            if path is None:
                raise DataError(f"Labels file {labels} names {row['file']!r}, which is not in {folder}.")
            emotion = canonical_emotion(row["emotion"]) or row["emotion"]
            speaker = f"{prefix}-{row['speaker'].lower()}" if row["speaker"] else ""
            yield LabelledClip(str(path), emotion, speaker, row["sex"].lower(), prefix, row["emotion"])

    return read


LABELS = Corpus("labels", "a folder with labels.tsv or labels.csv", "your own", "", "", labelled_reader(), has_labels)
