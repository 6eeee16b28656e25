"""The model file: what is stored comes back, and what does not fit is refused with the reason."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_model import FEATURES, LABELS, SPECS, random_checkpoint
from safetensors.numpy import save_file

from ser_batch.classifier.checkpoint import METADATA_KEY, Checkpoint, load, save
from ser_batch.classifier.checks import weight_shapes
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.errors import ModelError

SMALL = NetworkConfig(channels=(2, 3, 4, 5), attention_units=4, mel_units=8, dense_units=8, fusion_units=8)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.safetensors"
    save(path, random_checkpoint(config=SMALL))
    return path


def store_raw(path: Path, checkpoint: Checkpoint, **changes: Any) -> Path:
    """Write without the checks of `save`; a change to None removes the field."""
    meta = {key: value for key, value in {**checkpoint.meta, **changes}.items() if value is not None}
    save_file(dict(checkpoint.weights), path, metadata={METADATA_KEY: json.dumps(meta)})
    return path


def test_what_is_saved_comes_back(stored: Path) -> None:
    original, found = random_checkpoint(config=SMALL), load(stored)
    assert set(found.weights) == set(original.weights)
    assert all(np.array_equal(found.weights[name], original.weights[name]) for name in original.weights)
    assert found.labels == LABELS
    assert found.features == FEATURES
    assert found.network == SMALL
    assert found.needs == tuple((spec.extractor, spec.version) for spec in SPECS)
    assert found.temperature == 1.3
    assert len(found.sha256) == 64


def test_a_column_is_found_by_its_place_in_its_extractor(stored: Path) -> None:
    found = load(stored)
    assert found.position("voice_quality__value7") == ("voice_quality", 7)
    assert found.position("quality__active_s") == ("quality", 0)


def test_saving_leaves_no_other_file_and_is_deterministic(stored: Path) -> None:
    first = stored.read_bytes()
    save(stored, random_checkpoint(config=SMALL))
    assert stored.read_bytes() == first
    assert [path.name for path in stored.parent.iterdir()] == [stored.name]


def test_counters_of_training_are_neither_stored_nor_wanted(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(config=SMALL)
    weights = {**checkpoint.weights, "blocks.0.norm.num_batches_tracked": np.array(7)}
    save(tmp_path / "a.safetensors", replace(checkpoint, weights=weights))
    assert set(load(tmp_path / "a.safetensors").weights) == set(checkpoint.weights)
    store_raw(tmp_path / "b.safetensors", replace(checkpoint, weights=weights))
    assert set(load(tmp_path / "b.safetensors").weights) == set(checkpoint.weights)


def test_the_expected_tensors_are_those_of_the_torch_network() -> None:
    from ser_batch.classifier.network import HybridCNN  # noqa: PLC0415 - torch is slow to import

    for config in (NetworkConfig(), SMALL):
        state = HybridCNN(config).state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items() if not name.endswith("tracked")}
        assert weight_shapes(config) == shapes


def test_reading_and_writing_load_no_torch(stored: Path) -> None:
    code = f"""
