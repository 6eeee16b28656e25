"""`ser6-large` and `ser7-large`: a linear layer on what the lower half of Whisper tiny.en hears of a voice.

Whisper (Radford et al. 2022, "Robust speech recognition via large-scale weak supervision") learnt from 680,000 hours of
speech of all kinds; its lower layers carry how something is said, its upper ones what. See README.md for the scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ser_batch import Config, hookimpl
from ser_batch.errors import ConfigError
from ser_batch_whisper.mel import WhisperMelExtractor

if TYPE_CHECKING:
    from ser_batch_whisper.classifier import WhisperClassifier

#: Model -> the labels that it keeps; None keeps all.
MODELS = {
    "ser6-large": ("anger", "disgust", "fear", "happiness", "sadness", "surprise"),
    "ser7-large": None,
}


@hookimpl
def register_extractors(config: Config) -> Sequence[WhisperMelExtractor]:
    """Offer the spectrogram that Whisper hears; it runs when a model of this package is asked for."""
    return [WhisperMelExtractor(config.audio.window_s)]


@hookimpl
def load_classifier(name: str, device: str) -> WhisperClassifier | None:
    """Load a model of this package: by onnxruntime for ``cpu``, by torch for ``cuda`` and ``mps``."""
    if name not in MODELS:
        return None
    from ser_batch_whisper.classifier import load

    return load(name, MODELS[name], device)


@hookimpl
def validate_config(config: Config) -> None:
    """Refuse windows that the models did not learn from, and rates below what they hear."""
    if config.predict.model not in MODELS:
        return
    if config.audio.window_s != 3.0:
        raise ConfigError(f"audio.window_s is {config.audio.window_s:g}, but {config.predict.model} needs 3.")
    if config.audio.sample_rate_hz < 16_000:
        raise ConfigError(
            f"audio.sample_rate_hz is {config.audio.sample_rate_hz}, but {config.predict.model} hears up to 8 kHz: "
            f"give 16000 or more."
        )
