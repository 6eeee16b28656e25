"""Changes of the audio itself, before any feature is computed, so that spectrogram and voice features move together.

Each change models something that differs between archives and the corpora here: who speaks (speed, pitch), where
(room, noise), and through what it went (low-pass, telephone, codec, clipping). All draw from one generator per clip and
copy, so that a copy can be made again from its seed.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_batch.config import require
from ser_batch.records import Clip, ClipRef

__all__ = ["AugmentConfig", "Augmentation", "augment", "clip_generator", "copy_id"]

Samples = NDArray[np.float32]

#: Samples in a frame of the phase vocoder; less than one frame cannot be stretched, and holds no voice.
_STRETCH_FRAME = 2048
#: Rate at which Opus computes whatever it is given.
_OPUS_HZ = 48_000


@dataclass(frozen=True, slots=True)
class AugmentConfig:
    """How often and how far the audio is changed; a probability of 0 switches a change off."""

    #: Changed copies of each clip, besides the clip as it is.
    copies: int = 8
    #: Of the changes; networks of several seeds learn from the same copies, so that these are made once.
    seed: int = 0
    #: Resampling: speed and pitch change together, as in a bigger or smaller speaker; 0.1 = up to 10 % either way.
    speed: float = 0.1
    speed_probability: float = 0.8
    #: Phase-vocoder pitch shift, semitones either way.
    pitch_st: float = 1.0
    pitch_probability: float = 0.0
    #: Phase-vocoder time stretch; 0.1 = up to 10 % either way.
    stretch: float = 0.1
    stretch_probability: float = 0.0
    #: A room: noise that decays by 60 dB in `reverberation_min_s` to `reverberation_max_s`.
    reverberation_probability: float = 0.3
    reverberation_min_s: float = 0.1
    reverberation_max_s: float = 0.7
    #: White to brown noise at this ratio to the audible signal.
    noise_probability: float = 0.5
    noise_min_db: float = 8.0
    noise_max_db: float = 40.0
    lowpass_probability: float = 0.25
    lowpass_min_hz: float = 3_000.0
    lowpass_max_hz: float = 9_000.0
    telephone_probability: float = 0.05
    codec_probability: float = 0.15
    clipping_probability: float = 0.05
    #: Cuts into the near-silence before the voice, or adds to it, so that windows begin anywhere.
    shift_probability: float = 0.7
    shift_max_s: float = 0.5

    def __post_init__(self) -> None:
        require(self.copies >= 0, "augment.copies", "0 or more")
        for name in self.__slots__:
            if name.endswith("_probability"):
                require(0 <= getattr(self, name) <= 1, f"augment.{name}", "from 0 to 1")
        require(0 <= self.speed < 0.5 and 0 <= self.stretch < 0.5, "augment.speed and augment.stretch", "below 0.5")
        require(self.seed >= 0, "augment.seed", "0 or more")
        for name in ("pitch_st", "shift_max_s"):
            require(0 <= getattr(self, name) <= 60, f"augment.{name}", "from 0 to 60")
        require(self.lowpass_min_hz >= 500, "augment.lowpass_min_hz", "at least 500")
        require(self.reverberation_min_s >= 0.01, "augment.reverberation_min_s", "at least 0.01")
        for low in ("lowpass_min_hz", "noise_min_db", "reverberation_min_s"):
            high = low.replace("min", "max")
            require(getattr(self, low) <= getattr(self, high), f"augment.{low}", f"at most {high}")


def clip_generator(seed: int, content: str, copy: int) -> np.random.Generator:
    """Return the generator of one copy of one clip; `content` is the hexadecimal hash of the file."""
    return np.random.default_rng([seed, copy, int(content[:12], 16)])


def copy_id(content: str, copy: int, path: str) -> str:
    """Return the identifier by which a worker knows which copy of which content a file is to be made into."""
    return f"{content}/{copy}{os.path.splitext(path)[1]}"  # noqa: PTH122 - names that are not UTF-8


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Makes copies in the workers, as the `change` of their `Setup`; files have identifiers by `copy_id`."""

    config: AugmentConfig

    def __call__(self, ref: ClipRef) -> Callable[[Clip], Clip]:
        """Return what makes the pieces of one file, in order, into those of its copy; copy 0 is the file as it is."""
        content, _, name = ref.clip_id.partition("/")
        copy = int(name.partition(".")[0])
        generator = clip_generator(self.config.seed, content, copy)

        def change(piece: Clip) -> Clip:
            if not copy:
                return piece
            samples = augment(piece.samples, piece.sample_rate_hz, self.config, generator)
            return Clip(samples, piece.sample_rate_hz, piece.source_rate_hz, piece.source_channels, piece.start_s)

        return change


