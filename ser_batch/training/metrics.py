"""Scores of classifiers: recall per class, calibration, abstention, and intervals that know that speakers differ.

Labels are integer indices; probabilities are (n_clips, n_labels) with rows that sum to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ser_batch.bootstrap import cluster_interval

__all__ = [
    "bootstrap_by_group",
    "brier_score",
    "chance",
    "chance_told",
    "class_scores",
    "confusion_matrix",
    "expected_calibration_error",
    "fit_temperature",
    "negative_log_likelihood",
    "reliability_bins",
    "restrict",
    "risk_coverage",
    "softmax",
    "uar",
]

Floats = NDArray[np.float64]


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Return probabilities of logits (..., n_labels) divided by `temperature`."""
    scaled = np.asarray(logits, np.float64) / temperature
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=-1, keepdims=True))


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, n_labels: int) -> NDArray[np.int64]:
    """Count clips: rows are true labels, columns predicted ones, (n_labels, n_labels)."""
    index = np.asarray(truth, np.int64) * n_labels + np.asarray(predicted, np.int64)
    return np.bincount(index, minlength=n_labels * n_labels).reshape(n_labels, n_labels)


def uar(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Unweighted average recall: the mean over the labels that occur in `truth` of the recall of each.

    NaN when there are no clips.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if not len(truth):
        return float("nan")
    return float(np.mean([np.mean(predicted[truth == label] == label) for label in np.unique(truth)]))


def chance(truth: ArrayLike) -> float:
    """UAR of whoever gives every clip the same label: 1 over the number of labels that occur; NaN without clips."""
    n_labels = len(np.unique(np.asarray(truth)))
    return 1 / n_labels if n_labels else float("nan")


def chance_told(value: float) -> str:
    """Say what a UAR is to be held against, in words: of clips of one label, nothing."""
    return f"chance {value:.3f}" if value < 1 else "of one label alone, which is no test"


def class_scores(confusion: ArrayLike) -> list[dict[str, float]]:
    """Return recall, precision, F1 and support of each label of a confusion matrix.

    Recall is NaN where a label never occurs, precision where it is never predicted, F1 where both are undefined.
    """
    matrix = np.asarray(confusion, np.float64)
    scores = []
    for label, hits in enumerate(np.diag(matrix)):
        occurs, predicted = matrix[label].sum(), matrix[:, label].sum()
        scores.append(
            {
                "recall": hits / occurs if occurs else float("nan"),
                "precision": hits / predicted if predicted else float("nan"),
                "f1": 2 * hits / (occurs + predicted) if occurs + predicted else float("nan"),
                "n_clips": int(occurs),
            }
        )
    return scores


def restrict(probabilities: ArrayLike, labels: Sequence[int]) -> Floats:
    """Keep the columns `labels` and renormalise: the answer when only these labels can be true."""
    kept = np.asarray(probabilities, np.float64)[:, list(labels)]
    return np.asarray(kept / np.maximum(kept.sum(axis=1, keepdims=True), 1e-300))


def reliability_bins(confidence: ArrayLike, correct: ArrayLike, n_bins: int = 15) -> list[dict[str, float]]:
    """Sort clips by confidence into bins of equal width over [0, 1]; return what each holds, empty bins left out."""
    confidence, correct = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    # Bins are (low, high], so that a confidence of exactly 1 falls into the last one.
    index = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    bins = []
    for number in np.unique(index):
        inside = index == number
        bins.append(
            {
                "low": number / n_bins,
                "high": (number + 1) / n_bins,
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(correct[inside].mean()),
                "n_clips": int(inside.sum()),
            }
        )
    return bins


def expected_calibration_error(probabilities: ArrayLike, truth: ArrayLike, n_bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over bins of equal width, weighted by clips (Guo et al. 2017)."""
    probabilities, truth = np.asarray(probabilities), np.asarray(truth)
    if not len(truth):
        return float("nan")
    bins = reliability_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth, n_bins)
    return sum(item["n_clips"] * abs(item["confidence"] - item["accuracy"]) for item in bins) / len(truth)


def brier_score(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Mean over clips of the squared distance from the one-hot truth, summed over labels; in [0, 2]."""
    distance = np.array(probabilities, np.float64)
    distance[np.arange(len(distance)), np.asarray(truth)] -= 1.0
    return float(np.mean((distance**2).sum(axis=1)))


def negative_log_likelihood(probabilities: ArrayLike, truth: ArrayLike) -> float:
    """Mean of minus the natural logarithm of the probability of the truth; probabilities are floored at 1e-12."""
    truth = np.asarray(truth)
    return float(-np.mean(np.log(np.maximum(np.asarray(probabilities)[np.arange(len(truth)), truth], 1e-12))))


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> dict[str, Any]:
    """What accuracy remains when the least certain clips are set aside.

    Returns
    -------
    dict
        ``coverage`` and ``accuracy`` (20 points from 5 % to 100 %), ``aurc`` (mean error over all coverages; lower is
        better), ``gain_at_60`` (accuracy among the most certain 60 %, minus accuracy over all).
    """
    order = np.argsort(-np.asarray(confidence, np.float64), kind="stable")
    running = np.cumsum(np.asarray(correct, np.float64)[order]) / np.arange(1, len(order) + 1)
    coverage = np.arange(1, 21) / 20
    at = np.maximum(np.round(coverage * len(order)).astype(int), 1) - 1
    return {
        "coverage": coverage.tolist(),
        "accuracy": running[at].tolist(),
        "aurc": float(np.mean(1 - running)),
        "gain_at_60": float(running[at[11]] - running[-1]),
    }


def fit_temperature(
    logits: ArrayLike,
    truth: ArrayLike,
    weights: ArrayLike | None = None,
    pool: Callable[[Floats], Floats] = lambda probabilities: probabilities,
) -> float:
    """Find the temperature in [0.05, 20] that gives the truth the highest likelihood (Guo et al. 2017).

    Parameters
    ----------
    logits : (n_windows, n_labels)
        Logits.
    truth : int (n_clips,)
        True labels.
    weights : (n_clips,), optional
        Weight of each clip, for example so that every corpus counts the same.
    pool : callable, optional
        Turns probabilities of windows into those of clips; by default a window is a clip.

    Notes
    -----
    Of n clips, 1 / (n + 2) of each target is spread over all labels, in the way of Platt (1999): a dozen clips that all
    come out right are no reason to be certain of everything.
    """
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - scipy is slow to import

    logits, truth = np.asarray(logits, np.float64), np.asarray(truth)
    doubt = 1.0 / (len(truth) + 2)
    share = np.ones(len(truth)) if weights is None else np.asarray(weights, np.float64)

    def loss(log_temperature: float) -> float:
        logs = np.log(np.maximum(pool(softmax(logits, float(np.exp(log_temperature)))), 1e-12))
        hit = logs[np.arange(len(truth)), truth]
        return float(-np.average((1 - doubt) * hit + doubt * logs.mean(axis=1), weights=share))

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


def bootstrap_by_group(
    groups: ArrayLike, score: Callable[[NDArray[np.int64]], float], n_draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of a score of clips if others had been recorded; see `cluster_interval`.

    Parameters
    ----------
    groups : (n_clips,)
        Speaker of each clip.
    score : callable
        Takes indices of clips, with repeats, and returns a number; NaN draws are left out.

    Returns
    -------
    low, high : float
        The 2.5 % and 97.5 % quantiles over `n_draws` draws; NaN with fewer than two speakers.
    """
    names, index = np.unique(np.asarray(groups), return_inverse=True)
    members = [np.flatnonzero(index == number) for number in range(len(names))]

    def score_of(chosen: NDArray[np.int64]) -> float:
        return score(np.concatenate([members[number] for number in chosen]))

    low, high = cluster_interval(len(names), score_of, n_draws, seed)
    return float(low), float(high)
