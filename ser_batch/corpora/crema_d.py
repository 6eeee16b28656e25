"""CREMA-D: actor, sentence, emotion, level; the sexes stand in a table beside the audio folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ser_batch.corpora.labels import label_columns
from ser_batch.corpora.name_pattern import NamePattern
from ser_batch.records import Corpus, CorpusItem, LabelledClip
from ser_batch.tables.table import read_table

__all__ = ["CREMA_D"]

_NAMES = NamePattern(
    "crema-d",
    # The level is XX, LO, MD or HI, and a single X in one file of the release.
    re.compile(r"(?P<speaker>1\d{3})_[A-Z]{3}_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]{1,2}", re.IGNORECASE),
    {"ang": "anger", "dis": "disgust", "fea": "fear", "hap": "happiness", "neu": "neutral", "sad": "sadness"},
)


def _read(folder: Path) -> Iterable[CorpusItem]:
    sexes = _sexes(folder)
    for item in _NAMES.read(folder):
        yield replace(item, sex=sexes.get(item.speaker, "")) if isinstance(item, LabelledClip) else item


def _sexes(folder: Path) -> dict[str, str]:
    paths = (parent / "VideoDemographics.csv" for parent in (folder, folder.parent))
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}
    table = read_table(path)
    columns = label_columns(table, ("speaker", "sex"))
    rows = zip(table.columns[columns["speaker"]], table.columns[columns["sex"]], strict=True)
    return {f"crema-d-{actor}": sex.lower() for actor, sex in rows}


CREMA_D = Corpus(
    "crema-d",
    "CREMA-D (Cao et al. 2014)",
    "ODbL 1.0",
    "https://github.com/CheyneyComputerScience/CREMA-D",
    "en",
    _read,
    _NAMES.looks_like,
)
