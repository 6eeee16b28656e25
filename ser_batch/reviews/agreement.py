"""How far reviewers agree: Krippendorff's alpha, since no label can be righter than that."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_batch.bootstrap import cluster_interval
from ser_batch.reviews.answers import Answer

__all__ = ["Agreement", "agreement_of"]

#: Of fewer clips that two people heard, nothing is said.
_FEWEST = 10


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of reviewers who heard the same clips."""

    reviewers: tuple[str, ...]
    #: Clips that at least two of them answered.
    n_clips: int
    #: Krippendorff's alpha for nominal data; 1 = always agree, 0 = as by chance; NaN where it cannot be said.
    alpha: float
    low: float
    high: float
    #: Why there is no alpha; "" where there is one.
    note: str = ""


def agreement_of(answers: Sequence[Sequence[Answer]]) -> Agreement | None:
    """Return the agreement over clips, each with its answers; None where only one person answered.

    The interval is by bootstrap over clips.
    """
    shared = [given for given in answers if len({answer.reviewer for answer in given}) > 1]
    if not shared:
        return None
    reviewers = tuple(sorted({answer.reviewer for given in shared for answer in given}))
    values = sorted({answer.answer for given in shared for answer in given})
    if len(shared) < _FEWEST:
        note = f"alpha needs {_FEWEST} clips that two have answered"
    elif len(values) < 2:
        note = "all answers are the same"
    elif importlib.util.find_spec("krippendorff") is None:
        note = 'pip install "ser-batch[review]" for Krippendorff\'s alpha'
    else:
        # How often each answer was given to each clip.
        counts = np.array([[sum(answer.answer == value for answer in given) for value in values] for given in shared])
        low, high = cluster_interval(len(counts), lambda chosen: _alpha(counts[chosen])).tolist()
        return Agreement(reviewers, len(shared), _alpha(counts), low, high)
    return Agreement(reviewers, len(shared), math.nan, math.nan, math.nan, note)


def _alpha(counts: NDArray[np.int64]) -> float:
    import krippendorff  # noqa: PLC0415 - of the extra "review"

    counts = counts[:, counts.any(axis=0)]
    if counts.shape[1] < 2:
        return math.nan
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))
