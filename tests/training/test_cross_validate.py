"""Cross-validation: every speaker is tested once, by a network that never heard them; and the model made from it."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_clips import write_folder

from ser_batch.classifier import checkpoint
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode

pytestmark = pytest.mark.usefixtures("no_pictures")

LABELS = ("anger", "fear", "sadness")
TOML = """
[data]
labels = ["anger", "fear", "sadness"]
validation_share = 0.0
test_share = 0.0
[augment]
copies = 0
[fit]
epochs = 3
crop_frames = 32
batch_size = 4
learning_rate = 0.01
"""


@dataclass(frozen=True, slots=True)
class Scored:
    folder: Path
    scores: dict[str, Any]
    out: str


def call(folder: Path, *options: str) -> tuple[int, str]:
    """Run a command on the clips of `folder`; return its exit code and what it printed."""
    out = io.StringIO()
    given = {"--corpus": f"raw={folder / 'raw'}", "--config": folder / "recipe.toml", "--cache": folder / "cache"}
    pairs = [part for key, value in given.items() for part in (key, str(value))]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = main([*options, *pairs, "--jobs", "1", "--device", "cpu"])
    return code, out.getvalue()


def evaluate(folder: Path, *options: str) -> tuple[int, str]:
    return call(folder, "evaluate", "--cross-validate", "given", *options)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Scored:
    folder = tmp_path_factory.mktemp("folds")
    write_folder(folder / "raw", LABELS, n_speakers=3, n_takes=2)
    (folder / "recipe.toml").write_text(TOML)
    code, out = evaluate(folder, "--json", str(folder / "scores.json"), "--also", "two=anger,fear")
    assert code == ExitCode.OK, out
    return Scored(folder, json.loads((folder / "scores.json").read_text()), out)


def test_every_clip_is_tested_once(scored: Scored) -> None:
    assert np.sum(scored.scores["overall"]["confusion"]) == 18
    assert scored.scores["overall"]["n_speakers"] == 3
    assert len(scored.scores["folds"]) == 3
    for fold in scored.scores["folds"]:
        assert fold["corpora"]["raw"]["chance"] == pytest.approx(1 / len(scored.scores["labels"]))
        assert fold["corpora"]["raw"]["n_clips"] == scored.scores["overall"]["n_clips"] / 3


def test_fewer_labels_are_scored_on_their_own_clips_with_their_own_temperature(scored: Scored) -> None:
    two = scored.scores["also"]["two"]
    assert two["labels"] == ["anger", "fear"]
    assert np.sum(two["overall"]["confusion"]) == 12
    assert two["temperature"] > 0
    assert "two: anger, fear" in scored.out


def test_the_second_head_is_scored_among_the_categories_of_the_corpus(scored: Scored) -> None:
    block = scored.scores["categories"]["raw"]
    assert block["labels"] == list(LABELS)
    assert block["n_clips"] == 18
    assert 0 <= block["uar"] <= 1


def test_the_temperature_of_a_fold_is_set_by_the_other_folds(scored: Scored) -> None:
    # Leaving out another fold each time, no two are alike.
    temperatures = [fold["temperature"] for fold in scored.scores["folds"]]
    assert len(set(temperatures)) == 3, temperatures


def test_folds_that_are_done_are_not_trained_again(scored: Scored) -> None:
    kept = sorted((scored.folder / "cache" / "folds").iterdir())
    assert [path.suffix for path in kept] == [".npz"] * 3
    before = [path.stat().st_mtime_ns for path in kept]
    code, out = evaluate(scored.folder, "--json", "-", "--also", "two=anger,fear")
    assert code == ExitCode.OK
    assert json.loads(out[out.index("{") :]) == scored.scores
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_a_damaged_fold_is_trained_again(scored: Scored) -> None:
    path, *others = sorted((scored.folder / "cache" / "folds").iterdir())
    before = [other.stat().st_mtime_ns for other in others]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    code, out = evaluate(scored.folder, "--json", "-", "--also", "two=anger,fear")
    assert code == ExitCode.OK
    assert json.loads(out[out.index("{") :])["overall"]["confusion"] == scored.scores["overall"]["confusion"]
    assert [other.stat().st_mtime_ns for other in others] == before
    assert len(path.read_bytes()) == len(whole)


def test_one_fold_alone_can_be_asked_for(scored: Scored) -> None:
    code, out = evaluate(scored.folder, "--fold", "2")
    assert code == ExitCode.OK
    assert "One fold alone has no other speakers to set its temperature by" in out
    code, out = evaluate(scored.folder, "--fold", "9")
    assert code == ExitCode.DATA
    assert "There is no fold 9: these data have folds 1 to 3." in out


def test_a_model_learns_from_everybody_with_the_temperature_and_scores_of_the_folds(scored: Scored) -> None:
    model = scored.folder / "own.safetensors"
    options = ["--output", str(model), "--report", str(scored.folder / "report"), "--also", "two=anger,fear"]
    code, out = call(scored.folder, "train", *options, "--scores", str(scored.folder / "scores.json"))
    assert code == ExitCode.OK, out
    assert "UAR on 3 cross-validation speakers" in out
    for path, table in ((model, scored.scores), (model.with_name("two.safetensors"), scored.scores["also"]["two"])):
        found = checkpoint.load(path)
        assert found.temperature == pytest.approx(table["temperature"])
        assert found.meta["scores"]["side"] == "cross_validation"
        assert found.meta["scores"]["uar"] == table["overall"]["uar"]
    assert len(checkpoint.load(model).meta["training"]["speakers"]) == 3


@pytest.mark.parametrize(
    ("place", "value", "problem"),
    [
        (("temperature",), 0, "temperature must be a number above 0"),
        (("overall", "uar"), None, "overall.uar must be"),
        (("corpora",), [], "corpora must be"),
        (("also",), [7], "it must be an object"),
        (("also", "two"), {}, "labels is missing"),
        (("labels",), "anger", "labels must be"),
    ],
)
def test_scores_that_are_none_are_refused_before_anything_is_trained(
    scored: Scored, tmp_path: Path, place: tuple[str, ...], value: object, problem: str
) -> None:
    edited = json.loads(json.dumps(scored.scores))
    holder = edited
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    (tmp_path / "scores.json").write_text(json.dumps(edited))
    options = ["--output", str(tmp_path / "x.safetensors"), "--scores", str(tmp_path / "scores.json")]
    code, out = call(scored.folder, "train", *options)
    assert code == ExitCode.USAGE
    assert problem in out.splitlines()[-1]


def test_without_validation_speakers_scores_must_be_given(scored: Scored) -> None:
    code, out = call(scored.folder, "train", "--output", str(scored.folder / "x.safetensors"))
    assert code == ExitCode.USAGE
    assert "evaluate --cross-validate" in out


def test_scores_of_other_labels_are_refused(scored: Scored, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({**scored.scores, "labels": ["anger", "joy"]}))
    code, out = call(scored.folder, "train", "--output", str(tmp_path / "x.safetensors"), "--scores", str(wrong))
    assert code == ExitCode.USAGE
    assert "not those of a cross-validation with the labels anger, fear, sadness" in out
    wrong.write_text("nothing")
    code, out = call(scored.folder, "train", "--output", str(tmp_path / "x.safetensors"), "--scores", str(wrong))
    assert "Cannot read the scores" in out


def test_temperatures_may_come_from_corpora_left_out(scored: Scored, tmp_path: Path) -> None:
    strangers = json.loads(json.dumps(scored.scores))
    strangers["temperature"], strangers["also"]["two"]["temperature"] = 2.5, 3.5
    path, model = tmp_path / "strangers.json", tmp_path / "own.safetensors"
    path.write_text(json.dumps(strangers))
    options = ["--output", str(model), "--report", str(tmp_path / "report"), "--strangers", str(path)]
    code, out = call(scored.folder, "train", *options)
    assert (code, "--scores" in out) == (ExitCode.USAGE, True)
    options += ["--scores", str(scored.folder / "scores.json"), "--also", "two=anger,fear"]
    code, out = call(scored.folder, "train", *options)
    assert code == ExitCode.OK, out
    for name, temperature in (("own", 2.5), ("two", 3.5)):
        found = checkpoint.load(tmp_path / f"{name}.safetensors")
        assert found.temperature == temperature
        assert set(found.meta["scores"]["strangers"]) == {"raw"}
    path.write_text(json.dumps({**strangers, "also": {}}))
    code, out = call(scored.folder, "train", *options)
    assert code == ExitCode.USAGE
    assert "`train --strangers` has no scores of the labels anger, fear" in out
