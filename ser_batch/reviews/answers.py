"""Answers of listeners: ``RUN/reviews/NAME.jsonl``, one file per reviewer, to which lines are only ever added.

A line is on disk before the next clip is shown. It is an answer, or takes one back; a later answer of the same reviewer
to the same stretch of audio replaces the earlier one. docs/own-archive.md describes the fields.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from ser_batch.atomic import NO_FOLLOW, flush_folder, make_folder, read_file
from ser_batch.errors import DataError
from ser_batch.kinds import COUNT, TEXT, TIME, Kind, problem_with, read_json
from ser_batch.run.folder import writing
from ser_batch.run.journal import Filesystem

__all__ = [
    "CANNOT_TELL",
    "NOT_EMOTIONS",
    "NO_VOICE",
    "PURPOSES",
    "SEVERAL_VOICES",
    "Answer",
    "AnswerJournal",
    "Answers",
    "Stretch",
    "default_reviewer",
    "read_answers",
    "reviews_folder",
]

NO_VOICE = "no voice"
SEVERAL_VOICES = "several voices"
CANNOT_TELL = "cannot tell"

#: Answers that name no emotion.
NOT_EMOTIONS = (NO_VOICE, SEVERAL_VOICES, CANNOT_TELL)

#: Why a stretch was asked about; only those drawn for an audit stand for the archive.
PURPOSES = ("audit", "adapt", "like", "only", "files")

_REVIEWER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._ -]{0,62}[A-Za-z0-9])?")


class Stretch(NamedTuple):
    """A stretch of audio; its times are in ms, so that equal ones are equal keys."""

    clip_id: str
    start_ms: int
    end_ms: int
    #: From 1; 0 for all of them, mixed.
    channel: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one reviewer heard in one stretch of audio."""

    clip_id: str
    start_s: float
    end_s: float
    #: An emotion, one of `NOT_EMOTIONS`, or a label of the reviewer's own.
    answer: str
    #: One of `PURPOSES`.
    purpose: str
    #: Of this stretch into the audit sample, in (0, 1]; None where it was not drawn at random.
    inclusion_probability: float | None
    #: What the run said when the answer was given; not shown before it.
    model_label: str
    model_confidence: float
    #: From the first sound to the answer, in s.
    time_s: float
    #: When, ISO 8601, UTC.
    at: str
    note: str = ""
    #: Of which run; answers that were copied elsewhere are told by it.
    run_id: str = ""
    #: Which channel was heard, from 1; 0 for all of them, mixed.
    channel: int = 0
    #: Who answered; told by the name of the file and not written into it.
    reviewer: str = ""

    @property
    def stretch(self) -> Stretch:
        return stretch_of(self.clip_id, self.start_s, self.end_s, self.channel)


_NUMBER = Kind(lambda value: isinstance(value, int | float) and not isinstance(value, bool), "a number")
_FIELDS = {item.name: TEXT if item.type == "str" else _NUMBER for item in fields(Answer) if item.name != "reviewer"} | {
    "answer": Kind(lambda value: isinstance(value, str) and bool(value), "text that is not empty"),
    "purpose": Kind(lambda value: value in PURPOSES, f"one of {', '.join(PURPOSES)}"),
    "inclusion_probability": Kind(
        lambda value: value is None or (_NUMBER.holds(value) and 0 < value <= 1), "a number in (0, 1] or null"
    ),
    "at": TIME,
    "channel": COUNT,
}
#: What earlier or other writers may leave out.
_MAY_LACK = ("note", "run_id", "channel")


def stretch_of(clip_id: str, start_s: float, end_s: float, channel: int = 0) -> Stretch:
    """Return the key of a stretch of audio."""
    return Stretch(clip_id, round(1_000 * start_s), round(1_000 * end_s), channel)


def reviews_folder(run_dir: Path) -> Path:
    """Return where the answers of a run lie."""
    return run_dir / "reviews"


def default_reviewer() -> str:
    """Return the name of whoever is logged in, made fit for a file name; ``reviewer`` where there is none."""
    try:
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", getpass.getuser()).strip("-._")
    except (OSError, KeyError, ImportError):  # no such user in the system's list, as in some containers
        name = ""
    return name[:64] or "reviewer"


@dataclass
class Answers:
    """The standing answers of all reviewers of a run, in the order in which they were given."""

    answers: list[Answer] = field(default_factory=list)
    #: One line each: what could not be read.
    notices: list[str] = field(default_factory=list)

    @property
    def reviewers(self) -> list[str]:
        return sorted({answer.reviewer for answer in self.answers})


def read_answers(run_dir: Path) -> Answers:
    """Return what stands: answers taken back or given again are left out.

    A line that is broken costs itself; the last one of a file, cut by a crash or a full disk, was never acknowledged,
    and is passed over without a word.

    Raises
    ------
    DataError
        A file of answers cannot be read.
    """
    found = Answers()
    for path in sorted(reviews_folder(run_dir).glob("*.jsonl")):
        answers, notices = _read_file(path)
        found.answers += answers
        found.notices += notices
    found.answers.sort(key=lambda answer: datetime.fromisoformat(answer.at))
    return found


