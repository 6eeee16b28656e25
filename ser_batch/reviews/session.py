"""One visit of one reviewer: what is asked, what was answered, and what comes next. The server only carries it."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ser_batch.errors import DataError
from ser_batch.report.palette import colours_of
from ser_batch.reviews.answers import NOT_EMOTIONS, Answer, AnswerJournal, Stretch, stretch_of
from ser_batch.reviews.choice import Task
from ser_batch.text import printable

__all__ = ["Session", "Visit"]

#: Keys of labels in their order; those of the page itself (n, r, s, u) and of `NOT_EMOTIONS` are not among them.
_LABEL_KEYS = "1234567890qwertyiopadfghjklzbc"
_OTHER_KEYS = dict(zip(NOT_EMOTIONS, "vmx", strict=True))
_LONGEST_LABEL = 60
_LONGEST_NOTE = 1_000
#: A longer time is that of somebody who went away.
_LONGEST_TIME_S = 600.0


@dataclass(frozen=True)
class Visit:
    """What a visit is about."""

    #: Name of the run, as the page shows it.
    name: str
    purpose: str
    #: In the order in which they are asked.
    tasks: Sequence[Task]
    #: How many of them are wanted; a listener may go on.
    n_wanted: int
    #: Labels of the model, in its order.
    labels: Sequence[str]
    #: Labels of the reviewer's own.
    own: Sequence[str] = ()
    #: What those wanted will give, in words.
    aim: str = ""
    notices: Sequence[str] = ()


class Session:
    """Questions and answers of a visit; may be used by several threads."""

    def __init__(self, visit: Visit, journal: AnswerJournal) -> None:
        self._visit, self._journal = visit, journal
        self._lock = threading.Lock()
        #: What was answered in this visit, so that files given by name are asked about once more, and only once.
        self._answered_now: set[Stretch] = set()
        #: Questions that wait, in the order in which they were passed over.
        self._skipped: list[int] = []
        self._labels = list(dict.fromkeys([*visit.labels, "neutral", *visit.own]))
        for answer in journal.standing:
            self._know(answer.answer)

    def _know(self, label: str) -> None:
        if label not in self._labels and label not in NOT_EMOTIONS:
            self._labels.append(label)

    def task(self, number: int) -> Task | None:
        """Return a question by its number; None where there is none."""
        return self._visit.tasks[number] if 0 <= number < len(self._visit.tasks) else None

    def state(self) -> dict[str, Any]:
        """Return all that the page shows, besides sound and picture."""
        with self._lock:
            return self._state()

    def answer(self, number: int, answer: str, time_s: float, note: str) -> dict[str, Any]:
        """Put an answer on disk, then return the new state.

        Raises
        ------
        DataError
            There is no such question, or the answer is none.
        RunError
            The disk refuses; nothing has changed.
        """
        task = self.task(number)
        if task is None:
            raise DataError(f"There is no question {number}.")
        answer = answer.strip()
        if not answer or len(answer) > _LONGEST_LABEL or not answer.isprintable():
            raise DataError(f"An answer has 1 to {_LONGEST_LABEL} printable characters.")
        with self._lock:
            purpose, probability = task.purpose, task.inclusion_probability
            before = self._standing().get(_stretch(task))
            if before is not None and before.purpose == "audit":  # it stays an answer to the audit, whoever asked again
                purpose, probability = before.purpose, before.inclusion_probability
            kept = self._journal.append(
                Answer(
                    task.unit.clip_id,
                    task.unit.start_s,
                    task.unit.end_s,
                    answer,
                    purpose,
                    probability,
                    task.unit.model_label,
                    task.unit.model_confidence,
                    round(min(max(time_s, 0.0), _LONGEST_TIME_S), 2),
                    "",
                    note.strip()[:_LONGEST_NOTE],
                    channel=task.unit.channel,
                )
            )
            self._answered_now.add(kept.stretch)
            self._know(answer)
            return self._state()

    def skip(self, number: int) -> dict[str, Any]:
        """Ask the other questions of this visit first; return the new state."""
        with self._lock:
            self._skipped = [*(skipped for skipped in self._skipped if skipped != number), number]
            return self._state()

    def undo(self) -> dict[str, Any]:
        """Take the last answer back, then return the new state, in which it is asked again."""
        with self._lock:
            taken = self._journal.undo()
            if taken is not None:
                self._answered_now.discard(taken.stretch)
            return self._state()

    def _standing(self) -> dict[Stretch, Answer]:
        return {answer.stretch: answer for answer in self._journal.standing}

    def _state(self) -> dict[str, Any]:
        standing = self._standing()
        open_tasks = [i for i, task in enumerate(self._visit.tasks) if not self._is_done(task, standing)]
        open_tasks.sort(key=lambda i: self._skipped.index(i) + 1 if i in self._skipped else 0)
        n_done = len(self._visit.tasks) - len(open_tasks)
        n_wanted = min(self._visit.n_wanted, len(self._visit.tasks))
        times_s = [answer.time_s for answer in standing.values() if answer.time_s > 0]
        colours = colours_of(self._labels)
        return {
            "run": printable(self._visit.name),
            "reviewer": self._journal.path.stem,
            "purpose": self._visit.purpose,
            "aim": self._visit.aim,
            "notices": [printable(notice) for notice in self._visit.notices],
            "labels": [
                {"name": name, "key": key, "colours": list(pair)}
                for name, key, pair in zip(
                    self._labels, _LABEL_KEYS.ljust(len(self._labels))[: len(self._labels)], colours, strict=True
                )
            ],
            "others": [{"name": name, "key": key} for name, key in _OTHER_KEYS.items()],
            "n_done": n_done,
            "n_wanted": n_wanted,
            "n_tasks": len(self._visit.tasks),
            "n_standing": len(standing),
            "left_s": statistics.median(times_s) * max(n_wanted - n_done, 0) if times_s else None,
            "task": self._shown(open_tasks[0]) if open_tasks else None,
            "next": open_tasks[1] if len(open_tasks) > 1 else None,
            "last": _told(self._journal.standing[-1]) if standing else None,
        }

    def _is_done(self, task: Task, standing: dict[Stretch, Answer]) -> bool:
        stretch = _stretch(task)
        if task.purpose == "files":
            return stretch in self._answered_now
        answer = standing.get(stretch)
        return answer is not None and (task.purpose != "audit" or answer.purpose == "audit")

    def _shown(self, number: int) -> dict[str, Any]:
        """Return what may be known of a question before it is answered: nothing of what the model thinks."""
        unit = self._visit.tasks[number].unit
        shown = {"number": number, "clip": printable(unit.clip_id), "start_s": unit.start_s, "end_s": unit.end_s}
        return shown | ({"channel": unit.channel} if unit.channel else {})


def _stretch(task: Task) -> Stretch:
    return stretch_of(task.unit.clip_id, task.unit.start_s, task.unit.end_s, task.unit.channel)


def _told(answer: Answer) -> dict[str, Any]:
    return {
        "clip": printable(answer.clip_id),
        "answer": answer.answer,
        "model_label": answer.model_label,
        "model_confidence": answer.model_confidence,
        "note": answer.note,
    }
