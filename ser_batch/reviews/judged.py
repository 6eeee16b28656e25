"""Answers brought together with what the run says of the same stretches of audio."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import DataError
from ser_batch.reviews.answers import CANNOT_TELL, NOT_EMOTIONS, SEVERAL_VOICES, Answer, Stretch, read_answers
from ser_batch.reviews.answers import stretch_of as key_of
from ser_batch.reviews.sample import AuditSample, UnitKind, channel_columns, channels_of, load_sample
from ser_batch.reviews.unlearnt import read_unlearnt
from ser_batch.run.read import Run

__all__ = ["FEWEST_ANSWERS", "Judged", "judge", "predictions_for"]

Floats = NDArray[np.float64]

#: From fewer, nothing is said.
FEWEST_ANSWERS = 20


@dataclass(frozen=True, eq=False)
class Judged:
    """The answered part of an audit sample; arrays have one row per stretch, whoever and however many answered."""

    sample: AuditSample
    clip_ids: list[str]
    #: Labels of the model, then all that was answered besides.
    categories: tuple[str, ...]
    #: float64 (n, n_categories), rows sum to 1: where reviewers disagree, each has an equal part.
    truth: Floats
    #: float64 (n, n_labels)
    probabilities: Floats
    #: int64 (n,)
    stratum: NDArray[np.int64]
    #: The answers behind, by stretch.
    answers: list[list[Answer]]
    #: Clips on which reviewers disagree.
    split: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def predicted(self) -> NDArray[np.int64]:
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def confidence(self) -> Floats:
        return np.asarray(self.probabilities.max(axis=1))

    @property
    def judged(self) -> Floats:
        """How far each stretch was judged: not at all where there are several voices or nobody can tell."""
        undecided = [i for i, name in enumerate(self.categories) if name in (SEVERAL_VOICES, CANNOT_TELL)]
        return np.asarray(1 - self.truth[:, undecided].sum(axis=1))

    @property
    def correct(self) -> Floats:
        return np.asarray(self.truth[np.arange(len(self.truth)), self.predicted])


def judge(run: Run, answers_from: Path | None = None) -> Judged:
    """Match the answers of an audit with the labels of a run.

    Parameters
    ----------
    run : Run
        Whose labels are judged.
    answers_from : Path, optional
        A run of the same audio whose answers are taken; its own, unless given.

    Raises
    ------
    DataError
        No answers, fewer than `FEWEST_ANSWERS`, or answers of another run or of clips that are gone.
    """
    source = answers_from or run.folder
    found, notices = _of_audit(source, run, answers_from is not None)
    sample = load_sample(source)
    if sample is None:
        raise DataError(
            f"{source / 'reviews'} holds answers but not the sample that they are of (audit.json). Restore it from a "
            f"copy; without it nobody knows what the answers stand for. `ser-batch review {source}` draws it again."
        )
    places = {key_of(item.clip_id, item.start_s, item.end_s, item.channel): item.stratum for item in sample.items}
    found = _known(found, set(places), notices, "not of the sample that is there now; it was drawn again since")
    probabilities = predictions_for(run, sample.unit, found)
    found = _known(found, set(probabilities), notices, f"of clips that {run.folder} does not label any more")
    _unflatter(probabilities, source, run, notices)
    by_stretch: dict[Stretch, list[Answer]] = defaultdict(list)
    for answer in found:
        by_stretch[answer.stretch].append(answer)
    if len(by_stretch) < FEWEST_ANSWERS:
        raise DataError(
            f"{' '.join([*notices, ''])}{len(by_stretch)} answers of the audit sample of {run.folder} can be used; "
            f"from fewer than {FEWEST_ANSWERS} nothing is said. `ser-batch review {source}` asks for more."
        )
    split = [stretch[0] for stretch, given in by_stretch.items() if len({answer.answer for answer in given}) > 1]
    if split:
        notices.append(
            f"Reviewers disagree on {len(split)} of {len(by_stretch)} clips: there each answer counts in part. "
            f"`ser-batch audit --json` lists them under disagreements; `ser-batch review --files-from LIST` asks again."
        )
    others = sorted(
        {answer.answer for answer in found} - set(run.labels), key=lambda name: (name in NOT_EMOTIONS, name)
    )
    categories = (*run.labels, *others)
    truth = np.zeros((len(by_stretch), len(categories)))
    for row, answers in enumerate(by_stretch.values()):
        for name, n in Counter(answer.answer for answer in answers).items():
            truth[row, categories.index(name)] = n / len(answers)
    return Judged(
        sample,
        [stretch[0] for stretch in by_stretch],
        categories,
        truth,
        np.array([probabilities[stretch] for stretch in by_stretch]),
        np.array([places[stretch] for stretch in by_stretch]),
        list(by_stretch.values()),
        split,
        notices,
    )


def _of_audit(source: Path, run: Run, elsewhere: bool) -> tuple[list[Answer], list[str]]:
    """Return the answers to the audit sample, and what there is to say of the others."""
    everything = read_answers(source)
    notices = list(everything.notices)
    found = [answer for answer in everything.answers if answer.purpose == "audit"]
    if not found:
        n_others = len(everything.answers)
        others = f" (it holds {n_others} for other purposes, which say nothing of the rest)" if n_others else ""
        raise DataError(
            f"{source} holds no answers to an audit{others}. `ser-batch review {source}` asks for them; about 200 "
            f"answers, half an hour, say how right the labels are."
        )
    run_id = str(run.info.get("run_id", ""))
    strangers = [] if elsewhere else [answer for answer in found if answer.run_id not in ("", run_id)]
    if strangers:
        cure = f"Move {source / 'reviews'} back to its run, and name that one by `audit --answers`"
        if len(strangers) == len(found):
            raise DataError(f"The answers in {source / 'reviews'} are of another run. {cure}.")
        notices.append(f"{len(strangers)} answers are of another run and are left out. {cure}.")
    return [answer for answer in found if answer not in strangers], notices


def _unflatter(probabilities: dict[Stretch, Floats], source: Path, run: Run, notices: list[str]) -> None:
    """Judge answers that the model learnt from by what it would have said without them, in place."""
    model = run.info.get("model", {})
    unlearnt = read_unlearnt(source, str(model.get("sha256", "")), run.labels)
    learnt = probabilities.keys() & unlearnt.keys()
    if learnt:
        notices.append(
            f"{model.get('name', 'The model')} learnt from {len(learnt)} of these answers: they judge what layers say "
            f"that did not learn from them or their group (cross-fitting), not the labels of {run.folder}."
        )
        probabilities.update({stretch: unlearnt[stretch] for stretch in learnt})


def _known(answers: list[Answer], known: set[Stretch], notices: list[str], why: str) -> list[Answer]:
    lost = [answer for answer in answers if answer.stretch not in known]
    if lost:
        notices.append(
            f"{len(lost)} of {len(answers)} answers, such as that to {lost[0].clip_id}, are {why}: they are left out."
        )
    return [answer for answer in answers if answer.stretch in known]


def predictions_for(run: Run, unit: UnitKind, answers: list[Answer]) -> dict[Stretch, Floats]:
    """Return the probabilities (n_labels,) that a run gives to the stretches of some answers, where it has them."""
    wanted = {answer.stretch for answer in answers}
    columns = [f"p_{label}" for label in run.labels]
    times = ["vanished"] if unit == "files" else ["start_s", "end_s", *channel_columns(run, unit)]
    if not wanted or not columns:
        return {}
    names = sorted({stretch[0] for stretch in wanted})
    of_clip = {stretch[0]: stretch for stretch in wanted}
    rows = run.read(unit, ["clip_id", *times, *columns], where=[("clip_id", "in", names)], metadata=False)
    table = np.column_stack([rows.column(name).to_numpy() for name in columns]).astype(np.float64)
    kept = np.isfinite(table).all(axis=1)
    if unit == "files":
        kept &= ~rows.column("vanished").to_numpy()
    else:
        start_s, end_s = (rows.column(name).to_numpy() for name in times[:2])
    found, channel = {}, channels_of(rows).tolist()
    for place in np.flatnonzero(kept).tolist():
        name = rows.column("clip_id")[place].as_py()
        # A whole file is the file, whatever length its reader measures today.
        stretch = of_clip[name] if unit == "files" else key_of(name, start_s[place], end_s[place], channel[place])
        if stretch in wanted:
            found[stretch] = table[place]
    return found
