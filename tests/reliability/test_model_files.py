"""Whatever stands in the metadata of a model file, it is loaded and works, or is refused in one line."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from nasty import mutated
from random_model import random_blocks, random_checkpoint
from safetensors.numpy import save as to_bytes

from ser_batch.classifier.checkpoint import METADATA_KEY, load
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.classifier.onnx_classifier import OnnxClassifier
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode, ModelError

SMALL = NetworkConfig(channels=(2, 2, 2, 2), attention_units=2, mel_units=2, dense_units=2, fusion_units=2)
SCORES = {"uar": 0.5, "chance": 0.17, "uar_interval": [0.4, 0.6], "corpora": {"x": 0.5}, "confusion": [[3, 1], [0, 4]]}
TRAINING = {"corpora": [{"name": "x", "title": "X", "licence": "CC0"}], "licences": ["CC0"], "n_clips": 8, "seeds": [0]}


def attack(folder: Path, rng: random.Random, n_cases: int, capsys: pytest.CaptureFixture[str]) -> int:
    """Load edited models; return how many of them were taken."""
    checkpoint = random_checkpoint(config=SMALL, scores=SCORES, training=TRAINING)
    path = folder / "edited.safetensors"
    n_taken = 0
    for _ in range(n_cases):
        data = mutated(checkpoint.meta, rng)
        path.write_bytes(to_bytes(checkpoint.weights, metadata={METADATA_KEY: data.decode("utf-8", "replace")}))
        code = main(["model", "info", str(path)])
        shown = capsys.readouterr()
        assert code in {*ExitCode} - {ExitCode.UNFORESEEN}, (data, shown.err)
        assert code == 0 or shown.err.count("\n") == 1, (data, shown.err)
        try:
            loaded = load(path)
        except ModelError:
            assert code == ExitCode.MODEL
            continue
        assert code == 0
        n_taken += 1
        if rng.random() < 0.2:
            probabilities, _ = OnnxClassifier(loaded).predict(random_blocks(2))
            np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-4)
    return n_taken


def test_edited_model_files_are_refused_in_a_line(tmp_path, capsys):
    n_taken = attack(tmp_path, random.Random(1), 150, capsys)
    assert 5 < n_taken < 100, "some edits are harmless, and most are not"


@pytest.mark.reliability
@pytest.mark.parametrize("seed", range(5))
def test_long_thousands_of_edited_model_files(tmp_path, capsys, seed):
    attack(tmp_path, random.Random(seed), 500, capsys)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("strides", ((0, 2), (1, 2), (1, 1), (1, 1))),
        ("pools", ((2, 1), (2, 0), (2, 1), (1, 1))),
        ("strides", ((2,), (1, 2), (1, 1), (1, 1))),
        ("channels", (16, 32, 64, 0)),
        ("channels", (16, 32, 64, 10**9)),
        ("mel_units", -1),
        ("fusion_units", 12.5),
        ("dynamic_range_db", float("nan")),
        ("audible_range_db", True),
    ],
)
def test_sizes_that_no_network_has_are_refused(name, value):
    with pytest.raises(ModelError, match=f"cannot have {name}"):
        NetworkConfig(**{name: value})


def test_a_model_file_with_strides_of_0_is_refused(tmp_path, capsys):
    checkpoint = random_checkpoint(config=SMALL)
    meta = {**checkpoint.meta, "network": {**checkpoint.meta["network"], "strides": [[0, 2], [1, 2], [1, 1], [1, 1]]}}
    path = tmp_path / "stride.safetensors"
    path.write_bytes(to_bytes(checkpoint.weights, metadata={METADATA_KEY: json.dumps(meta)}))
    assert main(["model", "info", str(path)]) == ExitCode.MODEL
    assert "cannot have strides ((0, 2)" in capsys.readouterr().err
