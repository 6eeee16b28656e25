"""The device is the one asked for, or the CPU with the reason said; a GPU with other numbers is not trusted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pluggy
import pytest
from numpy.typing import NDArray
from random_model import random_blocks, random_checkpoint

from ser_batch import hooks, hookspecs
from ser_batch.classifier import device as device_module
from ser_batch.classifier import loader
from ser_batch.classifier.checkpoint import Checkpoint, load, save
from ser_batch.classifier.device import DeviceChoice, DeviceError, check_parity, choose_device, open_classifier
from ser_batch.classifier.onnx_classifier import OnnxClassifier
from ser_batch.classifier.standby import Standby
from ser_batch.errors import ConfigError, ModelError
from ser_batch.hookspecs import hookimpl


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "random.safetensors"
    save(path, random_checkpoint())
    return path


@pytest.fixture
def manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager("ser_batch")
    manager.add_hookspecs(hookspecs)
    manager.register(loader)
    return manager


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing to be found, wherever the tests run."""
    monkeypatch.setattr(device_module, "_why_absent", lambda device: f"no {device} here")


def with_gpu(monkeypatch: pytest.MonkeyPatch, *present: str) -> None:
    monkeypatch.setattr(device_module, "_may_have_gpu", lambda: True)
    monkeypatch.setattr(device_module, "_why_absent", lambda device: "" if device in present else "absent")


def test_cpu_is_the_cpu_without_a_word() -> None:
    assert choose_device("cpu") == DeviceChoice("cpu", "")


@pytest.mark.parametrize(
    ("present", "chosen"), [(("cuda", "mps"), "cuda"), (("mps",), "mps"), (("cuda",), "cuda"), ((), "cpu")]
)
def test_auto_is_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...], chosen: str) -> None:
    with_gpu(monkeypatch, *present)
    assert choose_device("auto") == DeviceChoice(chosen, "")


@pytest.mark.parametrize("requested", ["cuda", "mps"])
@pytest.mark.usefixtures("no_gpu")
def test_a_device_that_is_absent_becomes_the_cpu_and_says_why(requested: str) -> None:
    choice = choose_device(requested)
    assert choice.device == "cpu"
    assert choice.note == f"{requested} is not available (no {requested} here); computing on the CPU."


def test_torch_names_the_reason_for_an_absent_device() -> None:
    import torch  # noqa: PLC0415 - slow to import

    for device, available in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if not available:
            assert choose_device(device).note.startswith(f"{device} is not available (")


def test_an_unknown_device_lists_those_that_are_known() -> None:
    with pytest.raises(ConfigError, match="'tpu'; it must be one of auto, cuda, mps, cpu"):
        choose_device("tpu")