def augment(samples: Samples, sample_rate_hz: int, config: AugmentConfig, generator: np.random.Generator) -> Samples:
    """Return a changed copy of mono `samples`; finite, at most 1 in absolute value, never empty."""
    changes: tuple[tuple[float, Callable[[Samples], Samples]], ...] = (
        (config.shift_probability, lambda x: _shift(x, sample_rate_hz, config.shift_max_s, generator)),
        (config.speed_probability, lambda x: _speed(x, _factor(config.speed, generator))),
        (config.pitch_probability, lambda x: _pitch(x, generator.uniform(-config.pitch_st, config.pitch_st))),
        (config.stretch_probability, lambda x: _stretch(x, _factor(config.stretch, generator))),
        (config.reverberation_probability, lambda x: _reverberate(x, sample_rate_hz, config, generator)),
        (config.noise_probability, lambda x: _add_noise(x, sample_rate_hz, config, generator)),
        (config.clipping_probability, lambda x: _clip(x, generator)),
        (config.telephone_probability, lambda x: _band(x, sample_rate_hz, 300.0, 3_400.0)),
        (
            config.lowpass_probability,
            lambda x: _band(
                x, sample_rate_hz, None, float(generator.uniform(config.lowpass_min_hz, config.lowpass_max_hz))
            ),
        ),
        (config.codec_probability, lambda x: _codec(x, sample_rate_hz, generator)),
    )
    for probability, change in changes:
        if generator.random() < probability:
            samples = change(samples)
    peak = float(np.abs(samples).max(initial=0.0))
    return (samples / peak if peak > 1 else samples).astype(np.float32)


def _factor(spread: float, generator: np.random.Generator) -> float:
    return float(np.exp(generator.uniform(np.log1p(-spread), -np.log1p(-spread))))


def _onset(samples: Samples) -> int:
    """Return the first sample within 30 dB of the peak."""
    return int(np.argmax(np.abs(samples) > 0.03 * np.abs(samples).max(initial=0.0)))


