"""A model adapted to an archive: its last layer learnt from answers, by the embeddings of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch._version import __version__
from ser_batch.bootstrap import cluster_interval, mean_interval
from ser_batch.classifier.checkpoint import Checkpoint, load, save
from ser_batch.classifier.pooling import window_shares
from ser_batch.errors import DataError, RunError
from ser_batch.heads.answered import Answered, Found, answers_of_run, answers_of_table, grouped, usable
from ser_batch.heads.learn import PENALTIES, Examples, Floats, Head, cross_fitted, fit_head, fit_temperature, folds_of
from ser_batch.reviews.answers import stretch_of
from ser_batch.reviews.unlearnt import store_unlearnt
from ser_batch.run.read import Run
from ser_batch.run.schema import matrix_of

__all__ = [
    "Adaptation",
    "Compared",
    "Learnt",
    "adapt_model",
    "examples_of",
    "head_of",
    "learn",
    "spread_of",
    "windows_of",
]

_N_OUTER, _N_INNER = 5, 4


@dataclass(frozen=True, slots=True)
class Compared:
    """A score before and after, on answers that were not learnt from."""

    before: float
    after: float
    #: 95 % of the difference.
    interval: tuple[float, float]

    @property
    def gain(self) -> float:
        return self.after - self.before

    @property
    def is_better(self) -> bool:
        """Whether the difference is above one standard error: less may well be chance."""
        low, high = self.interval
        # Written so that NaN fails.
        return self.gain > (high - low) / 3.92 and self.gain > 0

    @property
    def is_worse(self) -> bool:
        """Whether the whole interval is below 0."""
        return self.interval[1] < 0


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """A last layer, and how it does."""

    head: Head
    #: Whether `head` is the new layer, or the old one, because the new one is not better.
    is_new: bool
    penalty: float
    #: Mean log-probability of what was answered; before, at the temperature that suits the old layer here.
    log_score: Compared
    uar: Compared
    accuracy: Compared
    #: Recall of each label before and after, NaN where nobody answered it.
    recalls: dict[str, tuple[float, float]]
    #: float64 (n_stretches, n_labels): what new layers say of answers that they did not learn from.
    unlearnt: Floats


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What came of it."""

    labels: tuple[str, ...]
    n_answers: int
    n_groups: int
    #: What stands for groups, in a sentence.
    groups: str
    #: Mean log-probability of what was answered: decides whether the new layer is better.
    log_score: Compared
    uar: Compared
    accuracy: Compared
    #: Recall of each label before and after, NaN where nobody answered it.
    recalls: dict[str, tuple[float, float]]
    penalty: float
    temperature: float
    #: Whether the new layer is in the file, or the old one, because the new one is not better.
    is_new: bool
    notices: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        values = asdict(self)
        for name in ("log_score", "uar", "accuracy"):
            values[name] = {**values[name], "gain": getattr(self, name).gain}
        return _jsonable(values)


