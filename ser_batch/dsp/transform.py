"""Fourier transforms of sixteen real frames at a time.

Frames of one length are packed in pairs, one as the real and one as the imaginary part of a complex signal, and eight
such pairs are transformed side by side, one per vector lane. A batch is an array float32 (2 n, LANES): row ``2 i``
holds sample ``i`` of frames 0 to 7, row ``2 i + 1`` that of frames 8 to 15; seen as (n, 16), each column is a frame.
All functions take float64 throughout as well, at almost three times the cost. In float32 the rounding noise of a
frame lies 140 dB below its peak, and reaches the frame that it is paired with.

Why not a library's transform: on the frames used here this takes a third to a quarter of the time of scipy's, whose
wheels are built for the oldest processors, and workers start without importing scipy.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ser_batch.dsp.frames import Doubles, Floats, Indices
from ser_batch.dsp.kernels import inner_kernel
from ser_batch.dsp.lanes import LANES, load, load_as, splat, store, transposed

__all__ = [
    "BATCH_FRAMES",
    "load_frames",
    "mirror",
    "padded",
    "power_of_pairs",
    "transform",
    "twiddles",
    "unload_frames",
]

BATCH_FRAMES: Final = 2 * LANES
_SIN_60: Final = math.sqrt(0.75)


@functools.lru_cache(maxsize=16)
def twiddles(n: int, dtype: type = np.float32) -> NDArray[Any]:
    """Return cosine and sine of ``-2 pi k / n`` for k = 0 to n - 1; (n, 2)."""
    angle = -2.0 * np.pi * np.arange(n) / n
    return np.column_stack([np.cos(angle), np.sin(angle)]).astype(dtype)


def padded(taper: Doubles, dtype: type = np.float32) -> NDArray[Any]:
    """Return a taper for `load_frames`: with zeros up to a multiple of `LANES`."""
    return np.concatenate([taper, np.zeros(-len(taper) % LANES)]).astype(dtype)


@inner_kernel
def load_frames(samples: Floats, starts: Indices, means: Floats, taper: Floats, batch: Floats) -> None:
    """Fill a batch with tapered frames.

    Parameters
    ----------
    samples : float32 (n_samples,)
        Zeros count beyond its ends. May be float32 where all else is float64.
    starts : int64 (n_frames,)
        First sample of each frame; at most `BATCH_FRAMES`.
    means : float32 (n_frames,)
        What to subtract from each frame.
    taper : float32 (n_frame,)
        `n_frame` is a multiple of `LANES` and at most 2 n.
    batch : float32 (2 n, LANES)
        Frames longer than n are folded onto themselves: their transform is that of the whole frame at every
        ``n_frame / n``-th frequency. Frames that are missing from the batch come out as 0.

    Raises
    ------
    ValueError
        The lengths do not fit; rows are written unchecked.
    """
    n = batch.shape[0] // 2
    n_frame = len(taper)
    if n % LANES or n_frame % LANES or n_frame > 2 * n:
        raise ValueError("lengths of transform and taper must be multiples of 8, the taper at most twice the transform")
    copies = np.empty(LANES * n_frame, samples.dtype)
    at = np.empty(LANES, np.int64)
    mean = np.zeros(LANES, batch.dtype)
    zero = splat(batch.dtype.type(0.0))
    for group in range(2):
        n_here = min(max(len(starts) - LANES * group, 0), LANES)
        if n_here == 0:
            for i in range(n):
                store(batch, 2 * i + group, zero)
            continue
        here = starts[LANES * group : LANES * group + n_here]
        inside = n_here == LANES
        for frame in range(n_here):
            mean[frame] = means[LANES * group + frame]
            at[frame] = here[frame]
            inside = inside and here[frame] >= 0 and here[frame] + n_frame <= len(samples)
        source = samples
        if not inside:
            source = copies
            for frame in range(LANES):
                at[frame] = frame * n_frame
                mean[frame] = mean[frame] if frame < n_here else 0.0
                begin = here[frame] if frame < n_here else len(samples)
                _copy(samples, begin, mean[frame], copies[frame * n_frame : (frame + 1) * n_frame])
        m0, m1, m2, m3 = splat(mean[0]), splat(mean[1]), splat(mean[2]), splat(mean[3])
        m4, m5, m6, m7 = splat(mean[4]), splat(mean[5]), splat(mean[6]), splat(mean[7])
        for j in range(0, n_frame, LANES):
            weight = load(taper, j)
            block = transposed(
                (
                    (load_as(batch, source, at[0] + j) - m0) * weight,
                    (load_as(batch, source, at[1] + j) - m1) * weight,
                    (load_as(batch, source, at[2] + j) - m2) * weight,
                    (load_as(batch, source, at[3] + j) - m3) * weight,
                    (load_as(batch, source, at[4] + j) - m4) * weight,
                    (load_as(batch, source, at[5] + j) - m5) * weight,
                    (load_as(batch, source, at[6] + j) - m6) * weight,
                    (load_as(batch, source, at[7] + j) - m7) * weight,
                )
            )
            row = 2 * j + group if j < n else 2 * (j - n) + group
            for i in range(LANES):
                value = block[i] if j < n else block[i] + load(batch, row + 2 * i)
                store(batch, row + 2 * i, value)
        for i in range(n_frame, n):
            store(batch, 2 * i + group, zero)


@inner_kernel
def _copy(samples: Floats, begin: int, beyond: float, frame: Floats) -> None:
    """Copy samples from `begin` on; beyond the ends the signal is 0, not 0 less the mean, which is `beyond`.

    In loops: slices that are assigned take long to compile.
    """
    low = min(max(-begin, 0), len(frame))
    high = max(min(len(frame), len(samples) - begin), low)
    for i in range(low):
        frame[i] = beyond
    for i in range(low, high):
        frame[i] = samples[begin + i]
    for i in range(high, len(frame)):
        frame[i] = beyond


@inner_kernel
def power_of_pairs(batch: Floats, n_bins: int, power: Floats) -> None:
    """Unpack the power spectra of a transformed batch.

    Parameters
    ----------
    batch : float32 (2 n, LANES)
        What `transform` returned.
    n_bins : int
        How many bins, from 0 Hz on; at most n / 2 + 1.
    power : float32 (at least 2 n_bins, LANES)
        Receives the squared magnitudes, packed like frames. May be `batch`.
    """
    n = batch.shape[0] // 2
    quarter = splat(batch.dtype.type(0.25))
    for k in range(n_bins):
        mirror = 2 * (n - k) if k > 0 else 0
        a, b = load(batch, 2 * k), load(batch, 2 * k + 1)
        c, d = load(batch, mirror), load(batch, mirror + 1)
        even_real, even_imaginary = a + c, b - d
        odd_real, odd_imaginary = b + d, a - c
        store(power, 2 * k, quarter * (even_real * even_real + even_imaginary * even_imaginary))
        store(power, 2 * k + 1, quarter * (odd_real * odd_real + odd_imaginary * odd_imaginary))


@inner_kernel
def mirror(batch: Floats, n_bins: int) -> None:
    """Make a batch symmetric: sample n - k becomes sample k for k = 1 to n_bins - 1."""
    n = batch.shape[0] // 2
    for k in range(1, n_bins):
        store(batch, 2 * (n - k), load(batch, 2 * k))
        store(batch, 2 * (n - k) + 1, load(batch, 2 * k + 1))


@inner_kernel
def unload_frames(batch: Floats, n_values: int, first: int, frames: Floats) -> None:
    """Write the first samples of the frames of a batch to rows.

    Parameters
    ----------
    batch : float32 (2 n, LANES)
    n_values : int
        How many samples; a multiple of `LANES`, at most n.
    first : int
        Row of the first frame.
    frames : float32 (first + BATCH_FRAMES or more, n_columns)
        `n_columns` is a multiple of `LANES`; the rest of each row is left as it is.
    """
    for group in range(2):
        for j in range(0, n_values, LANES):
            row = 2 * j + group
            block = transposed(
                (
                    load(batch, row),
                    load(batch, row + 2),
                    load(batch, row + 4),
                    load(batch, row + 6),
                    load(batch, row + 8),
                    load(batch, row + 10),
                    load(batch, row + 12),
                    load(batch, row + 14),
                )
            )
            for i in range(LANES):
                store(frames, ((first + LANES * group + i) * frames.shape[1] + j) // LANES, block[i])


@inner_kernel
def transform(batch: Floats, scratch: Floats, factors: Floats) -> tuple[Floats, Floats]:
    """Transform a batch; of real symmetric frames, this is also the inverse times n.

    Parameters
    ----------
    batch, scratch : float32 (2 n, LANES)
        Both are overwritten; n has no prime factors but 2 and 3.
    factors : float32 (n, 2)
        `twiddles` of n.

    Returns
    -------
    result, other : float32 (2 n, LANES)
        `batch` and `scratch`, in the order that the result comes first: Stockham's method goes back and forth.
    """
    n = batch.shape[0] // 2
    source, target = batch, scratch
    while n > 1:
        if n % 4 == 0:
            n //= 4
            _pass_of_4(source, target, factors, n)
        elif n % 3 == 0:
            n //= 3
            _pass_of_3(source, target, factors, n)
        else:
            n //= 2
            _pass_of_2(source, target, factors, n)
        source, target = target, source
    return source, target


@inner_kernel
def _pass_of_4(source: Floats, target: Floats, factors: Floats, m: int) -> None:
    stride = source.shape[0] // (2 * 4 * m)
    apart, together = 2 * stride * m, 2 * stride
    for p in range(m):
        cos_1, sin_1 = splat(factors[p * stride, 0]), splat(factors[p * stride, 1])
        cos_2, sin_2 = splat(factors[2 * p * stride, 0]), splat(factors[2 * p * stride, 1])
        cos_3, sin_3 = splat(factors[3 * p * stride, 0]), splat(factors[3 * p * stride, 1])
        for q in range(stride):
            i = 2 * (q + stride * p)
            o = 2 * (q + 4 * stride * p)
            a_re, a_im = load(source, i), load(source, i + 1)
            b_re, b_im = load(source, i + apart), load(source, i + apart + 1)
            c_re, c_im = load(source, i + 2 * apart), load(source, i + 2 * apart + 1)
            d_re, d_im = load(source, i + 3 * apart), load(source, i + 3 * apart + 1)
            e_re, e_im, f_re, f_im = a_re + c_re, a_im + c_im, a_re - c_re, a_im - c_im
            g_re, g_im, h_re, h_im = b_re + d_re, b_im + d_im, b_re - d_re, b_im - d_im
            store(target, o, e_re + g_re)
            store(target, o + 1, e_im + g_im)
            t_re, t_im = f_re + h_im, f_im - h_re
            store(target, o + together, t_re * cos_1 - t_im * sin_1)
            store(target, o + together + 1, t_re * sin_1 + t_im * cos_1)
            t_re, t_im = e_re - g_re, e_im - g_im
            store(target, o + 2 * together, t_re * cos_2 - t_im * sin_2)
            store(target, o + 2 * together + 1, t_re * sin_2 + t_im * cos_2)
            t_re, t_im = f_re - h_im, f_im + h_re
            store(target, o + 3 * together, t_re * cos_3 - t_im * sin_3)
            store(target, o + 3 * together + 1, t_re * sin_3 + t_im * cos_3)


@inner_kernel
def _pass_of_3(source: Floats, target: Floats, factors: Floats, m: int) -> None:
    stride = source.shape[0] // (2 * 3 * m)
    apart, together = 2 * stride * m, 2 * stride
    half, sin_60 = splat(source.dtype.type(0.5)), splat(source.dtype.type(_SIN_60))
    for p in range(m):
        cos_1, sin_1 = splat(factors[p * stride, 0]), splat(factors[p * stride, 1])
        cos_2, sin_2 = splat(factors[2 * p * stride, 0]), splat(factors[2 * p * stride, 1])
        for q in range(stride):
            i = 2 * (q + stride * p)
            o = 2 * (q + 3 * stride * p)
            a_re, a_im = load(source, i), load(source, i + 1)
            b_re, b_im = load(source, i + apart), load(source, i + apart + 1)
            c_re, c_im = load(source, i + 2 * apart), load(source, i + 2 * apart + 1)
            e_re, e_im = b_re + c_re, b_im + c_im
            f_re, f_im = a_re - half * e_re, a_im - half * e_im
            g_re, g_im = sin_60 * (b_im - c_im), sin_60 * (c_re - b_re)
            store(target, o, a_re + e_re)
            store(target, o + 1, a_im + e_im)
            t_re, t_im = f_re + g_re, f_im + g_im
            store(target, o + together, t_re * cos_1 - t_im * sin_1)
            store(target, o + together + 1, t_re * sin_1 + t_im * cos_1)
            t_re, t_im = f_re - g_re, f_im - g_im
            store(target, o + 2 * together, t_re * cos_2 - t_im * sin_2)
            store(target, o + 2 * together + 1, t_re * sin_2 + t_im * cos_2)


@inner_kernel
def _pass_of_2(source: Floats, target: Floats, factors: Floats, m: int) -> None:
    stride = source.shape[0] // (2 * 2 * m)
    apart, together = 2 * stride * m, 2 * stride
    for p in range(m):
        cos_1, sin_1 = splat(factors[p * stride, 0]), splat(factors[p * stride, 1])
        for q in range(stride):
            i = 2 * (q + stride * p)
            o = 2 * (q + 2 * stride * p)
            a_re, a_im = load(source, i), load(source, i + 1)
            b_re, b_im = load(source, i + apart), load(source, i + apart + 1)
            store(target, o, a_re + b_re)
            store(target, o + 1, a_im + b_im)
            t_re, t_im = a_re - b_re, a_im - b_im
            store(target, o + together, t_re * cos_1 - t_im * sin_1)
            store(target, o + together + 1, t_re * sin_1 + t_im * cos_1)
