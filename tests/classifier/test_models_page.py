"""What docs/models.md and docs/python-api.md say is what the code does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import soundfile
from random_model import random_checkpoint, store_random_model
from repository import REPOSITORY

from ser_batch import EmotionPredictor
from ser_batch.classifier.checkpoint import load
from ser_batch.classifier.onnx_export import EXPORT_TOLERANCE, export_onnx
from ser_batch.classifier.onnx_graph import OPSET
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.predictor import EmotionResult

MODELS, API = (REPOSITORY / "docs" / name for name in ("models.md", "python-api.md"))


def code(page: Path) -> list[str]:
    return re.findall(r"```python\n(.+?)```", page.read_text(), re.DOTALL)


def test_every_required_field_of_the_file_is_on_the_page() -> None:
    listed = re.findall(r"^\| `(\w+)` \| required \|", MODELS.read_text(), re.MULTILINE)
    assert listed == list(random_checkpoint().meta)


def test_the_opset_and_the_tolerances_are_on_the_page() -> None:
    text = MODELS.read_text()
    assert f"opset {OPSET}" in text
    assert f"above {EXPORT_TOLERANCE:.5f}, nothing" in text


def test_the_onnx_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On real sound, with a model of random weights in place of the shipped one: as `predict` has it."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("call.wav", synthetic_voice(7.5), 22_050)
    store_random_model(Path("ser6.safetensors"))
    export_onnx(load("ser6.safetensors"), tmp_path / "ser6.onnx")
    monkeypatch.setattr("ser_batch.classifier.loader.model_path", lambda name: tmp_path / f"{name}.safetensors")
    (example,) = code(MODELS)
    exec(example, {})
    shares = re.findall(r"'(\w+)': ([\d.e-]+)", capsys.readouterr().out)
    expected = EmotionPredictor("ser6", "cpu").predict("call.wav").probabilities
    assert len(expected) == 6
    assert {label: float(share) for label, share in shares} == pytest.approx(dict(expected), abs=1e-5)


def test_every_field_of_a_result_is_on_the_page() -> None:
    table = API.read_text().split("by name holds:")[1].split("\n\n```")[0]
    listed = [name for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(field.name for field in fields(EmotionResult))


def test_the_examples_of_the_predictor_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a model of random weights in place of the shipped one: the page shows use, not accuracy."""
    for name in ("call.wav", "one.wav"):
        soundfile.write(tmp_path / name, synthetic_voice(2.0), 22_050)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    model = store_random_model(tmp_path / "ser6.safetensors")
    monkeypatch.chdir(tmp_path)
    examples = [example for example in code(API) if "predictor" in example]
    assert len(examples) == 2
    names: dict[str, object] = {"EmotionPredictor": lambda: EmotionPredictor(str(model), "cpu")}
    for example in examples:
        exec(example, names)
    assert names["emotion"] in names["probabilities"]  # type: ignore[operator]
    one, broken = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"one\.wav \w+ \d+%", one)
    assert broken.startswith("broken.wav failed: failed in decode: ")
