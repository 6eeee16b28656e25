"""A model adapted to an archive by answers: its last layer, or the whole network (`ser_batch.heads.deep`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch._version import __version__
from ser_batch.classifier.checkpoint import Checkpoint, check_name, load, save
from ser_batch.classifier.pooling import window_shares
from ser_batch.errors import DataError, ModelError, RunError
from ser_batch.heads.answered import Answered, Found, answers_of_run, answers_of_table, grouped, usable
from ser_batch.heads.learn import (
    PENALTIES,
    Examples,
    Floats,
    Head,
    best_head,
    cross_fitted,
    fit_temperature,
    folds_of,
    head_of,
    weights_of_head,
)
from ser_batch.heads.scored import Scored, Unlearnt, score
from ser_batch.resources import model_path
from ser_batch.reviews.answers import stretch_of
from ser_batch.reviews.sample import channel_columns, channels_of
from ser_batch.reviews.unlearnt import store_unlearnt
from ser_batch.run.read import Run
from ser_batch.run.schema import matrix_of
from ser_batch.training.preflight import require_file
from ser_batch.training.starting import with_history

if TYPE_CHECKING:
    from ser_batch.heads.deep import Deep, DeepOptions

__all__ = [
    "Adaptation",
    "Learnt",
    "adapt_model",
    "examples_of",
    "learn",
    "parent_of",
    "spread_of",
    "windows_of",
]

_N_OUTER, _N_INNER = 5, 4


@dataclass(frozen=True, slots=True, eq=False)
class Learnt:
    """A last layer, and how it does."""

    head: Head
    #: Whether `head` is the new layer, or the old one, because the new one is not better.
    is_new: bool
    penalty: float
    scores: Scored
    #: float64 (n_stretches, n_labels): what new layers say of answers that they did not learn from.
    unlearnt: Floats

    @property
    def labels(self) -> tuple[str, ...]:
        return self.head.labels

    @property
    def temperature(self) -> float:
        return self.head.temperature

    @property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        return weights_of_head(self.head)

    @property
    def how(self) -> dict[str, float]:
        return {"penalty": self.penalty}


@dataclass(frozen=True, slots=True)
class Adaptation:
    """What came of it."""

    labels: tuple[str, ...]
    n_answers: int
    n_groups: int
    #: What stands for groups, in a sentence.
    groups: str
    scores: Scored
    #: What was learnt, and how far: ``penalty`` of the last layer, or ``strength`` of the whole network.
    learnt: Mapping[str, float]
    temperature: float
    #: Whether the new model is in the file, or the old one, because the new one is not better.
    is_new: bool
    #: With the whole network: what the last layer alone would do, on the same answers.
    layer_alone: Scored | None
    notices: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON can hold it."""
        values = asdict(self)
        for name in ("scores", "learnt"):
            del values[name]
        alone = {"layer_alone": _told(self.layer_alone) if self.layer_alone else None}
        whole: dict[str, Any] = _jsonable(values | _told(self.scores) | dict(self.learnt) | alone)
        return whole


def _told(scores: Scored) -> dict[str, Any]:
    values = asdict(scores)
    for name in ("log_score", "uar", "accuracy"):
        values[name] = {**values[name], "gain": getattr(scores, name).gain}
    return values


def parent_of(run: Run) -> Checkpoint:
    """Return the model of a run.

    Raises
    ------
    ModelError
        It is of a plugin, or its file is gone or damaged.
    """
    name = str(run.info.get("config", {}).get("predict", {}).get("model", ""))
    try:
        path = model_path(name)
    except ModelError:
        raise ModelError(
            f"{run.folder} was labelled by {name!r}, which is neither a shipped model nor a .safetensors file that is "
            f"there. A file: put it back where it was. A model of a plugin: it cannot be adapted."
        ) from None
    return load(path)


