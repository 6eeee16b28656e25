"""SAVEE: one of four men, letters of the emotion, sentence; the man is the folder where names do not begin with him."""

from __future__ import annotations

import re

from ser_batch.corpora.name_pattern import NamePattern
from ser_batch.records import Corpus

__all__ = ["SAVEE"]

_NAMES = NamePattern(
    "savee",
    re.compile(r"(?P<speaker>DC|JE|JK|KL)[_/](?P<emotion>a|d|f|h|n|sa|su)\d\d", re.IGNORECASE),
    {
        "a": "anger",
        "d": "disgust",
        "f": "fear",
        "h": "happiness",
        "n": "neutral",
        "sa": "sadness",
        "su": "surprise",
    },
    lambda _: "male",
    take=lambda match: (match[0].replace("/", "_"), 0),
)

SAVEE = Corpus(
    "savee",
    "SAVEE (Haq and Jackson 2009)",
    "research only, non-commercial",
    "http://kahlan.eps.surrey.ac.uk/savee",
    "en",
    _NAMES.read,
    _NAMES.looks_like,
)
