"""Training learns what is there, goes on after a kill as if nothing had happened, and keeps speakers apart."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_batch.classifier.network import HybridCNN
from ser_batch.classifier.network_config import N_DENSE, NetworkConfig
from ser_batch.records import LabelledClip
from ser_batch.training.dataset import Dataset
from ser_batch.training.features import FeatureTable
from ser_batch.training.fit import FitPlan, FitResult, _fit_normalisation, fit
from ser_batch.training.rows import Rows
from ser_batch.training.train_config import DataConfig, FitConfig

N_BANDS, N_FRAMES = 128, 130
LABELS = ("anger", "sadness")
#: Crops make a step four times cheaper.
CONFIG = FitConfig(epochs=3, batch_size=8, warmup_epochs=0.5, average_decay=0.5, crop_frames=32)


def make(n_clips: int = 48) -> tuple[Rows, Dataset]:
    """Two labels that differ in where their energy lies and in six features; 8 speakers."""
    clips = [
        LabelledClip(f"{n}.wav", LABELS[n % 2], f"s{n // 2 % 8}", "", "own", LABELS[n % 2]) for n in range(n_clips)
    ]
    dataset = Dataset.build(clips, DataConfig(labels=LABELS))
    rng = np.random.default_rng(0)
    mel = rng.integers(60, 120, (n_clips, N_BANDS, N_FRAMES)).astype(np.uint8)
    for index in range(n_clips):
        low = 10 if index % 2 else 70
        mel[index, low : low + 30, 20:90] = rng.integers(0, 30, (30, 70))
    dense = rng.normal(size=(n_clips, N_DENSE)).astype(np.float32)
    dense[:, :6] += 4 * (np.arange(n_clips) % 2)[:, None]
    dense[::5, 3] = np.nan
    table = FeatureTable(
        clip=np.arange(n_clips),
        copy=np.zeros(n_clips, np.int64),
        mel=mel,
        dense=dense,
        active_s=np.ones(n_clips, np.float32),
        failures={},
    )
    return Rows.build(table, dataset, "cpu"), dataset


def plan(state: Path | None = None) -> FitPlan:
    return FitPlan(train=np.arange(36), validation=np.arange(36, 48), seed=3, state_file=state)


@pytest.mark.parametrize(
    "branches", ["hybrid", *(pytest.param(name, marks=pytest.mark.reliability) for name in ("mel", "dense"))]
)
def test_what_can_be_learnt_is_learnt(branches: str) -> None:
    rows, dataset = make()
    config = FitConfig(epochs=6, batch_size=8, average_decay=0.5, branches=branches, crop_frames=32, recolour=0.3)
    result = fit(rows, dataset, plan(), config)
    # Two well-separated classes of which chance gets half.
    assert result.history[result.best_epoch - 1]["validation_uar"] >= 0.75


def test_a_branch_that_was_not_trained_has_no_say() -> None:
    rows, dataset = make()
    network = fit(rows, dataset, plan(), FitConfig(epochs=1, batch_size=8, branches="dense", crop_frames=32)).network
    mel, features = torch.rand(2, 4, N_BANDS, N_FRAMES) * -50, torch.randn(4, N_DENSE)
    with torch.inference_mode():
        torch.testing.assert_close(network(mel[0], features), network(mel[1], features))


def test_statistics_of_inputs_are_those_of_windows_as_often_as_they_are_drawn() -> None:
    rows, dataset = make()
    network = HybridCNN(NetworkConfig(n_labels=2, n_bands=N_BANDS, n_frames=N_FRAMES))
    often = torch.from_numpy(np.where(dataset.target == 0, 9.0, 1.0))
    _fit_normalisation(network, rows, often, torch.Generator().manual_seed(0))
    below, audible = network.mel_norm.relative(rows.mel(torch.arange(48)))
    weight = (often[:, None] * audible)[:, None, :]
    mean = (below * weight).sum(dim=(0, 2)) / weight.sum()
    std = ((below - mean[:, None]).square() * weight).sum(dim=(0, 2)).div(weight.sum()).sqrt()
    # Labels differ by 20 dB in the bands of either, and drawing is by chance.
    torch.testing.assert_close(network.mel_norm.band_mean.double(), mean, atol=1.0, rtol=0)
    torch.testing.assert_close(network.mel_norm.band_std.double(), std, atol=1.0, rtol=0)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], bytes]:
    """Losses of a training that nobody disturbed, and the state that it leaves."""
    state = tmp_path_factory.mktemp("whole") / "state.pt"
    whole = fit(*make(), plan(state), CONFIG)
    return losses(whole), state.read_bytes()


def losses(result: FitResult) -> list[float]:
    return [record["loss"] for record in result.history]


class Stopped(Exception):
    pass


def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    tmp_path: Path, undisturbed: tuple[list[float], bytes]
) -> None:
    rows, dataset = make()
    state = tmp_path / "state.pt"

    def stop(record: dict[str, float]) -> None:
        if record["epoch"] == 1:
            raise Stopped

    with pytest.raises(Stopped):
        fit(rows, dataset, plan(state), CONFIG, stop)
    seen: list[int] = []
    rest = fit(rows, dataset, plan(state), CONFIG, lambda record: seen.append(int(record["epoch"])))
    assert seen == [2, 3]
    # The same draws; sums in another order on several cores differ in the last digits.
    np.testing.assert_allclose(losses(rest), undisturbed[0], rtol=1e-3)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_fit import CONFIG, fit, make, plan
from ser_batch.training import fit as module
steps = module._Training._step
def step(self, number, *rest):
    if number == 7:  # the third of four steps of epoch 2
        os.kill(os.getpid(), signal.SIGKILL)
    return steps(self, number, *rest)
module._Training._step = step
rows, dataset = make()
fit(rows, dataset, plan(Path({state!r})), CONFIG)
"""


