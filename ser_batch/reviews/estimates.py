"""Estimates for a whole archive from a stratified sample of answers, each with a 95 % interval.

Everything is a ratio of weighted sums, or a mean of such. Variances are by linearisation (Taylor), within strata and
with the correction for finite archives (Cochran 1977, "Sampling Techniques", chapters 5 and 6); intervals are Wilson's
with the effective number of answers in place of their number, so that they stay in [0, 1] and have a width also where
all answers agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Design", "Estimate", "Linear", "interval", "prediction_powered", "ratio"]

Floats = NDArray[np.float64]

#: Weight, in answers, of the variance within all strata for that within one.
_PRIOR_ANSWERS = 2.0
#: Surprising answers added to those found, since where they are few their number says little (Agresti & Coull 1998).
_PRIOR_SURPRISES = 0.5
#: What differs from 0 or 1 by less is 0 or 1.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number of the archive, as far as answers tell."""

    #: NaN where no answer says anything.
    value: float
    #: Ends of the 95 % interval; NaN where there is none.
    low: float
    high: float
    #: Answers that it rests on.
    n_answers: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """An estimate with the scores (n_answers,) by which it would change were an answer another."""

    value: float
    scores: Floats
    #: Which answers it rests on, (n_answers,).
    used: NDArray[np.bool_]
    #: How much a surprising answer moves its score, where answers are expected to be what was predicted; else 0.
    surprise: float = 0.0


class Design:
    """How the answers were drawn: the stratum of each, and how many units each stratum has in the archive.

    Parameters
    ----------
    stratum : (n_answers,)
        Place of the stratum of each answer in `n_units`; not all strata need have answers.
    n_units : (n_strata,)
        Neighbours in this list are alike: a stratum without answers is represented by the nearest one that has some.
    """

    def __init__(self, stratum: ArrayLike, n_units: ArrayLike) -> None:
        places: NDArray[np.int64] = np.asarray(stratum, np.int64)
        sizes: Floats = np.asarray(n_units, np.float64)
        answered = np.unique(places)
        nearest = np.abs(np.arange(len(sizes))[:, None] - answered).argmin(axis=1)
        self.n_units = float(sizes.sum())
        n_of = np.bincount(nearest, sizes, len(answered))
        self._stratum = np.searchsorted(answered, places)
        n_answers = np.bincount(self._stratum)
        #: How many units each answer stands for, (n_answers,).
        self.weights: Floats = (n_of / n_answers)[self._stratum]
        #: Share of its stratum that was not heard, (n_answers,).
        self._unheard: Floats = np.clip(1 - n_answers / n_of, 0, 1)[self._stratum]
        self._group = _joined(n_answers)[self._stratum]
        self._n_group = np.bincount(self._group)
        #: Degrees of freedom of the variance.
        self.freedom = max(len(places) - int(np.count_nonzero(self._n_group)), 1)

    def covariance(self, first: Floats, second: Floats) -> float:
        """Return the covariance of two weighted sums of scores, (n_answers,) each."""
        n = np.maximum(self._n_group, 1)
        a, b = self.weights * first, self.weights * second
        a = a - (np.bincount(self._group, a, len(n)) / n)[self._group]
        b = b - (np.bincount(self._group, b, len(n)) / n)[self._group]
        scale = (n / np.maximum(n - 1, 1))[self._group]
        return float(np.sum(self._unheard * scale * a * b))

    def _variance(self, scores: Floats, used: NDArray[np.bool_], surprise: float = 0.0) -> float:
        """Return the variance of a weighted sum of scores, of which those not `used` are 0 by design.

        What is rare is found in few strata, and a stratum where it was not found would count as one where it cannot be.
        So the variance within each stratum is drawn towards that within all by the weight of a few answers. Where
        labels are nearly always right, it rests on a handful of errors: half a one is added.
        """
        n = np.maximum(self._n_group, 1)
        mean = np.bincount(self._group, scores, len(n)) / n
        squares = np.bincount(self._group, (scores - mean[self._group]) ** 2, len(n))
        size = np.bincount(self._group, self.weights, len(n))
        concerned = np.bincount(self._group, used, len(n)) > 0
        within = np.average(squares / np.maximum(n - 1, 1), weights=size * concerned)
        spread = (squares + _PRIOR_ANSWERS * within * concerned) / np.maximum(n - 1 + _PRIOR_ANSWERS * concerned, 1)
        n_used = np.count_nonzero(used)
        spread += concerned * max(surprise**2 - within, 0.0) * _PRIOR_SURPRISES / (n_used + _PRIOR_SURPRISES)
        return float(np.sum(self._unheard * self.weights**2 * spread[self._group]))

    def estimate(self, linear: Linear) -> Estimate:
        """Return an estimate in [0, 1] with its interval."""
        n = int(linear.used.sum())
        if not n or math.isnan(linear.value):
            return Estimate(math.nan, math.nan, math.nan, 0)
        variance = self._variance(linear.scores, linear.used, linear.surprise)
        low, high = interval(linear.value, variance, self._n_alike(linear.used), self.freedom)
        return Estimate(float(np.clip(linear.value, 0, 1)), low, high, n)

    def estimate_mean(self, parts: Sequence[Linear]) -> Estimate:
        """Return the mean of those ratios that are defined, with its interval.

        A ratio that rests on a handful of answers varies more than these show, least where they all agree; so each
        counts at least with the variance of its Agresti-Coull interval.
        """
        defined = [part for part in parts if not math.isnan(part.value)]
        if not defined:
            return Estimate(math.nan, math.nan, math.nan, 0)
        scores = np.asarray(np.mean([part.scores for part in defined], axis=0))
        used = np.asarray(np.any([part.used for part in defined], axis=0))
        variances, missing = [], 0.0
        for part in defined:
            n = self._n_alike(part.used)
            p = (n * part.value + 2) / (n + 4)
            own = self._variance(part.scores, part.used)
            variances.append(max(p * (1 - p) / (n + 4), own))
            missing += variances[-1] - own
        variance = self._variance(scores, used) + missing / len(defined) ** 2
        # Few answers to one emotion tell its variance badly, by as much as it weighs (Satterthwaite 1946).
        spread = np.array(variances)
        n_used = np.array([np.count_nonzero(part.used) for part in defined])
        freedom = int(spread.sum() ** 2 / np.sum(spread**2 / np.maximum(n_used - 1, 1)))
        value = float(np.mean([part.value for part in defined]))
        ends = interval(value, variance, self._n_alike(used), max(min(freedom, self.freedom), 1))
        return Estimate(value, *ends, int(used.sum()))

    def _n_alike(self, used: NDArray[np.bool_]) -> float:
        """Return how many answers of equal weight say as much as these: where all agree, their variance says 0."""
        weights = self.weights[used]
        return float(weights.sum() ** 2 / np.sum(weights**2 * self._unheard[used] + 1e-12))