import sys
from ser_batch.classifier.checkpoint import load, save
save({str(stored)!r}, load({str(stored)!r}))
from ser_batch.classifier.loader import load_classifier
load_classifier(name={str(stored)!r}, device="cpu")
print([name for name in ("torch", "librosa", "pandas", "numba", "scipy") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "[]"


class Bomb:
    """Pickles to a call that leaves a file: loading it must not happen."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "model.pt", "model.ckpt"])
@pytest.mark.parametrize("zipped", [False, True])
def test_a_pickle_is_refused_under_any_name_and_never_opened(tmp_path: Path, name: str, zipped: bool) -> None:
    trace = tmp_path / "trace"
    path = tmp_path / name
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(Bomb(trace)))
    else:
        path.write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ModelError, match=r"pickle can run any code"):
        load(path)
    assert not trace.exists()


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.safetensors does not exist"):
        load(tmp_path / "none.safetensors")


def test_a_folder_in_place_of_the_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ModelError, match=r"folder\.safetensors cannot be read: Is a directory"):
        load(tmp_path / "folder.safetensors")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.2, 0.5, 0.999])
def test_a_file_cut_short_anywhere_is_refused(stored: Path, share: float) -> None:
    raw = stored.read_bytes()
    stored.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(ModelError, match=r"tiny\.safetensors cannot be used: it is (empty|cut short)"):
        load(stored)


def test_a_text_file_is_not_taken_for_a_model(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("This is not a model, whatever its name says.")
    with pytest.raises(ModelError, match=r"it is not a safetensors file"):
        load(path)


def test_weights_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"layer.weight": np.zeros((2, 2), np.float32)}, path)
    with pytest.raises(ModelError, match=r"has no 'ser_batch' metadata"):
        load(path)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read"), ("[1]", "must be a JSON object")])
def test_metadata_that_are_no_json_object_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "odd.safetensors"
    save_file({"x": np.zeros(1, np.float32)}, path, metadata={METADATA_KEY: text})
    with pytest.raises(ModelError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, r"format version 99; this ser-batch reads up to 1\. Upgrade"),
        ({"format_version": None}, r"'format_version' is missing"),
        ({"labels": None}, r"'labels' is missing or wrong; it must be a list of at least two emotions"),
        ({"labels": ["joy"] * 6}, r"'labels' must be without repeats"),
        ({"labels": ["joy", "fear"]}, r"'network' must be with 2 n_labels"),
        ({"temperature": 0}, r"'temperature' must be a number above 0; it is 0"),
        ({"temperature": True}, r"'temperature' is missing or wrong"),
        ({"audio": {"window_s": 3.0}}, r"'audio' must be an object with sample_rate_hz"),
        ({"extractors": [["mel"]]}, r"'extractors' must be a list of \[name, version\]"),
        ({"extractors": [["prosodic", 1]]}, r"'extractors' must be with 'mel'"),
        ({"columns": {"mel": []}}, r"'columns' must be given for exactly the extractors"),
        ({"features": list(FEATURES[:12])}, r"'features' must be 13 of the columns"),
        ({"features": [*FEATURES[:12], "prosodic__unheard_of"]}, r"'features' must be 13 of the columns"),
        ({"pooling": {"rule": "vote", "weight_column": "quality__active_s"}}, r"'pooling' must be with a rule out of"),
        ({"pooling": {"rule": "weighted_mean"}}, r"'pooling' must be with a weight_column"),
        ({"network": {**SMALL.as_dict(), "layers": 3}}, r"settings unknown to this version: layers"),
        ({"network": {**SMALL.as_dict(), "channels": "wide"}}, r"'network' is wrong"),
    ],
)
def test_a_wrong_field_is_named_with_what_it_must_be(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = store_raw(tmp_path / "wrong.safetensors", random_checkpoint(config=SMALL), **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load(path)
    assert "wrong.safetensors" in str(caught.value)


def with_tensor(name: str, array: Any) -> Checkpoint:
    checkpoint = random_checkpoint(config=SMALL)
    weights = {**checkpoint.weights, name: array}
    if array is None:
        del weights[name]
    return replace(checkpoint, weights=weights)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("head.bias", None, r"1 tensor\(s\) missing, first 'head\.bias'"),
        ("extra.bias", np.zeros(3, np.float32), r"1 unknown tensor\(s\), first 'extra\.bias'"),
        ("head.bias", np.zeros(3, np.float32), r"'head\.bias' has shape \(3,\), the network needs \(6,\)"),
        ("head.bias", np.zeros(6, np.float64), r"'head\.bias' has type float64, the network needs float32"),
        ("head.bias", np.full(6, np.nan, np.float32), r"'head\.bias' holds NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit_are_refused_on_reading_and_on_writing(
    tmp_path: Path, name: str, array: Any, message: str
) -> None:
    checkpoint = with_tensor(name, array)
    with pytest.raises(ModelError, match=message):
        load(store_raw(tmp_path / "a.safetensors", checkpoint))
    with pytest.raises(ModelError, match=message):
        save(tmp_path / "b.safetensors", checkpoint)
    assert not (tmp_path / "b.safetensors").exists()


def test_half_precision_weights_that_numpy_cannot_hold_are_refused(tmp_path: Path) -> None:
    import torch  # noqa: PLC0415 - only torch can write them
    from safetensors.torch import save_file as save_torch  # noqa: PLC0415

    path = tmp_path / "half.safetensors"
    meta = {METADATA_KEY: json.dumps(random_checkpoint(config=SMALL).meta)}
    save_torch({"head.bias": torch.zeros(6, dtype=torch.bfloat16)}, path, metadata=meta)
    with pytest.raises(ModelError, match=r"a tensor is not of type float32|tensor\(s\) missing"):
        load(path)


def test_saving_where_nothing_can_be_written_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot be written: No such file or directory"):
        save(tmp_path / "nowhere" / "model.safetensors", random_checkpoint(config=SMALL))
    with pytest.raises(ModelError, match=r"must end in \.safetensors"):
        save(tmp_path / "model.bin", random_checkpoint(config=SMALL))
    assert list(tmp_path.iterdir()) == []


def test_the_terminal_never_sees_control_characters_of_a_path(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load(tmp_path / "a\x1b[31mred\n.safetensors")
    assert str(caught.value).isprintable()
