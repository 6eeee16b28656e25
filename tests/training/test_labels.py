"""Labels are those of the folders, in any language; chance stands beside scores; what is worth nothing is said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from labelled_clips import write_clip
from synthetic_run import RunPlan, make_run

from ser_batch.classifier import checkpoint
from ser_batch.cli.main import main
from ser_batch.doubts import doubts_of_run, doubts_of_scores
from ser_batch.errors import DataError, ExitCode
from ser_batch.records import LabelledClip
from ser_batch.training.dataset import with_labels
from ser_batch.training.train_config import DataConfig, TrainConfig

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = """
[data]
validation_share = 0.3
test_share = 0.3

[augment]
copies = 0

[fit]
epochs = {epochs}
crop_frames = 32
batch_size = 8
refit = false
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(epochs: int, *arguments: str) -> int:
    Path("tiny.toml").write_text(TINY.format(epochs=epochs))
    fixed = ("--config", "tiny.toml", "--output", "own.safetensors", "--device", "cpu", "--jobs", "1")
    return main(["train", *fixed, *arguments])


def clips(*emotions: str) -> list[LabelledClip]:
    return [LabelledClip(f"{n}.wav", emotion, f"s{n}", "", "mine", emotion) for n, emotion in enumerate(emotions)]


def labels(config: DataConfig, *emotions: str) -> tuple[str, ...]:
    return with_labels(TrainConfig(data=config), clips(*emotions)).data.labels


def test_all_labels_that_are_there_are_learnt() -> None:
    assert labels(DataConfig(), "rudeness", "Angst", "calm crying", "anger") == (
        "Angst",
        "anger",
        "calm crying",
        "rudeness",
    )
    assert labels(DataConfig(merge=("calm=neutral",)), "calm", "neutral", "fear") == ("fear", "neutral")
    codes = [LabelledClip("x.mp3", "emogator-05", "s", "", "emogator", "05"), *clips("fear", "anger")]
    assert with_labels(TrainConfig(), codes).data.labels == ("anger", "fear")


def test_labels_that_are_named_are_those_and_no_others() -> None:
    named = DataConfig(labels=("angst", "Angry", "calm crying"))
    assert labels(named, "Angst", "anger", "calm crying", "fear") == ("Angst", "anger", "calm crying")
    assert labels(DataConfig(labels=("fear", "hunger")), "fear", "anger") == ("fear", "hunger")


def test_one_label_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match=r"only one label \(anger\).*Add clips of another"):
        labels(DataConfig(), "anger", "anger")


def folders(names: dict[str, str], n_speakers: int = 3) -> None:
    """Folder -> the manner in which its clips are spoken."""
    for number, (folder, manner) in enumerate(names.items()):
        for speaker in range(n_speakers):
            for take in range(2):
                path = Path("four", folder, f"s{speaker}_{take}.wav")
                write_clip(path, manner, speaker, 10 * number + take)


