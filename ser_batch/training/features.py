"""Features of clips and of their augmented copies, computed once, in worker processes, and kept in ``data/cache``.

Clips are gathered in buckets by the hash of their content, so that a file added or changed recomputes one bucket. The
name of a cache file is a hash of all that its numbers depend on: content, extractor versions, audio settings, and for
augmented copies the changes and their seed. Spectrograms are kept as 8-bit steps of 0.35 dB below the loudest cell of
their window, a fortieth of what separates speakers, at half the memory of half precision.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks
from ser_batch.atomic import open_atomic
from ser_batch.classifier.dense import DENSE_FEATURES
from ser_batch.config import AudioConfig, Config
from ser_batch.errors import DataError
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Clip, ClipRef, Extractor, FeatureSpec
from ser_batch.training.augment import AugmentConfig, augment, clip_generator
from ser_batch.windows import plan_windows

__all__ = ["WEIGHT_COLUMN", "FeatureTable", "decode_mel", "extract_features", "needed_specs"]

#: dB per step of the stored spectrograms; 255 steps reach 89 dB below the loudest cell.
STEP_DB = 0.35
#: Audible seconds of a window: its weight when windows are pooled.
WEIGHT_COLUMN = "quality__active_s"

_N_BUCKETS = 64
_CACHE_VERSION = 1


@dataclass(frozen=True, slots=True, eq=False)
class FeatureTable:
    """One row per window of each copy of each clip; copy 0 is the clip as it is."""

    #: int64 (n_rows,): index of the clip in the list that was asked for.
    clip: NDArray[np.int64]
    #: int64 (n_rows,).
    copy: NDArray[np.int64]
    #: uint8 (n_rows, 128, 130): steps of `STEP_DB` below `peak_db`.
    mel: NDArray[np.uint8]
    #: float32 (n_rows,).
    peak_db: NDArray[np.float32]
    #: float32 (n_rows, 13), NaN = undefined.
    dense: NDArray[np.float32]
    #: float32 (n_rows,).
    active_s: NDArray[np.float32]
    #: Clips that gave nothing: index -> reason.
    failures: dict[int, str]

    def __len__(self) -> int:
        return len(self.clip)


def decode_mel(codes: NDArray[np.uint8], peak_db: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the spectrograms in dB of stored codes, float32 (n, 128, 130)."""
    return peak_db[:, None, None] - np.float32(STEP_DB) * codes.astype(np.float32)


def _needed_extractors(recipe: PluginRecipe) -> dict[str, Extractor]:
    config = Config()
    offered = hooks.register_extractors(recipe.build(), config)
    names = {"mel", *(column.split("__")[0] for column in (*DENSE_FEATURES, WEIGHT_COLUMN))}
    return {name: offered[name][1] for name in sorted(names)}


def needed_specs(recipe: PluginRecipe) -> list[FeatureSpec]:
    """Return the specs of the extractors that feed the network, sorted by name."""
    return [extractor.spec for extractor in _needed_extractors(recipe).values()]


@dataclass(frozen=True, slots=True)
class _Task:
    """One bucket of clips, one copy: picklable."""

    cache_file: str
    #: (path, content hash) of each clip.
    clips: tuple[tuple[str, str], ...]
    copy: int
    audio: AudioConfig
    changes: AugmentConfig
    recipe: PluginRecipe


