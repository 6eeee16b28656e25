"""Chooses where the network computes, and sees that a GPU gives the same numbers as the CPU.

Silent wrong numbers are worse than a slow run: MPS and CUDA builds of torch have given them in some releases. So each
model is run on a fixed batch when it is loaded for a GPU, and where that differs from the CPU, the CPU computes and the
reason is said aloud.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks
from ser_batch.config import DEVICES
from ser_batch.errors import ConfigError, ModelError

if TYPE_CHECKING:
    import pluggy

    from ser_batch.classifier.base import CheckpointClassifier
    from ser_batch.classifier.network_config import NetworkConfig
    from ser_batch.contracts_models import CheckedClassifier

__all__ = [
    "PARITY_TOLERANCE",
    "DeviceChoice",
    "DeviceError",
    "check_parity",
    "choose_device",
    "fixed_batch",
    "open_classifier",
]

#: Largest difference in a probability, between a GPU and the CPU, that is taken for rounding.
PARITY_TOLERANCE = 1e-3

#: What a machine with an NVIDIA, WSL or AMD GPU has; looking is cheaper by a second than importing torch to ask.
_GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")


class DeviceError(ModelError):
    """A model cannot be used on a GPU; it can on the CPU."""


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """The device that computes, and what there is to say about it."""

    #: cpu, cuda or mps.
    device: str
    #: Why it is not the one that was asked for; "" where it is.
    note: str = ""


def choose_device(requested: str) -> DeviceChoice:
    """Return the device for a request.

    ``auto`` is cuda, then mps, then cpu. A device that is absent becomes cpu, with a note. torch is imported only where
    there may be a GPU.

    Raises
    ------
    ConfigError
        `requested` is none of `DEVICES`.
    """
    if requested not in DEVICES:
        raise ConfigError(f"Unknown device {requested!r}; it must be one of {', '.join(DEVICES)}.")
    if requested == "cpu":
        return DeviceChoice("cpu")
    if requested == "auto":
        if not _may_have_gpu():
            return DeviceChoice("cpu")
        absent = {device: _why_absent(device) for device in ("cuda", "mps")}
        return DeviceChoice(next((device for device, why in absent.items() if not why), "cpu"))
    why = _why_absent(requested)
    return (
        DeviceChoice("cpu", f"{requested} is not available ({why}); computing on the CPU.")
        if why
        else DeviceChoice(requested)
    )


def open_classifier(
    manager: pluggy.PluginManager, name: str, requested: str, among: Sequence[str] = ()
) -> tuple[CheckedClassifier, DeviceChoice]:
    """Load a model on the device chosen for a request, or on the CPU where that device cannot be trusted with it.

    Parameters
    ----------
    manager : pluggy.PluginManager
        Its hook ``load_classifier`` loads.
    name : str
        A shipped name or the path of a ``.safetensors`` file.
    requested : str
        One of `DEVICES`.
    among : sequence of str
        Labels to answer among; none means all.

    Returns
    -------
    classifier : CheckedClassifier
    choice : DeviceChoice
        Print and record it; its `device` is that of the classifier.

    Raises
    ------
    ConfigError
        `requested` is none of `DEVICES`.
    ModelError, PluginError
        There is no such model, it is damaged, or its plugin failed.
    """
    choice = choose_device(requested)
    try:
        classifier = hooks.load_classifier(manager, name, choice.device, among)
    except DeviceError as error:
        choice = DeviceChoice("cpu", f"{error} Computing on the CPU.")
        classifier = hooks.load_classifier(manager, name, "cpu", among)
    if classifier.device == "cpu" != choice.device:
        choice = DeviceChoice("cpu", f"Model {classifier.name!r} computes on the CPU alone.")
    return classifier, choice


def check_parity(reference: CheckpointClassifier, other: CheckpointClassifier) -> float:
    """Compare two classifiers of one model on a fixed batch, whole and window by window.

    Returns
    -------
    difference : float
        The largest difference in a probability.

    Raises
    ------
    DeviceError
        It is above `PARITY_TOLERANCE`, an emotion differs, or a number is not finite.
    """
    mel, features = fixed_batch(reference.checkpoint.network)
    expected = reference.run(mel, features)
    whole = other.run(mel, features)
    # Some releases were wrong for batches only, others for single windows only.
    single = np.concatenate([other.run(mel[i : i + 1], features[i : i + 1]) for i in range(len(mel))])
    difference = float(np.abs(np.stack([whole, single]) - expected).max())
    # A tie within rounding may fall either way.
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * PARITY_TOLERANCE
    same = all((found.argmax(axis=1) == expected.argmax(axis=1))[clear].all() for found in (whole, single))
    # Written so that NaN fails.
    if not (difference <= PARITY_TOLERANCE and same):
        raise DeviceError(
            f"{other.device} gives other numbers than the CPU for model {other.name!r}: probabilities of a fixed batch "
            f"differ by up to {difference:.2g} (limit {PARITY_TOLERANCE:g})."
        )
    return difference


def _may_have_gpu() -> bool:
    return sys.platform != "linux" or any(Path(file).exists() for file in _GPU_FILES)


def _why_absent(device: str) -> str:
    try:
        from ser_batch.classifier.torch_device import why_absent  # noqa: PLC0415 - torch takes a second to import
    except (ImportError, OSError) as error:
        return f"torch cannot be imported: {error}"
    return why_absent(device)


def fixed_batch(config: NetworkConfig) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return 8 windows: moving harmonics over noise, two of them half silent, one silent, some features undefined."""
    rng = np.random.default_rng(0)
    shape = (config.n_bands, config.n_frames)
    bands, frames = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    mel = np.empty((8, *shape), np.float32)
    for index in range(8):
        pitch = 6 + index + 2 * np.sin(frames / (5 + index))
        harmonics = 25 * np.cos(2 * np.pi * bands / pitch) * np.exp(-bands / 50)
        mel[index] = -45 - bands / 4 + harmonics + rng.normal(0, 4, shape)
    mel[5:7, :, 6 * shape[1] // 13 :] = -100
    mel[7] = -100
    features = rng.normal(0, 2, (8, 13)).astype(np.float32) * 10
    features[3, :4] = np.nan
    features[7] = np.nan
    return mel, features
