"""Names of emotions, each with what corpora and people call it."""

from __future__ import annotations

import difflib
import re

__all__ = ["BASIC_EMOTIONS", "EMOTIONS", "canonical_emotion", "near_emotion"]

EMOTIONS: dict[str, tuple[str, ...]] = {
    "anger": ("angry", "ang", "hot anger"),
    "disgust": ("disgusted", "dis"),
    "fear": ("fearful", "fea", "anxiety", "anxious", "afraid", "scared"),
    "happiness": ("happy", "hap", "joy", "joyful", "amusement", "elation"),
    "sadness": ("sad",),
    "surprise": ("surprised", "sur", "ps", "pleasant surprise", "pleasant surprised"),
    "neutral": ("neu",),
    "calm": (),
    "boredom": ("bored",),
    "distress": (),
}
#: The six that `organize` takes where nothing else is said (Ekman 1992).
BASIC_EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise")
_BY_NAME = {name: emotion for emotion, names in EMOTIONS.items() for name in (emotion, *names)}


def canonical_emotion(name: str) -> str | None:
    """Return the canonical name of an emotion, or None where it is none that is known; a number before it may stand."""
    words = re.sub(r"[\s_-]+", " ", name.strip().lower())
    return _BY_NAME.get(words) or _BY_NAME.get(re.sub(r"^\d+[ .]*", "", words))


def near_emotion(name: str) -> str | None:
    """Return the name of an emotion that `name` may be a slip of the pen for."""
    near = difflib.get_close_matches(name.lower(), list(_BY_NAME), n=1, cutoff=0.8)
    return near[0] if near else None
