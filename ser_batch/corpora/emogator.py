"""EmoGator: contributor, category out of 30, take."""

from __future__ import annotations

import re

from ser_batch.corpora.name_pattern import NamePattern
from ser_batch.records import Corpus

__all__ = ["EMOGATOR"]

_NAMES = NamePattern(
    "emogator",
    re.compile(r"(?P<speaker>\d{6})-(?P<emotion>\d\d)-\d+"),
    {
        "02": "happiness",  # amusement
        "03": "anger",
        "10": "disgust",
        "11": "distress",
        "13": "happiness",  # elation
        "15": "fear",
        "24": "sadness",
        "27": "surprise",  # negative
        "28": "surprise",  # positive
    },
)

EMOGATOR = Corpus(
    "emogator",
    "EmoGator (Buhl 2023)",
    "Apache-2.0",
    "https://github.com/fredbuhl/EmoGator",
    "none (vocal bursts)",
    _NAMES.read,
    _NAMES.looks_like,
)
