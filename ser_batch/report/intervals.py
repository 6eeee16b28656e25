"""95 % intervals of shares: of files, or of files that come in bunches (speakers)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ser_batch.bootstrap import cluster_interval

__all__ = ["clustered_intervals", "wilson_intervals"]

#: 97.5 % point of the standard normal distribution.
_Z = 1.959963984540054


def wilson_intervals(counts: ArrayLike) -> NDArray[np.float64]:
    """Return Wilson score intervals of the shares of `counts` in their sum (Wilson 1927), files taken as independent.

    Parameters
    ----------
    counts : (n_labels,)
        Files per label.

    Returns
    -------
    intervals : float64 (n_labels, 2)
        Low and high end, in [0, 1]; NaN where there are no files.
    """
    files: NDArray[np.float64] = np.asarray(counts, np.float64)
    n = files.sum()
    if n == 0:
        return np.full((len(files), 2), np.nan)
    share = files / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    return np.column_stack([np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)])


def clustered_intervals(counts: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """Return percentile bootstrap intervals of shares when whole clusters (speakers) might have been others.

    Parameters
    ----------
    counts : (n_clusters, n_labels)
        Files per cluster and label.
    seed : int
        Makes the interval repeatable.

    Returns
    -------
    intervals : float64 (n_labels, 2)
        Low and high end; NaN with fewer than two clusters, from which nothing can be said about others.
    """
    table: NDArray[np.float64] = np.asarray(counts, np.float64)
    table = table[table.sum(axis=1) > 0]
    return cluster_interval(len(table), lambda chosen: _shares(table[chosen]), seed=seed).T


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    totals = counts.sum(axis=0)
    return np.asarray(totals / max(totals.sum(), 1.0))
