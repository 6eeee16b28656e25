"""An audit finds what is there: on runs whose truth is known, answered by listeners whose ear is known."""

from __future__ import annotations

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from listeners import listen
from synthetic_run import LABELS, RunPlan, make_run

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode
from ser_batch.report.build import build_report
from ser_batch.report.formats import percent
from ser_batch.report.rightness import rightness_of
from ser_batch.reviews.agreement import agreement_of
from ser_batch.reviews.answers import Answer, read_answers
from ser_batch.reviews.audit import Audit, audit_run
from ser_batch.reviews.sample import Item, load_sample
from ser_batch.run.read import open_run

N_FILES = 4_000


def ear(item: Item) -> str:
    """Hear what the model says when it is sure; else often calm, at times something that has no emotion."""
    draw = zlib.crc32(item.clip_id.encode()) % 1_000 / 1_000
    if draw < 0.5 * item.model_confidence + 0.2:
        return item.model_label
    if draw > 0.95:
        return "no voice" if draw > 0.98 else "cannot tell"
    return "neutral" if item.model_label != "sadness" else "fear"


def true_shares(folder: Path) -> tuple[dict[str, float], float]:
    """Return the share of each answer were everything heard, and how many labels of those judged are right."""
    files = load_results(folder)
    files = files[files.emotion.notna()]
    heard = [
        ear(Item(name, 0.0, 1.0, str(emotion), float(confidence), 0, 1.0))
        for name, emotion, confidence in zip(files.clip_id, files.emotion, files.confidence, strict=True)
    ]
    judged = [(answer, label) for answer, label in zip(heard, files.emotion, strict=True) if answer != "cannot tell"]
    shares = {answer: heard.count(answer) / len(heard) for answer in set(heard)}
    return shares, sum(answer == label for answer, label in judged) / len(judged)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("audit") / "run", N_FILES, RunPlan(seed=1))
    listen(folder, ear, 300)
    return folder


@pytest.fixture(scope="module")
def audit(heard: Path) -> Audit:
    return audit_run(open_run(heard))


def test_accuracy_and_shares_are_those_of_the_archive(heard: Path, audit: Audit) -> None:
    shares, accuracy = true_shares(heard)
    assert audit.n_answers == 300
    assert audit.accuracy.low <= accuracy <= audit.accuracy.high
    assert 0.03 < audit.accuracy.half_width < 0.07
    covered = [item.share.low <= shares.get(item.answer, 0) <= item.share.high for item in audit.shares]
    assert np.mean(covered) >= 0.8
    assert {item.answer for item in audit.shares} == {*LABELS, "neutral", "no voice", "cannot tell"}
    assert sum(item.share.value for item in audit.shares) == pytest.approx(1, abs=0.05)
    # Nobody hears so much anger as the model does.
    neutral = next(item for item in audit.shares if item.answer == "neutral")
    assert (neutral.predicted, neutral.power) == (0, 0)
    assert neutral.share.low > 0.1


def test_the_scores_of_each_emotion_weigh_the_answers(heard: Path, audit: Audit) -> None:
    files = load_results(heard).set_index("clip_id")
    found = read_answers(heard).answers
    weights = np.array([1 / answer.inclusion_probability for answer in found if answer.inclusion_probability])
    answers = np.array([answer.answer for answer in found])
    labels = np.array([str(files.emotion[answer.clip_id]) for answer in found])
    right = answers == labels
    judged = answers != "cannot tell"
    for score in audit.scores:
        given, true = labels == score.label, answers == score.label
        # Half a per cent: 300 answers were given, and the probabilities are for as many as were wanted.
        expected = weights[given & right].sum() / weights[given & judged].sum()
        assert score.precision.value == pytest.approx(expected, abs=0.02)
        assert score.recall.value == pytest.approx(weights[true & right].sum() / weights[true].sum(), abs=0.02)
    assert audit.uar.value == pytest.approx(np.mean([score.recall.value for score in audit.scores]))


def test_confusion_rows_sum_to_one(audit: Audit) -> None:
    for row in audit.confusion.values():
        assert sum(cell.value for cell in row.values()) == pytest.approx(1)
    assert audit.confusion["neutral"]["sadness"].value == 0


