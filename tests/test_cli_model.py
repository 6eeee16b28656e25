"""``ser-batch model``: what is in the file is what is said; what is exported computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from random_model import FEATURES, random_checkpoint, random_inputs

from ser_batch import resources
from ser_batch.classifier import onnx_export
from ser_batch.classifier.checkpoint import save
from ser_batch.classifier.checks import n_parameters
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.classifier.onnx_classifier import OnnxClassifier, open_session
from ser_batch.cli.main import main
from ser_batch.errors import ExitCode
from ser_batch.resources import shipped_models


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "random.safetensors"
    training = {"corpora": [{"name": "RAVDESS", "licence": "CC BY-NC-SA 4.0"}], "seeds": [1, 2]}
    save(path, random_checkpoint(training=training, scores={"uar": 0.512345}, created="2025-01-01"))
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["model", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_parameters_are_those_that_torch_would_train() -> None:
    from ser_batch.classifier.network import HybridCNN  # noqa: PLC0415 - torch is slow to import

    network = HybridCNN(NetworkConfig())
    counts = n_parameters(NetworkConfig())
    assert sum(counts.values()) == sum(parameter.numel() for parameter in network.parameters())
    dense = [*network.dense_in.parameters(), *network.dense_out.parameters()]
    assert counts["dense"] == sum(parameter.numel() for parameter in dense)
    assert 1_000_000 <= sum(counts.values()) <= 2_000_000


def test_info_says_what_the_model_is(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, err = run(capsys, "info", model)
    assert (code, err) == (ExitCode.OK, "")
    counts = n_parameters(NetworkConfig())
    for text in (
        f"{sum(counts.values()):,} (mel {counts['mel']:,}, dense {counts['dense']:,}, fusion {counts['fusion']:,})",
        "anger, disgust, fear, joy, sadness, surprise",
        "22,050 Hz, 3 s windows every 3 s",
        "weighted_mean by quality__active_s",
        "licence: CC BY-NC-SA 4.0",
        "name: RAVDESS",
        "uar: 0.5123",
        *FEATURES,
    ):
        assert text in out


def test_info_as_json_holds_all_metadata(capsys: pytest.CaptureFixture[str], model: Path) -> None:
    code, out, _ = run(capsys, "info", model, "--json")
    values = json.loads(out)
    assert code == ExitCode.OK
    assert values["n_parameters"]["total"] == sum(n_parameters(NetworkConfig()).values())
    assert values["size_bytes"] == model.stat().st_size
    assert values["training"]["corpora"][0]["name"] == "RAVDESS"
    assert values["features"] == list(FEATURES)


def test_text_from_a_model_file_reaches_the_terminal_escaped(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "odd.safetensors"
    save(path, random_checkpoint(name="a\x1b[31m", training={"note\x1b": ["\x1b]0;x\x07"], "text": "a\nb\x9b"}))
    _, out, _ = run(capsys, "info", path)
    assert all(line.isprintable() for line in out.splitlines())


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_say_what_they_were_made_of(capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = run(capsys, "info", name, "--json")
    values = json.loads(out)
    assert code == ExitCode.OK
    assert values["name"] == name
    assert 1_000_000 <= values["n_parameters"]["total"] <= 2_000_000
    for key in ("training", "scores", "created"):
        assert values[key], f"model {name} does not say its {key}"
    assert values["training"]["licences"]


def test_list_shows_each_shipped_model(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list")
    assert code == ExitCode.OK
    assert [line.split(":")[0] for line in out.splitlines()] == list(shipped_models())


def test_list_goes_on_after_a_damaged_model(
    capsys: pytest.CaptureFixture[str], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model.parent / "cut.safetensors").write_bytes(model.read_bytes()[:1_000])
    monkeypatch.setattr(resources, "_folder", lambda package: model.parent)
    code, out, _ = run(capsys, "list")
    assert code == ExitCode.MODEL
    cut, good = out.splitlines()
    assert cut.startswith("cut: Model file ")
    assert "it is cut short" in cut
    assert good.startswith("random: 1,0")
    _, out, _ = run(capsys, "list", "--json")
    assert [row["name"] for row in json.loads(out)] == ["cut", "random"]


def test_the_exported_file_computes_what_the_model_does(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.onnx"
    code, out, err = run(capsys, "export", model, "--to", "onnx", "-o", target)
    assert (code, err) == (ExitCode.OK, "")
    assert float(out.split("probability: ")[1].rstrip(".\n")) < 1e-5
    mel, features = random_inputs(9)
    found = open_session(str(target)).run(["probabilities"], {"mel": mel, "features": features})[0]
    assert np.abs(found - OnnxClassifier(random_checkpoint()).run(mel, features)).max() < 1e-6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "random.safetensors"]


def test_an_existing_file_is_replaced_only_by_force(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.onnx"
    target.write_text("mine")
    code, _, err = run(capsys, "export", model, "-o", target)
    assert (code, target.read_text()) == (ExitCode.USAGE, "mine")
    assert "exists; give another name, or --force" in err
    code, _, _ = run(capsys, "export", model, "-o", target, "--force")
    assert code == ExitCode.OK
    assert target.stat().st_size > 1e6


def test_a_graph_with_other_numbers_is_not_written(
    capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = onnx_export.build_onnx
    monkeypatch.setattr(onnx_export, "build_onnx", lambda _: real(random_checkpoint(seed=1)))
    code, _, err = run(capsys, "export", model, "-o", tmp_path / "out.onnx")
    assert code == ExitCode.MODEL
    assert "differs from torch by up to" in err
    assert [path.name for path in tmp_path.iterdir()] == ["random.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("info", "unheard_of"), ExitCode.MODEL, "No model 'unheard_of'"),
        (("export", "MODEL", "-o", "a.txt"), ExitCode.USAGE, "a.txt: the name must end in .onnx"),
        (("export", "MODEL"), ExitCode.USAGE, "Missing option '-o' / '--output'"),
        (("export", "MODEL", "--to", "tflite", "-o", "a"), ExitCode.USAGE, "'tflite' is not"),
        (("export", "MODEL", "-o", "nowhere/a.onnx"), ExitCode.MODEL, "nowhere/a.onnx cannot be written: No such file"),
    ],
)
def test_a_mistake_costs_one_line(
    capsys: pytest.CaptureFixture[str], model: Path, arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, _, err = run(capsys, *(model if item == "MODEL" else item for item in arguments))
    assert found == code
    assert message in err
    assert "Traceback" not in err