def adapt_model(run: Run, parent: Checkpoint, target: Path, table: Path | None = None, group: str = "") -> Adaptation:
    """Learn the last layer of a model from answers about a run, and store the model.

    What it would have said of the answers without them is kept beside them, for audits of its labels.

    Parameters
    ----------
    run : Run
        Its embeddings are learnt from.
    parent : Checkpoint
        The model of the run.
    target : Path
        The model file to write.
    table : Path, optional
        A table of labels; by default the answers that were given about the run.
    group : str
        What is held out together: ``speaker``, ``folder`` or a column of the metadata; "" to guess, and say so.

    Returns
    -------
    adaptation : Adaptation
        Before and after on answers that were not learnt from: penalty, temperature and layer of each fold are chosen
        without it.

    Raises
    ------
    DataError
        Too few answers, all alike, of one group, of another run, or in a table that cannot be used.
    RunError
        The run has no embeddings, or those of another network.
    ModelError
        The file cannot be written.
    """
    heard = run.info.get("model", {}).get("listening_sha256", "")
    run.schema("embeddings")
    if heard != parent.listening_sha256:
        raise RunError(
            f"The embeddings of {run.folder} are of another network than {parent.name!r}, whose file was replaced "
            f"since. Restore it, or scan again."
        )
    found = answers_of_table(run, table) if table else answers_of_run(run)
    # What is missing in the run comes before what is learnt: groups and labels are those of what can be used.
    windows = windows_of(run, found)
    labels = usable(found, run.labels)
    groups = grouped(found, run, group)
    examples = examples_of(found.stretches, windows, labels)
    n_groups = len(np.unique(examples.group))
    if n_groups < 2:
        raise DataError(
            f"All answers are of one group, so nothing can be said about others. {groups} Answer about others, too, or "
            f"say by --group what tells voices apart."
        )
    own = head_of(parent)
    learnt = learn(examples, own.with_labels(run.labels), own.with_labels(labels), spread_of(run))
    result = Adaptation(
        labels=learnt.head.labels,
        n_answers=len(examples),
        n_groups=n_groups,
        groups=groups,
        log_score=learnt.log_score,
        uar=learnt.uar,
        accuracy=learnt.accuracy,
        recalls=learnt.recalls,
        penalty=learnt.penalty,
        temperature=learnt.head.temperature,
        is_new=learnt.is_new,
        notices=tuple(found.notices),
    )
    save(target, _adapted(parent, run, learnt.head, result, target.stem))
    if not learnt.is_new:
        return result
    stretches = [stretch_of(item.clip_id, item.start_s, item.end_s) for item in found.stretches]
    try:
        store_unlearnt(run.folder, load(target).sha256, learnt.head.labels, stretches, learnt.unlearnt)
    except RunError as error:
        told = f"{error} An audit of the new labels by these answers would flatter them."
        return replace(result, notices=(*result.notices, told))
    return result


def learn(examples: Examples, old: Head, start: Head, spread: tuple[Floats, Floats]) -> Learnt:
    """Learn a layer from examples, and find out whether it is better than the old one.

    It is where what was answered is more probable by it, on answers that were not learnt from, by more than a standard
    error, and the mean recall is not clearly worse. Recalls alone change in steps, by which few answers tell little.

    Parameters
    ----------
    examples : Examples
        Of two groups or more; labels are those of `start`.
    old : Head
        What there is; the first labels of `start` are its own.
    start : Head
        What the new layer is held to.
    spread : pair of float64 (n_inputs,)
        See `fit_head`.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - asks all libraries that are loaded

    before = np.zeros_like(examples.truth)
    before[:, : len(old.labels)] = examples.said_by(old)
    # Matrices are small: threads that share them cost more than they bring.
    with threadpool_limits(1, "blas"):
        tempered, after = _not_learnt_from(examples, start, spread)
        best, temperature = cross_fitted(examples, start, spread, _N_OUTER)
        head = replace(fit_head(examples, start, spread, PENALTIES[: best + 1])[-1], temperature=temperature)
    log_score, uar = _log_score(examples, tempered, after), _compared(examples, before, after, _uar)
    is_new = log_score.is_better and not uar.is_worse and best > 0
    return Learnt(
        head if is_new else old,
        is_new,
        PENALTIES[best],
        log_score,
        uar,
        _compared(examples, before, after, _accuracy),
        _recalls(start.labels, examples.truth, before, after),
        after,
    )


def windows_of(run: Run, found: Found) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Return times (n, 2), weights (n,) and embeddings (n, n_inputs) of the windows of answered files.

    Stretches whose file the run has no windows of are left out of `found`, and said.
    """
    wanted = {item.clip_id for item in found.stretches}
    chosen = pc.field("clip_id").isin(sorted(wanted))
    times: dict[str, list[Floats]] = {}
    for rows in run.tables("windows", ["clip_id", "start_s", "end_s"], chosen):
        both = np.column_stack([rows.column(name).to_numpy() for name in ("start_s", "end_s")])
        for clip_id, part in _by_clip(rows.column("clip_id").to_pylist(), both):
            times.setdefault(clip_id, []).append(part)
    heard: dict[str, list[Floats]] = {}
    for rows in run.tables("embeddings", ["clip_id", "weight", "embedding"], chosen):
        both = np.column_stack([rows.column("weight").to_numpy(), matrix_of(rows.column("embedding"))])
        for clip_id, part in _by_clip(rows.column("clip_id").to_pylist(), both.astype(np.float64)):
            heard.setdefault(clip_id, []).append(part)
    windows = {}
    for clip_id, parts in times.items():
        numbers = np.concatenate(heard[clip_id])
        windows[clip_id] = (np.concatenate(parts), numbers[:, 0], numbers[:, 1:])
    gone = [item for item in found.stretches if item.clip_id not in windows or not _inside(item, windows).any()]
    if gone:
        found.notices.append(
            f"{len(gone)} answers are about audio of which the run has no window, such as {gone[0].clip_id}, and are "
            f"left out. Were files moved or deleted since? Scan again, and answer about what is there."
        )
        found.stretches = [item for item in found.stretches if item not in gone]
    return windows