def test_what_is_above_the_threshold_is_right_as_often_as_asked_for(heard: Path, audit: Audit) -> None:
    assert np.isnan(audit.threshold.confidence)  # the ear agrees in at most 70 % of cases
    found = audit_run(open_run(heard), target=0.6).threshold
    confidence = load_results(heard).confidence.dropna()
    assert found.kept == pytest.approx((confidence >= found.confidence).mean())
    assert found.accuracy.value >= 0.6
    assert 0.02 < found.confidence < 0.9


def test_json_and_terminal_say_the_same(heard: Path, audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(heard), "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    assert told["accuracy"]["value"] == audit.accuracy.value
    assert told["threshold"]["confidence"] is None
    assert main(["audit", str(heard)]) == ExitCode.OK
    text = capsys.readouterr().out
    assert f"300 of {audit.n_units:,} labelled files were heard, by anna" in text
    assert f"{100 * audit.accuracy.value:.1f} % ({100 * audit.accuracy.low:.1f} to" in text
    assert "No confidence is high enough for 90 % of labels to be right" in text
    assert f"±3 need {audit.n_for_fine:,} answers" in text


def test_the_report_shows_it_at_the_top_once_there_are_answers(heard: Path, audit: Audit, tmp_path: Path) -> None:
    html = build_report(heard, output=tmp_path / "report.html", table=False).read_text()
    section = html[html.index('<section id="rightness">') : html.index('<section id="emotions">')]
    assert "How right are these labels?" in section
    assert f'<dd class="big">{percent(audit.accuracy.value)}</dd>' in section
    for item in audit.shares:
        assert f"<td>{percent(item.share.value)} ({percent(item.share.low)} to" in section
    assert html.index('<section id="rightness">') < html.index('<section id="emotions">')


def test_the_report_says_nothing_of_what_nobody_heard_and_what_is_missing_of_too_little(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 60)
    assert rightness_of(open_run(folder)) is None
    listen(folder, ear, 5)
    shown = rightness_of(open_run(folder))
    assert shown is not None
    assert shown["problem"].startswith("5 answers of the audit sample of")


def test_half_the_answers_are_a_sample_of_the_same_design(heard: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(heard, tmp_path / "run")
    path = folder / "reviews" / "anna.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:120]))
    _, accuracy = true_shares(heard)
    found = audit_run(open_run(folder))
    assert found.n_answers == 120
    assert found.accuracy.low <= accuracy <= found.accuracy.high


def test_folders_and_metadata_with_enough_answers_are_judged_by_themselves(heard: Path, audit: Audit) -> None:
    files = load_results(heard).set_index("clip_id")
    assert [group.name for group in audit.groups] == ["interviews", "letters", "radio", "theatre"]
    for group in audit.groups:
        of_group = [answer for answer in read_answers(heard).answers if answer.clip_id.startswith(group.name)]
        judged = [answer for answer in of_group if answer.answer != "cannot tell"]
        assert group.accuracy.n_answers == len(judged)
        plain = np.mean([answer.answer == files.emotion[answer.clip_id] for answer in judged])
        assert group.accuracy.value == pytest.approx(plain, abs=0.1)


def test_two_listeners_agree_by_as_much_as_they_do(heard: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(heard, tmp_path / "run")
    listen(
        folder, lambda item: ear(item) if len(item.clip_id) % 2 and item.model_label != "fear" else "anger", 100, "ben"
    )
    found = audit_run(open_run(folder))
    assert found.n_answers == 300
    assert found.reviewers == ["anna", "ben"]
    assert found.agreement is not None
    assert (found.agreement.reviewers, found.agreement.n_clips) == (("anna", "ben"), 100)
    assert found.agreement.low < found.agreement.alpha < found.agreement.high < 1
    assert any("Reviewers disagree on" in notice for notice in found.notices)


def given(clip_id: str, reviewer: str, answer: str) -> Answer:
    return Answer(clip_id, 0, 1, answer, "audit", 1.0, "anger", 0.5, 1.0, "", reviewer=reviewer)


def test_alpha_is_krippendorffs() -> None:
    """Krippendorff 2011, "Computing Krippendorff's alpha-reliability", section C: four observers, 12 units, .743."""
    units = [
        "1 1 . 1",
        "2 2 3 2",
        "3 3 3 3",
        "3 3 3 3",
        "2 2 2 2",
        "1 2 3 4",
        "4 4 4 4",
        "1 1 2 1",
        "2 2 2 2",
        ". 5 5 5",
    ]
    answers = [
        [given(str(number), name, value) for name, value in zip("ABCD", unit.split(), strict=True) if value != "."]
        for number, unit in enumerate([*units, ". . 1 1", ". . 3 ."])
    ]
    found = agreement_of(answers)
    assert found is not None
    assert found.alpha == pytest.approx(0.743, abs=0.0005)
    assert found.n_clips == 11
    assert agreement_of([[given("a", "anna", "1")]]) is None
    assert agreement_of(answers[:3]).note == "alpha needs 10 clips that two have answered"  # type: ignore[union-attr]


# What cannot be used: one line each, with the cure.


def fails(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["audit", str(folder), *options]) == ExitCode.DATA
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_that_nobody_listened_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", 50)
    assert "holds no answers to an audit. `ser-batch review" in fails(folder, capsys)
    listen(folder, ear, 30)
    path = folder / "reviews" / "anna.jsonl"
    path.write_text(path.read_text().replace('"audit"', '"only"'))
    assert "(it holds 30 for other purposes, which say nothing of the rest)" in fails(folder, capsys)


def test_fewer_than_twenty_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", 200)
    listen(folder, ear, 19)
    assert "19 answers of the audit sample" in fails(folder, capsys)
    listen(folder, ear, 20)
    assert main(["audit", str(folder)]) == ExitCode.OK


def test_answers_of_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", 200)
    other = make_run(tmp_path / "other", 200, RunPlan(seed=5))
    listen(other, ear, 60)
    shutil.copytree(other / "reviews", folder / "reviews")
    assert "are of another run. Move" in fails(folder, capsys)
    # By the option, they are taken: the clips are the same.
    shutil.rmtree(folder / "reviews")
    assert main(["audit", str(folder), "--answers", str(other), "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)
    files = load_results(folder).set_index("clip_id")
    answers = [answer for answer in read_answers(other).answers if isinstance(files.emotion[answer.clip_id], str)]
    assert told["n_answers"] == len(answers)
    assert told["accuracy"]["value"] < 0.5  # another run's labels have nothing to do with them


def test_answers_to_clips_that_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", 300)
    listen(folder, ear, 60)
    sample = load_sample(folder)
    assert sample is not None
    kept = make_run(tmp_path / "fewer", 300, RunPlan(clip_ids=[f"elsewhere/{i}.wav" for i in range(300)]))
    shutil.copytree(folder / "reviews", kept / "reviews")
    line = fails(kept, capsys)
    assert f"60 of 60 answers, such as that to {sample.items[0].clip_id}, are of clips that" in line
    assert "does not label any more" in line


def test_answers_without_their_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", 100)
    listen(folder, ear, 30)
    (folder / "reviews" / "audit.json").unlink()
    assert "holds answers but not the sample that they are of (audit.json)" in fails(folder, capsys)


def test_two_answers_that_disagree_count_in_part_and_are_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 400, RunPlan(failed_share=0.0))
    listen(folder, lambda item: item.model_label, 40)
    listen(folder, lambda _: "neutral", 40, "ben")
    found = audit_run(open_run(folder))
    assert found.accuracy.value == pytest.approx(0.5)
    (notice,) = found.notices
    assert notice.startswith("Reviewers disagree on 40 of 40 clips: there each answer counts in part.")
    assert len(found.as_dict()["disagreements"]) == 40


def test_a_run_that_has_grown_is_said_to_have(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 300, RunPlan(failed_share=0.0, shard_size=100))
    listen(folder, ear, 60)
    for table in ("files", "windows"):
        new = make_run(tmp_path / f"new-{table}", 50, RunPlan(clip_ids=[f"new/{i}.wav" for i in range(50)]))
        shutil.copy(new / table / "part-00000.parquet", folder / table / "part-00003.parquet")
    (notice,) = audit_run(open_run(folder)).notices
    assert "holds 344 labelled files and held 296 when the sample was drawn" in notice


def test_a_label_of_ones_own_is_a_category(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", 300)
    own = "<b>laughter</b>"
    listen(folder, lambda item: own if item.model_label == "happiness" else item.model_label, 100)
    found = audit_run(open_run(folder))
    (laughter,) = [item for item in found.shares if item.answer == own]
    assert laughter.share.low <= 0.17 <= laughter.share.high
    happiness = next(score for score in found.scores if score.label == "happiness")
    assert happiness.precision.value == 0
    assert happiness.recall.n_answers == 0
    # In the report it is text, whatever it looks like.
    html = build_report(folder, table=False).read_text()
    assert "&lt;b&gt;laughter&lt;/b&gt;" in html
    assert own not in html
