"""Before against after, on answers that were not learnt from: scores, their intervals, and which of the two stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_batch.bootstrap import cluster_interval, mean_interval
from ser_batch.heads.learn import Floats

__all__ = ["Compared", "Scored", "Unlearnt", "score"]


@dataclass(frozen=True, slots=True)
class Compared:
    """A score before and after, on answers that were not learnt from."""

    before: float
    after: float
    #: 95 % of the difference.
    interval: tuple[float, float]

    @property
    def gain(self) -> float:
        return self.after - self.before

    @property
    def is_better(self) -> bool:
        """Whether the difference is above one standard error: less may well be chance."""
        low, high = self.interval
        # Written so that NaN fails.
        return self.gain > (high - low) / 3.92 and self.gain > 0

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.interval[1] < 0


@dataclass(frozen=True, slots=True, eq=False)
class Unlearnt:
    """What is said of answered stretches by what did not learn from them; all float64 (n_stretches, n_labels)."""

    #: By the model that was there.
    before: Floats
    #: By the same, at the temperature that suits it here.
    tempered: Floats
    #: By the adapted ones.
    after: Floats


@dataclass(frozen=True, slots=True)
class Scored:
    """How an adapted model does beside the one that was there."""

    #: Mean log-probability of what was answered; before, at the temperature that suits the old model here.
    log_score: Compared
    uar: Compared
    accuracy: Compared
    #: Recall of each label before and after, NaN where nobody answered it.
    recalls: dict[str, tuple[float, float]]

    @property
    def is_better(self) -> bool:
        """Whether it deserves the place of the old one.

        It does where what was answered is more probable by it, by more than a standard error, and the mean recall is
        not clearly worse. Recalls alone change in steps, by which few answers tell little.
        """
        return self.log_score.is_better and not self.uar.is_worse


def score(labels: Sequence[str], truth: Floats, group: NDArray[np.int64], said: Unlearnt) -> Scored:
    """Score what is said of answered stretches.

    Parameters
    ----------
    labels : sequence of str
    truth : float64 (n_stretches, n_labels)
        What was answered; where answers differ, each has its part.
    group : int64 (n_stretches,)
        What is drawn together.
    said : Unlearnt
    """
    old, new = ((truth * np.log(part.clip(min=1e-12))).sum(axis=1) for part in (said.tempered, said.after))
    return Scored(
        Compared(float(old.mean()), float(new.mean()), mean_interval(new - old, group)),
        _compared(truth, group, said, _uar),
        _compared(truth, group, said, _accuracy),
        _recalls(labels, truth, said),
    )


def _uar(truth: Floats, said: NDArray[np.int64]) -> float:
    """Return the mean recall over what was answered; disputed answers count in part."""
    right = np.bincount(said, truth[np.arange(len(said)), said], truth.shape[1])
    total = truth.sum(axis=0)
    return float(np.mean(right[total > 0] / total[total > 0]))


def _accuracy(truth: Floats, said: NDArray[np.int64]) -> float:
    return float(truth[np.arange(len(said)), said].mean())


def _compared(
    truth: Floats, group: NDArray[np.int64], said: Unlearnt, score: Callable[[Floats, NDArray[np.int64]], float]
) -> Compared:
    old, new = said.before.argmax(axis=1), said.after.argmax(axis=1)
    members = [np.flatnonzero(group == name) for name in np.unique(group)]

    def difference(drawn: NDArray[np.int64]) -> float:
        rows = np.concatenate([members[number] for number in drawn])
        return score(truth[rows], new[rows]) - score(truth[rows], old[rows])

    low, high = cluster_interval(len(members), difference)
    return Compared(score(truth, old), score(truth, new), (float(low), float(high)))


def _recalls(labels: Sequence[str], truth: Floats, said: Unlearnt) -> dict[str, tuple[float, float]]:
    recalls = {}
    for number, label in enumerate(labels):
        part = truth[:, number]
        pair = [float(part[one.argmax(axis=1) == number].sum() / part.sum()) if part.any() else np.nan
                for one in (said.before, said.after)]  # fmt: skip
        recalls[label] = (pair[0], pair[1])
    return recalls
