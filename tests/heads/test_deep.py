"""A whole network that goes on from a model by answers: better where they speak for it, as it was where not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from labelled_clips import speak, write_clip
from random_model import random_checkpoint, store_random_model

from ser_batch import EmotionPredictor
from ser_batch.classifier.checkpoint import load
from ser_batch.classifier.network import HybridCNN
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.cli.main import main
from ser_batch.errors import DataError
from ser_batch.heads import deep
from ser_batch.heads.answered import Answered, Found
from ser_batch.heads.deep import Answers, config_for, go_on
from ser_batch.heads.recordings import audio_of
from ser_batch.plugins import PluginRecipe
from ser_batch.run.read import open_run
from ser_batch.training.dataset import content_hashes
from ser_batch.training.evaluate import check_leakage
from ser_batch.training.features import FeatureTable
from ser_batch.training.starting import STRENGTHS, between
from ser_batch.training.train_config import TrainConfig

LABELS = ("anger", "fear", "sadness")
SMALL = NetworkConfig(
    n_labels=3, channels=(4, 8, 8, 8), attention_units=8, mel_units=16, dense_units=32, fusion_units=16
)
#: Answers of the test are few, and trainings short.
N_ANSWERS = 36
QUICK = {
    "augment": {"copies": 0},
    "fit": {"epochs": 10, "batch_size": 12, "learning_rate": 6e-3, "recolour": 0.0, "average_decay": 0.8},
}


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    """Learn from few answers in short trainings, by one thread."""
    shipped, n_threads = config_for, torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deep, "FEWEST_ANSWERS", N_ANSWERS)
        patch.setattr(deep, "config_for", lambda parent: shipped(parent).with_values(QUICK))
        yield
    torch.set_num_threads(n_threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five speakers by a random model, the labels of three, and what was learnt from these."""
    place = tmp_path_factory.mktemp("deep")
    store_random_model(place / "parent.safetensors", 3, config=SMALL, labels=LABELS, name="parent")
    rows = []
    for speaker in range(5):
        for label in LABELS:
            for take in range(4):
                clip = write_clip(place / f"audio/s{speaker}/{label}{take}.wav", label, speaker, take, 0.8)
                rows.append((str(clip.relative_to(place / "audio")), label, f"s{speaker}"))
    table = pd.DataFrame(rows, columns=["clip_id", "emotion", "speaker"])
    table.to_csv(place / "all.csv", index=False)
    table[table.speaker < "s3"].to_csv(place / "known.csv", index=False)
    model = ["--model", str(place / "parent.safetensors")]
    assert main(["scan", str(place / "audio"), "-o", str(place / "run"), *model, "--jobs", "1", "--no-report"]) == 0
    return place


def adapt(place: Path, *options: str, table: str = "known.csv", name: str = "mine") -> int:
    fixed = ("--labels", str(place / table), "-o", str(place / f"{name}.safetensors"), "--device", "cpu", "--jobs", "1")
    return main(["adapt", str(place / "run"), "--deep", *fixed, *options])


def test_a_network_that_went_on_is_right_about_speakers_that_it_never_heard(place, capsys):
    assert adapt(place, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["is_new"] and told["n_answers"] == N_ANSWERS and told["n_groups"] == 3
    assert told["strength"] in STRENGTHS[1:] and "penalty" not in told
    assert told["uar"]["after"] > told["uar"]["before"] and told["layer_alone"]["uar"]["after"] <= 1
    # It hears otherwise, says from what it came, and knows what it has heard.
    mine, parent = load(place / "mine.safetensors"), load(place / "parent.safetensors")
    assert mine.listening_sha256 != parent.listening_sha256 and mine.labels == LABELS
    assert mine.meta["adapted"]["from_sha256"] == mine.meta["training"]["from"]["sha256"] == parent.sha256
    assert mine.meta["adapted"]["strength"] == told["strength"] and mine.temperature == told["temperature"]
    assert len(mine.meta["training"]["speakers"]) == 3
    heard = [str(place / "audio/s0/anger0.wav")]
    with pytest.raises(DataError, match="very same content"):
        check_leakage(dict(mine.meta["training"]), [], content_hashes(heard))
    # What is said of the answers without them is kept for audits.
    (kept,) = (place / "run/reviews").glob("unlearnt-*.json")
    assert json.loads(kept.read_text())["model_sha256"] == mine.sha256
    others = pd.read_csv(place / "all.csv").query("speaker >= 's3'")
    right = []
    for model in ("parent", "mine"):
        predictor = EmotionPredictor(str(place / f"{model}.safetensors"))
        right.append(
            np.mean([predictor.predict(place / "audio" / r.clip_id).emotion == r.emotion for r in others.itertuples()])
        )
    assert right[1] > right[0] + 0.2


def test_what_answers_do_not_speak_for_is_as_it_was():
    """Labels drawn by lot: nothing holds for other groups."""
    rng, n = np.random.default_rng(0), 30
    start = random_checkpoint(1, config=SMALL, labels=LABELS)
    truth = np.eye(3)[rng.integers(3, size=n)]
    config = TrainConfig().with_values(QUICK).with_values({"fit": {"epochs": 1}})
    answers = Answers.build(table_of(rng, n), LABELS, truth, [str(number % 6) for number in range(n)], "cpu", 22_050)
    told: list[tuple[str, int, int]] = []
    found = go_on(answers, start, LABELS, config, lambda *step: told.append(step))
    assert not found.is_new and found.labels == LABELS
    for name in ("head.weight", "head.bias"):
        np.testing.assert_array_equal(found.weights[name], start.weights[name])
    assert found.temperature == start.temperature
    # Each answer is judged by a network that did not learn from it.
    assert len({name for name, _, _ in told}) == 5 and found.unlearnt.shape == (n, 3)
    np.testing.assert_allclose(found.unlearnt.sum(axis=1), 1)


def table_of(rng: np.random.Generator, n: int) -> FeatureTable:
    mel = rng.integers(0, 200, (n, 128, 130)).astype(np.uint8)
    dense = rng.normal(0, 1, (n, 13)).astype(np.float32)
    where = np.arange(n)
    return FeatureTable(where, np.zeros(n, np.int64), mel, dense, np.ones(n, np.float32), {})


def test_where_reviewers_disagree_each_answer_counts_in_part():
    truth = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0, 1]])
    answers = Answers.build(table_of(np.random.default_rng(0), 3), LABELS, truth, ["a", "b", "c"], "cpu", 22_050)
    taught = answers.disputed()
    assert taught is not None and np.isnan(taught[[0, 2]]).all()
    np.testing.assert_array_equal(taught[1], [0.5, 0.5, 0])
    truth[1] = [0, 1, 0]
    assert answers.disputed() is None


