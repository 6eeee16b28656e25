"""EMOVO: the first letters of the Italian word for the emotion, speaker, sentence."""

from __future__ import annotations

import re

from ser_batch.corpora.name_pattern import NamePattern
from ser_batch.records import Corpus

__all__ = ["EMOVO"]

_NAMES = NamePattern(
    "emovo",
    re.compile(r"(?P<emotion>dis|gio|neu|pau|rab|sor|tri)-(?P<speaker>[fm]\d)-[a-z]\d", re.IGNORECASE),
    {
        "dis": "disgust",
        "gio": "happiness",
        "neu": "neutral",
        "pau": "fear",
        "rab": "anger",
        "sor": "surprise",
        "tri": "sadness",
    },
    lambda speaker: "female" if speaker[0] in "fF" else "male",
)

EMOVO = Corpus(
    "emovo",
    "EMOVO (Costantini et al. 2014)",
    "CC BY-NC-SA 4.0",
    "http://voice.fub.it/EMOVO",
    "it",
    _NAMES.read,
    _NAMES.looks_like,
)
