"""A GPU that fails is stood in for by the CPU; what the CPU cannot compute either is the file's own fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_model import random_blocks, random_checkpoint

from ser_batch.classifier.onnx_classifier import OnnxClassifier
from ser_batch.classifier.standby import Standby
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.errors import ModelError, PluginError


class Gpu(OnnxClassifier):
    """Fails as often as it is told to, and counts how often it is asked."""

    n_asked = n_to_fail = 0

    def embed(self, mel, features):
        self.n_asked += 1
        if self.n_to_fail:
            self.n_to_fail -= 1
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.\nMore about memory.")
        return super().embed(mel, features)


@pytest.fixture
def pair():
    checkpoint = replace(random_checkpoint(), sha256="0" * 64)
    gpu, said = Gpu(checkpoint), []
    gpu.device = "cuda"
    cpu = CheckedClassifier("models", OnnxClassifier(checkpoint))
    return gpu, Standby(CheckedClassifier("models", gpu), lambda: cpu, said.append), cpu, said


def test_the_cpu_answers_where_a_gpu_fails_and_the_gpu_is_asked_again(pair):
    gpu, standby, cpu, said = pair
    blocks, gpu.n_to_fail = random_blocks(3), 2
    for _ in range(4):
        for found, expected in zip(standby.listen(blocks), cpu.listen(blocks), strict=True):
            np.testing.assert_array_equal(found, expected)
    assert gpu.n_asked == 4 and standby.device == "cuda"
    [line] = said
    assert line.startswith("cuda failed (Plugin 'models': model 'random0' failed in listen: RuntimeError: CUDA out of")
    assert line.endswith("; the CPU computed these windows.") and "More about" not in line


def test_a_gpu_that_fails_again_and_again_is_given_up(pair):
    gpu, standby, cpu, said = pair
    blocks, gpu.n_to_fail = random_blocks(2), 10**6
    for _ in range(5):
        np.testing.assert_array_equal(standby.predict(blocks)[0], cpu.predict(blocks)[0])
    assert gpu.n_asked == 3
    assert said[1:] == ["cuda failed 3 times in a row; the CPU computes the rest."]


def test_what_the_cpu_cannot_compute_either_is_not_held_against_the_gpu(pair):
    gpu, standby, _, said = pair
    for _ in range(4):
        with pytest.raises(ModelError, match="which did not run"):
            standby.listen({})
    standby.listen(random_blocks(3))
    assert gpu.n_asked == 1 and not said


def test_a_model_that_is_for_a_gpu_alone_fails_by_what_the_gpu_says(pair):
    gpu, _, _, said = pair

    def load():
        raise ModelError("for GPUs alone")

    standby, gpu.n_to_fail = Standby(CheckedClassifier("models", gpu), load, said.append), 1
    with pytest.raises(PluginError, match="CUDA out of memory"):
        standby.listen(random_blocks(3))
    standby.listen(random_blocks(3))
    assert not said