def _shift(samples: Samples, sample_rate_hz: int, max_s: float, generator: np.random.Generator) -> Samples:
    shift = generator.uniform(-1.0, 1.0)
    if shift < 0:
        # Leave 20 ms before the onset: what precedes it may be breath.
        return samples[int(-shift * max(_onset(samples) - sample_rate_hz // 50, 0)) :]
    return np.concatenate([np.zeros(int(shift * max_s * sample_rate_hz), np.float32), samples])


def _speed(samples: Samples, factor: float) -> Samples:
    import soxr  # noqa: PLC0415 - training only

    return np.asarray(soxr.resample(samples, factor * 10_000, 10_000, "HQ"), np.float32)


def _pitch(samples: Samples, semitones: float) -> Samples:
    factor = float(2 ** (semitones / 12))
    return _speed(_stretch(samples, 1 / factor), factor)


def _stretch(samples: Samples, factor: float) -> Samples:
    import librosa  # noqa: PLC0415 - slow to import, and off by default

    if len(samples) < _STRETCH_FRAME:
        return samples
    return np.asarray(librosa.effects.time_stretch(samples, rate=factor, n_fft=_STRETCH_FRAME), np.float32)


def _reverberate(
    samples: Samples, sample_rate_hz: int, config: AugmentConfig, generator: np.random.Generator
) -> Samples:
    from scipy.signal import fftconvolve  # noqa: PLC0415 - training only

    rt60_s = float(generator.uniform(config.reverberation_min_s, config.reverberation_max_s))
    times = np.arange(int(rt60_s * sample_rate_hz)) / sample_rate_hz
    tail = generator.standard_normal(len(times)) * 10 ** (-3 * times / rt60_s)
    # Between a voice close to the microphone (12 dB more direct than reflected energy) and one across the room (0 dB).
    tail *= 10 ** (-generator.uniform(0.0, 12.0) / 20) / np.sqrt(np.sum(tail**2))
    tail[0] = 1.0
    wet = fftconvolve(samples, tail)[: len(samples) + len(tail) // 2]
    return np.asarray(wet * (np.abs(samples).max(initial=0.0) / max(np.abs(wet).max(initial=0.0), 1e-9)), np.float32)


def _add_noise(samples: Samples, sample_rate_hz: int, config: AugmentConfig, generator: np.random.Generator) -> Samples:
    from scipy.fft import irfft, next_fast_len, rfft  # noqa: PLC0415 - training only

    length = next_fast_len(len(samples), real=True)
    spectrum = rfft(generator.standard_normal(length))
    # Exponent 0 is white, 1 pink, 2 brown; nothing below 40 Hz, which would be most of the power and inaudible.
    hz = np.fft.rfftfreq(length, 1 / sample_rate_hz)
    spectrum /= np.maximum(hz, 40.0) ** (generator.uniform(0.0, 2.0) / 2)
    spectrum[hz < 40.0] = 0.0
    noise = irfft(spectrum, length)[: len(samples)]
    loud = np.abs(samples) > 0.1 * np.abs(samples).max(initial=0.0)
    signal_rms = float(np.sqrt(np.mean(samples[loud] ** 2))) if loud.any() else 0.0
    ratio_db = generator.uniform(config.noise_min_db, config.noise_max_db)
    scale = signal_rms / max(float(np.std(noise)), 1e-12) * 10 ** (-ratio_db / 20)
    return np.asarray(samples + scale * noise, np.float32)


def _clip(samples: Samples, generator: np.random.Generator) -> Samples:
    limit = float(generator.uniform(0.3, 0.8)) * float(np.abs(samples).max(initial=0.0))
    return np.clip(samples, -limit, limit)


def _band(samples: Samples, sample_rate_hz: int, low_hz: float | None, high_hz: float) -> Samples:
    from scipy.signal import butter, sosfilt  # noqa: PLC0415 - training only

    high_hz = min(high_hz, 0.45 * sample_rate_hz)
    edges = high_hz if low_hz is None else (low_hz, high_hz)
    filters = butter(8, edges, "lowpass" if low_hz is None else "bandpass", fs=sample_rate_hz, output="sos")
    return np.asarray(sosfilt(filters, samples), np.float32)


def _codec(samples: Samples, sample_rate_hz: int, generator: np.random.Generator) -> Samples:
    """Send the audio through a lossy codec at low quality, or through 8-bit mu-law."""
    import soundfile  # noqa: PLC0415 - training only
    import soxr  # noqa: PLC0415 - training only

    kinds = ("MP3", "VORBIS", "MULAW", "OPUS")
    kind = kinds[int(generator.integers(len(kinds)))]
    # libsndfile counts the kbit/s of Opus down from 256: these are 12 to 50.
    quality = float(generator.uniform(*((0.82, 0.98) if kind == "OPUS" else (0.5, 0.95))))
    peak = max(float(np.abs(samples).max(initial=0.0)), 1e-9)
    if kind == "MULAW":
        coded = np.round(np.sign(samples) * np.log1p(255 * np.abs(samples) / peak) / np.log(256) * 127) / 127
        return np.asarray(np.sign(coded) * (256 ** np.abs(coded) - 1) / 255 * peak, np.float32)
    rate_hz = _OPUS_HZ if kind == "OPUS" else sample_rate_hz
    form, subtype = ("MP3", None) if kind == "MP3" else ("OGG", kind)
    buffer = io.BytesIO()
    with soundfile.SoundFile(buffer, "w", rate_hz, 1, subtype, format=form, compression_level=quality) as file:
        file.write(soxr.resample(samples / max(peak, 1.0), sample_rate_hz, rate_hz, "HQ"))
    buffer.seek(0)
    decoded = soundfile.read(buffer, dtype="float32")[0]
    return np.asarray(soxr.resample(decoded, rate_hz, sample_rate_hz, "HQ"), np.float32)[: len(samples)]
