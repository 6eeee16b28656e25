"""The built-in plugin that loads models: shipped names and paths of ``.safetensors`` files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_batch.hookspecs import hookimpl
from ser_batch.resources import model_path

if TYPE_CHECKING:
    from ser_batch.classifier.base import CheckpointClassifier
    from ser_batch.classifier.checkpoint import Checkpoint
    from ser_batch.config import Config

__all__ = ["load_classifier", "trained_audio", "validate_config"]


@hookimpl(trylast=True)
def load_classifier(name: str, device: str) -> CheckpointClassifier:
    """Load a model: by onnxruntime for ``cpu``, by torch for ``cuda`` and ``mps``.

    Raises
    ------
    ModelError
        There is no such model, or it is damaged or does not fit this version.
    DeviceError
        The GPU refuses or gives other numbers than the CPU; see `ser_batch.classifier.device.open_classifier`.
    """
    # Imported here, since the module is a plugin that every process registers, whether it predicts or not.
    from ser_batch.classifier.checkpoint import load  # noqa: PLC0415
    from ser_batch.classifier.onnx_classifier import OnnxClassifier  # noqa: PLC0415

    checkpoint = load(model_path(name))
    reference = OnnxClassifier(checkpoint)
    if device == "cpu":
        return reference
    from ser_batch.classifier.device import DeviceError, check_parity  # noqa: PLC0415
    from ser_batch.classifier.torch_classifier import TorchClassifier  # noqa: PLC0415

    try:
        classifier = TorchClassifier(checkpoint, device)
        check_parity(reference, classifier)
    except (RuntimeError, AssertionError) as error:
        # torch's words for a driver that is too old, a device that is full or in use, or one it was built without.
        raise DeviceError(f"{device} failed: {str(error).splitlines()[0]}.") from error
    return classifier


@hookimpl
def validate_config(config: Config) -> None:
    """See that audio is decoded and cut as the model was trained; the distance between windows is free.

    Raises
    ------
    ConfigError
        Another sample rate, window length or number of bands.
    ModelError
        The model is damaged or does not fit this version.
    """
    from ser_batch.classifier.checkpoint import load  # noqa: PLC0415
    from ser_batch.errors import ConfigError, ModelError  # noqa: PLC0415

    if not config.predict.model:
        return
    try:
        path = model_path(config.predict.model)
    except ModelError:
        return  # perhaps a model of another plugin; whoever loads it will say
    for key, trained in _audio_of(load(path)).items():
        given = getattr(config.audio, key)
        if key != "window_hop_s" and given != trained:
            raise ConfigError(
                f"audio.{key} is {given:g}, but the model {config.predict.model!r} was trained with {trained:g}: "
                f"set it to that, or train a model with yours."
            )


def trained_audio(name: str) -> dict[str, float]:
    """Return how a model was trained to hear, as values of the section [audio]; empty for a model of a plugin.

    Raises
    ------
    ModelError
        The model is damaged or does not fit this version.
    """
    from ser_batch.classifier.checkpoint import load  # noqa: PLC0415
    from ser_batch.errors import ModelError  # noqa: PLC0415

    try:
        path = model_path(name)
    except ModelError:
        return {}
    return _audio_of(load(path))


def _audio_of(checkpoint: Checkpoint) -> dict[str, float]:
    audio = {key: checkpoint.meta["audio"][key] for key in ("sample_rate_hz", "window_s", "window_hop_s")}
    return {**audio, "n_mel_bands": checkpoint.network.n_bands}
