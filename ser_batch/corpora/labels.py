"""Folders with a table that says what each file is: ``labels.csv`` or ``labels.tsv``, and nEMO's ``data.tsv``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ser_batch.corpora.emotions import canonical_emotion
from ser_batch.corpora.files import audio_files
from ser_batch.errors import DataError
from ser_batch.records import Corpus, CorpusItem, LabelledClip, PassedOver, Remark
from ser_batch.tables.match import FILE_COLUMNS, match_rows
from ser_batch.tables.table import TABLE_SUFFIXES, Table, read_table
from ser_batch.text import shortened

__all__ = ["LABELS", "LABEL_COLUMNS", "has_labels", "label_rows", "labelled_reader", "read_labels", "table_beside"]

#: Column names that label files use for the same thing; the case does not matter.
LABEL_COLUMNS = {
    "file": FILE_COLUMNS,
    "emotion": ("emotion", "label"),
    "speaker": ("speaker", "speaker_id", "actor", "actor_id", "actorid"),
    "sex": ("sex", "gender"),
    "corpus": ("corpus",),
}
_SEXES = {"f": "female", "m": "male"}


def table_beside(folder: Path, *stems: str) -> Path | None:
    """Return the table in `folder` that is called by one of `stems`, or None.

    Raises
    ------
    DataError
        There are several.
    """
    found = sorted(
        path
        for path in folder.iterdir()
        if path.stem.lower() in stems and path.suffix.lower() in TABLE_SUFFIXES and path.is_file()
    )
    if len(found) > 1:
        raise DataError(f"{folder} holds both {found[0].name} and {found[1].name}. Keep the one that is true.")
    return found[0] if found else None


def label_columns(table: Table, needed: Sequence[str]) -> dict[str, str]:
    """Return what a table calls each key of `LABEL_COLUMNS` that it has.

    Raises
    ------
    DataError
        It lacks one of `needed`.
    """
    found = {key: name for key, names in LABEL_COLUMNS.items() if (name := table.find(names)) is not None}
    for key in needed:
        if key not in found:
            raise DataError(
                f"Labels file {table.path} has no column {key!r} (nor {', '.join(LABEL_COLUMNS[key][1:])}). "
                f"Its columns are: {shortened(', '.join(table.columns))}."
            )
    return found


def label_rows(
    path: Path, folder: Path, files: Sequence[Path], needed: Sequence[str]
) -> tuple[dict[Path, dict[str, str]], list[str]]:
    """Match a table of labels or speakers with files.

    Parameters
    ----------
    path : Path
        The table.
    folder : Path
        What its paths are relative to.
    files : sequence of Path
        Below `folder`.
    needed : sequence of str
        Keys of `LABEL_COLUMNS` that must be there, besides ``file``.

    Returns
    -------
    rows : dict
        File -> values by the keys of `LABEL_COLUMNS`, ``""`` where there is none.
    remarks : list of str
        Rows that name no file, and what was taken for granted.

    Raises
    ------
    InputError, DataError
        The table cannot be used; see `read_table` and `match_rows`.
    """
    table = read_table(path)
    columns = label_columns(table, ("file", *needed))
    names = [file.relative_to(folder).as_posix() for file in files]
    matching = match_rows(table, folder, names, key=columns["file"], columns=columns.values())
    rows = {}
    for place, row in matching.row_of.items():
        values = {key: table.columns[columns[key]][row] if key in columns else "" for key in LABEL_COLUMNS}
        sex = values["sex"].lower()
        rows[files[place]] = values | {"sex": _SEXES.get(sex, sex)}
    return rows, [*([matching.summary()] if matching.unknown or matching.n_repeated else []), *table.notes]


def has_labels(folder: Path, _names: Sequence[str] = ()) -> bool:
    """Say whether there is a label file in `folder`."""
    return _label_file(folder) is not None


def _label_file(folder: Path) -> Path | None:
    data = folder / "data.tsv"
    return table_beside(folder, "labels") or (data if data.is_file() else None)


def read_labels(folder: Path, files: Sequence[Path], collection: str) -> Iterable[CorpusItem]:
    """Read clips by the label file in `folder`; arguments as for `read_folders`.

    Raises
    ------
    InputError, DataError
        There is no label file, or it cannot be used.
    """
    labels = _label_file(folder)
    if labels is None:
        raise DataError(f"No labels.tsv or labels.csv or data.tsv in {folder}.")
    rows, remarks = label_rows(labels, folder, files, ("emotion", "speaker"))
    yield from (Remark(text) for text in remarks)
    for path in files:
        row = rows.get(path)
        if row is None:
            yield PassedOver(str(path), f"not in {labels.name}")
        elif not row["emotion"]:
            yield PassedOver(str(path), f"without an emotion in {labels.name}")
        else:
            emotion = canonical_emotion(row["emotion"]) or row["emotion"]
            speaker = f"{collection}-{row['speaker'].lower()}" if row["speaker"] else ""
            yield LabelledClip(str(path), emotion, speaker, row["sex"], collection, row["emotion"])


def labelled_reader(corpus: str | None = None) -> Callable[[Path], Iterable[CorpusItem]]:
    """Return the reader of folders with a label file; the corpus is called `corpus`, or like its folder."""

    def read(folder: Path) -> Iterable[CorpusItem]:
        return read_labels(folder, audio_files(folder), corpus or folder.name)

    return read


LABELS = Corpus("labels", "a folder with labels.tsv or labels.csv", "your own", "", "", labelled_reader(), has_labels)
