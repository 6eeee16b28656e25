"""95 % intervals when whole clusters, such as speakers, might have been others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["cluster_interval", "mean_interval"]


def cluster_interval(
    n_clusters: int, score: Callable[[NDArray[np.int64]], ArrayLike], n_draws: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Return the 95 % percentile interval of scores over draws of whole clusters with replacement (Efron 1979).

    What belongs to one speaker is not independent: drawing single clips would give an interval that is far too narrow.

    Parameters
    ----------
    n_clusters : int
    score : callable
        Takes the clusters of one draw, int64 (n_clusters,) with repeats, and returns a number or an array of numbers;
        those that are NaN are left out.
    n_draws : int
    seed : int
        Makes the interval repeatable.

    Returns
    -------
    interval : float64 (2, ...)
        The 2.5 % and 97.5 % quantiles; NaN with fewer than two clusters, from which nothing can be said about others.
    """
    if n_clusters < 2:
        return np.full((2, *np.shape(score(np.arange(n_clusters)))), np.nan)
    generator = np.random.default_rng(seed)
    scores = np.array([score(generator.integers(n_clusters, size=n_clusters)) for _ in range(n_draws)], np.float64)
    return np.asarray(np.nanquantile(scores, [0.025, 0.975], axis=0))


def mean_interval(values: NDArray[np.float64], cluster: NDArray[np.int64]) -> tuple[float, float]:
    """Return the 95 % interval of a mean of values that may be alike within clusters, also where these are few.

    Its square is that of independent values times Kish's design effect. How alike the values of a cluster are is
    estimated by analysis of variance (Donner 1986), and is 0 where clusters differ no more than by chance. Draws of
    whole clusters, as `cluster_interval` makes them, say little where there are only a few.

    Parameters
    ----------
    values : float64 (n,)
        Two or more.
    cluster : int64 (n,)
        The cluster of each.
    """
    n, (_, of, sizes) = len(values), np.unique(cluster, return_inverse=True, return_counts=True)
    mean, design_effect = float(values.mean()), 1.0
    if 1 < len(sizes) < n:
        means = np.bincount(of, values) / sizes
        between = (sizes * (means - mean) ** 2).sum() / (len(sizes) - 1)
        within = ((values - means[of]) ** 2).sum() / (n - len(sizes))
        typical_size = (n - (sizes**2).sum() / n) / (len(sizes) - 1)
        total = between + (typical_size - 1) * within
        alike = max((between - within) / total, 0.0) if total > 0 else 0.0
        design_effect = 1 + ((sizes**2).sum() / n - 1) * alike
    half = 1.96 * float(np.sqrt(values.var(ddof=1) / n * design_effect))
    return mean - half, mean + half