def test_between_the_ends_weights_are_mixed():
    start, end = random_checkpoint(1, config=SMALL, labels=LABELS), HybridCNN(SMALL)
    networks = [network.state_dict() for network in between(end, start, LABELS)]
    for name, old in start.weights.items():
        new = end.state_dict()[name].numpy()
        for strength, mixed in zip(STRENGTHS, networks, strict=True):
            np.testing.assert_allclose(mixed[name].numpy(), old + strength * (new - old), rtol=1e-4, atol=1e-5)


def test_stretches_within_recordings_are_cut_out_of_them(place, tmp_path):
    run = open_run(place / "run")
    whole = run.read("files", ["clip_id", "duration_s"], metadata=False).to_pylist()[0]
    name, end_s = whole["clip_id"], whole["duration_s"]
    found = Found([Answered(name, *times, {"fear": 1.0}) for times in ((0.2, 0.5), (0.0, end_s), (0.5, 0.7))])
    manager = PluginRecipe().build()
    files = audio_of(run, found, place / "audio", manager, 16_000, tmp_path)
    assert files[1] == str(place / "audio" / name)
    samples, _ = soundfile.read(files[1])
    for file, (first, last) in ((files[0], (3_200, 8_000)), (files[2], (8_000, 11_200))):
        np.testing.assert_allclose(soundfile.read(file)[0], samples[first:last], atol=1e-4)


def test_what_cannot_be_heard_again_is_one_line_with_the_cure(place, tmp_path, capsys):
    def refused(code: int, *options: str, **where: str) -> str:
        assert adapt(place, *options, name="no", **where) == code
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and not (place / "no.safetensors").exists()
        return message

    pd.read_csv(place / "known.csv")[:30].to_csv(place / "few.csv", index=False)
    assert f"30 answers can be used; a whole network learns from {N_ANSWERS} or more" in refused(8, table="few.csv")
    (place / "audio").rename(place / "moved")
    try:
        assert "The recordings are no longer at" in refused(3)
        (tmp_path / "empty").mkdir()
        message = refused(8, "--audio", str(tmp_path / "empty"))
        assert "is not in" in message and "say by --audio FOLDER where they are now" in message
    finally:
        (place / "moved").rename(place / "audio")
    assert main(["adapt", str(place / "run"), "--audio", str(tmp_path), "-o", str(place / "no.safetensors")]) == 2
    assert "--audio goes with --deep" in capsys.readouterr().err
    assert main(["adapt", str(place / "run"), "--deep", "--labels", str(place / "known.csv"), "-o", "no.pt"]) == 6
    assert "the name must end in .safetensors" in capsys.readouterr().err


def test_recordings_that_are_other_ones_now_are_named_and_left_out(place, tmp_path):
    run = open_run(place / "run")
    names = run.read("files", ["clip_id"], metadata=False).column(0).to_pylist()[:3]
    root = tmp_path / "audio"
    for name in names[:2]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / names[0]).write_bytes((place / "audio" / names[0]).read_bytes())
    soundfile.write(root / names[1], speak("fear", 7, 7), 16_000)
    found = Found([Answered(name, 0.0, 0.8, {"fear": 1.0}) for name in names])
    assert audio_of(run, found, root, PluginRecipe().build(), 16_000, tmp_path) == [str(root / names[0])]
    assert [item.clip_id for item in found.stretches] == names[:1]
    (notice,) = found.notices
    assert f"The audio of 2 answers cannot be used: '{names[1]}' is another file than was scanned, and so on" in notice