@pytest.mark.reliability
def test_a_training_killed_in_mid_epoch_goes_on_from_the_last_whole_one(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    script = KILLED.format(tests=str(Path(__file__).parent), state=str(state))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=120, env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    rows, dataset = make()
    seen: list[int] = []
    result = fit(rows, dataset, plan(state), CONFIG, lambda record: seen.append(int(record["epoch"])))
    assert seen == [2, 3]
    assert [record["epoch"] for record in result.history] == [1, 2, 3]


@pytest.fixture(scope="module")
def one_epoch(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], bytes]:
    """As `undisturbed`, of one epoch."""
    state = tmp_path_factory.mktemp("one") / "state.pt"
    return losses(fit(*make(), plan(state), replace(CONFIG, epochs=1))), state.read_bytes()


@pytest.mark.parametrize(
    "damage",
    ["cut", "other", *(pytest.param(damage, marks=pytest.mark.reliability) for damage in ("", "empty", "text"))],
)
def test_a_damaged_state_means_from_the_beginning(
    tmp_path: Path, damage: str, one_epoch: tuple[list[float], bytes]
) -> None:
    rows, dataset = make()
    state = tmp_path / "state.pt"
    expected, content = one_epoch
    if damage == "other":
        stored = torch.load(io.BytesIO(content), weights_only=True)
        # All that is loaded before the damage shows must be undone.
        torch.save({**stored, "best": {}}, state)
    else:
        state.write_bytes({"": content, "cut": content[: len(content) // 2], "empty": b"", "text": b"no state"}[damage])
    seen: list[int] = []
    again = fit(rows, dataset, plan(state), replace(CONFIG, epochs=1), lambda record: seen.append(int(record["epoch"])))
    assert seen == ([1] if damage else [])
    np.testing.assert_allclose(losses(again), expected, rtol=1e-3)


def test_training_stops_when_validation_no_longer_gains() -> None:
    rows, dataset = make()
    config = FitConfig(epochs=50, batch_size=8, patience=1, average_decay=0.0, learning_rate=1e-9, crop_frames=32)
    assert len(fit(rows, dataset, plan(), config).history) == 2
