"""RAVDESS: seven numbers make a name."""

from __future__ import annotations

import re

from ser_batch.corpora.name_pattern import NamePattern
from ser_batch.records import Corpus

__all__ = ["RAVDESS"]

_NAMES = NamePattern(
    "ravdess",
    # modality-channel-emotion-intensity-statement-repetition-actor
    re.compile(r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])(-\d\d){3}-(?P<speaker>\d\d)"),
    {
        "01": "neutral",
        "02": "calm",
        "03": "happiness",
        "04": "sadness",
        "05": "anger",
        "06": "fear",
        "07": "disgust",
        "08": "surprise",
    },
    lambda actor: "male" if int(actor) % 2 else "female",
    lambda match: "songs" if match["channel"] == "02" else "videos without sound" if match["modality"] == "02" else "",
    # 01 is the sound of a video, 03 the same take as audio.
    lambda match: (match[0][3:], int(match["modality"] != "03")),
)

#: EmoBox's six groups of actors.
_FOLDS = ("01 11 20 21", "04 10 12 14", "08 09 19 23", "03 05 07 24", "02 15 16 18", "06 13 17 22")

RAVDESS = Corpus(
    "ravdess",
    "RAVDESS speech (Livingstone and Russo 2018)",
    "CC BY-NC-SA 4.0",
    "https://zenodo.org/records/1188976",
    "en",
    _NAMES.read,
    _NAMES.looks_like,
    tuple(tuple(f"ravdess-{actor}" for actor in group.split()) for group in _FOLDS),
)