def _by_clip(clip_ids: Sequence[str], rows: Floats) -> list[tuple[str, Floats]]:
    ids = np.array(clip_ids, object)
    borders = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1), len(ids)]
    return [(ids[first], rows[first:last]) for first, last in pairwise(borders) if last > first]


def _inside(item: Answered, windows: dict[str, tuple[Floats, Floats, Floats]]) -> NDArray[np.bool_]:
    """Tell which windows of a file are of a stretch: those that share half of it, or of themselves, with it."""
    start_s, end_s = windows[item.clip_id][0].T
    shared_s = np.minimum(end_s, item.end_s) - np.maximum(start_s, item.start_s)
    return np.asarray(shared_s >= 0.5 * np.minimum(end_s - start_s, item.end_s - item.start_s) - 1e-6)


def head_of(model: Checkpoint) -> Head:
    """Return the last layer of a model."""
    weights, bias = (model.weights[f"head.{name}"].astype(np.float64) for name in ("weight", "bias"))
    return Head(model.labels, weights, bias, model.temperature)


def examples_of(
    stretches: Sequence[Answered], windows: dict[str, tuple[Floats, Floats, Floats]], labels: Sequence[str]
) -> Examples:
    """Return answered stretches as they are learnt from; `windows` as `windows_of` returns them."""
    inputs, weights, of = [], [], []
    truth = np.zeros((len(stretches), len(labels)))
    names = sorted({item.group for item in stretches})
    for number, item in enumerate(stretches):
        inside = _inside(item, windows)
        _, weight, numbers = windows[item.clip_id]
        inputs.append(numbers[inside])
        weights.append(weight[inside])
        of.append(np.full(inside.sum(), number))
        for label, part in item.heard.items():
            truth[number, labels.index(label)] = part
    which = np.concatenate(of)
    group = np.array([names.index(item.group) for item in stretches])
    return Examples(np.concatenate(inputs), window_shares(np.concatenate(weights), which), which, truth, group)


def spread_of(run: Run) -> tuple[Floats, Floats]:
    """Return mean and deviation of each input over all windows of a run."""
    n_rows, total, squares = 0, np.zeros(1), np.zeros(1)
    for rows in run.tables("embeddings", ["embedding"]):
        numbers = matrix_of(rows.column("embedding")).astype(np.float32)
        n_rows += len(numbers)
        total = total + numbers.sum(axis=0, dtype=np.float64)
        squares = squares + np.square(numbers).sum(axis=0, dtype=np.float64)
    mean = total / n_rows
    return mean, np.sqrt(np.maximum(squares / n_rows - mean**2, 0.0))


