"""Training and evaluation end in order: by signals, without leaving anything behind, and never by a clip."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from labelled_clips import write_clip, write_folder
from random_model import store_random_model

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode

pytestmark = pytest.mark.usefixtures("no_pictures")

READER = str(Path(__file__).parent / "odd_reader.py")
LABELS = ("anger", "fear")
#: One epoch of a few clips, whatever comes of it.
TINY = [
    *("--set", 'data.labels=["anger", "fear"]', "--set", "data.validation_share=0.3", "--set", "data.test_share=0.0"),
    *(
        "--set",
        "augment.copies=0",
        "--set",
        "fit.epochs=1",
        "--set",
        "fit.batch_size=4",
        "--set",
        "fit.crop_frames=32",
        "--set",
        "fit.refit=false",
    ),
]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SER_TEST_READS", str(tmp_path / "reads.log"))
    monkeypatch.chdir(tmp_path)


def command(name: str) -> list[str]:
    options = ["--jobs", "2", "--device", "cpu", "--cache", "cache", "--plugin", READER]
    return [name, *(("--data", "raw", *TINY) if name == "train" else ("model.safetensors", "raw")), *options]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("train", signal.SIGTERM),
        pytest.param("train", signal.SIGINT, marks=pytest.mark.reliability),
        ("train", signal.SIGKILL),
        pytest.param("evaluate", signal.SIGTERM, marks=pytest.mark.reliability),
    ],
)
def test_nothing_computes_on_when_the_command_has_ended(name: str, number: signal.Signals) -> None:
    write_folder(Path("raw"), LABELS, n_takes=1)
    # A minute of work for each of the workers, in tasks of their own.
    for label in LABELS:
        write_clip(Path("raw", label, "s1_compute.wav"), label, take=8)
    store_random_model(Path("model.safetensors"))
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_batch", *command(name)],
        env=os.environ,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    reads = Path("reads.log")
    deadline_s = time.monotonic() + 120
    while not (reads.exists() and reads.read_text().count("compute") >= 2):
        assert process.poll() is None and time.monotonic() < deadline_s, process.stderr and process.stderr.read()
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    workers = {int(line.split()[0]) for line in reads.read_text().splitlines()}
    assert workers <= {member.pid for member in family}
    process.send_signal(number)
    assert process.stderr is not None
    # Before the workers have a chance to end by themselves.
    process.wait(10)
    deadline_s = time.monotonic() + 5
    # Whoever inherits the dead may be slow to bury them.
    while alive := [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline_s, [member.cmdline() for member in alive]
        time.sleep(0.05)
    said = process.stderr.read()
    process.stderr.close()
    assert "Traceback" not in said
    if number != signal.SIGKILL:
        assert process.returncode == ExitCode.INTERRUPTED
        assert said.splitlines()[-1] == "Interrupted. What is done is kept: the same command goes on from there."
        assert not Path("cache").exists() or not list(Path("cache").glob(".*"))


@pytest.mark.reliability
def test_training_goes_on_without_a_clip_whose_decoder_crashes(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("raw"), LABELS)
    write_clip(Path("raw/fear/s1_crash.wav"), "fear", take=9)
    assert main(command("train")) == ExitCode.OK
    said = capsys.readouterr().err.splitlines()
    (left_out,) = [line for line in said if line.startswith("Left out: ")]
    assert left_out.startswith("Left out: raw/fear/s1_crash.wav: failed in decode: worker killed by signal 11")
    assert "1 of 13 clips cannot be read and are left out." in said


def test_evaluation_goes_on_without_a_clip_whose_decoder_crashes(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("raw"), LABELS, n_takes=1)
    write_clip(Path("raw/fear/s1_crash.wav"), "fear", take=9)
    store_random_model(Path("model.safetensors"))
    assert main([*command("evaluate"), "--jobs", "1", "--json", "-"]) == ExitCode.OK
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["n_unreadable"] == 1
    assert report["overall"]["n_clips"] == 6
    assert "Left out: raw/fear/s1_crash.wav: failed in decode: worker killed by signal 11" in captured.err


def test_a_model_is_scored_by_the_predictions_of_a_scan(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("raw"), LABELS, n_takes=2)
    # One that breaks midway: a scan predicts what came before.
    whole = write_clip(Path("whole.flac"), "fear", take=7, duration_s=8.0).read_bytes()
    Path("raw/fear/s3_cut.flac").write_bytes(whole[: len(whole) // 2])
    model = store_random_model(Path("model.safetensors"))
    options = ["--model", str(model), "--jobs", "1", "--no-report", "--quiet"]
    assert main(["scan", "raw", "-o", "run", *options]) in (0, 1)
    rows = load_results(Path("run"))
    truth = rows["path"].str.split("/").str[0] if "path" in rows else rows["clip_id"].str.split("/").str[0]
    assert main(["evaluate", str(model), "raw", "--jobs", "1", "--json", "-"]) == ExitCode.OK
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert len(rows) == report["overall"]["n_clips"] == 13
    assert report["overall"]["accuracy"] == pytest.approx((rows["emotion"].astype(str) == truth).mean())
    expected = -np.log([row[f"p_{label}"] for label, (_, row) in zip(truth, rows.iterrows(), strict=True)]).mean()
    assert report["overall"]["nll"] == pytest.approx(expected, rel=1e-6)
    assert "Scored as far as it goes: raw/fear/s3_cut.flac: truncated: the header promises 8.00 s" in captured.err
