"""TESS: two actresses, OAF and YAF, one carrier phrase."""

from __future__ import annotations

import re

from ser_batch.corpora.name_pattern import NamePattern
from ser_batch.records import Corpus

__all__ = ["TESS"]

_NAMES = NamePattern(
    "tess",
    # One file of the release is called OA_bite_neutral.
    re.compile(r"(?P<speaker>[OY]A)F?_\w+_(?P<emotion>angry|disgust|fear|happy|neutral|ps|sad)", re.IGNORECASE),
    {
        "angry": "anger",
        "disgust": "disgust",
        "fear": "fear",
        "happy": "happiness",
        "neutral": "neutral",
        "ps": "surprise",
        "sad": "sadness",
    },
    lambda _: "female",
)

TESS = Corpus(
    "tess",
    "TESS (Pichora-Fuller and Dupuis 2020)",
    "CC BY-NC-ND 4.0",
    "https://doi.org/10.5683/SP2/E8H2MF",
    "en",
    _NAMES.read,
    _NAMES.looks_like,
)
