"""One colour per emotion, the same in every chart, table and tag, and still told apart by colour-blind readers."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["COLOURS", "colours_of", "css_variables", "variable"]

#: Emotion -> (colour on white, colour on near-black). Found by search: at least 3:1 against the background, and far
#: from each other for normal, protan, deutan and tritan eyes (tests/report/test_palette.py holds the numbers).
COLOURS = {
    "anger": ("#d54944", "#e0473a"),
    "disgust": ("#0e5721", "#45c41f"),
    "fear": ("#8a1fa0", "#b052b4"),
    "happiness": ("#c48900", "#ffe04a"),
    "sadness": ("#3b62ee", "#3b7bfb"),
    "surprise": ("#0ea0c6", "#2ff0ea"),
    "neutral": ("#5c626a", "#b1b1b1"),
}

_ALSO_CALLED = {"joy": "happiness"}

#: For labels of other models, in the order in which they come.
_FURTHER = (("#7a5c3e", "#c9a27e"), ("#4d7c8a", "#8fb8c4"), ("#94516f", "#d59ab4"), ("#6b7d1f", "#c3d46a"))


def variable(label_index: int) -> str:
    """Return the CSS expression of the colour of the label at this place in the model's order."""
    return f"var(--emotion-{label_index})"


def colours_of(labels: Sequence[str]) -> list[tuple[str, str]]:
    """Return the colour of each label, on white and on near-black."""
    further = iter(_FURTHER * (len(labels) // len(_FURTHER) + 1))
    named = [_ALSO_CALLED.get(label, label) for label in labels]
    return [COLOURS[name] if name in COLOURS else next(further) for name in named]


def css_variables(labels: Sequence[str], dark: bool) -> str:
    """Return the CSS declarations of the colours of `labels`."""
    return " ".join(f"--emotion-{i}: {colours[dark]};" for i, colours in enumerate(colours_of(labels)))
