"""Makes models of random weights: for tests of plumbing and of numerical agreement, never of accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.classifier.checkpoint import Checkpoint, new_meta, save
from ser_batch.classifier.checks import weight_shapes
from ser_batch.classifier.dense import DENSE_FEATURES
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.config import Config
from ser_batch.hooks import register_extractors
from ser_batch.plugins import PluginRecipe
from ser_batch.records import FeatureBlock, FeatureSpec

LABELS = ("anger", "disgust", "fear", "joy", "sadness", "surprise")

#: Extractors of the same names as the built-in ones, so that tests of the network need none of them.
SPECS = (
    FeatureSpec("mel", 1, tensor_shape=(128, 130)),
    FeatureSpec("prosodic", 1, tuple((f"value{index}", "st") for index in range(9))),
    FeatureSpec("quality", 1, (("active", "s"), ("snr", "db"))),
    FeatureSpec("voice_quality", 1, tuple((f"value{index}", "") for index in range(8))),
)

#: Not in the order of the columns, so that mixing them up shows.
FEATURES = tuple(f"voice_quality__value{index}" for index in (7, 0, 3, 2)) + tuple(
    f"prosodic__value{index}_st" for index in range(8, -1, -1)
)


def random_weights(config: NetworkConfig, seed: int) -> dict[str, NDArray[np.float32]]:
    """Draw weights that keep the signal's size from layer to layer, and batch norm statistics far from the identity."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith(("running_var", "band_std", "dense_norm.std")):
            values = rng.uniform(0.3, 3, shape)
        elif name.endswith("norm.weight"):
            values = rng.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            values = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        else:
            values = rng.normal(0, 0.3, shape)
        weights[name] = values.astype(np.float32)
    weights["mel_norm.band_mean"] -= 35
    weights["mel_norm.band_std"] *= 10
    return weights


def random_checkpoint(
    seed: int = 0,
    config: NetworkConfig | None = None,
    specs: Sequence[FeatureSpec] = SPECS,
    features: Sequence[str] = FEATURES,
    **fields: Any,
) -> Checkpoint:
    """Return a whole model; `fields` go to `new_meta`."""
    config = config or NetworkConfig()
    meta = new_meta(
        **{
            "name": f"random{seed}",
            "labels": LABELS,
            "audio": {"sample_rate_hz": 22_050, "window_s": 3.0, "window_hop_s": 3.0},
            "specs": specs,
            "features": features,
            "network": config,
            "temperature": 1.3,
            **fields,
        }
    )
    return Checkpoint(random_weights(config, seed), meta)


def random_inputs(
    n_windows: int, seed: int = 0, shape: tuple[int, int] = (128, 130)
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return mel (n, *shape) in dB and features (n, 13): noise, gaps, silence, undefined and extreme features."""
    rng = np.random.default_rng(seed)
    mel = rng.normal(0, 12, (n_windows, *shape)) + rng.uniform(-70, 0, (n_windows, 1, 1))
    mel[1::4, :, 40:] = -100  # speech that ends early
    mel[2::4, :, :30] -= 60  # quiet beginning
    mel[3::7] = -100  # digital silence
    features = rng.normal(0, 2, (n_windows, 13))
    features[rng.random(features.shape) < 0.2] = np.nan
    features[0] = np.nan
    features[-1] = 1e6  # an outlier
    return mel.astype(np.float32), features.astype(np.float32)


def random_blocks(n_windows: int, seed: int = 0) -> dict[str, FeatureBlock]:
    """Return the blocks of `SPECS` for one clip."""
    rng = np.random.default_rng(seed)
    mel, _ = random_inputs(n_windows, seed)
    blocks = {}
    for spec in SPECS:
        scalars = rng.normal(0, 2, (n_windows, len(spec.scalars))).astype(np.float32)
        scalars[rng.random(scalars.shape) < 0.1] = np.nan
        if spec.extractor == "quality":
            scalars[:, 0] = rng.uniform(0, 3, n_windows)
        tensor = mel if spec.tensor_shape else None
        blocks[spec.extractor] = FeatureBlock(spec.extractor, scalars, np.nanmean(scalars, axis=0), tensor)
    return blocks


def store_random_model(path: Path, seed: int = 0, **fields: Any) -> Path:
    """Write a model that fits the built-in extractors, so that audio can be run through it."""
    offered = register_extractors(PluginRecipe(entry_points=()).build(), Config())
    specs = [offered[name][1].spec for name in ("mel", "prosodic", "quality", "voice_quality")]
    save(path, random_checkpoint(seed, specs=specs, features=DENSE_FEATURES, **fields))
    return path