def test_four_folders_with_names_of_ones_own_are_learnt_and_scanned_without_any_option(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders({"Angry": "anger", "rudeness": "disgust", "Angst": "fear", "01Neutral": "sadness"})
    assert train(2, "--data", "four") == ExitCode.OK
    told = capsys.readouterr()
    assert "Angst 6, anger 6, neutral 6, rudeness 6" in told.out + told.err
    assert re.search(r"UAR on 1 test speakers: 0\.\d+ \(.*chance 0\.250\)", told.out)
    assert re.search(r"epoch 1: .*validation UAR 0\.\d+ \(chance 0\.250\)", told.out + told.err)
    model = checkpoint.load(Path("own.safetensors"))
    assert model.labels == ("Angst", "anger", "neutral", "rudeness")
    assert model.meta["scores"]["chance"] == 0.25
    options = ["--model", "own.safetensors", "--device", "cpu", "--jobs", "1", "--no-report"]
    assert main(["scan", "four", "-o", "run", *options]) == ExitCode.OK
    assert {"p_Angst", "p_rudeness"} <= set(pd.read_parquet("run/files").columns)
    assert main(["show", "run"]) == ExitCode.OK
    assert main(["model", "info", "own.safetensors"]) == ExitCode.OK
    assert "chance: 0.25" in capsys.readouterr().out


def test_the_recipe_is_scored_without_naming_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    folders({"Angry": "anger", "Wut": "fear", "not learnt": "sadness"})
    Path("tiny.toml").write_text(TINY.format(epochs=1))
    arguments = ["evaluate", "four", "--cross-validate", "speaker", "--config", "tiny.toml", "--device", "cpu"]
    assert main([*arguments, "--labels", "wut,angry", "--json", "scores.json", "--jobs", "1"]) == ExitCode.OK
    told = capsys.readouterr()
    assert re.search(r"^ +clips +spkrs +UAR +95 % by speaker +chance", told.out, re.MULTILINE)
    scores = json.loads(Path("scores.json").read_text())
    assert scores["labels"] == ["Wut", "anger"]
    assert scores["overall"]["chance"] == 0.5


def test_a_model_is_scored_among_some_of_its_labels(capsys: pytest.CaptureFixture[str]) -> None:
    folders({"Angry": "anger", "Wut": "fear"})
    assert main(["evaluate", "four", "--labels", "fear,anger", "--json", "-", "--jobs", "1"]) == ExitCode.OK
    told = capsys.readouterr()
    scores = json.loads(told.out)
    assert scores["labels"] == ["anger", "fear"]
    assert scores["overall"]["n_clips"] == np.sum(scores["overall"]["confusion"])
    assert len(scores["overall"]["confusion"]) == 2
    assert main(["evaluate", "four", "--labels", "a,b"]) == ExitCode.MODEL
    assert "has no label 'a'" in capsys.readouterr().err


def test_what_cannot_be_told_apart_is_said_aloud_by_train_and_wherever_it_labels(
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders({"this": "anger", "that": "anger"}, n_speakers=6)
    assert train(1, "--data", "four") == ExitCode.OK
    warning = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING: "))
    assert "chance" in warning or "same label" in warning
    assert main(["scan", "four", "-o", "run", "--model", "own.safetensors", "--device", "cpu", "--jobs", "1"]) == 0
    scanned = capsys.readouterr().out
    assert main(["show", "run"]) == ExitCode.OK
    shown = capsys.readouterr().out
    page = Path("run/report.html").read_text()
    for text in (scanned, shown, page):
        assert "no better than chance" in text or "tells nothing apart" in text


def test_a_run_whose_files_all_have_one_label_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = {"labels": ["anger", "fear"], "model": {"name": "own"}}
    assert doubts_of_run(info, {"anger": 12, "fear": 9}) == []
    assert doubts_of_run(info, {"anger": 3, "fear": 0}) == []
    assert doubts_of_run(info, {"anger": 30, "fear": 0}) == [
        "All 30 files are labelled anger: the model 'own' tells nothing apart here."
    ]
    folder = make_run(tmp_path / "made", 40, RunPlan(failed_share=0.0))
    manifest = json.loads((folder / "run.json").read_text())
    manifest["model"]["scores"] = {"uar": 0.2, "uar_interval": [0.1, 0.3], "side": "test"}
    (folder / "run.json").write_text(json.dumps(manifest))
    assert main(["show", str(folder)]) == ExitCode.OK
    assert "may be no better than chance: UAR 0.200, chance 0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"uar": 0.6, "uar_interval": [0.5, 0.7], "chance": 0.25}, ""),
        ({"uar": 0.3, "uar_interval": [0.2, 0.4], "chance": 0.25}, "UAR 0.300, chance 0.250"),
        ({"uar": 0.25, "uar_interval": [None, None], "chance": 0.25}, "no better than chance"),
        ({"uar": 0.4, "uar_interval": [None, None], "chance": 0.25}, ""),
        ({"uar": 0.5, "uar_interval": [0.5, 0.5], "chance": 0.5, "confusion": [[9, 0], [8, 0]]}, "the same label"),
        ({"uar": 0.9, "uar_interval": [0.8, 1], "chance": 0.5, "confusion": [[9, 0], [1, 8]]}, ""),
        ({"uar": 0.9}, ""),
        ({}, ""),
    ],
)
def test_scores_say_what_speaks_against_a_model(block: dict[str, object], words: str) -> None:
    doubts = doubts_of_scores(block)
    assert bool(doubts) == bool(words)
    assert words in "".join(doubts)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *(
            ((option, value), f"{option} is for recipes: give --cross-validate or --leave-corpus-out, too")
            for option, value in (
                ("--config", "quick"),
                ("--set", "fit.epochs=1"),
                ("--also", "two=anger,fear"),
                ("--fold", "1"),
                ("--teacher", "ser6"),
            )
        ),
        (("--cross-validate", "speaker", "--merge", "calm=neutral"), "--merge is for models"),
    ],
)
def test_options_that_would_have_no_say_are_refused(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    Path("four").mkdir()
    assert main(["evaluate", "four", *options]) == ExitCode.USAGE
    assert words in capsys.readouterr().err
