"""Knows audio again that was stored in another format, at another level or under another name.

The key of a clip is the pattern by which its spectrum changes: over slices of its audible span, whether the level of a
band rises more than that of the next one (after Haitsma and Kalker 2002). It says too little to be listened to.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

__all__ = ["KEY_BYTES", "KnownAudio", "audio_key", "join_keys"]

KEY_BYTES = 16

#: 16 changes between slices of 8 differences between bands: 128 bits.
_N_SLICES, _N_BANDS = 17, 9
#: Keys that differ in no more bits are of the same audio: `python -m benchmarks.audio_keys` counts how often.
_MOST_BITS = 16
#: Quieter than this below the peak of its window, in dB, is no pattern.
_FLOOR_DB = 50.0
#: Shares of the audible energy before and after the span. A threshold in place of them would jump with one frame.
_SPAN = (0.02, 0.98)
#: A shorter span says too little.
_LEAST_FRAMES = 6
#: Of a long recording its beginning is enough.
_MOST_WINDOWS = 10
#: Deviation of the changes, in dB, below which there is no pattern: of a tone, rounding would decide the bits.
_LEAST_CHANGE_DB = 0.5


def audio_key(mel_db: NDArray[np.floating], active_s: NDArray[np.floating]) -> bytes:
    """Return the key of a clip; ``b""`` where too little is audible.

    Parameters
    ----------
    mel_db : float (n_windows, n_bands, n_frames)
        Levels in dB; each window may have its own reference.
    active_s : float (n_windows,)
        Audible seconds of each window; NaN counts as none.
    """
    windows = np.asarray(mel_db[:_MOST_WINDOWS], np.float64)
    if not len(windows):
        return b""
    levels = np.maximum(windows - windows.max(axis=(1, 2), keepdims=True), -_FLOOR_DB)
    # What is silent all through has a peak, too.
    energy = (10 ** (levels / 10) - 10 ** (-_FLOOR_DB / 10)).sum(axis=1) * np.nan_to_num(active_s[: len(windows), None])
    heard = np.cumsum([0.0, *energy.ravel()])
    if not heard[-1] > 0:
        return b""
    first, last = np.interp(_SPAN, heard / heard[-1], np.arange(len(heard)))
    if last - first < _LEAST_FRAMES:
        return b""
    frames = levels.transpose(0, 2, 1).reshape(-1, levels.shape[1])
    width = frames.shape[1] // _N_BANDS
    bands = frames[:, : width * _N_BANDS].reshape(len(frames), _N_BANDS, width).mean(axis=2)
    # Slices may begin within a frame: their means are differences of a running sum.
    running = np.vstack([np.zeros(_N_BANDS), np.cumsum(bands, axis=0)])
    edges, frames_per_slice = np.linspace(first, last, _N_SLICES + 1, retstep=True)
    means = np.diff([np.interp(edges, np.arange(len(running)), column) for column in running.T]) / frames_per_slice
    changes = np.diff(means[:-1] - means[1:], axis=1)
    return np.packbits(changes > 0).tobytes() if changes.std() > _LEAST_CHANGE_DB else b""


def join_keys(keys: Iterable[bytes]) -> str:
    """Return keys as text for a model file, without their order."""
    return base64.b64encode(b"".join(sorted(set(keys) - {b""}))).decode()


class KnownAudio:
    """The audio whose keys `join_keys` has joined; text of another kind knows nothing."""

    def __init__(self, text: str) -> None:
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            data = b""
        self._signs = _signs(data if len(data) % KEY_BYTES == 0 else b"")

    def __contains__(self, key: bytes) -> bool:
        if len(key) != KEY_BYTES or not len(self._signs):
            return False
        # Of n bits, d of which differ, n - 2 d is the product.
        return bool((self._signs @ _signs(key)[0]).max() >= 8 * KEY_BYTES - 2 * _MOST_BITS)


def _signs(data: bytes) -> NDArray[np.float32]:
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).reshape(-1, 8 * KEY_BYTES)
    return bits.astype(np.float32) * 2 - 1
