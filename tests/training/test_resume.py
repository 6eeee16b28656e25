"""``ser-batch train``, killed in mid-epoch, goes on from its last whole epoch when the same command is given again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from labelled_clips import write_folder

from ser_batch.classifier import checkpoint
from ser_batch.cli.main import main
from ser_batch.corpora.builtin import BUILT_IN_CORPORA
from ser_batch.corpora.reading import read_corpus
from ser_batch.errors import ExitCode
from ser_batch.plugins import PluginRecipe
from ser_batch.training.train import TrainOptions, training_key
from ser_batch.training.train_config import TrainConfig

pytestmark = pytest.mark.usefixtures("no_pictures")

READER = str(Path(__file__).parent / "odd_reader.py")
N_EPOCHS = 12

TINY = f"""
[data]
labels = ["anger", "fear"]
validation_share = 0.3
test_share = 0.0

[augment]
copies = 0

[fit]
epochs = {N_EPOCHS}
crop_frames = 32
batch_size = 4
refit = false
"""


def arguments(folder: Path, name: str, *more: str) -> list[str]:
    options = {"--data": "raw", "--config": "tiny.toml", "--cache": "cache", "--output": f"{name}.safetensors"}
    pairs = [part for key, value in options.items() for part in (key, str(folder / value))]
    return ["train", *pairs, "--report", str(folder / name), "--device", "cpu", "--jobs", "1", *more]


def history(folder: Path, name: str) -> list[dict[str, float]]:
    return json.loads((folder / name / "training.json").read_text())["history"]


def kill_in_epoch(folder: Path, name: str, epoch: int) -> None:
    """Start a training and kill it, without a chance to tidy up, once the epoch before `epoch` is done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_batch", *arguments(folder, name)],
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process, process.stderr as lines:
        for line in lines:
            if line.startswith(f"epoch {epoch - 1}:"):
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL


def test_a_killed_training_goes_on_from_its_last_whole_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path / "raw", ("anger", "fear"))
    (tmp_path / "tiny.toml").write_text(TINY)

    kill_in_epoch(tmp_path, "killed", epoch=3)
    assert not (tmp_path / "killed.safetensors").exists()
    (state,) = (tmp_path / "killed" / "state").iterdir()
    assert [path.name for path in state.iterdir() if not path.name.endswith(".tmp")] == ["first.pt"]
    # One or two more epochs may have passed before the signal came.
    n_done = len(torch.load(state / "first.pt", weights_only=True)["history"])
    assert 2 <= n_done < N_EPOCHS
    # As if it had been killed while it wrote: what is not whole is never read.
    (state / ".first.pt.1.tmp").write_bytes(b"half a state")

    assert main(arguments(tmp_path, "killed")) == ExitCode.OK
    resumed = [line.split(":")[0] for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert resumed == [f"epoch {number}" for number in range(n_done + 1, N_EPOCHS + 1)]
    assert not list((tmp_path / "killed" / "state").iterdir())

    assert [record["epoch"] for record in history(tmp_path, "killed")] == list(range(1, N_EPOCHS + 1))
    assert checkpoint.load(tmp_path / "killed.safetensors").labels == ("anger", "fear")


def test_only_the_very_same_training_goes_on(tmp_path: Path) -> None:
    clips = read_corpus(write_folder(tmp_path / "raw", ("anger", "fear"), n_takes=1), BUILT_IN_CORPORA).clips
    hashes = [f"{number:064x}" for number in range(len(clips))]
    config, options = TrainConfig(), TrainOptions("own", tmp_path / "own", tmp_path, tmp_path)
    key = training_key(clips, hashes, config, options)
    others = [
        ([replace(clips[0], emotion="fear"), *clips[1:]], hashes, config, options),
        ([replace(clips[0], speaker="s2"), *clips[1:]], hashes, config, options),
        (clips, ["f" * 64, *hashes[1:]], config, options),
        (clips[1:], hashes[1:], config, options),
        (clips, hashes, config.with_values({"fit": {"epochs": 3}}), options),
        (clips, hashes, config, replace(options, seed=1)),
        (clips, hashes, config, replace(options, device="cuda")),
        # What another reader decodes is other audio.
        (clips, hashes, config, replace(options, recipe=PluginRecipe(files=(READER,)))),
    ]
    assert key not in {training_key(*other) for other in others}
    # Where the files lie, and in which order they are found, is nothing to the training.
    moved = [replace(clip, path=f"/elsewhere{clip.path}") for clip in clips]
    assert training_key(moved[::-1], hashes[::-1], config, replace(options, output=tmp_path / "other")) == key
