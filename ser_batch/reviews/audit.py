"""How right the labels of a run are, by the answers of people who listened to a sample of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.report.grouping import plan_groupings
from ser_batch.reviews.agreement import Agreement, agreement_of
from ser_batch.reviews.estimates import Design, Estimate, prediction_powered, ratio
from ser_batch.reviews.judged import FEWEST_ANSWERS, Judged, judge
from ser_batch.reviews.sample import Population, UnitKind, population_of
from ser_batch.run.read import Run

__all__ = ["Audit", "GroupScore", "LabelScore", "ReliabilityBin", "ShareEstimate", "Threshold", "audit_run"]

Floats = NDArray[np.float64]

_N_BINS = 4
#: Half-width, in points, that a second round of answers would aim at.
_FINE = 0.03


@dataclass(frozen=True, slots=True)
class LabelScore:
    """Of one label: how many of those given are right, and how many of those that should have been given were."""

    label: str
    precision: Estimate
    recall: Estimate


@dataclass(frozen=True, slots=True)
class ShareEstimate:
    """The share of the archive that listeners would give an answer to."""

    answer: str
    #: Of the archive that the model gave this label to.
    predicted: float
    #: By prediction-powered inference.
    share: Estimate
    #: By the answers alone, for comparison.
    answers_alone: Estimate
    #: How far the predictions were believed, in [0, 1].
    power: float


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Answers whose labels were about equally confident."""

    low: float
    high: float
    confidence: float
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class Threshold:
    """What remains above a confidence."""

    target: float
    #: Lowest confidence to keep; NaN where none is high enough.
    confidence: float
    #: Accuracy of what is kept.
    accuracy: Estimate
    #: Share of the archive that is kept; of the surest fifth where no confidence is high enough.
    kept: float


@dataclass(frozen=True, slots=True)
class GroupScore:
    """One group, such as a folder, with enough answers."""

    title: str
    name: str
    accuracy: Estimate


