"""Injects faults by file name: an extractor and a classifier that are fast, and misbehave where they are told to."""

from __future__ import annotations

import ctypes
import os
import time

import numpy as np

import ser_batch
from ser_batch.records import FeatureBlock, FeatureSpec, Prediction

#: A real extractor takes a while; killing at random needs something to hit.
SECONDS_PER_FILE = 0.01


def _misbehave(name: str) -> None:
    if "segfault" in name:
        ctypes.string_at(0)
    elif "exit" in name:
        os._exit(3)
    elif "loop" in name:
        while True:
            time.sleep(0.01)
    elif "allocate" in name:
        hoard = []
        while True:
            hoard.append(np.ones(4 * 2**20))
    elif "base" in name:
        raise SystemExit("a plugin wants out")
    elif "interrupt" in name:
        raise KeyboardInterrupt
    elif "raise" in name:
        raise ValueError("no \x1b[31mway\x1b[0m")


class Loudness:
    """Two numbers per window."""

    spec = FeatureSpec("loudness", 1, (("rms", ""), ("peak", "")))
    hurt = ""

    def extract(self, clip, windows_s):
        time.sleep(SECONDS_PER_FILE)
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

    def predict(self, blocks):
        rms = np.nan_to_num(blocks["loudness"].scalars[:, 0])
        angry = 1 / (1 + np.exp(-(rms - 0.1) * 20))
        return np.column_stack([1 - angry, angry]).astype(np.float32), np.ones(len(rms), np.float32)

    def pool(self, window_probabilities, weights):
        mean = window_probabilities.mean(axis=0)
        best, second = np.sort(mean)[::-1]
        entropy = float(-(mean * np.log(np.maximum(mean, 1e-12))).sum() / np.log(2))
        return Prediction(
            self.labels[int(mean.argmax())], mean, window_probabilities, float(best), entropy, float(best - second)
        )


_extractor = Loudness()


@ser_batch.hookimpl
def register_extractors(config):
    return [_extractor]


@ser_batch.hookimpl
def load_classifier(name, device):
    return Guess() if name == "guess" else None


@ser_batch.hookimpl
def read_clip(ref):
    _extractor.hurt = os.path.basename(ref.clip_id)  # noqa: PTH119