@pytest.mark.skipif(device_module._may_have_gpu(), reason="this machine may have a GPU, so torch must be asked")
def test_choosing_without_a_gpu_loads_no_torch() -> None:
    code = """
import sys
from ser_batch.classifier.device import choose_device
print(choose_device("auto").device, choose_device("cpu").device, "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split() == ["cpu", "cpu", "False"]


def test_a_model_opens_on_the_cpu(manager: pluggy.PluginManager, stored: Path) -> None:
    classifier, choice = open_classifier(manager, str(stored), "cpu")
    assert isinstance(classifier.inner, OnnxClassifier)
    assert (classifier.device, choice) == ("cpu", DeviceChoice("cpu"))
    assert classifier.name == "random0"


def test_an_unknown_model_names_the_shipped_ones(manager: pluggy.PluginManager) -> None:
    with pytest.raises(ModelError, match="No model 'unheard_of'"):
        open_classifier(manager, "unheard_of", "cpu")


@pytest.mark.parametrize("error", [RuntimeError("out of memory\nlong trace"), AssertionError("not compiled")])
def test_a_gpu_that_fails_becomes_the_cpu_and_says_why(
    manager: pluggy.PluginManager, stored: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from ser_batch.classifier import torch_classifier  # noqa: PLC0415 - torch is slow to import

    def refuse(checkpoint: Checkpoint, device: str) -> None:
        raise error

    with_gpu(monkeypatch, "cuda")
    monkeypatch.setattr(torch_classifier, "TorchClassifier", refuse)
    classifier, choice = open_classifier(manager, str(stored), "auto")
    assert (classifier.device, choice.device) == ("cpu", "cpu")
    assert choice.note == f"cuda failed: {str(error).splitlines()[0]}. Computing on the CPU."


def test_a_torch_without_the_device_becomes_the_cpu(
    manager: pluggy.PluginManager, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch  # noqa: PLC0415 - slow to import

    if torch.cuda.is_available():
        pytest.skip("this torch has CUDA")
    with_gpu(monkeypatch, "cuda")
    classifier, choice = open_classifier(manager, str(stored), "cuda")
    assert classifier.device == "cpu"
    assert choice.note.startswith("cuda failed: ")


class Wrong(OnnxClassifier):
    """A GPU whose numbers are off in one of the ways seen in the wild."""

    def __init__(self, checkpoint: Checkpoint, fault: str) -> None:
        super().__init__(checkpoint)
        self.device = "mps"
        self.fault = fault

    def run(self, mel: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
        probabilities = super().run(mel, features).copy()
        if self.fault == "all windows equal":
            probabilities[:] = probabilities[0]
        elif self.fault == "batches only" and len(mel) > 1:
            probabilities = probabilities[::-1]
        elif self.fault == "single windows only" and len(mel) == 1:
            probabilities = probabilities[:, ::-1]
        elif self.fault == "not a number":
            probabilities[len(mel) // 2] = np.nan
        elif self.fault == "one window slightly":
            probabilities[-1, 0] += 0.002
        return probabilities


@pytest.mark.parametrize(
    "fault", ["all windows equal", "batches only", "single windows only", "not a number", "one window slightly"]
)
def test_a_gpu_with_other_numbers_is_not_trusted(fault: str) -> None:
    checkpoint = random_checkpoint(seed=2)
    with pytest.raises(DeviceError, match=r"mps gives other numbers than the CPU for model 'random2'.*limit 0\.001"):
        check_parity(OnnxClassifier(checkpoint), Wrong(checkpoint, fault))


def test_the_fallback_of_a_distrusted_gpu_is_said(
    manager: pluggy.PluginManager, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ser_batch.classifier import torch_classifier  # noqa: PLC0415 - torch is slow to import

    with_gpu(monkeypatch, "mps")
    monkeypatch.setattr(
        torch_classifier, "TorchClassifier", lambda checkpoint, device: Wrong(checkpoint, "batches only")
    )
    classifier, choice = open_classifier(manager, str(stored), "mps")
    assert classifier.device == "cpu"
    assert "mps gives other numbers" in choice.note
    assert choice.note.endswith("Computing on the CPU.")


def test_a_model_of_a_plugin_comes_before_the_built_in_loader(manager: pluggy.PluginManager, stored: Path) -> None:
    own = OnnxClassifier(load(stored))

    class Plugin:
        @hookimpl
        def load_classifier(self, name: str) -> OnnxClassifier | None:
            return own if name == "mine" else None

    manager.register(Plugin())
    assert open_classifier(manager, "mine", "cpu")[0].inner is own
    assert open_classifier(manager, str(stored), "cpu")[0].inner is not own


def test_a_model_of_a_plugin_that_knows_the_cpu_alone_says_so(
    manager: pluggy.PluginManager, stored: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plugin:
        @hookimpl
        def load_classifier(self) -> OnnxClassifier:
            return OnnxClassifier(load(stored))

    manager.register(Plugin())
    monkeypatch.setattr(device_module, "choose_device", lambda requested: DeviceChoice("cuda"))
    classifier, choice = open_classifier(manager, "mine", "cuda")
    assert classifier.device == "cpu"
    assert choice == DeviceChoice("cpu", "Model 'random0' computes on the CPU alone.")


@pytest.fixture(params=["cuda", "mps"])
def gpu(request: pytest.FixtureRequest) -> str:
    """A GPU of this machine."""
    if choose_device(request.param).device == "cpu":
        pytest.skip(f"no {request.param} here")
    return str(request.param)


def test_a_real_gpu_gives_the_numbers_of_the_cpu(gpu: str, manager: pluggy.PluginManager, stored: Path) -> None:
    on_gpu, choice = open_classifier(manager, str(stored), gpu)
    assert choice == DeviceChoice(gpu, "")
    assert on_gpu.device == gpu
    on_cpu, _ = open_classifier(manager, str(stored), "cpu")
    blocks = random_blocks(300, seed=1)
    by_gpu, by_cpu = on_gpu.predict(blocks)[0], on_cpu.predict(blocks)[0]
    assert np.abs(by_gpu - by_cpu).max() < 1e-4
    assert (by_gpu.argmax(axis=1) == by_cpu.argmax(axis=1)).mean() > 0.999


def test_auto_takes_a_real_gpu(gpu: str) -> None:
    assert choose_device("auto").device in ("cuda", gpu)


def test_a_real_gpu_without_memory_leaves_its_windows_to_the_cpu(manager: pluggy.PluginManager, stored: Path) -> None:
    import torch  # noqa: PLC0415 - slow to import

    if not torch.cuda.is_available():
        pytest.skip("no cuda here")
    on_gpu, on_cpu = (hooks.load_classifier(manager, str(stored), device, ()) for device in ("cuda", "cpu"))
    said: list[str] = []
    standby, blocks = Standby(on_gpu, lambda: on_cpu, said.append), random_blocks(600, seed=1)
    before = standby.predict(blocks)[0]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        without_memory = standby.predict(blocks)[0]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert len(said) == 1 and "out of memory" in said[0]
    np.testing.assert_array_equal(without_memory, on_cpu.predict(blocks)[0])
    np.testing.assert_array_equal(standby.predict(blocks)[0], before)
    assert len(said) == 1