def adapt_model(
    run: Run,
    parent: Checkpoint,
    target: Path,
    table: Path | None = None,
    group: str = "",
    deep: DeepOptions | None = None,
) -> Adaptation:
    """Learn the last layer of a model, or the whole network, from answers about a run, and store the model.

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
    deep : DeepOptions, optional
        Go on with the whole network, on the audio.

    Returns
    -------
    adaptation : Adaptation
        Before and after on answers that were not learnt from: all that is chosen for a fold is chosen without it.

    Raises
    ------
    DataError
        Too few answers, all alike, of one group, of another run, or in a table that cannot be used; with `deep`,
        recordings that are gone.
    InputError
        With `deep`, the folder of the recordings is gone.
    RunError
        The run has no embeddings, or those of another network; or the folder of the file cannot be written.
    ModelError
        The file cannot be called so, is that of the parent, or cannot be written.
    """
    check_name(target)
    require_file(target, "-o")
    if parent.path and target.exists() and target.samefile(parent.path):
        raise ModelError(f"{target} is the model of {run.folder} itself, which is kept: give another name by -o.")
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
    if deep is not None:
        from ser_batch.heads.deep import heard_again, learn_deep  # noqa: PLC0415 - loads torch

        heard_in = heard_again(run, parent, found, deep)
        groups = grouped(found, run, group)
    examples = examples_of(found.stretches, windows, labels)
    n_groups = len(np.unique(examples.group))
    if n_groups < 2:
        raise DataError(
            f"All answers are of one group, so nothing can be said about others. {groups} Answer about others, too, or "
            f"say by --group what tells voices apart."
        )
    own = head_of(parent)
    layer = learn(examples, own.with_labels(run.labels), own.with_labels(labels), spread_of(run))
    learnt: Learnt | Deep = layer
    if deep is not None:
        learnt = learn_deep(run, parent, found, labels, heard_in, deep)
    result = Adaptation(
        labels=learnt.labels,
        n_answers=len(examples),
        n_groups=n_groups,
        groups=groups,
        scores=learnt.scores,
        learnt=learnt.how,
        temperature=learnt.temperature,
        is_new=learnt.is_new,
        layer_alone=layer.scores if deep else None,
        notices=tuple(found.notices),
    )
    save(target, _adapted(parent, run, learnt, result, target.stem))
    if not learnt.is_new:
        return result
    stretches = [stretch_of(item.clip_id, item.start_s, item.end_s, item.channel) for item in found.stretches]
    try:
        store_unlearnt(run.folder, load(target).sha256, learnt.labels, stretches, learnt.unlearnt)
    except RunError as error:
        told = f"{error} An audit of the new labels by these answers would flatter them."
        return replace(result, notices=(*result.notices, told))
    return result


def learn(examples: Examples, old: Head, start: Head, spread: tuple[Floats, Floats]) -> Learnt:
    """Learn a layer from examples, and find out whether it is better than the old one, see `Scored.is_better`.

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
        head = best_head(examples, start, spread, best, temperature)
    scores = score(start.labels, examples.truth, examples.group, Unlearnt(before, tempered, after))
    is_new = scores.is_better and best > 0
    return Learnt(head if is_new else old, is_new, PENALTIES[best], scores, after)


def windows_of(run: Run, found: Found) -> dict[str, tuple[Floats, Floats, Floats]]:
    """Return start, end and channel (n, 3), weights (n,) and embeddings (n, n_inputs) of the windows of answered files.

    Stretches whose file the run has no windows of are left out of `found`, and said.
    """
    wanted = {item.clip_id for item in found.stretches}
    chosen = pc.field("clip_id").isin(sorted(wanted))
    times: dict[str, list[Floats]] = {}
    for rows in run.tables("windows", ["clip_id", "start_s", "end_s", *channel_columns(run, "windows")], chosen):
        where = [*(rows.column(name).to_numpy() for name in ("start_s", "end_s")), channels_of(rows)]
        for clip_id, part in _by_clip(rows.column("clip_id").to_pylist(), np.column_stack(where)):
            times.setdefault(clip_id, []).append(part)
    heard: dict[str, list[Floats]] = {}
    for rows in run.tables("embeddings", ["clip_id", "weight", "embedding"], chosen):
        both = np.column_stack([rows.column("weight").to_numpy(), matrix_of(rows.column("embedding"))])
        for clip_id, part in _by_clip(rows.column("clip_id").to_pylist(), both.astype(np.float64)):
            heard.setdefault(clip_id, []).append(part)
    windows = {}
    for clip_id in times.keys() & heard.keys():  # one of them may be lost
        laid, numbers = np.concatenate(times[clip_id]), np.concatenate(heard[clip_id])
        if len(laid) == len(numbers):
            windows[clip_id] = (laid, numbers[:, 0], numbers[:, 1:])
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
    start_s, end_s, channel = windows[item.clip_id][0].T
    shared_s = np.minimum(end_s, item.end_s) - np.maximum(start_s, item.start_s)
    is_heard = (channel == item.channel) | (item.channel == 0)
    return np.asarray(is_heard & (shared_s >= 0.5 * np.minimum(end_s - start_s, item.end_s - item.start_s) - 1e-6))


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
        after[inside] = asked.said_by(best_head(learnt, start, spread, best, temperature))
        old_temperature, _ = fit_temperature(learnt, start.logits(learnt.inputs))
        before[inside] = asked.pooled(start.logits(asked.inputs) / old_temperature)
    return before, after


def _adapted(parent: Checkpoint, run: Run, learnt: Learnt | Deep, result: Adaptation, name: str) -> Checkpoint:
    """Return the model: all of the parent but what was learnt, and a card that says from what it came."""
    told = result.as_dict()
    meta = {
        **parent.meta,
        "name": name,
        "labels": list(learnt.labels),
        "network": parent.meta["network"] | {"n_labels": len(learnt.labels)},
        "temperature": learnt.temperature,
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
            "uar": result.scores.uar.after,
            "chance": 1 / len([pair for pair in result.scores.recalls.values() if not np.isnan(pair[0])]),
            "uar_before": result.scores.uar.before,
            "n_clips": result.n_answers,
        }
        if not isinstance(learnt, Learnt):
            # It has heard the audio: `evaluate` must refuse that, too.
            meta = with_history({**meta, "training": learnt.training}, parent)
    return Checkpoint({**parent.weights, **learnt.weights}, meta)


def _jsonable(value: Any) -> Any:
    """Return a value with null for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _jsonable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
