"""A last layer learnt from answers: better where there is something to learn, the old one where there is not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from heard_run import LABELS, N_INPUTS, HeadOnly, Voice, make_run

import ser_batch
from ser_batch.classifier.checkpoint import load
from ser_batch.cli.main import main
from ser_batch.heads.adapt import adapt_model, learn
from ser_batch.heads.learn import Examples, Head, fit_head, folds_of
from ser_batch.reviews.answers import NO_VOICE, Answer, AnswerJournal
from ser_batch.reviews.audit import audit_run
from ser_batch.reviews.sample import draw_sample, save_sample
from ser_batch.run.read import open_run

MIDDLES = np.random.default_rng(11).normal(0, 1.0, (5, N_INPUTS))


def voices(n_speakers: int = 8, n_each: int = 20, seed: int = 0, emotions: tuple[str, ...] = LABELS) -> list[Voice]:
    """Draw voices whose emotions differ in what is heard, each speaker with a colour of their own."""
    rng = np.random.default_rng(seed)
    found = []
    for speaker in range(n_speakers):
        colour = rng.normal(0, 0.4, N_INPUTS)
        for number in range(n_each):
            kind = int(rng.integers(len(emotions)))
            heard = MIDDLES[kind] + colour + rng.normal(0, 0.8, (1 + number % 3, N_INPUTS))
            found.append(Voice(f"s{speaker}/{number:03d}.wav", f"s{speaker}", emotions[kind], heard))
    return found


def write_table(path: Path, rows: list[Voice], **more: list[object]) -> Path:
    columns = {"clip_id": [v.clip_id for v in rows], "emotion": [v.emotion for v in rows]}
    pd.DataFrame(columns | more).to_csv(path, index=False)
    return path


def adapted(run: Path, table: Path | None = None, group: str = "speaker", name: str = "mine"):
    parent = load(run.parent / "parent.safetensors")
    return adapt_model(open_run(run), parent, run.parent / f"{name}.safetensors", table, group)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a model learnt from the answers about half of its speakers."""
    place = tmp_path_factory.mktemp("adapt")
    everything = voices()
    make_run(place / "run", everything)
    known = [voice for voice in everything if voice.speaker < "s4"]
    write_table(place / "known.csv", known, speaker=[voice.speaker for voice in known])
    return place


