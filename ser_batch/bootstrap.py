"""95 % intervals when whole clusters, such as speakers, might have been others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["cluster_interval"]


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