def extract_features(
    paths: Sequence[str],
    hashes: Sequence[str],
    *,
    cache_dir: Path,
    recipe: PluginRecipe,
    changes: AugmentConfig,
    jobs: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> FeatureTable:
    """Compute, or fetch from the cache, the features of clips and of `changes.copies` augmented copies of each.

    Parameters
    ----------
    paths, hashes
        Files, and the SHA-256 of the content of each.
    cache_dir : Path
        Made where missing; safe to delete at any time.
    recipe : PluginRecipe
        Whose extractors and readers are used.
    changes : AugmentConfig
        How copies differ.
    jobs : int
        Worker processes; 0 = one per core.
    progress : callable
        Told (clips done, clips in total) as buckets finish; copies count as clips.

    Raises
    ------
    DataError
        A worker was killed, for example for lack of memory.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    tasks = _plan(paths, hashes, cache_dir, recipe, changes)
    total = len(paths) * (1 + changes.copies)
    done = 0
    missing = []
    for task in tasks:
        if Path(task.cache_file).is_file():
            done += len(task.clips)
        else:
            missing.append(task)
    progress(done, total)
    for count in _run(missing, jobs or os.cpu_count() or 1):
        done += count
        progress(done, total)
    return _collect(tasks, hashes)


def _plan(
    paths: Sequence[str],
    hashes: Sequence[str],
    cache_dir: Path,
    recipe: PluginRecipe,
    changes: AugmentConfig,
) -> list[_Task]:
    audio = Config().audio
    versions = [(spec.extractor, spec.version) for spec in needed_specs(recipe)]
    buckets: dict[int, dict[str, str]] = {}
    for path, content in zip(paths, hashes, strict=True):
        buckets.setdefault(int(content[:8], 16) % _N_BUCKETS, {})[content] = path
    tasks = []
    for copy in range(1 + changes.copies):
        for members in buckets.values():
            clips = tuple((path, content) for content, path in sorted(members.items()))
            depends: dict[str, Any] = {
                "cache": _CACHE_VERSION,
                "clips": [content for _, content in clips],
                "extractors": versions,
                "features": list(DENSE_FEATURES),
                "audio": asdict(audio),
            }
            if copy:
                # How many copies there are does not change this one.
                depends |= {"changes": asdict(replace(changes, copies=0)), "copy": copy}
            key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]
            tasks.append(_Task(str(cache_dir / f"{key}.npz"), clips, copy, audio, changes, recipe))
    return tasks


def _run(tasks: list[_Task], jobs: int) -> Any:
    if not tasks:
        return
    # spawn: workers must not inherit threads or locks of torch.
    with ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_work, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                future.result()
                yield len(futures[future].clips)
        except BrokenProcessPool as error:
            raise DataError(
                "A worker that computed features was killed (out of memory, or a crash in a decoder). What is done is "
                "kept: run the command again, with fewer --jobs where memory is short."
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


_EXTRACTORS: dict[PluginRecipe, tuple[Any, dict[str, Extractor]]] = {}


def _work(task: _Task) -> None:
    """Fill one cache file; runs in a worker."""
    if task.recipe not in _EXTRACTORS:
        _EXTRACTORS[task.recipe] = (task.recipe.build(), _needed_extractors(task.recipe))
    manager, extractors = _EXTRACTORS[task.recipe]
    parts: list[tuple[NDArray, ...]] = []
    failures: dict[str, str] = {}
    for path, content in task.clips:
        try:
            parts += [(np.array(content), *row) for row in _analyse(task, path, content, manager, extractors)]
        except Exception as error:  # one bad file must not end the training; it is reported with its name
            parts = [part for part in parts if str(part[0]) != content]
            failures[content] = f"{type(error).__name__}: {error}"
    columns = list(zip(*parts, strict=True)) or [(), (), (), (), ()]
    contents = [str(content) for content in columns[0]]
    lengths = [len(peak) for peak in columns[2]]
    arrays: dict[str, Any] = {
        "content": np.array(
            [name for name, length in zip(contents, lengths, strict=True) for _ in range(length)], "U64"
        ),
        "mel": np.concatenate([np.zeros((0, 128, 130), np.uint8), *columns[1]]),
        "peak_db": np.concatenate([np.zeros(0, np.float32), *columns[2]]),
        "dense": np.concatenate([np.zeros((0, len(DENSE_FEATURES)), np.float32), *columns[3]]),
        "active_s": np.concatenate([np.zeros(0, np.float32), *columns[4]]),
        "failures": np.array(json.dumps(failures)),
    }
    with open_atomic(Path(task.cache_file)) as file:
        np.savez(file, **arrays)


def _analyse(
    task: _Task, path: str, content: str, manager: Any, extractors: dict[str, Extractor]
) -> list[tuple[NDArray, ...]]:
    """Return (mel codes, peak, dense, active seconds) of each piece of one clip."""
    stat = Path(path).stat()
    ref = ClipRef(Path(path).name, path, stat.st_size, stat.st_mtime_ns)
    audio = task.audio
    pieces = hooks.read_clip(manager, ref, audio.sample_rate_hz, audio.piece_s, 0.0)
    generator = clip_generator(task.changes.seed, content, task.copy)
    rows: list[tuple[NDArray, ...]] = []
    for piece in pieces:
        clip = piece
        if task.copy:
            samples = augment(piece.samples, piece.sample_rate_hz, task.changes, generator)
            clip = Clip(samples, piece.sample_rate_hz, piece.source_rate_hz, 1, start_s=piece.start_s)
        windows_s = plan_windows(clip.duration_s, audio.window_s, audio.window_hop_s) + clip.start_s
        blocks = {name: extractor.extract(clip, windows_s) for name, extractor in extractors.items()}
        values = {
            column: blocks[name].scalars[:, index]
            for name, extractor in extractors.items()
            for index, column in enumerate(extractor.spec.columns)
        }
        mel = blocks["mel"].tensor
        if mel is None or not len(mel):
            raise ValueError("the extractor 'mel' gave no spectrogram")
        peak = mel.max(axis=(1, 2))
        codes = np.clip(np.rint((peak[:, None, None] - mel) / STEP_DB), 0, 255).astype(np.uint8)
        dense = np.column_stack([values[column] for column in DENSE_FEATURES]).astype(np.float32)
        rows.append((codes, peak.astype(np.float32), dense, values[WEIGHT_COLUMN].astype(np.float32)))
    if not rows:
        raise ValueError("no samples")
    return rows


def _collect(tasks: Sequence[_Task], hashes: Sequence[str]) -> FeatureTable:
    place: dict[str, list[int]] = {}
    for index, content in enumerate(hashes):
        place.setdefault(content, []).append(index)
    failures: dict[int, str] = {}
    names = ("mel", "peak_db", "dense", "active_s")
    parts: dict[str, list[NDArray]] = {name: [] for name in (*names, "clip", "copy")}
    for task in tasks:
        with np.load(task.cache_file, allow_pickle=False) as stored:
            for content, reason in json.loads(str(stored["failures"])).items():
                failures |= dict.fromkeys(place[content], reason)
            # A file that is there twice gives its rows to each of its places.
            pairs = [(row, index) for row, content in enumerate(stored["content"]) for index in place[str(content)]]
            rows = np.array([row for row, _ in pairs], np.int64)
            parts["clip"].append(np.array([index for _, index in pairs], np.int64))
            parts["copy"].append(np.full(len(rows), task.copy, np.int64))
            for name in names:
                parts[name].append(stored[name][rows])
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return FeatureTable(failures=failures, **joined)
