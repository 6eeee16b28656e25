"""What the workers of a scan find in clips and in augmented copies of them, computed once and kept in ``data/cache``.

Clips are gathered in buckets by the hash of their content, so that a file added or changed recomputes one bucket. The
name of a cache file is a hash of all that its numbers depend on: content, copy, changes and their seed, and what the
task says of itself.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import RunError
from ser_batch.records import ClipOutcome, ClipRef, Status
from ser_batch.stages.ingredients import Setup
from ser_batch.stages.pool import temporary_extraction
from ser_batch.stages.processes import worker_count
from ser_batch.stages.progress import Progress
from ser_batch.training.augment import Augmentation, AugmentConfig, copy_id
from ser_batch.training.stored import read_arrays, write_arrays

__all__ = ["Arrays", "Rows", "Task", "clip_ref", "compute", "reason_of"]

_N_BUCKETS = 64
#: Raised when the files of the cache are laid out in another way.
_CACHE_VERSION = 2

#: Type and shape behind the rows of each array.
Arrays = Mapping[str, tuple[type, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be found in each clip and copy."""

    #: For the workers, without changes.
    setup: Setup
    #: All but content and changes that the numbers depend on, as JSON can hold it.
    depends: Sequence[Any]
    arrays: Arrays
    #: The rows that one file gives, by the names of `arrays`.
    rows_of: Callable[[ClipOutcome], Mapping[str, NDArray]]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """What was found, row by row."""

    #: int64 (n_rows,) each: the clip, by its place in the list asked for, and its copy; copy 0 is the clip as it is.
    clip: NDArray[np.int64]
    copy: NDArray[np.int64]
    #: Named as in `Task.arrays`.
    arrays: dict[str, NDArray]
    #: Clips, or copies of clips, that gave nothing: index -> reason.
    failures: dict[int, str]


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
class _Found:
    """What was found in a bucket."""

    #: Content hash of the clip of each row.
    content: NDArray[np.str_]
    arrays: dict[str, NDArray]
    #: Content hash -> why there are no rows.
    failures: dict[str, str]


def compute(
    task: Task,
    paths: Sequence[str],
    hashes: Sequence[str],
    cache_dir: Path,
    changes: AugmentConfig,
    jobs: int,
    progress: Progress,
) -> Rows:
    """Find, or fetch from the cache, what `task` asks of clips and of `changes.copies` changed copies of each.

    Parameters
    ----------
    task : Task
    paths, hashes
        Files, and the SHA-256 of the content of each.
    cache_dir : Path
        Made where missing; safe to delete at any time. A file in it that is damaged is computed again.
    changes : AugmentConfig
        How copies differ.
    jobs : int
        Worker processes; 0 = one per core.
    progress : Progress
        Told of files as they are done; copies count as files.

    Raises
    ------
    RunError
        The cache cannot be written, or no worker can be kept alive.
    PluginError
        The workers cannot load a plugin.
    """
    buckets = _plan(paths, hashes, cache_dir, task.depends, changes)
    found = [_stored(bucket.file, task.arrays) for bucket in buckets]
    missing = [number for number, rows in enumerate(found) if rows is None]
    if missing:
        setup = replace(task.setup, change=Augmentation(changes) if changes.copies else None)
        n_missing = sum(len(buckets[number].clips) for number in missing)
        progress.begin(n_missing, sum(len(bucket.clips) for bucket in buckets))
        try:
            with temporary_extraction(setup, worker_count(jobs, n_missing), progress) as extraction:
                shards = ((number, buckets[number].refs()) for number in missing)
                for number, outcomes in extraction.run(shards):
                    rows = found[number] = _stacked(outcomes, buckets[number], task)
                    # A worker may have died for lack of memory, or of time: next time it may be otherwise.
                    if not any(outcome.error_type.startswith("Worker") for outcome in outcomes):
                        _store(buckets[number].file, rows)
        finally:
            progress.end()
    return _joined([(bucket, rows) for bucket, rows in zip(buckets, found, strict=True) if rows is not None], hashes)


def _plan(
    paths: Sequence[str], hashes: Sequence[str], cache_dir: Path, task: Sequence[Any], changes: AugmentConfig
) -> list[_Bucket]:
    members: dict[int, dict[str, str]] = {}
    for path, content in zip(paths, hashes, strict=True):
        members.setdefault(int(content[:8], 16) % _N_BUCKETS, {})[content] = path
    buckets = []
    for copy in range(1 + changes.copies):
        for clips in members.values():
            depends = [_CACHE_VERSION, sorted(clips), *task]
            if copy:
                # How many copies there are does not change this one.
                depends += [asdict(replace(changes, copies=0)), copy]
            key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]
            buckets.append(_Bucket(cache_dir / f"{key}.npz", dict(sorted(clips.items())), copy))
    return buckets


def _stacked(outcomes: Sequence[ClipOutcome], bucket: _Bucket, task: Task) -> _Found:
    """Keep what the task asks of the outcomes of a bucket."""
    content: list[str] = []
    parts: dict[str, list[NDArray]] = {
        name: [np.zeros((0, *shape), kind)] for name, (kind, shape) in task.arrays.items()
    }
    failures: dict[str, str] = {}
    for name, outcome in zip(bucket.clips, outcomes, strict=True):
        # Half a recording may lack what its label is about.
        if outcome.status is not Status.OK:
            failures[name] = reason_of(outcome)
            continue
        rows = task.rows_of(outcome)
        for key, part in parts.items():
            part.append(rows[key])
        content += [name] * len(next(iter(rows.values())))
    joined = {name: np.concatenate(found) for name, found in parts.items()}
    return _Found(np.array(content, "U64"), joined, failures)


def _store(path: Path, rows: _Found) -> None:
    try:
        failures = np.array(json.dumps(rows.failures))
        write_arrays(path, {**rows.arrays, "content": rows.content, "failures": failures})
    except OSError as error:
        raise RunError(
            f"Cannot write features to the cache {path.parent}: {error.strerror or error}. Free some space, or give "
            f"another folder to `train` or `evaluate` with --cache; what is done is kept."
        ) from error


def _stored(path: Path, arrays: Arrays) -> _Found | None:
    """Return what a cache file holds; None where there is none, or it is damaged."""
    found = read_arrays(path, (*arrays, "content", "failures"))
    if found is None:
        return None
    content, failures = found.pop("content"), found.pop("failures")
    fits = (
        found[name].shape == (len(content), *shape) and found[name].dtype == kind
        for name, (kind, shape) in arrays.items()
    )
    return _Found(content, found, json.loads(str(failures))) if all(fits) else None


def _joined(found: Sequence[tuple[_Bucket, _Found]], hashes: Sequence[str]) -> Rows:
    place: dict[str, list[int]] = {}
    for index, content in enumerate(hashes):
        place.setdefault(content, []).append(index)
    failures: dict[int, str] = {}
    clips, copies = [], []
    parts: dict[str, list[NDArray]] = {}
    for bucket, rows in found:
        for content, reason in rows.failures.items():
            failures |= dict.fromkeys(place[content], reason)
        # A file that is there twice gives its rows to each of its places.
        pairs = [(row, index) for row, content in enumerate(rows.content) for index in place[str(content)]]
        chosen, places = np.array(pairs, np.int64).reshape(-1, 2).T
        clips.append(places)
        copies.append(np.full(len(places), bucket.copy, np.int64))
        for name, array in rows.arrays.items():
            parts.setdefault(name, []).append(array[chosen])
    joined = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return Rows(np.concatenate(clips), np.concatenate(copies), joined, failures)
