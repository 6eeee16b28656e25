"""``train --from``: training goes on from a model, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled_clips import write_clip
from random_model import store_random_model

from ser_batch.classifier import checkpoint
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = """
[data]
validation_share = 0.3
test_share = 0.3

[augment]
copies = 0

[fit]
epochs = 1
crop_frames = 32
batch_size = 8
refit = false
learning_rate = {rate}
weight_decay = 0.0
"""

#: Of the model that is gone on from: one label is learnt again, one is new.
OLD, NEW = ("fear", "joy", "anger"), ("anger", "fear", "pain")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("starting")
    training = {
        "corpora": [{"name": "old", "title": "Old", "licence": "L0", "url": ""}],
        "licences": ["L0"],
        "speakers": ["0" * 12],
        "audio": "1" * 12,
    }
    store_random_model(
        place / "old.safetensors", labels=list(OLD), config=NetworkConfig(n_labels=len(OLD)), training=training
    )
    for number, emotion in enumerate(NEW):
        for speaker in range(3):
            for take in range(2):
                manner = ("anger", "fear", "disgust")[number]
                write_clip(place / "raw" / emotion / f"s{speaker}_{take}.wav", manner, speaker, 10 * number + take)
    return place


def train(place: Path, monkeypatch: pytest.MonkeyPatch, rate: float, *options: str) -> int:
    monkeypatch.chdir(place)
    Path("tiny.toml").write_text(TINY.format(rate=rate))
    fixed = ("--data", "raw", "--config", "tiny.toml", "--output", "new.safetensors", "--device", "cpu", "--jobs", "1")
    return main(["train", *fixed, *options])


def test_it_begins_as_the_model_is_and_says_what_it_has_heard(place, monkeypatch):
    assert train(place, monkeypatch, 1e-9, "--from", "old.safetensors") == ExitCode.OK
    old, new = checkpoint.load(place / "old.safetensors"), checkpoint.load(place / "new.safetensors")
    assert new.labels == NEW
    for name, weights in old.weights.items():
        if "running_" in name or name.startswith("head."):
            continue
        np.testing.assert_allclose(new.weights[name], weights, atol=1e-5, err_msg=name)
    for name in ("head.weight", "head.bias"):
        rows = dict(zip(OLD, old.weights[name], strict=True))
        expected = [rows["anger"], rows["fear"], np.mean(list(rows.values()), axis=0)]
        np.testing.assert_allclose(new.weights[name], expected, atol=1e-5)
    training = new.meta["training"]
    assert new.meta["derived_from"] == old.name
    assert training["from"] == {"name": old.name, "sha256": old.sha256}
    assert [source["name"] for source in training["corpora"]][-1] == "old" and "L0" in training["licences"]
    assert "0" * 12 in training["speakers"] and len(training["speakers"]) > 1
    assert training["audio"].endswith("1" * 12) and len(training["audio"]) > 12


def test_a_model_that_hears_otherwise_is_refused_with_the_setting(place, monkeypatch, capsys):
    options = ("--from", "old.safetensors", "--set", "audio.sample_rate_hz=16000")
    assert train(place, monkeypatch, 1e-3, *options) == ExitCode.USAGE
    message = capsys.readouterr().err
    assert "the model hears with audio.sample_rate_hz = 22050, this training with 16000" in message
    assert train(place, monkeypatch, 1e-3, "--from", "none.safetensors") == ExitCode.MODEL