def _not_learnt_from(examples: Examples, start: Head, spread: tuple[Floats, Floats]) -> tuple[Floats, Floats]:
    """Return what layers say of answers that neither they nor their penalty nor temperature were chosen by.

    First of the layer that was there, its temperature alone chosen anew, then of the adapted one: (n_stretches,
    n_labels) each.
    """
    fold = folds_of(examples.group, _N_OUTER, seed=1)
    before, after = np.zeros_like(examples.truth), np.zeros_like(examples.truth)
    for number in range(fold.max() + 1):
        inside = fold == number
        learnt, asked = examples.only(~inside), examples.only(inside)
        best, temperature = 0, 1.0
        if len(np.unique(learnt.group)) > 1:
            best, temperature = cross_fitted(learnt, start, spread, _N_INNER)
        head = fit_head(learnt, start, spread, PENALTIES[: best + 1])[-1]
        after[inside] = asked.said_by(replace(head, temperature=temperature))
        old_temperature, _ = fit_temperature(learnt, start.logits(learnt.inputs))
        before[inside] = asked.pooled(start.logits(asked.inputs) / old_temperature)
    return before, after


def _log_score(examples: Examples, before: Floats, after: Floats) -> Compared:
    old, new = ((examples.truth * np.log(said.clip(min=1e-12))).sum(axis=1) for said in (before, after))
    return Compared(float(old.mean()), float(new.mean()), mean_interval(new - old, examples.group))


def _uar(truth: Floats, said: NDArray[np.int64]) -> float:
    """Return the mean recall over what was answered; disputed answers count in part."""
    right = np.bincount(said, truth[np.arange(len(said)), said], truth.shape[1])
    total = truth.sum(axis=0)
    return float(np.mean(right[total > 0] / total[total > 0]))


def _accuracy(truth: Floats, said: NDArray[np.int64]) -> float:
    return float(truth[np.arange(len(said)), said].mean())


def _compared(examples: Examples, before: Floats, after: Floats, score: Any) -> Compared:
    truth, old, new = examples.truth, before.argmax(axis=1), after.argmax(axis=1)
    members = [np.flatnonzero(examples.group == name) for name in np.unique(examples.group)]

    def difference(drawn: NDArray[np.int64]) -> float:
        rows = np.concatenate([members[number] for number in drawn])
        return float(score(truth[rows], new[rows]) - score(truth[rows], old[rows]))

    low, high = cluster_interval(len(members), difference)
    return Compared(score(truth, old), score(truth, new), (float(low), float(high)))


def _recalls(labels: Sequence[str], truth: Floats, before: Floats, after: Floats) -> dict[str, tuple[float, float]]:
    recalls = {}
    for number, label in enumerate(labels):
        part = truth[:, number]
        pair = [float(part[said.argmax(axis=1) == number].sum() / part.sum()) if part.any() else np.nan
                for said in (before, after)]  # fmt: skip
        recalls[label] = (pair[0], pair[1])
    return recalls


def _adapted(parent: Checkpoint, run: Run, head: Head, result: Adaptation, name: str) -> Checkpoint:
    """Return the model: all of the parent but its last layer, and a card that says from what it came."""
    weights = dict(parent.weights)
    weights["head.weight"] = head.weights.astype(np.float32)
    weights["head.bias"] = head.bias.astype(np.float32)
    told = result.as_dict()
    meta = {
        **parent.meta,
        "name": name,
        "labels": list(head.labels),
        "network": parent.meta["network"] | {"n_labels": len(head.labels)},
        "temperature": head.temperature,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "derived_from": parent.name,
        "adapted": {
            "from": parent.name,
            "from_sha256": parent.sha256,
            "run_id": str(run.info.get("run_id", "")),
            "tool_version": __version__,
            **told,
        },
    }
    if result.is_new:
        meta["scores"] = {
            "side": "answers that were not learnt from",
            "uar": result.uar.after,
            "chance": 1 / len([pair for pair in result.recalls.values() if not np.isnan(pair[0])]),
            "uar_before": result.uar.before,
            "n_clips": result.n_answers,
        }
    return Checkpoint(weights, meta)


def _jsonable(value: Any) -> Any:
    """Return a value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
