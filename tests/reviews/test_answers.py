"""Answers are on disk before anything else happens, one file per reviewer; whatever is torn or broken costs itself."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from ser_batch.errors import DataError, RunError
from ser_batch.reviews.answers import Answer, AnswerJournal, default_reviewer, read_answers

ANSWER = Answer("tape/1.wav", 0.0, 3.0, "fear", "audit", 0.25, "anger", 0.61, 4.5, "2026-03-01T10:00:00+00:00", "sobs")


def at(minute: int, **changes: object) -> Answer:
    return replace(ANSWER, at=f"2026-03-01T10:{minute:02d}:00+00:00", **changes)  # type: ignore[arg-type]


def journal_of(run: Path, reviewer: str = "anna") -> Path:
    return run / "reviews" / f"{reviewer}.jsonl"


def test_a_line_holds_every_field_and_is_read_as_it_was_written(tmp_path: Path) -> None:
    with AnswerJournal.open(tmp_path, "anna", "run-1") as journal:
        journal.append(ANSWER)
        # On disk at once, not when the file is closed.
        (line,) = journal_of(tmp_path).read_text().splitlines()
    assert json.loads(line) == {
        "clip_id": "tape/1.wav", "start_s": 0.0, "end_s": 3.0, "answer": "fear", "purpose": "audit",
        "inclusion_probability": 0.25, "model_label": "anger", "model_confidence": 0.61, "time_s": 4.5,
        "at": "2026-03-01T10:00:00+00:00", "note": "sobs", "run_id": "run-1", "channel": 0,
    }  # fmt: skip
    assert read_answers(tmp_path).answers == [replace(ANSWER, run_id="run-1", reviewer="anna")]


def test_every_answer_is_flushed_before_it_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    real = os.fsync
    with AnswerJournal.open(tmp_path, "anna", "run-1") as journal:
        monkeypatch.setattr(os, "fsync", lambda descriptor: (flushed.append(descriptor), real(descriptor))[1])
        journal.append(ANSWER)
        assert len(flushed) == 1
        journal.undo()
        assert len(flushed) == 2


def test_undo_is_a_line_of_its_own_and_takes_back_the_last_standing_answer(tmp_path: Path) -> None:
    with AnswerJournal.open(tmp_path, "anna", "run-1") as journal:
        journal.append(at(1))
        journal.append(at(2, clip_id="b.wav"))
        assert journal.undo().clip_id == "b.wav"  # type: ignore[union-attr]
    with AnswerJournal.open(tmp_path, "anna", "run-1") as journal:
        assert journal.undo().clip_id == "tape/1.wav"  # type: ignore[union-attr]
        assert journal.undo() is None
    assert len(journal_of(tmp_path).read_text().splitlines()) == 4
    assert read_answers(tmp_path).answers == []


def test_a_later_answer_of_the_same_reviewer_replaces_the_earlier_one(tmp_path: Path) -> None:
    with AnswerJournal.open(tmp_path, "anna", "run-1") as journal:
        journal.append(at(1))
        journal.append(at(2, answer="no voice", end_s=3.0001))
    with AnswerJournal.open(tmp_path, "ben", "run-1") as journal:
        journal.append(at(3, answer="anger"))
    found = read_answers(tmp_path)
    assert [(answer.reviewer, answer.answer) for answer in found.answers] == [("anna", "no voice"), ("ben", "anger")]
    assert found.reviewers == ["anna", "ben"]


@pytest.mark.parametrize("n_bytes", [1, 40, -1])
def test_a_torn_last_line_never_counted_and_the_next_answer_does_not_join_it(tmp_path: Path, n_bytes: int) -> None:
    with AnswerJournal.open(tmp_path, "anna", "run-1") as journal:
        journal.append(at(1))
        journal.append(at(2, clip_id="b.wav"))
    path = journal_of(tmp_path)
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + second[:n_bytes])
    found = read_answers(tmp_path)
    assert ([answer.clip_id for answer in found.answers], found.notices) == (["tape/1.wav"], [])
    with AnswerJournal.open(tmp_path, "anna", "run-1") as journal:
        journal.append(at(3, clip_id="c.wav"))
    found = read_answers(tmp_path)
    assert ([answer.clip_id for answer in found.answers], found.notices) == (["tape/1.wav", "c.wav"], [])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("not json", "Expecting value"),
        ("[]", "a line holds an object"),
        ('{"clip_id": "a.wav"}', "start_s is missing"),
        (json.dumps({"clip_id": 5}), "clip_id must be text"),
        (json.dumps({"purpose": "fun"}), "purpose must be one of audit, adapt"),
        (json.dumps({"inclusion_probability": 0}), "inclusion_probability must be a number in (0, 1] or null"),
        ('{"undo": true, "clip_id": "a.wav"}', "start_s is missing"),
    ],
)
def test_a_broken_line_costs_itself_and_is_named(tmp_path: Path, line: str, reason: str) -> None:
    with AnswerJournal.open(tmp_path, "anna", "run-1") as journal:
        journal.append(ANSWER)
    path = journal_of(tmp_path)
    path.write_text(f"{line}\n{path.read_text()}")
    found = read_answers(tmp_path)
    assert len(found.answers) == 1
    (notice,) = found.notices
    assert notice.startswith(f"{path}, line 1 is no answer and is left out")
    assert reason in notice


def test_two_processes_cannot_answer_under_one_name(tmp_path: Path) -> None:
    with (
        AnswerJournal.open(tmp_path, "anna", "run-1"),
        pytest.raises(DataError, match=r"anna is answering for .* already, in another process: end that one, or give"),
        AnswerJournal.open(tmp_path, "anna", "run-1"),
    ):
        pass
    with AnswerJournal.open(tmp_path, "anna", "run-1") as journal:
        assert journal.standing == []


@pytest.mark.parametrize("name", ["", "../anna", "a/b", ".hidden", "a\nb", "x" * 65])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="cannot be the name of a reviewer"), AnswerJournal.open(tmp_path, name, "r"):
        pass


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()
    (tmp_path / "elsewhere").write_text("kept")
    journal_of(tmp_path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="A link stands in its place"), AnswerJournal.open(tmp_path, "anna", "run-1"):
        pass
    assert (tmp_path / "elsewhere").read_text() == "kept"


def test_whoever_is_logged_in_is_a_name_that_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "Jörg Ö.@home ")
    assert default_reviewer() == "J-rg-.-home"
    with AnswerJournal.open(tmp_path, default_reviewer(), "run-1") as journal:
        assert journal.append(ANSWER).reviewer == default_reviewer()
