"""On a GPU the parent predicts, in batches over many files: the same results as where workers predict."""

from __future__ import annotations

import duckdb
import numpy as np
import pandas as pd
import polars
import pytest
import soundfile
from random_model import store_random_model

from ser_batch import load_results
from ser_batch.classifier import device
from ser_batch.classifier.checkpoint import load
from ser_batch.classifier.onnx_classifier import OnnxClassifier
from ser_batch.config import Config
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.engine import scan
from ser_batch.errors import RunError
from ser_batch.records import ClipOutcome, ClipRef, FeatureBlock, Prediction, Status
from ser_batch.run.compare import compare_runs
from ser_batch.run.verify import check_run
from ser_batch.stages.predict import predict_outcomes
from ser_batch.stages.progress import Progress


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


def test_parent_and_workers_hear_the_same_in_each_window(runs):
    workers, parent = (load_results(runs / name, "embeddings") for name in ("workers", "parent"))
    assert workers.index.equals(parent.index) and workers.shape == (1 + 2 + 3 + 14, 128)
    assert workers.to_numpy().std() > 0.1
    np.testing.assert_allclose(parent.to_numpy(), workers.to_numpy(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("name", ["workers", "parent"])
def test_labels_can_be_made_anew_from_what_was_heard(runs, name):
    """Of a long recording, too, and to a thousandth, though half precision holds it."""
    windows = pd.read_parquet(runs / name / "windows")
    heard = load_results(runs / name, "embeddings")
    assert heard.index.to_frame(index=False).equals(windows[["clip_id", "window_index"]])
    labelled = OnnxClassifier(load(runs / "random.safetensors")).label(heard.to_numpy())
    found = windows[[column for column in windows if column.startswith("p_")]].to_numpy()
    assert found.std() > 0.1
    np.testing.assert_allclose(labelled, found, atol=1e-3)


def test_embeddings_are_read_by_every_reader_of_parquet(runs):
    matrix = load_results(runs / "workers", "embeddings").to_numpy()
    parts = f"{runs / 'workers' / 'embeddings'}/*.parquet"
    for found in (
        np.stack(pd.read_parquet(runs / "workers" / "embeddings")["embedding"]),
        polars.read_parquet(parts)["embedding"].to_numpy(),
        np.array([row[0] for row in duckdb.sql(f"SELECT embedding FROM '{parts}'").fetchall()]),
    ):
        np.testing.assert_array_equal(found.astype(np.float16), matrix)


def test_no_embeddings_if_so_told(runs, tmp_path):
    values = {"predict": {"model": str(runs / "random.safetensors"), "device": "cpu", "embeddings": False}}
    scan(runs / "audio", tmp_path / "run", config=Config().with_values(values), report=False)
    assert not (tmp_path / "run" / "embeddings").exists()
    assert check_run(tmp_path / "run") == []
    with pytest.raises(RunError, match=r"has no embeddings: predict\.embeddings is off\. Scan again"):
        load_results(tmp_path / "run", "embeddings")
    found = compare_runs(runs / "workers", tmp_path / "run", tolerance=1e-3)
    assert found.missing_tables == ["embeddings"] and not found.is_equal and not len(found.changed)


def test_a_gpu_that_dies_in_mid_scan_costs_no_file(runs, tmp_path, monkeypatch):
    from ser_batch.classifier.torch_classifier import TorchClassifier  # noqa: PLC0415 - torch takes its time

    class Dying(TorchClassifier):
        n_asked = 0

        def embed(self, mel, features):
            self.n_asked += 1
            if self.n_asked > 1:
                raise RuntimeError("CUDA error: unspecified launch failure\nwhere to look for help")
            return super().embed(mel, features)

    model, gpu, said = load(runs / "random.safetensors"), device.DeviceChoice("cuda", ""), Said()
    dying = Dying(model, "cpu")
    monkeypatch.setattr(device, "choose_device", lambda requested: gpu)
    monkeypatch.setattr(device, "open_classifier", lambda *_: (CheckedClassifier("models", dying), gpu))
    predict = {"model": str(runs / "random.safetensors"), "batch_size": 1}
    values = {"predict": predict, "extract": {"jobs": 1}, "audio": {"piece_s": 30.0}}
    scan(runs / "audio", tmp_path / "run", config=Config().with_values(values), progress=said, report=False)
    found, expected = (load_results(place).set_index("clip_id") for place in (tmp_path / "run", runs / "workers"))
    assert found["emotion"].equals(expected["emotion"]) and found["status"].equals(expected["status"])
    assert dying.n_asked == 3
    (line,) = (line for line in said.lines if "failed" in line)
    assert line.startswith("cpu failed (") and "unspecified launch failure); the CPU computed" in line


class Said(Progress):
    """What a scan says."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.mark.parametrize("table", ["files", "windows"])
def test_parent_and_workers_give_the_same_table(runs, table):
    workers, parent = (pd.read_parquet(runs / name / table) for name in ("workers", "parent"))
    columns = [name for name in workers.columns if not name.startswith("time_")]
    numbers = workers[columns].select_dtypes("number").columns
    np.testing.assert_allclose(parent[numbers], workers[numbers], atol=1e-4, rtol=1e-4)
    others = [name for name in columns if name not in numbers]
    pd.testing.assert_frame_equal(parent[others].astype(object), workers[others].astype(object))
