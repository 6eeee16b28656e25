"""How the windows of a file become one answer, the same for every device and for the calibration in training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ser_batch.records import Prediction

__all__ = ["pool_windows"]


def pool_windows(
    labels: Sequence[str], window_probabilities: NDArray[np.float32], weights: NDArray[np.float32]
) -> Prediction:
    """Average window probabilities, weighted; the rule ``weighted_mean`` of model files.

    Parameters
    ----------
    labels : sequence of str
        Emotions, in the order of the columns.
    window_probabilities : (n_windows, n_labels)
        Each row sums to 1; at least one row.
    weights : (n_windows,)
        0 or more, for example the audible seconds of each window. Where all are 0 (silence), windows count alike.

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
    # float64, so that the order of summation over hours of windows cannot be seen in a float32 result.
    weigh = weights.astype(np.float64)
    total = weigh.sum()
    shares = weigh / total if total > 0 else np.full(len(weigh), 1 / len(weigh))
    mean = shares @ window_probabilities.astype(np.float64)
    mean /= mean.sum()
    best, second = np.sort(mean)[::-1][:2]
    nonzero = mean[mean > 0]
    return Prediction(
        emotion=labels[int(np.argmax(mean))],
        probabilities=mean.astype(np.float32),
        window_probabilities=window_probabilities,
        confidence=float(best),
        entropy=max(0.0, float(-(nonzero * np.log(nonzero)).sum() / math.log(len(labels)))),
        margin=float(best - second),
    )
