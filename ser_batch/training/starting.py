"""Training that goes on from a model: its network, the scale of its inputs, and what it is known to have heard."""

from __future__ import annotations

import base64
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ser_batch.classifier.checkpoint import Checkpoint, load
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.config import AudioConfig
from ser_batch.errors import ConfigError
from ser_batch.resources import model_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ser_batch.classifier.network import HybridCNN

__all__ = ["STRENGTHS", "between", "copy_weights", "load_start", "shape_for", "weights_of", "with_history"]

#: How far the way from the weights that were there to those that went on, from not at all.
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def load_start(name: str, audio: AudioConfig) -> Checkpoint:
    """Load the model that a training goes on from.

    Raises
    ------
    ConfigError
        It hears otherwise than this training would.
    ModelError
        There is no such model, or it is damaged.
    """
    model = load(model_path(name))
    hears = {**model.meta["audio"], "n_mel_bands": model.network.n_bands}
    for key in ("sample_rate_hz", "window_s", "n_mel_bands"):
        if hears[key] != getattr(audio, key):
            raise ConfigError(
                f"`train --from {name}`: the model hears with audio.{key} = {hears[key]:g}, this training with "
                f"{getattr(audio, key):g}. Give --set audio.{key}={hears[key]:g}, or train without --from."
            )
    return model


def shape_for(start: Checkpoint, labels: Sequence[str]) -> NetworkConfig:
    """Return the shape of a network that goes on from a model, for other labels."""
    return replace(start.network, n_labels=len(labels))


def copy_weights(network: HybridCNN, start: Checkpoint, labels: Sequence[str]) -> None:
    """Let a network begin as a model is: rows of labels that both have too; other labels begin in the middle."""
    import torch  # noqa: PLC0415 - slow to import

    weights = {name: torch.from_numpy(array.copy()) for name, array in start.weights.items()}
    for name in ("head.weight", "head.bias"):
        old = weights[name]
        rows = [old[start.labels.index(label)] if label in start.labels else old.mean(dim=0) for label in labels]
        weights[name] = torch.stack(rows)
    # Only counters of training steps are not stored.
    network.load_state_dict(weights, strict=False)


def between(network: HybridCNN, start: Checkpoint, labels: Sequence[str]) -> Iterator[HybridCNN]:
    """Yield the networks on the way from a model to one that went on from it, one for each of `STRENGTHS`.

    Weights between the two often do better than either (WiSE-FT, Wortsman et al. 2022), and cost one training for all.
    """
    import torch  # noqa: PLC0415 - slow to import

    begun = copy.deepcopy(network)
    copy_weights(begun, start, labels)
    for strength in STRENGTHS:
        one = copy.deepcopy(begun)
        with torch.no_grad():
            for old, new in zip(one.state_dict().values(), network.state_dict().values(), strict=True):
                if old.is_floating_point():
                    old.lerp_(new, strength)
        yield one.eval()


def weights_of(network: HybridCNN) -> dict[str, NDArray[np.float32]]:
    """Return the weights of a network as a model file holds them."""
    return {name: value.detach().float().cpu().numpy() for name, value in network.state_dict().items()}


def with_history(meta: Mapping[str, Any], start: Checkpoint) -> dict[str, Any]:
    """Return the metadata of a model with what the one that it went on from had learnt from.

    The network has heard those speakers, too: `evaluate` must refuse them, and their licences hold.
    """
    training = meta["training"]
    old = start.meta.get("training") or {}
    names = {source["name"] for source in training["corpora"]}
    corpora = [*training["corpora"], *(source for source in old.get("corpora") or () if source["name"] not in names)]
    whole = {
        **training,
        "corpora": corpora,
        "licences": sorted({*training["licences"], *(old.get("licences") or ())}),
        "speakers": sorted({*training["speakers"], *(old.get("speakers") or ())}),
        "audio": training["audio"] + (old.get("audio") or ""),
        "audio_keys": _both_keys(training["audio_keys"], old.get("audio_keys") or ""),
        "from": {"name": start.name, "sha256": start.sha256},
    }
    return {**meta, "derived_from": start.name, "training": whole}


def _both_keys(first: str, second: str) -> str:
    """Join keys of audio that `join_keys` has made text of."""
    return base64.b64encode(base64.b64decode(first) + base64.b64decode(second)).decode()
