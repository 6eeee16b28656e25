"""The log-mel spectrogram of each window: the picture that the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_batch.hookspecs import hookimpl
from ser_batch.records import Clip, Extractor, FeatureBlock, FeatureSpec

if TYPE_CHECKING:
    from ser_batch.config import Config

__all__ = ["MelExtractor", "mel_shape"]


def mel_shape(sample_rate_hz: float, window_s: float, n_bands: int) -> tuple[int, int]:
    """Return bands and frames of the spectrogram of a window."""
    # As dsp.mel.n_mel_frames has it, which would load numba merely to declare a shape.
    return n_bands, 1 + round(window_s * sample_rate_hz) // 512


class MelExtractor:
    """Log-mel spectrogram, 128 bands by 130 frames for 3 s at 22,050 Hz, in dB re 1 with a floor of -100.

    Each window counts as an excerpt of its own: it is padded with zeros where the audio ends, and nothing before or
    after it shows.
    """

    def __init__(self, sample_rate_hz: int = 22_050, window_s: float = 3.0, n_bands: int = 128) -> None:
        self._n_samples, self._n_bands = round(window_s * sample_rate_hz), n_bands
        shape = mel_shape(sample_rate_hz, window_s, n_bands)
        self._spec = FeatureSpec(extractor="mel", version=1, tensor_shape=shape)

    @property
    def spec(self) -> FeatureSpec:
        return self._spec

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        """Compute the spectrogram of each window."""
        from ser_batch.dsp.mel import log_mel  # noqa: PLC0415 - numba is loaded when first needed
        from ser_batch.extractors.analyses import finite  # noqa: PLC0415

        shape = self._spec.tensor_shape or ()
        tensor = np.empty((len(windows_s), *shape), np.float32)
        for window, (start_s, end_s) in enumerate(windows_s):
            samples = finite(clip.window(start_s, end_s))
            if start_s < clip.start_s:
                # What lies before the recording is silence, too: frames then fall alike on what is heard.
                samples = np.pad(samples, (round((clip.start_s - start_s) * clip.sample_rate_hz), 0))
                samples.flags.writeable = False  # as those of clips are: one kind of array, one kernel
            tensor[window] = log_mel(samples, self._n_samples, clip.sample_rate_hz, self._n_bands)
        return FeatureBlock("mel", np.empty((len(windows_s), 0), np.float32), np.empty(0, np.float32), tensor)


@hookimpl
def register_extractors(config: Config) -> Sequence[Extractor]:
    """Offer the extractor for the rate, the window length and the bands of `config`."""
    return [MelExtractor(config.audio.sample_rate_hz, config.audio.window_s, config.audio.n_mel_bands)]
