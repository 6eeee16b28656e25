"""On a GPU the parent predicts, in batches over many files: the same results as where workers predict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import soundfile
from random_model import store_random_model

from ser_batch.classifier import device
from ser_batch.classifier.checkpoint import load
from ser_batch.config import Config
from ser_batch.contracts import CheckedClassifier
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.engine import scan
from ser_batch.records import ClipOutcome, ClipRef, FeatureBlock, Prediction, Status
from ser_batch.stages.predict import predict_outcomes


class Counting:
    """A classifier that remembers the size of its batches, and fails on a marked window."""

    name, sha256, device = "counting", "0" * 64, "cuda"
    labels, needs = ("no", "yes"), ()

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, blocks):
        values = blocks["x"].scalars[:, 0]
        if (values < 0).any():
            raise RuntimeError("CUDA error: device-side assert triggered")
        assert blocks["x"].tensor.shape == (len(values), 2)
        self.batches.append(len(values))
        return np.column_stack([1 - values, values]).astype(np.float32), np.ones(len(values), np.float32)

    def pool(self, window_probabilities, weights):
        mean = window_probabilities.mean(axis=0)
        return Prediction(self.labels[mean.argmax()], mean, window_probabilities, float(mean.max()), 0.0, 0.0)


def outcome(name: str, values: list[float]) -> ClipOutcome:
    scalars = np.array(values, np.float32).reshape(-1, 1)
    block = FeatureBlock("x", scalars, scalars.mean(axis=0), np.zeros((len(values), 2), np.float32))
    windows_s = np.arange(2 * len(values), dtype=float).reshape(-1, 2)
    return ClipOutcome(ClipRef(name, name, 1, 1), Status.OK, windows_s=windows_s, blocks=(block,), duration_s=1.0)


def test_windows_of_many_files_share_batches_and_each_file_gets_its_own_back():
    outcomes = [outcome("a", [0.1, 0.3]), outcome("b", [0.9]), outcome("c", [0.5, 0.7, 0.6]), outcome("d", [0.2])]
    failed = ClipOutcome(ClipRef("e", "e", 1, 1), Status.FAILED, "decode", "DecodeError", "no")
    classifier = Counting()
    done = predict_outcomes([*outcomes, failed], classifier, batch_size=3)
    assert classifier.batches == [3, 3, 1]
    assert [item.ref.clip_id for item in done] == ["a", "b", "c", "d", "e"]
    assert [round(float(item.prediction.probabilities[1]), 4) for item in done[:4]] == [0.2, 0.9, 0.6, 0.2]
    assert done[4] is failed
    assert all(block.tensor is None for item in done for block in item.blocks)


def test_a_batch_that_fails_costs_the_file_that_is_to_blame():
    outcomes = [outcome("a", [0.1]), outcome("b", [-1.0]), outcome("c", [0.8])]
    done = predict_outcomes(outcomes, Counting(), batch_size=64)
    assert [item.status for item in done] == [Status.OK, Status.FAILED, Status.OK]
    assert (done[1].stage, done[1].error_type) == ("predict", "RuntimeError")
    assert done[1].prediction is None and not done[1].blocks


def test_a_plugin_that_pools_badly_costs_the_file_that_is_to_blame():
    class Pools(Counting):
        def pool(self, window_probabilities, weights):
            if window_probabilities[0, 1] == 1:
                raise SystemExit(0)
            if window_probabilities[0, 1] == 0:
                raise ValueError("x" * 10_000)
            return super().pool(window_probabilities, weights)

    outcomes = [outcome("a", [0.1]), outcome("b", [1.0]), outcome("c", [0.0]), outcome("d", [0.8])]
    done = predict_outcomes(outcomes, CheckedClassifier("mine", Pools()), batch_size=64)
    assert [item.status for item in done] == [Status.OK, Status.FAILED, Status.FAILED, Status.OK]
    assert (done[1].stage, done[1].error_type) == ("predict", "PluginError")
    assert done[1].error_message == "Plugin 'mine': model 'counting' failed in pool: SystemExit: 0"
    assert len(done[2].error_message) == 500


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory):
    """One corpus scanned by workers and by the parent; a long recording is predicted by its worker in either case."""
    from ser_batch.classifier.torch_classifier import TorchClassifier  # noqa: PLC0415 - torch takes its time

    place = tmp_path_factory.mktemp("parent")
    model = store_random_model(place / "random.safetensors")
    (place / "audio").mkdir()
    for index, seconds in enumerate((1.0, 3.5, 7.0, 40.0)):
        soundfile.write(place / "audio" / f"{index}.wav", synthetic_voice(seconds, seed=index), 22_050)
    (place / "audio" / "broken.wav").write_bytes(b"RIFF")
    values = {"predict": {"model": str(model)}, "extract": {"jobs": 1}, "audio": {"piece_s": 30.0}}
    config = Config().with_values(values)
    cpu = config.with_values({"predict": {"device": "cpu"}})
    scan(place / "audio", place / "workers", config=cpu, report=False)
    with pytest.MonkeyPatch.context() as patch:
        gpu = device.DeviceChoice("cuda", "")
        patch.setattr(device, "choose_device", lambda requested: gpu)
        patch.setattr(device, "open_classifier", lambda *_: (TorchClassifier(load(model), "cpu"), gpu))
        scan(place / "audio", place / "parent", config=config, report=False)
    return place


@pytest.mark.parametrize("table", ["files", "windows"])
def test_parent_and_workers_give_the_same_table(runs, table):
    workers, parent = (pd.read_parquet(runs / name / table) for name in ("workers", "parent"))
    columns = [name for name in workers.columns if not name.startswith("time_")]
    numbers = workers[columns].select_dtypes("number").columns
    np.testing.assert_allclose(parent[numbers], workers[numbers], atol=1e-4, rtol=1e-4)
    others = [name for name in columns if name not in numbers]
    pd.testing.assert_frame_equal(parent[others].astype(object), workers[others].astype(object))
