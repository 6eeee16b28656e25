"""How the windows of a file become one answer, the same for every device and for the calibration in training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_batch.records import Prediction

__all__ = ["Pooled", "pool_clips", "pool_windows", "window_shares"]


class Pooled(NamedTuple):
    """Predictions of several clips; what each number is stands at `Prediction`."""

    #: int64 (n_clips,): index of the emotion with the highest probability.
    best: NDArray[np.int64]
    #: float32 (n_clips, n_labels).
    probabilities: NDArray[np.float32]
    #: float64 (n_clips,), as the next two.
    confidence: NDArray[np.float64]
    entropy: NDArray[np.float64]
    margin: NDArray[np.float64]


def window_shares(weights: NDArray[np.floating], clip: NDArray[np.integer] | None = None) -> NDArray[np.float64]:
    """Return the share of each window in its clip: the rule ``weighted_mean`` of model files.

    Parameters
    ----------
    weights : (n_windows,)
        For example the audible seconds of each window. What is negative or NaN counts as 0; where all of a clip are 0
        (silence), its windows count alike.
    clip : int (n_windows,), optional
        Number of the clip of each window, 0 or more; by default all are of one clip.

    Returns
    -------
    shares : float64 (n_windows,)
        The shares of a clip sum to 1.
    """
    # float64, so that the order of summation over hours of windows cannot be seen in a float32 result.
    weigh = np.nan_to_num(weights.astype(np.float64)).clip(min=0)
    of_clip = np.zeros(len(weigh), np.int64) if clip is None else clip
    weigh = np.where(np.bincount(of_clip, weigh)[of_clip] > 0, weigh, 1.0)
    return np.asarray(weigh / np.bincount(of_clip, weigh)[of_clip])


def pool_clips(
    window_probabilities: NDArray[np.float32], weights: NDArray[np.float32], clip: NDArray[np.int64]
) -> Pooled:
    """Average the window probabilities of several clips by `window_shares`.

    Parameters
    ----------
    window_probabilities : (n_windows, n_labels)
        Each row sums to 1.
    weights : (n_windows,)
        See `window_shares`.
    clip : int (n_windows,)
        Number of the clip of each window, from 0; each number up to the largest has a window.
    """
    shares = window_shares(weights, clip)
    n_labels = window_probabilities.shape[1]
    sums = [np.bincount(clip, shares * window_probabilities[:, label]) for label in range(n_labels)]
    mean = np.column_stack(sums).astype(np.float64)
    mean /= mean.sum(axis=1, keepdims=True)
    ranked = np.sort(mean, axis=1)
    logs = np.log(np.where(mean > 0, mean, 1.0))
    return Pooled(
        best=np.argmax(mean, axis=1),
        probabilities=mean.astype(np.float32),
        confidence=ranked[:, -1],
        entropy=np.maximum(-(mean * logs).sum(axis=1) / math.log(n_labels), 0.0),
        margin=ranked[:, -1] - ranked[:, -2],
    )


def pool_windows(
    labels: Sequence[str], window_probabilities: NDArray[np.float32], weights: NDArray[np.float32]
) -> Prediction:
    """Average the window probabilities of one clip by `window_shares`.

    Parameters
    ----------
    labels : sequence of str
        Emotions, in the order of the columns.
    window_probabilities : (n_windows, n_labels)
        Each row sums to 1; at least one row.
    weights : (n_windows,)
        See `window_shares`.

    Returns
    -------
    Prediction
        Its `entropy` is Shannon's, over the logarithm of the number of labels.

    Raises
    ------
    ValueError
        No window, or shapes that do not fit.
    """
    if len(window_probabilities) == 0 or len(window_probabilities) != len(weights):
        raise ValueError(
            f"{len(window_probabilities)} windows and {len(weights)} weights: need as many, and at least one"
        )
    pooled = pool_clips(window_probabilities, weights, np.zeros(len(weights), np.int64))
    return Prediction(
        emotion=labels[int(pooled.best[0])],
        probabilities=pooled.probabilities[0],
        window_probabilities=window_probabilities,
        confidence=float(pooled.confidence[0]),
        entropy=float(pooled.entropy[0]),
        margin=float(pooled.margin[0]),
    )
