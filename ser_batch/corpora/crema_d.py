"""CREMA-D: actor, sentence, emotion, level; the sexes stand in a table beside the audio folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ser_batch.corpora.labels import label_rows
from ser_batch.corpora.name_pattern import NamePattern
from ser_batch.records import Corpus, LabelledClip

__all__ = ["CREMA_D"]

_NAMES = NamePattern(
    "crema-d",
    # The level is XX, LO, MD or HI, and a single X in one file of the release.
    re.compile(r"(?P<speaker>1\d{3})_[A-Z]{3}_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_[A-Z]{1,2}", re.IGNORECASE),
    {"ang": "anger", "dis": "disgust", "fea": "fear", "hap": "happiness", "neu": "neutral", "sad": "sadness"},
)


def _read(folder: Path) -> Iterable[LabelledClip]:
    tables = (parent / "VideoDemographics.csv" for parent in (folder, folder.parent))
    table = next((path for path in tables if path.is_file()), None)
    rows = label_rows(table, ("speaker", "sex")) if table else []
    sexes = {f"crema-d-{row['speaker']}": row["sex"].lower() for row in rows}
    for clip in _NAMES.read(folder):
        yield replace(clip, sex=sexes.get(clip.speaker, ""))


CREMA_D = Corpus(
    "crema-d",
    "CREMA-D (Cao et al. 2014)",
    "ODbL 1.0",
    "https://github.com/CheyneyComputerScience/CREMA-D",
    "en",
    _read,
    _NAMES.looks_like,
)
