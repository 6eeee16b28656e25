"""Which frames of a window matter to the network: the audible ones, and what its convolutions see beside them.

The network averages over audible steps alone; steps that are not get a weight of exactly 0. So silence before and after
speech, and the padding of a last window, need not be computed: the result is the same, up to rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ser_batch.classifier.network_config import NetworkConfig

__all__ = ["audible_frames", "seen_beside"]


def seen_beside(config: NetworkConfig) -> tuple[int, int]:
    """Return how many whole steps, of `config.time_stride` frames, the convolutions see before and after a step."""
    first, last = 0, 0  # of step 0, as positions in the layer at hand
    for stride, pool in reversed(list(zip(config.strides, config.pools, strict=True))):
        first, last = first * pool[1], last * pool[1] + pool[1] - 1
        first, last = first * stride[1] - 1, last * stride[1] + 1  # 3x3 kernel with padding 1
    return -(first // config.time_stride), last // config.time_stride


def audible_frames(mel: NDArray[np.float32], config: NetworkConfig) -> NDArray[np.int64]:
    """Return which frames are needed for the result of each window.

    Parameters
    ----------
    mel : float32 (n_windows, n_bands, n_frames)
        In dB.
    config : NetworkConfig

    Returns
    -------
    frames : int64 (n_windows, 2)
        First frame needed and first one no longer needed; both are borders of steps, or the end.
    """
    loudest = mel.max(axis=1)  # (n_windows, n_frames)
    audible = loudest - loudest.max(axis=1, keepdims=True) >= -config.audible_range_db
    before, after = seen_beside(config)
    first = audible.argmax(axis=1) // config.time_stride - before
    n_frames = mel.shape[2]
    last = (n_frames - 1 - audible[:, ::-1].argmax(axis=1)) // config.time_stride + after + 1
    steps = np.stack([first, last], axis=1).clip(0, config.n_steps_out)
    return np.minimum(steps * config.time_stride, n_frames)
