"""The built-in plugin that loads models: shipped names and paths of ``.safetensors`` files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_batch.hookspecs import hookimpl
from ser_batch.resources import model_path

if TYPE_CHECKING:
    from ser_batch.classifier.base import CheckpointClassifier
    from ser_batch.config import Config

__all__ = ["load_classifier", "validate_config"]


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
        Another sample rate or window length.
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
    trained = load(path).meta["audio"]
    for key in ("sample_rate_hz", "window_s"):
        given = getattr(config.audio, key)
        if given != trained[key]:
            raise ConfigError(
                f"audio.{key} is {given:g}, but the model {config.predict.model!r} was trained with {trained[key]:g}: "
                f"set it to that, or train a model with yours."
            )
