"""Features of clips and of their augmented copies, computed once, by the workers of a scan, and kept in ``data/cache``.

Clips are gathered in buckets by the hash of their content, so that a file added or changed recomputes one bucket. The
name of a cache file is a hash of all that its numbers depend on: content, reader, extractors, this version, audio
settings, and for augmented copies the changes and their seed. Spectrograms are kept as 8-bit steps of 0.35 dB below the
loudest cell of their window, a fortieth of what separates speakers, at half the memory of half precision.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks
from ser_batch._version import __version__
from ser_batch.classifier.dense import DENSE_FEATURES
from ser_batch.config import AudioConfig, Config, ExtractConfig, PredictConfig
from ser_batch.errors import RunError
from ser_batch.plugins import PluginRecipe
from ser_batch.records import ClipOutcome, ClipRef, FeatureSpec, Status
from ser_batch.stages.analyse import select_extractors
from ser_batch.stages.ingredients import Ingredients, ingredients_of
from ser_batch.stages.pool import temporary_extraction
from ser_batch.stages.processes import worker_count
from ser_batch.stages.progress import Progress
from ser_batch.training.audio_keys import audio_key
from ser_batch.training.augment import Augmentation, AugmentConfig, copy_id
from ser_batch.training.stored import read_arrays, write_arrays

__all__ = [
    "STEP_DB",
    "WEIGHT_COLUMN",
    "FeatureTable",
    "clip_ref",
    "extract_features",
    "feature_ingredients",
    "feature_settings",
    "reason_of",
    "table_keys",
]

#: dB per step of the stored spectrograms; 255 steps reach 89 dB below the loudest cell.
STEP_DB = 0.35
#: Audible seconds of a window: its weight when windows are pooled.
WEIGHT_COLUMN = "quality__active_s"

_N_BUCKETS = 64
#: Raised when the files of the cache are laid out in another way.
_CACHE_VERSION = 2


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
    config = Config(audio, ExtractConfig(tuple(sorted(set(names)))), PredictConfig(model=""))
    manager = recipe.build()
    extractors = select_extractors(hooks.register_extractors(manager, config), names)
    return ingredients_of(manager, recipe, config, extractors, None)


def feature_settings(ingredients: Ingredients) -> dict[str, Any]:
    """Return all but content and changes that features depend on, by name."""
    return {**ingredients.settings(), "ser-batch": __version__}


def reason_of(outcome: ClipOutcome) -> str:
    """Return, for people, what became of a file that cannot be used."""
    return f"{outcome.status} in {outcome.stage}: {outcome.error_message}"


def clip_ref(path: str, clip_id: str) -> ClipRef:
    """Return what the workers need to know of a file; one that is gone by now is left to them to say so."""
    try:
        stat = Path(path).stat()
    except OSError:
        return ClipRef(clip_id, path, 0, 0)
    return ClipRef(clip_id, path, stat.st_size, stat.st_mtime_ns)


#: Arrays of a cache file: name -> type and shape behind the rows.
_Arrays = dict[str, tuple[type, tuple[int, ...]]]


def _arrays_of(ingredients: Ingredients) -> _Arrays:
    (shape,) = (spec.tensor_shape for spec in ingredients.specs if spec.extractor == "mel")
    return {
        "mel": (np.uint8, shape or ()),
        "dense": (np.float32, (len(DENSE_FEATURES),)),
        "active_s": (np.float32, ()),
    }


@dataclass(frozen=True, slots=True)
class _Bucket:
    """Some clips, one copy of each: what one cache file holds."""

    file: Path
    #: Content hash -> path.
    clips: dict[str, str]
    copy: int

    def refs(self) -> list[ClipRef]:
        return [clip_ref(path, copy_id(content, self.copy, path)) for content, path in self.clips.items()]


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """What was found in a bucket."""

    #: Content hash of the clip of each row.
    content: NDArray[np.str_]
    #: Named as in `_Arrays`.
    arrays: dict[str, NDArray]
    #: Content hash -> why there are no rows.
    failures: dict[str, str]


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
    progress = progress or Progress()
    ingredients = feature_ingredients(recipe, audio or AudioConfig())
    arrays = _arrays_of(ingredients)
    buckets = _plan(paths, hashes, cache_dir, feature_settings(ingredients), changes)
    found = [_stored(bucket.file, arrays) for bucket in buckets]
    missing = [number for number, rows in enumerate(found) if rows is None]
    if missing:
        change = Augmentation(changes) if changes.copies else None
        setup = replace(ingredients.setup(predict=False), keep_tensors=True, change=change)
        n_missing = sum(len(buckets[number].clips) for number in missing)
        progress.begin(n_missing, sum(len(bucket.clips) for bucket in buckets))
        try:
            with temporary_extraction(setup, worker_count(jobs, n_missing), progress) as extraction:
                shards = ((number, buckets[number].refs()) for number in missing)
                for number, outcomes in extraction.run(shards):
                    found[number] = _stacked(outcomes, buckets[number], ingredients.specs, arrays)
                    # A worker may have died for lack of memory, or of time: next time it may be otherwise.
                    if not any(outcome.error_type.startswith("Worker") for outcome in outcomes):
                        _store(buckets[number].file, found[number])
        finally:
            progress.end()
    return _table([(bucket, rows) for bucket, rows in zip(buckets, found, strict=True) if rows is not None], hashes)


def _plan(
    paths: Sequence[str], hashes: Sequence[str], cache_dir: Path, settings: dict[str, Any], changes: AugmentConfig
) -> list[_Bucket]:
    members: dict[int, dict[str, str]] = {}
    for path, content in zip(paths, hashes, strict=True):
        members.setdefault(int(content[:8], 16) % _N_BUCKETS, {})[content] = path
    buckets = []
    for copy in range(1 + changes.copies):
        for clips in members.values():
            depends = [_CACHE_VERSION, sorted(clips), settings, list(DENSE_FEATURES)]
            if copy:
                # How many copies there are does not change this one.
                depends += [asdict(replace(changes, copies=0)), copy]
            key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]
            buckets.append(_Bucket(cache_dir / f"{key}.npz", dict(sorted(clips.items())), copy))
    return buckets


def _stacked(outcomes: Sequence[ClipOutcome], bucket: _Bucket, specs: Sequence[FeatureSpec], arrays: _Arrays) -> _Rows:
    """Keep what the network needs of the outcomes of a bucket."""
    columns = {column: (spec.extractor, index) for spec in specs for index, column in enumerate(spec.columns)}
    content: list[str] = []
    parts: dict[str, list[NDArray]] = {name: [np.zeros((0, *shape), kind)] for name, (kind, shape) in arrays.items()}
    failures: dict[str, str] = {}
    for name, outcome in zip(bucket.clips, outcomes, strict=True):
        # Half a recording may lack what its label is about.
        if outcome.status is not Status.OK:
            failures[name] = reason_of(outcome)
            continue
        blocks = {block.extractor: block for block in outcome.blocks}
        mel = blocks["mel"].tensor
        assert mel is not None
        peak_db = mel.max(axis=(1, 2), keepdims=True)
        values = {column: blocks[extractor].scalars[:, index] for column, (extractor, index) in columns.items()}
        parts["mel"].append(np.clip(np.rint((peak_db - mel) / STEP_DB), 0, 255).astype(np.uint8))
        parts["dense"].append(np.column_stack([values[column] for column in DENSE_FEATURES]))
        parts["active_s"].append(values[WEIGHT_COLUMN])
        content += [name] * len(mel)
    joined = {name: np.concatenate(found) for name, found in parts.items()}
    return _Rows(np.array(content, "U64"), joined, failures)


def _store(path: Path, rows: _Rows | None) -> None:
    assert rows is not None
    try:
        failures = np.array(json.dumps(rows.failures))
        write_arrays(path, {**rows.arrays, "content": rows.content, "failures": failures})
    except OSError as error:
        raise RunError(
            f"Cannot write features to the cache {path.parent}: {error.strerror or error}. Free some space, or give "
            f"another folder with --cache; what is done is kept."
        ) from error


def _stored(path: Path, arrays: _Arrays) -> _Rows | None:
    """Return what a cache file holds; None where there is none, or it is damaged."""
    found = read_arrays(path, (*arrays, "content", "failures"))
    if found is None:
        return None
    content, failures = found.pop("content"), found.pop("failures")
    fits = (
        found[name].shape == (len(content), *shape) and found[name].dtype == kind
        for name, (kind, shape) in arrays.items()
    )
    return _Rows(content, found, json.loads(str(failures))) if all(fits) else None


def _table(found: Sequence[tuple[_Bucket, _Rows]], hashes: Sequence[str]) -> FeatureTable:
    place: dict[str, list[int]] = {}
    for index, content in enumerate(hashes):
        place.setdefault(content, []).append(index)
    failures: dict[int, str] = {}
    parts: dict[str, list[NDArray]] = {name: [] for name in ("mel", "dense", "active_s", "clip", "copy")}
    for bucket, rows in found:
        for content, reason in rows.failures.items():
            failures |= dict.fromkeys(place[content], reason)
        # A file that is there twice gives its rows to each of its places.
        pairs = [(row, index) for row, content in enumerate(rows.content) for index in place[str(content)]]
        chosen, clips = np.array(pairs, np.int64).reshape(-1, 2).T
        parts["clip"].append(clips)
        parts["copy"].append(np.full(len(clips), bucket.copy, np.int64))
        for name, array in rows.arrays.items():
            parts[name].append(array[chosen])
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return FeatureTable(failures=failures, **joined)
