"""EMO-DB: speaker, text, initial of the German word for the emotion, version."""

from __future__ import annotations

import re

from ser_batch.corpora.name_pattern import NamePattern
from ser_batch.records import Corpus

__all__ = ["EMO_DB"]

_NAMES = NamePattern(
    "emo-db",
    re.compile(r"(?P<speaker>\d\d)[ab]\d\d(?P<emotion>[WLEAFTN])[a-z]?"),
    {
        "w": "anger",
        "l": "boredom",
        "e": "disgust",
        "a": "fear",
        "f": "happiness",
        "t": "sadness",
        "n": "neutral",
    },
    lambda speaker: "male" if speaker in ("03", "10", "11", "12", "15") else "female",
)

EMO_DB = Corpus(
    "emo-db",
    "EMO-DB (Burkhardt et al. 2005)",
    "CC BY 4.0",
    "http://emodb.bilderbar.info",
    "de",
    _NAMES.read,
    _NAMES.looks_like,
)
