"""Names of emotions, each with what corpora and people call it."""

from __future__ import annotations

__all__ = ["EMOTIONS", "canonical_emotion"]

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
_BY_NAME = {name: emotion for emotion, names in EMOTIONS.items() for name in (emotion, *names)}


def canonical_emotion(name: str) -> str | None:
    """Return the canonical name of an emotion, or None where nobody knows it."""
    return _BY_NAME.get(name.strip().lower().replace("_", " ").replace("-", " "))
