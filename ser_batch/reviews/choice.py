"""What a listener is asked about next: the audit sample, or stretches chosen for another purpose."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import DataError
from ser_batch.reviews.answers import reviews_folder
from ser_batch.reviews.sample import (
    AuditSample,
    Unit,
    UnitKind,
    channel_columns,
    channels_of,
    choose_unit,
    draw_sample,
    load_sample,
    names_of,
    population_of,
    save_sample,
    units_of,
)
from ser_batch.run.read import Run
from ser_batch.run.schema import matrix_of
from ser_batch.text import did_you_mean

__all__ = [
    "Task",
    "choose_for_adapt",
    "tasks_for_adapt",
    "tasks_for_audit",
    "tasks_for_files",
    "tasks_for_label",
    "tasks_like",
]

Floats = NDArray[np.float32]

#: Most tasks of a visit, besides those of an audit.
_MOST_TASKS = 500


@dataclass(frozen=True, slots=True)
class Task:
    """One question."""

    unit: Unit
    purpose: str
    #: Of this unit into the audit sample; None for all other purposes.
    inclusion_probability: float | None = None


def tasks_for_audit(run: Run, half_width: float | None = None) -> tuple[AuditSample, list[Task]]:
    """Return the audit sample of a run, drawn and stored if there is none, and its questions in their order.

    Raises
    ------
    DataError
        The run holds nothing labelled, its stored sample is damaged or of another run.
    RunError
        A run without a model, or the sample cannot be stored.
    """
    sample = load_sample(run.folder)
    if sample is not None and sample.run_id != str(run.info.get("run_id", "")):
        raise DataError(
            f"{reviews_folder(run.folder)} holds answers to the audit of another run. Move the folder back to its run."
        )
    if sample is None or (half_width is not None and half_width != sample.half_width):
        # The same run gives the same order, so a narrower interval only takes more of it.
        sample = draw_sample(run, half_width or 0.05, sample.unit if sample else None)
        save_sample(run.folder, sample)
    return sample, [Task(item, "audit", item.inclusion_probability) for item in sample.items]


def tasks_for_label(run: Run, label: str) -> list[Task]:
    """Return units that were given a label, in random order.

    Raises
    ------
    DataError
        No such label, or nothing has it.
    """
    if label not in run.labels:
        known = ", ".join(run.labels) or "none: it was made without a model"
        raise DataError(f"{run.folder} has no label {label!r}; it has {known}.{did_you_mean(label, run.labels)}")
    unit = choose_unit(run)
    places = np.flatnonzero(population_of(run, unit).label == run.labels.index(label))
    if not len(places):
        raise DataError(f"No {unit[:-1]} of {run.folder} was labelled {label}.")
    chosen = np.random.default_rng(0).permutation(places)[:_MOST_TASKS]
    return [Task(item, "only") for item in units_of(run, unit, chosen)]


def tasks_for_files(run: Run, paths: Sequence[str]) -> tuple[list[Task], list[str]]:
    """Return all units of some files, given as paths or as ``clip_id``, in the order given; and what is to be said.

    Raises
    ------
    DataError
        The run has none of them.
    """
    root = str(run.info.get("root") or "")
    wanted: dict[str, str] = {}
    for path in paths:
        wanted.setdefault(path, path)
        wanted.setdefault(os.path.relpath(path, root) if root else path, path)  # an absolute path, or from where we are
    of = {name: i for i, name in enumerate(wanted)}
    unit = choose_unit(run)
    chosen = _places_of(run, unit, of)
    units = units_of(run, unit, chosen)
    units.sort(key=lambda item: (of[item.clip_id], item.start_s, item.channel))
    missing = sorted(set(paths) - {wanted[item.clip_id] for item in units})
    if not units:
        raise DataError(f"{run.folder} has no label for any of the {len(paths)} files of the list, such as {paths[0]}.")
    notices = []
    if missing:
        notices = [f"{len(missing)} of {len(paths)} files, such as {missing[0]}, have no label in {run.folder}."]
    return [Task(item, "files") for item in units], notices


def _places_of(run: Run, unit: UnitKind, clip_ids: dict[str, int]) -> NDArray[np.int64]:
    found, first = [np.zeros(0, np.int64)], 0
    for names in names_of(run, unit):
        inside = [first + i for i, name in enumerate(names) if name in clip_ids]
        found.append(np.array(inside, np.int64))
        first += len(names)
    return np.concatenate(found)


def tasks_for_adapt(run: Run) -> list[Task]:
    """Return units from which a model learns most: at random, the labels that were given in turn.

    Choices by doubt and by distance in embedding space did no better on whole archives; docs/own-archive.md has the
    figures.
    """
    unit = choose_unit(run)
    label = population_of(run, unit).label
    if not len(label):
        raise DataError(f"{run.folder} holds no labelled {unit[:-1]}, so there is nothing to ask about.")
    return [Task(item, "adapt") for item in units_of(run, unit, choose_for_adapt(label, _MOST_TASKS))]


def choose_for_adapt(label: NDArray[np.int16], n: int, seed: int = 0) -> NDArray[np.int64]:
    """Choose units as `tasks_for_adapt` does.

    Parameters
    ----------
    label : int16 (n_units,)
        Place of the label of each unit among those of the model.
    n : int
        How many, at most.
    seed : int

    Returns
    -------
    places : int64 (n_chosen,)
        In the order in which they are asked about.
    """
    order = np.random.default_rng(seed).permutation(len(label))
    rank = np.empty(len(order), np.int64)
    for number in np.unique(label):
        of_label = order[label[order] == number]
        rank[of_label] = np.arange(len(of_label))
    return np.asarray(np.lexsort((label, rank))[:n])


def tasks_like(run: Run, clip_id: str) -> list[Task]:
    """Return the units that sound most like a clip: nearest to the mean of its embeddings, by cosine.

    Raises
    ------
    DataError
        The run has no such clip.
    RunError
        It has no embeddings.
    """
    own = run.read("embeddings", ["embedding"], [("clip_id", "==", clip_id)], metadata=False)
    if not len(own):
        raise DataError(
            f"{run.folder} has no embedding of {clip_id}. --like takes a clip_id as the table of the report shows it."
        )
    wanted = _unit_length(matrix_of(own.column("embedding")).astype(np.float32).mean(axis=0, keepdims=True))[0]
    best: list[tuple[float, str, int]] = []
    for rows in run.tables("embeddings", ["clip_id", "window_index", "embedding"]):
        likeness = _unit_length(matrix_of(rows.column("embedding")).astype(np.float32)) @ wanted
        top = np.argsort(-likeness)[: 2 * _MOST_TASKS]
        names = rows.column("clip_id").take(top).to_pylist()
        index = rows.column("window_index").take(top).to_pylist()
        best += zip(likeness[top].tolist(), names, index, strict=True)
        best = sorted(best, key=lambda item: -item[0])[: 2 * _MOST_TASKS]
    best = [item for item in best if item[1] != clip_id]
    unit = choose_unit(run)
    of = {name: i for i, name in enumerate(dict.fromkeys(name for _, name, _ in best))}
    units_by_clip: dict[str, list[Unit]] = {}
    for item in units_of(run, unit, _places_of(run, unit, of)):
        units_by_clip.setdefault(item.clip_id, []).append(item)
    windows = _windows_of(run, of)
    # Keys of a dict are in the order of the best that is in each.
    chosen = {
        item: None
        for _, name, index in best
        if (window := windows.get(name, {}).get(index))  # it may be lost
        for item in units_by_clip.get(name, ())
        if _overlap(item, *window)
    }
    return [Task(item, "like") for item in chosen][:_MOST_TASKS]


def _overlap(unit: Unit, start_s: float, end_s: float, channel: int) -> bool:
    """Tell whether a unit has at least half of a window of its channel, or lies in it by half."""
    if unit.channel not in (0, channel):
        return False
    shared_s = min(unit.end_s, end_s) - max(unit.start_s, start_s)
    return shared_s >= 0.5 * min(unit.end_s - unit.start_s, end_s - start_s)


def _windows_of(run: Run, clip_ids: Collection[str]) -> dict[str, dict[int, tuple[float, float, int]]]:
    """Return start and end in s, and channel, of the windows of some clips: clip -> index -> those."""
    where = [("clip_id", "in", sorted(clip_ids))]
    columns = ["clip_id", "window_index", "start_s", "end_s"]
    rows = run.read("windows", [*columns, *channel_columns(run, "windows")], where, metadata=False)
    told = (rows.column(name).to_pylist() for name in columns)
    found: dict[str, dict[int, tuple[float, float, int]]] = {}
    for name, index, start_s, end_s, channel in zip(*told, channels_of(rows).tolist(), strict=True):
        found.setdefault(name, {})[index] = (start_s, end_s, channel)
    return found


def _unit_length(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)