def _read_file(path: Path) -> tuple[list[Answer], list[str]]:
    try:
        data = read_file(path)
    except OSError as error:
        raise DataError(f"The answers in {path} cannot be read: {error.strerror}.") from None
    whole, _, _ = data.rpartition(b"\n")
    standing: dict[Stretch, Answer] = {}
    broken: list[int] = []
    reason = ""
    for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
        try:
            _apply(read_json(line), path.stem, standing)
        except ValueError as error:
            broken.append(number)
            reason = reason or str(error)
    notices = []
    if broken:
        others = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        notices.append(
            f"{path}, line {broken[0]}{others} is no answer and is left out ({reason}). Mend the line or delete it."
        )
    return list(standing.values()), notices


def _apply(line: Any, reviewer: str, standing: dict[Stretch, Answer]) -> None:
    """Let one line of a journal take effect."""
    if not isinstance(line, dict):
        raise ValueError("a line holds an object")
    known = {name: line[name] for name in _FIELDS if name in line}
    undo = line.get("undo") is True
    needed = ("clip_id", "start_s", "end_s") if undo else [name for name in _FIELDS if name not in _MAY_LACK]
    if problem := problem_with(known, _FIELDS, needed):
        raise ValueError(problem)
    stretch = stretch_of(known["clip_id"], known["start_s"], known["end_s"], known.get("channel", 0))
    standing.pop(stretch, None)  # what is answered again stands where it was answered last
    if not undo:
        standing[stretch] = Answer(**known, reviewer=reviewer)


class AnswerJournal:
    """The file of one reviewer, open for writing; `AnswerJournal.open` makes it."""

    def __init__(self, path: Path, run_id: str, standing: Iterable[Answer]) -> None:
        self.path, self.run_id = path, run_id
        self._filesystem = Filesystem()
        self._standing = {answer.stretch: answer for answer in standing}

    @classmethod
    @contextmanager
    def open(cls, run_dir: Path, reviewer: str, run_id: str) -> Iterator[AnswerJournal]:
        """Open the file of a reviewer, alone; make it where there is none.

        Raises
        ------
        DataError
            The name cannot be that of a file, somebody else writes the file, or it cannot be read.
        RunError
            The disk refuses.
        """
        if not _REVIEWER.fullmatch(reviewer):
            raise DataError(
                f"{reviewer!r} cannot be the name of a reviewer: `review --reviewer` takes up to 64 letters, digits, "
                f"dots, dashes and blanks, such as anna."
            )
        folder = reviews_folder(run_dir)
        path = folder / f"{reviewer}.jsonl"
        with writing("answers"):
            make_folder(folder)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW, 0o666)
        try:
            with writing("answers"):
                flush_folder(folder)
                flush_folder(run_dir)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DataError(
                    f"{reviewer} is answering for {run_dir} already, in another process: end that one, or give this "
                    f"one a name of its own by `review --reviewer`."
                ) from None
            except OSError:
                pass  # a file system without locks: one line is one write, so two would at worst answer twice
            with writing("answers"):
                _cut_torn_line(descriptor)
            yield cls(path, run_id, _read_file(path)[0])
        finally:
            os.close(descriptor)

    @property
    def standing(self) -> list[Answer]:
        """Answers of this reviewer that stand, the oldest first."""
        return list(self._standing.values())

    def append(self, answer: Answer) -> Answer:
        """Put an answer on disk; return it as it is there.

        Raises
        ------
        RunError
            The disk refuses; the file is as it was.
        """
        values = asdict(answer) | {"run_id": self.run_id, "at": answer.at or now()}
        del values["reviewer"]
        self._write(values)
        kept = Answer(**values, reviewer=self.path.stem)
        self._standing.pop(kept.stretch, None)
        self._standing[kept.stretch] = kept
        return kept

    def undo(self) -> Answer | None:
        """Take the last answer back, by a line of its own; return it, or None where there is none."""
        if not self._standing:
            return None
        stretch, answer = next(reversed(self._standing.items()))
        self._write(
            {
                "undo": True,
                "clip_id": answer.clip_id,
                "start_s": answer.start_s,
                "end_s": answer.end_s,
                "channel": answer.channel,
                "at": now(),
                "run_id": self.run_id,
            }
        )
        del self._standing[stretch]
        return answer

    def _write(self, values: dict[str, Any]) -> None:
        line = json.dumps(values, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        with writing("answers"):
            self._filesystem.append(self.path, line)


def _cut_torn_line(descriptor: int) -> None:
    """Cut off what a crash left of a line: it was never acknowledged, and the next line must not join it."""
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, size, 0)
    whole = data.rfind(b"\n") + 1
    if whole < size:
        os.ftruncate(descriptor, whole)
        os.fsync(descriptor)


def now() -> str:
    """Return the time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
