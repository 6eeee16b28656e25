"""Features of clips and of their augmented copies: what the network is fed.

They depend on content and changes, and on reader, extractors, this version and audio settings. Spectrograms are kept as
8-bit steps of 0.35 dB below the loudest cell of their window, a fortieth of what separates speakers, at half the memory
of half precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks
from ser_batch._version import __version__
from ser_batch.classifier.dense import DENSE_FEATURES
from ser_batch.config import AudioConfig, Config, ExtractConfig, PredictConfig, SegmentsConfig
from ser_batch.plugins import PluginRecipe
from ser_batch.records import ClipOutcome, FeatureSpec
from ser_batch.stages.analyse import select_extractors
from ser_batch.stages.ingredients import Ingredients, ingredients_of
from ser_batch.stages.progress import Progress
from ser_batch.training.audio_keys import audio_key
from ser_batch.training.augment import AugmentConfig
from ser_batch.training.buckets import Task, compute

__all__ = [
    "STEP_DB",
    "WEIGHT_COLUMN",
    "FeatureTable",
    "extract_features",
    "feature_ingredients",
    "feature_settings",
    "table_keys",
]

#: dB per step of the stored spectrograms; 255 steps reach 89 dB below the loudest cell.
STEP_DB = 0.35
#: Audible seconds of a window: its weight when windows are pooled.
WEIGHT_COLUMN = "quality__active_s"


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTable:
    """One row per window of each copy of each clip; copy 0 is the clip as it is."""

    #: int64 (n_rows,): index of the clip in the list that was asked for.
    clip: NDArray[np.int64]
    #: int64 (n_rows,).
    copy: NDArray[np.int64]
    #: uint8 (n_rows, n_bands, n_frames): steps of `STEP_DB` below the loudest cell.
    mel: NDArray[np.uint8]
    #: float32 (n_rows, 13), NaN = undefined.
    dense: NDArray[np.float32]
    #: float32 (n_rows,).
    active_s: NDArray[np.float32]
    #: Clips, or copies of clips, that gave nothing: index -> reason.
    failures: dict[int, str]

    def __len__(self) -> int:
        return len(self.clip)

    def only(self, clips: Sequence[int]) -> FeatureTable:
        """Return the rows of these clips, each known by its place among them."""
        place = {clip: index for index, clip in enumerate(clips)}
        inside = np.isin(self.clip, list(clips))
        return FeatureTable(
            clip=np.array([place[clip] for clip in self.clip[inside].tolist()], np.int64),
            copy=self.copy[inside],
            mel=self.mel[inside],
            dense=self.dense[inside],
            active_s=self.active_s[inside],
            failures={place[clip]: reason for clip, reason in self.failures.items() if clip in place},
        )


def table_keys(table: FeatureTable, clips: Sequence[int]) -> list[bytes]:
    """Return the `audio_key` of each of some clips, as they are without augmentation."""
    rows = np.flatnonzero(table.copy == 0)
    rows = rows[np.argsort(table.clip[rows], kind="stable")]
    edges = np.searchsorted(table.clip[rows], [[clip, clip + 1] for clip in clips])
    parts = (rows[first:last] for first, last in edges)
    return [audio_key(-STEP_DB * table.mel[part].astype(np.float32), table.active_s[part]) for part in parts]


def feature_ingredients(recipe: PluginRecipe, audio: AudioConfig) -> Ingredients:
    """Return what features for the network are made of; its specs are those of the extractors that feed it.

    Raises
    ------
    PluginError
        A plugin fails, or an extractor that the network needs is missing.
    """
    names = ("mel", *(column.split("__")[0] for column in (*DENSE_FEATURES, WEIGHT_COLUMN)))
    extract, segments = ExtractConfig(tuple(sorted(set(names)))), SegmentsConfig("none")
    config = Config(audio, extract, PredictConfig(model=""), segments=segments)
    manager = recipe.build()
    extractors = select_extractors(hooks.register_extractors(manager, config), names)
    return ingredients_of(manager, recipe, config, extractors, None)


def feature_settings(ingredients: Ingredients) -> dict[str, Any]:
    """Return all but content and changes that features depend on, by name."""
    return {**ingredients.settings(), "ser-batch": __version__}


def extract_features(
    paths: Sequence[str],
    hashes: Sequence[str],
    *,
    cache_dir: Path,
    recipe: PluginRecipe,
    changes: AugmentConfig,
    audio: AudioConfig | None = None,
    jobs: int = 0,
    progress: Progress | None = None,
) -> FeatureTable:
    """Compute, or fetch from the cache, the features of clips and of `changes.copies` augmented copies of each.

    Parameters
    ----------
    paths, hashes
        Files, and the SHA-256 of the content of each.
    cache_dir : Path
        Made where missing; safe to delete at any time. A file in it that is damaged is computed again.
    recipe : PluginRecipe
        Whose extractors and readers are used.
    changes : AugmentConfig
        How copies differ.
    audio : AudioConfig, optional
        How clips are decoded, cut and seen; the defaults, unless given.
    jobs : int
        Worker processes; 0 = one per core.
    progress : Progress, optional
        Told of files as they are done; copies count as files.

    Returns
    -------
    table : FeatureTable
        A clip that cannot be read, or whose worker dies, has no rows and a reason.

    Raises
    ------
    RunError
        The cache cannot be written, or no worker can be kept alive.
    PluginError
        An extractor that the network needs is missing, or the workers cannot load a plugin.
    """
    ingredients = feature_ingredients(recipe, audio or AudioConfig())
    (shape,) = (spec.tensor_shape for spec in ingredients.specs if spec.extractor == "mel")
    task = Task(
        setup=replace(ingredients.setup(predict=False), keep_tensors=True),
        depends=[feature_settings(ingredients), list(DENSE_FEATURES)],
        arrays={
            "mel": (np.uint8, shape or ()),
            "dense": (np.float32, (len(DENSE_FEATURES),)),
            "active_s": (np.float32, ()),
        },
        rows_of=partial(_rows_of, specs=ingredients.specs),
    )
    rows = compute(task, paths, hashes, cache_dir, changes, jobs, progress or Progress())
    return FeatureTable(clip=rows.clip, copy=rows.copy, failures=rows.failures, **rows.arrays)


def _rows_of(outcome: ClipOutcome, specs: Sequence[FeatureSpec]) -> dict[str, NDArray]:
    """Keep what the network needs of a file."""
    blocks = {block.extractor: block for block in outcome.blocks}
    columns = {name: blocks[spec.extractor].scalars[:, i] for spec in specs for i, name in enumerate(spec.columns)}
    mel = blocks["mel"].tensor
    assert mel is not None
    peak_db = mel.max(axis=(1, 2), keepdims=True)
    return {
        "mel": np.clip(np.rint((peak_db - mel) / STEP_DB), 0, 255).astype(np.uint8),
        "dense": np.column_stack([columns[name] for name in DENSE_FEATURES]),
        "active_s": columns[WEIGHT_COLUMN],
    }