@dataclass(frozen=True)
class Audit:
    """Everything that the answers say; docs/own-archive.md explains each figure."""

    unit: UnitKind
    #: Labelled units of the run.
    n_units: int
    n_answers: int
    reviewers: list[str]
    labels: tuple[str, ...]
    accuracy: Estimate
    uar: Estimate
    #: Mean confidence minus accuracy; above 0 the model is too sure.
    overconfidence: float
    scores: list[LabelScore]
    shares: list[ShareEstimate]
    #: Answer -> predicted label -> share of what listeners call so.
    confusion: dict[str, dict[str, Estimate]]
    reliability: list[ReliabilityBin]
    threshold: Threshold
    #: Answers in all for a half-width of 3 points.
    n_for_fine: int
    #: Median time of an answer, in s.
    time_s: float
    groups: list[GroupScore]
    #: Groups that have fewer answers than `FEWEST_ANSWERS`.
    n_small_groups: int
    agreement: Agreement | None
    #: Clips on which reviewers disagree.
    disagreements: list[str]
    notices: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as JSON holds it; null is what cannot be said."""
        values: dict[str, Any] = _plain(asdict(self))
        return values


def audit_run(run: Run, answers_from: Path | None = None, target: float = 0.9) -> Audit:
    """Judge the labels of a run.

    Parameters
    ----------
    run : Run
    answers_from : Path, optional
        A run of the same audio whose answers are taken.
    target : float
        Accuracy that labels above a threshold shall have, in (0, 1).

    Raises
    ------
    DataError
        No answers, too few, or none that fit the run.
    RunError
        The run cannot be read or has no labels.
    """
    found = judge(run, answers_from)
    population = population_of(run, found.sample.unit)
    design = Design(found.stratum, [stratum.n_units for stratum in found.sample.strata])
    predicted, judged, correct = found.predicted, found.judged, found.correct
    notices = [*found.notices, *_changed(run, population, found)]
    recalls = [ratio(design, found.truth[:, i] * (predicted == i), found.truth[:, i]) for i in range(len(run.labels))]
    accuracy = design.estimate(ratio(design, correct, judged))
    groups, n_small = _groups(run, found, design)
    return Audit(
        unit=found.sample.unit,
        n_units=len(population.label),
        n_answers=len(found.truth),
        reviewers=sorted({answer.reviewer for given in found.answers for answer in given}),
        labels=run.labels,
        accuracy=accuracy,
        uar=design.estimate_mean(recalls),
        overconfidence=ratio(design, found.confidence * judged, judged).value - accuracy.value,
        scores=[
            LabelScore(
                label,
                design.estimate(ratio(design, correct * (predicted == i), judged * (predicted == i))),
                design.estimate(recalls[i]),
            )
            for i, label in enumerate(run.labels)
        ],
        shares=_shares(found, design, population),
        confusion=_confusion(found, design),
        reliability=_reliability(found, design),
        threshold=_threshold(found, design, population, target),
        n_for_fine=_answers_for(_FINE, accuracy, len(population.label)),
        time_s=float(np.median([answer.time_s for given in found.answers for answer in given])),
        groups=groups,
        n_small_groups=n_small,
        agreement=agreement_of(found.answers),
        disagreements=found.split,
        notices=notices,
    )


def _changed(run: Run, population: Population, found: Judged) -> list[str]:
    n_now, n_then = len(population.label), found.sample.n_units
    if n_now == n_then:
        return []
    return [
        f"{run.folder} holds {n_now:,} labelled {population.unit} and held {n_then:,} when the sample was drawn: the "
        f"figures are of what it held then. To draw anew, delete reviews/audit.json and run `ser-batch review`; "
        f"answers to clips that are drawn again are kept."
    ]


def _shares(found: Judged, design: Design, population: Population) -> list[ShareEstimate]:
    given = np.bincount(population.label, minlength=len(population.labels)) / len(population.label)
    shares = []
    for i, name in enumerate(found.categories):
        known = i < len(population.labels)
        predicted = found.probabilities[:, i] if known else np.zeros(len(found.truth))
        mean = float(population.mean_probability[i]) if known else 0.0
        powered, power = prediction_powered(design, found.truth[:, i], predicted, mean)
        alone, _ = prediction_powered(design, found.truth[:, i], predicted, mean, power=0.0)
        told = float(given[i]) if known else 0.0
        shares.append(ShareEstimate(name, told, design.estimate(powered), design.estimate(alone), power))
    return shares


def _confusion(found: Judged, design: Design) -> dict[str, dict[str, Estimate]]:
    predicted, table = found.predicted, {}
    for i, name in enumerate(found.categories):
        truth = found.truth[:, i]
        if truth.any():
            table[name] = {
                label: design.estimate(ratio(design, truth * (predicted == k), truth))
                for k, label in enumerate(found.categories[: found.probabilities.shape[1]])
            }
    return table


def _reliability(found: Judged, design: Design) -> list[ReliabilityBin]:
    confidence, judged = found.confidence, found.judged
    edges = np.quantile(confidence, np.linspace(0, 1, _N_BINS + 1))
    bins = []
    for number in range(_N_BINS):
        last = number == _N_BINS - 1
        inside = (confidence >= edges[number]) & ((confidence < edges[number + 1]) | last)
        whole = judged * inside
        if whole.any():
            mean = ratio(design, confidence * whole, whole).value
            accuracy = design.estimate(ratio(design, found.correct * inside, whole))
            bins.append(ReliabilityBin(float(edges[number]), float(edges[number + 1]), mean, accuracy))
    return bins


def _threshold(found: Judged, design: Design, population: Population, target: float) -> Threshold:
    """Find the lowest confidence, in hundredths, above which labels are right as often as wanted."""
    confidence, judged, correct = found.confidence, found.judged, found.correct
    for hundredths in range(100):
        lowest = hundredths / 100
        above = confidence >= lowest
        if judged[above].sum() < FEWEST_ANSWERS:
            break
        share = ratio(design, correct * above, judged * above)
        if share.value >= target:
            kept = float(np.mean(population.confidence >= lowest))
            return Threshold(target, lowest, design.estimate(share), kept)
    surest = float(np.quantile(population.confidence, 0.8))
    above = confidence >= surest
    share = ratio(design, correct * above, judged * above)
    return Threshold(target, math.nan, design.estimate(share), float(np.mean(population.confidence >= surest)))


def _answers_for(half_width: float, accuracy: Estimate, n_units: int) -> int:
    """Return how many answers in all a half-width needs, if more come as these did."""
    n = accuracy.n_answers
    unheard = max(1 - n / n_units, 1e-9)
    endless = n * (accuracy.half_width / half_width) ** 2 / unheard
    return math.ceil(endless / (1 + endless / n_units))


def _groups(run: Run, found: Judged, design: Design) -> tuple[list[GroupScore], int]:
    """Judge folders and groups of the metadata that have enough answers."""
    grouping = plan_groupings(run)
    names = sorted(set(found.clip_ids))
    rows = run.read("files", ["clip_id", *grouping.metadata_columns], where=[("clip_id", "in", names)])
    place = {name: i for i, name in enumerate(rows.column("clip_id").to_pylist())}
    of = [place[name] for name in found.clip_ids]
    scores, n_small = [], 0
    for title, column in zip(grouping.titles, grouping.names(rows), strict=True):
        values = column.to_pylist()
        member = np.array(["" if values[i] is None else str(values[i]) for i in of])
        groups = [name for name in np.unique(member).tolist() if name]
        for name in groups if len(groups) > 1 else ():
            inside = member == name
            if found.judged[inside].sum() < FEWEST_ANSWERS:
                n_small += 1
                continue
            share = ratio(design, found.correct * inside, found.judged * inside)
            scores.append(GroupScore(title, name, design.estimate(share)))
    return scores, n_small


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
