"""Injects faults by file name: an extractor and a classifier that are fast, and misbehave where they are told to.

Where SER_BATCH_TEST_FOLDER is set, it learns there which file was begun how often, and by whom.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np

import ser_batch
from ser_batch.records import FeatureBlock, FeatureSpec, Prediction

#: A real extractor takes a while; killing at random needs something to hit.
SECONDS_PER_FILE = 0.01


class Unspeakable(Exception):
    """Cannot be shown."""

    def __str__(self):
        raise ValueError("no text")


def _log(name: str) -> Path:
    return Path(os.environ["SER_BATCH_TEST_FOLDER"], name)


def _begun(name: str) -> int:
    """Note who begins a file; return how often it was begun, this time included."""
    if not name or "SER_BATCH_TEST_FOLDER" not in os.environ:
        return 1
    with _log(name).open("a") as file:
        file.write(f"{os.getpid()}\n")
    return len(_log(name).read_text().split())


def _wait_for(name: str, n_times: int) -> None:
    deadline = time.monotonic() + 30
    while not _log(name).exists() or len(_log(name).read_text().split()) < n_times:
        if time.monotonic() > deadline:
            os._exit(9)
        time.sleep(0.01)


def _loop(n_times: int) -> None:
    while True:
        time.sleep(0.01)


def _allocate(n_times: int) -> None:
    hoard = []
    while True:
        hoard.append(np.ones(4 * 2**20))


def _murder(n_times: int) -> None:
    """Die together with another worker; then live, but only side by side with the other file."""
    if n_times == 1:
        _wait_for("victim.wav", 1)
        os.kill(int(_log("victim.wav").read_text()), signal.SIGKILL)
        os._exit(3)
    _wait_for("victim.wav", 2)


def _be_murdered(n_times: int) -> None:
    if n_times == 1:
        time.sleep(60)
    _wait_for("murderer.wav", 2)


def _exit_last(n_times: int) -> None:
    """Die while others have files in hand."""
    for name in ("held1.wav", "held2.wav"):
        _wait_for(name, 1)
    os._exit(3)


def _start_a_program(n_times: int) -> None:
    _log("program").write_text(str(subprocess.Popen(["sleep", "1000"]).pid))


def _exit_with_a_program(n_times: int) -> None:
    _start_a_program(n_times)
    os._exit(3)


def _hang_with_a_program(n_times: int) -> None:
    _start_a_program(n_times)
    _loop(n_times)


def _leak(n_times: int) -> None:
    _hoard.extend(os.open(__file__, os.O_RDONLY) for _ in range(40))


def _grow(n_times: int) -> None:
    _hoard.append(np.ones(5 * 2**20))
    time.sleep(0.15)


def _raise(error: BaseException) -> None:
    raise error


#: Part of a file's name -> what is done, given how often the file was begun.
MISDEEDS = {
    "segfault": lambda _: ctypes.string_at(0),
    "exit": lambda _: os._exit(3),
    "loop": _loop,
    "allocate": _allocate,
    "base": lambda _: _raise(SystemExit("a plugin wants out")),
    "interrupt": lambda _: _raise(KeyboardInterrupt()),
    "raise": lambda _: _raise(ValueError("no \x1b[31mway\x1b[0m")),
    "unspeakable": lambda _: _raise(Unspeakable()),
    "chdir": lambda _: os.chdir("/"),
    "held": lambda n_times: time.sleep(60 if n_times == 1 else 0),
    "last": _exit_last,
    "murderer": _murder,
    "victim": _be_murdered,
    "family": _exit_with_a_program,
    "stubborn": _hang_with_a_program,
    "stuck": lambda _: ctypes.PyDLL(None).sleep(1000),  # in native code, with Python's lock held
    "leak": _leak,
    "grow": _grow,
}


def _misbehave(name: str) -> None:
    n_times = _begun(name)
    for part, misdeed in MISDEEDS.items():
        if part in name:
            misdeed(n_times)


class Loudness:
    """Two numbers per window."""

    spec = FeatureSpec("loudness", 1, (("rms", ""), ("peak", "")))
    hurt = ""
    #: How often this was asked about the file in hand: first about the whole of it, then about its segments.
    n_asked = 0

    def extract(self, clip, windows_s):
        time.sleep(SECONDS_PER_FILE)
        self.n_asked += 1
        if "spoken" not in self.hurt or self.n_asked > 1:
            _misbehave(self.hurt)
        windows = [clip.window(start, end) for start, end in windows_s]
        rows = [_row(samples) for samples in windows]
        return FeatureBlock("loudness", np.array(rows, np.float32), np.array(_row(clip.samples), np.float32))


def _row(samples):
    return [float(np.sqrt(np.mean(samples**2))), float(np.abs(samples).max())]


class Guess:
    """Loud is angry."""

    name, sha256, device = "guess", "0" * 64, "cpu"
    labels = ("calm", "angry")
    needs = (("loudness", 1),)

    n_embedding, listening_sha256 = 3, "1" * 64

    def listen(self, blocks):
        rms = np.nan_to_num(blocks["loudness"].scalars[:, 0])
        return np.column_stack([rms, -rms, rms**2]), np.ones(len(rms), np.float32)

    def label(self, embeddings):
        angry = 1 / (1 + np.exp(-(embeddings[:, 0] - 0.1) * 20))
        return np.column_stack([1 - angry, angry]).astype(np.float32)

    def predict(self, blocks):
        embeddings, weights = self.listen(blocks)
        return self.label(embeddings), weights

    def pool(self, window_probabilities, weights):
        mean = window_probabilities.mean(axis=0)
        best, second = np.sort(mean)[::-1]
        entropy = float(-(mean * np.log(np.maximum(mean, 1e-12))).sum() / np.log(2))
        return Prediction(
            self.labels[int(mean.argmax())], mean, window_probabilities, float(best), entropy, float(best - second)
        )


_extractor = Loudness()
_hoard = []


@ser_batch.hookimpl
def register_extractors(config):
    return [_extractor]


@ser_batch.hookimpl
def load_classifier(name, device):
    return Guess() if name == "guess" else None


@ser_batch.hookimpl(tryfirst=True)
def read_clip(ref):
    name = _extractor.hurt = os.path.basename(ref.clip_id)  # noqa: PTH119
    _extractor.n_asked = 0
    if "renamed" in name:
        object.__setattr__(ref, "clip_id", "another.wav")