def test_it_is_as_right_on_other_speakers_as_it_says(place, capsys):
    arguments = [
        "adapt",
        str(place / "run"),
        "--labels",
        str(place / "known.csv"),
        "-o",
        str(place / "mine.safetensors"),
    ]
    assert main([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["is_new"] and told["n_answers"] == 80 and told["n_groups"] == 4
    assert told["groups"] == "Held out together, 4 groups: speaker, by the table."
    # Without audio, to the other half of the archive.
    ser_batch.label(place / "run", place / "labelled", model=str(place / "mine.safetensors"), report=False)
    truth = pd.Series({voice.clip_id: voice.emotion for voice in voices() if voice.speaker >= "s4"})
    right = {}
    for name in ("run", "labelled"):
        said = pd.read_parquet(place / name / "files").set_index("clip_id")["emotion"].reindex(truth.index)
        right[name] = (said.astype(str) == truth).groupby(truth).mean().mean()
    assert right["run"] < 0.5
    assert right["labelled"] > 0.75
    assert abs(right["labelled"] - told["uar"]["after"]) < 0.12
    low, high = told["uar"]["interval"]
    assert low < told["uar"]["gain"] < high and low > 0


def test_the_model_file_is_like_any_other_and_says_from_what_it_came(place, capsys):
    adapted(place / "run", place / "known.csv")
    model, parent = load(place / "mine.safetensors"), load(place / "parent.safetensors")
    assert model.listening_sha256 == parent.listening_sha256 and model.sha256 != parent.sha256
    assert model.name == "mine" and model.meta["derived_from"] == "parent"
    card = model.meta["adapted"]
    assert (card["from_sha256"], card["run_id"], card["n_answers"]) == (parent.sha256, "r1", 80)
    assert 0.7 < model.meta["scores"]["uar"] < 1 and model.meta["scores"]["chance"] == pytest.approx(1 / 3)
    assert main(["model", "info", str(place / "mine.safetensors")]) == 0
    assert "answers that were not learnt from" in capsys.readouterr().out
    np.testing.assert_allclose(HeadOnly(model, "cpu").label(np.ones((2, N_INPUTS))).sum(axis=1), 1, atol=1e-6)


def test_probabilities_of_the_new_layer_are_calibrated(place):
    adapted(place / "run", place / "known.csv")
    classifier = HeadOnly(load(place / "mine.safetensors"), "cpu")
    others = [voice for voice in voices() if voice.speaker >= "s4"]
    said = [classifier.pool(classifier.label(v.heard), np.ones(len(v.heard), np.float32)) for v in others]
    right = np.mean([s.emotion == v.emotion for s, v in zip(said, others, strict=True)])
    assert abs(np.mean([s.confidence for s in said]) - right) < 0.12


def test_where_each_speaker_has_one_emotion_the_old_layer_stays(tmp_path, capsys):
    """What tells such answers apart is who speaks: nothing of it holds for others."""
    rng = np.random.default_rng(2)
    found = []
    for speaker in range(12):
        colour = rng.normal(0, 1.0, N_INPUTS)
        for number in range(8):
            heard = colour + rng.normal(0, 0.3, (1, N_INPUTS))
            found.append(Voice(f"s{speaker:02d}/{number}.wav", f"s{speaker:02d}", LABELS[speaker % 3], heard))
    run = make_run(tmp_path / "run", found)
    table = write_table(tmp_path / "t.csv", found)
    assert main(["adapt", str(run), "--labels", str(table), "-o", str(tmp_path / "mine.safetensors")]) == 0
    said = capsys.readouterr().out
    assert "12 groups: folder, since nothing says who speaks" in said
    assert "is not better beyond chance" in said and "keeps that of parent" in said
    model, parent = load(tmp_path / "mine.safetensors"), load(tmp_path / "parent.safetensors")
    for name in ("head.weight", "head.bias"):
        np.testing.assert_array_equal(model.weights[name], parent.weights[name])
    assert model.temperature == parent.temperature and model.meta["adapted"]["is_new"] is False


def test_where_four_people_speak_a_layer_that_gains_is_told_from_chance():
    """Recalls of 100 answers change in steps; how probable the answers are tells more."""
    gains, is_told = [], []
    for seed in range(14):
        rng = np.random.default_rng(seed)
        old = Head(LABELS, 0.6 * MIDDLES[:3] + rng.normal(0, 0.25, (3, N_INPUTS)), np.zeros(3))
        answered, others = spoken(rng, 4, 25), spoken(rng, 30, 30)
        learnt = learn(answered, old, old, (others.inputs.mean(axis=0), others.inputs.std(axis=0)))
        if learnt.is_new:
            gains.append(log_score(others, learnt.head) - log_score(others, old))
            is_told.append(learnt.scores.uar.is_better)
    assert len(gains) > 4 and min(gains) > 0
    assert not all(is_told)


def spoken(rng: np.random.Generator, n_speakers: int, n_each: int) -> Examples:
    colours, kind = rng.normal(0, 0.4, (n_speakers, N_INPUTS)), rng.integers(3, size=n_speakers * n_each)
    speaker, n = np.repeat(np.arange(n_speakers), n_each), len(kind)
    inputs = MIDDLES[kind] + colours[speaker] + rng.normal(0, 1.6, (n, N_INPUTS))
    return Examples(inputs, np.ones(n), np.arange(n), np.eye(3)[kind], speaker)


def log_score(examples: Examples, head: Head) -> float:
    return float(np.log((examples.truth * examples.said_by(head)).sum(axis=1)).mean())


def test_answers_that_are_drawn_by_lot_teach_nothing(tmp_path):
    rng, kept = np.random.default_rng(0), 0
    everything = voices(seed=5)
    run = make_run(tmp_path / "run", everything)
    for draw in range(3):
        lots = [Voice(v.clip_id, v.speaker, str(rng.choice(LABELS)), v.heard) for v in everything[:60]]
        table = write_table(tmp_path / f"{draw}.csv", lots, speaker=[v.speaker for v in lots])
        kept += not adapted(run, table).is_new
    assert kept >= 2


def test_new_labels_join_when_there_are_enough_answers(tmp_path):
    emotions = (*LABELS, "laughter", "pain")
    everything = voices(seed=1, emotions=emotions)
    run = make_run(tmp_path / "run", everything)
    answers = [v for v in everything if v.emotion != "pain"] + [v for v in everything if v.emotion == "pain"][:3]
    found = adapted(run, write_table(tmp_path / "t.csv", answers), group="folder")
    assert found.labels == (*LABELS, "laughter")
    assert any("New label: 'laughter'" in notice for notice in found.notices)
    assert any("'pain' (3), which the model does not know" in notice for notice in found.notices)
    assert found.scores.recalls["laughter"][0] == 0 and found.scores.recalls["laughter"][1] > 0.5
    assert load(tmp_path / "mine.safetensors").labels == found.labels


def test_answers_of_listeners_to_single_windows_are_learnt_from(tmp_path):
    """Each window of a recording has an emotion of its own."""
    rng = np.random.default_rng(4)
    kinds = {f"s{n}/long.wav": rng.integers(3, size=20) for n in range(6)}
    long = [Voice(name, "", "", MIDDLES[kind] + rng.normal(0, 0.6, (20, N_INPUTS))) for name, kind in kinds.items()]
    run = make_run(tmp_path / "run", long)
    with AnswerJournal.open(run, "anna", "r1") as journal:
        for name, kind in kinds.items():
            for window in range(20):
                answer = NO_VOICE if window == 7 else LABELS[kind[window]]
                times = (3.0 * window, 3.0 * window + 3.0)
                journal.append(Answer(name, *times, answer, "adapt", None, "fear", 0.4, 1.0, ""))
    with AnswerJournal.open(run, "bert", "r1") as journal:
        other = LABELS[(kinds["s0/long.wav"][0] + 1) % 3]
        journal.append(Answer("s0/long.wav", 0.0, 3.0, other, "adapt", None, "fear", 0.4, 1.0, ""))
    found = adapted(run, group="folder")
    assert found.n_answers == 6 * 19 and found.scores.uar.after > 0.8
    assert any("6 answers name no emotion" in notice for notice in found.notices)
    assert any("disagree on 1 of 114 stretches" in notice for notice in found.notices)


def test_an_audit_by_answers_that_were_learnt_from_judges_what_did_not_learn_from_them(tmp_path, capsys):
    everything = voices(n_speakers=6, seed=3)
    run, emotion = make_run(tmp_path / "run", everything), {voice.clip_id: voice.emotion for voice in everything}
    sample = draw_sample(open_run(run))
    save_sample(run, sample)
    with AnswerJournal.open(run, "anna", "r1") as journal:
        for item in sample.items[:80]:
            told = (item.model_label, item.model_confidence, 1.0, "")
            answer = emotion[item.clip_id]
            journal.append(
                Answer(item.clip_id, item.start_s, item.end_s, answer, "audit", item.inclusion_probability, *told)
            )
    assert adapted(run, group="folder").is_new
    model = str(tmp_path / "mine.safetensors")
    ser_batch.label(run, tmp_path / "new", model=model, report=False)
    found = audit_run(open_run(tmp_path / "new"), run)
    assert any("mine learnt from 80 of these answers" in notice for notice in found.notices)
    (kept,) = (run / "reviews").glob("unlearnt-*.json")
    told = json.loads(kept.read_text())
    assert told["model_sha256"] == load(Path(model)).sha256
    said = {clip_id: told["labels"][int(np.argmax(row))] for clip_id, *_, row in told["stretches"]}
    right = np.array([said[item.clip_id] == emotion[item.clip_id] for item in sample.items[:80]])
    assert found.accuracy.value == pytest.approx(right.mean(), abs=0.05)
    # The labels of the new run, by the same answers, look better than they are.
    kept.rename(kept.with_suffix(".away"))
    flattered = audit_run(open_run(tmp_path / "new"), run)
    assert flattered.accuracy.value > found.accuracy.value and not flattered.notices
    kept.write_text("{}")
    assert main(["audit", str(tmp_path / "new"), "--answers", str(run)]) == 8
    assert "an audit without it would flatter the model" in capsys.readouterr().err
    # That of the run that was answered about is of another model.
    assert not audit_run(open_run(run)).notices


def test_answers_that_cannot_be_used_are_one_line_with_the_cure(place, tmp_path, capsys):
    run, some = place / "run", voices()
    target = str(tmp_path / "no.safetensors")

    def refused(table: Path | None, code: int = 8) -> str:
        labels = ["--labels", str(table)] if table else []
        assert main(["adapt", str(run), *labels, "-o", target]) == code
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and not Path(target).exists()
        return message

    assert "There are no answers in" in refused(None)
    assert "from fewer than 20 nothing is learnt" in refused(write_table(tmp_path / "few.csv", some[:12]))
    alike = [voice for voice in some if voice.emotion == "fear"]
    assert "from one label nothing is learnt" in refused(write_table(tmp_path / "alike.csv", alike))
    gone = [Voice(f"gone/{n}.wav", "", "fear", some[0].heard) for n in range(30)]
    assert "none of its 30 rows names a file" in refused(write_table(tmp_path / "gone.csv", gone))
    assert "2 rows name files that the run does not have" in refused(
        write_table(tmp_path / "g.csv", some[:5] + gone[:2])
    )
    twice = [*some[:30], Voice(some[0].clip_id, "", "joy", some[0].heard)]
    assert "lines 2 and 32 say of 's0/000.wav'" in refused(write_table(tmp_path / "twice.csv", twice))
    one = [voice for voice in voices(n_each=60) if voice.speaker == "s0"]
    names = ["anna"] * len(one[:20])
    assert "All answers are of one group" in refused(write_table(tmp_path / "one.csv", one[:20], speaker=names))
    assert main(["adapt", str(run), "--labels", str(place / "known.csv"), "--group", "town", "-o", target]) == 8
    assert "no metadata column 'town'" in capsys.readouterr().err
    no_emotion = tmp_path / "columns.csv"
    no_emotion.write_text("clip_id,mood\ns0/000.wav,fear\n")
    assert "has no column of emotions: name it one of emotion" in refused(no_emotion)
    late = write_table(tmp_path / "late.csv", some[:40], start_s=[900] * 40, end_s=[903] * 40)
    assert "40 answers are about audio of which the run has no window" in refused(late)
    back = write_table(tmp_path / "back.csv", some[:40], start_s=[2] * 40, end_s=[1] * 40)
    assert "line 2: what begins at 2 s cannot end at 1 s, as 's0/000.wav' would" in refused(back)


def test_answers_about_files_of_which_a_part_is_lost_are_left_out(place, tmp_path):
    known = [voice for voice in voices() if voice.speaker < "s4"]
    for table in ("embeddings", "windows"):
        run = Path(shutil.copytree(place / "run", tmp_path / table / "run"))
        shutil.copy(place / "parent.safetensors", tmp_path / table)
        (run / table / "part-00000.parquet").unlink()
        found = adapted(run, place / "known.csv")
        assert found.n_answers == len(known) - 50
        assert any(
            line.startswith("50 answers are about audio of which the run has no window") for line in found.notices
        )


def test_a_model_is_never_written_over_its_parent_and_has_a_folder_made(place, tmp_path, capsys):
    known = ["adapt", str(place / "run"), "--labels", str(place / "known.csv"), "-o"]
    before = (place / "parent.safetensors").read_bytes()
    assert main([*known, str(place / "parent.safetensors")]) == 6
    assert "is the model of" in capsys.readouterr().err and (place / "parent.safetensors").read_bytes() == before
    assert main([*known, str(tmp_path / "models/new/mine.safetensors")]) == 0
    assert load(tmp_path / "models/new/mine.safetensors").name == "mine"


def test_a_model_that_is_no_file_cannot_be_adapted(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    told = tmp_path / "run/run.json"
    info = json.loads(told.read_text())
    told.write_text(json.dumps(info | {"config": {"predict": {"model": "listener-large"}}}))
    assert main(["adapt", str(tmp_path / "run"), "-o", str(tmp_path / "mine.safetensors")]) == 6
    message = capsys.readouterr().err
    assert "was labelled by 'listener-large'" in message and "A model of a plugin: it cannot be adapted" in message


def test_the_strongest_penalty_leaves_the_layer_and_a_weak_one_fits(place):
    rng = np.random.default_rng(0)
    inputs, kind = rng.normal(0, 1, (60, 4)), rng.integers(3, size=60)
    truth, of = np.eye(3)[kind], np.arange(60)
    start = Head(("a", "b", "c"), rng.normal(0, 1, (3, 4)), np.zeros(3), 2.0)
    examples = Examples(inputs, np.ones(60), of, truth, of)
    spread = (inputs.mean(axis=0), np.array([*inputs.std(axis=0)[:3], 0.0]))
    kept, loose = fit_head(examples, start, spread, (np.inf, 1e-4))
    np.testing.assert_allclose(examples.said_by(kept), examples.said_by(start))
    # An input that does not vary over the archive is not used.
    np.testing.assert_allclose(loose.weights[:, 3], start.weights[:, 3] / 2)
    assert (examples.said_by(loose).argmax(axis=1) == kind).mean() > (
        examples.said_by(start).argmax(axis=1) == kind
    ).mean()


def test_folds_keep_groups_together_and_are_of_a_size():
    group = np.repeat(np.arange(10), [30, 20, 5, 5, 5, 5, 10, 10, 5, 5])
    fold = folds_of(group, 4)
    assert all(len(set(fold[group == name])) == 1 for name in range(10))
    assert np.bincount(fold).max() - np.bincount(fold).min() <= 10