def _joined(n_answers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join strata of a single answer, which has no variance, with their neighbours; return the group of each."""
    group = np.zeros(len(n_answers), np.int64)
    number, n = 0, 0
    for place, n_here in enumerate(n_answers):
        if n >= 2 and n_here >= 2:
            number, n = number + 1, 0
        group[place] = number
        n += int(n_here)
    if n < 2 and number:
        group[group == number] = number - 1
    return group


def interval(value: float, variance: float, n_alike: float, freedom: int) -> tuple[float, float]:
    """Return the 95 % interval of a number in [0, 1].

    Parameters
    ----------
    value, variance : float
    n_alike : float
        Number of independent answers that would say as much, for a value of 0 or 1.
    freedom : int
        Degrees of freedom of the variance.
    """
    from scipy.special import stdtrit  # noqa: PLC0415 - not for --help

    z = float(stdtrit(freedom, 0.975))
    p = min(max(value, 0.0), 1.0)
    spread = p * (1 - p)
    n = spread / variance if spread > _ROUNDING and variance > 0 else n_alike
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(spread / n + z**2 / (4 * n**2))
    # Exactly so where nothing speaks against it, whatever rounding makes of the difference.
    low = 0.0 if p <= _ROUNDING else max(centre - half, 0.0)
    return low, 1.0 if p >= 1 - _ROUNDING else min(centre + half, 1.0)


def ratio(design: Design, part: ArrayLike, whole: ArrayLike) -> Linear:
    """Return the share of `whole` that is `part` in the archive; both (n_answers,), in [0, 1]."""
    a: Floats = np.asarray(part, np.float64)
    b: Floats = np.asarray(whole, np.float64)
    total = float(design.weights @ b)
    used = b > 0
    if total == 0:
        return Linear(math.nan, np.zeros(len(b)), used)
    value = float(design.weights @ a) / total
    return Linear(value, (a - value * b) / total, used)


def prediction_powered(
    design: Design, truth: ArrayLike, predicted: ArrayLike, mean_predicted: float, power: float | None = None
) -> tuple[Linear, float]:
    """Return the mean of `truth` over the archive, helped by what the model predicts for all of it.

    Prediction-powered inference (Angelopoulos, Bates, Fannjiang, Jordan & Zrnic 2023, Science 382:669), with the power
    tuned as in Angelopoulos, Duchi & Zrnic (2023, arXiv:2311.01453) and with design weights: the mean of the
    predictions, mended by the weighted mean of what they got wrong where somebody listened.

    Parameters
    ----------
    design : Design
    truth, predicted : (n_answers,)
        In [0, 1].
    mean_predicted : float
        Mean of the predictions over the whole archive, which is known.
    power : float, optional
        How far predictions are believed, in [0, 1]; chosen so that the variance is least, unless given. 0 leaves the
        answers alone.

    Returns
    -------
    Linear, float
        The mean and the power. The archive is taken as it is: its own predictions have no sampling error.
    """
    y: Floats = np.asarray(truth, np.float64)
    f: Floats = np.asarray(predicted, np.float64)
    if power is None:
        variance = design.covariance(f, f)
        power = min(max(design.covariance(y, f) / variance, 0.0), 1.0) if variance > 0 else 0.0
    scores = (y - power * f) / design.n_units
    return Linear(
        power * mean_predicted + float(design.weights @ scores), scores, np.ones(len(y), bool), 1 / design.n_units
    ), power
