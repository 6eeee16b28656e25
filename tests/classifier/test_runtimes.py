"""onnxruntime and torch give the same numbers, whatever the batch; pooling follows its rule."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from random_model import LABELS, random_blocks, random_checkpoint, random_inputs

from ser_batch.classifier.audible import audible_frames
from ser_batch.classifier.base import CheckpointClassifier
from ser_batch.classifier.checkpoint import METADATA_KEY, Checkpoint, load
from ser_batch.classifier.device import check_parity
from ser_batch.classifier.network_config import NetworkConfig
from ser_batch.classifier.onnx_classifier import OnnxClassifier, open_session
from ser_batch.classifier.onnx_graph import OPSET, build_onnx
from ser_batch.classifier.pooling import pool_windows
from ser_batch.classifier.torch_classifier import TorchClassifier
from ser_batch.errors import ModelError
from ser_batch.resources import model_path, shipped_models

#: Rounding of float32 sums in another order.
TOLERANCE = 1e-5

CONFIGS = {
    "default": NetworkConfig(),
    "one view, other strides and pools": NetworkConfig(
        n_labels=6,
        n_views=1,
        channels=(8, 12, 16, 20),
        strides=((1, 2), (2, 1), (2, 2), (1, 1)),
        pools=((2, 2), (1, 1), (3, 2), (2, 3)),
        attention_units=10,
        mel_units=32,
        dense_units=16,
        fusion_units=24,
        dynamic_range_db=50.0,
        audible_range_db=20.0,
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("seed", range(3))
def test_onnx_equals_torch_on_random_weights(config: NetworkConfig, seed: int) -> None:
    checkpoint = random_checkpoint(seed, config)
    inputs = random_inputs(24, seed)
    by_torch, by_onnx = TorchClassifier(checkpoint, "cpu").run(*inputs), OnnxClassifier(checkpoint).run(*inputs)
    assert np.abs(by_torch - by_onnx).max() < TOLERANCE
    # The comparison means something only where windows differ from each other.
    assert by_torch.std(axis=0).max() > 0.01


@pytest.mark.parametrize("name", shipped_models())
def test_onnx_equals_torch_on_shipped_weights(name: str) -> None:
    checkpoint = load(model_path(name))
    inputs = random_inputs(64)
    by_torch, by_onnx = TorchClassifier(checkpoint, "cpu").run(*inputs), OnnxClassifier(checkpoint).run(*inputs)
    assert np.abs(by_torch - by_onnx).max() < TOLERANCE
    assert np.array_equal(by_torch.argmax(axis=1), by_onnx.argmax(axis=1))


@pytest.mark.parametrize("shape", [(64, 63), (16, 16), (128, 17), (80, 301)])
def test_spectrograms_of_other_sizes_agree_too(shape: tuple[int, int]) -> None:
    checkpoint = random_checkpoint(3, NetworkConfig(n_bands=shape[0], n_frames=shape[1]))
    inputs = random_inputs(32, shape=shape)
    by_torch, by_onnx = TorchClassifier(checkpoint, "cpu"), OnnxClassifier(checkpoint)
    assert np.abs(by_torch.run(*inputs) - by_onnx.run(*inputs)).max() < TOLERANCE
    assert check_parity(by_onnx, by_torch) < TOLERANCE


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return random_checkpoint(seed=5)


@pytest.fixture(scope="module", params=["onnx", "torch"])
def classifier(request: pytest.FixtureRequest, checkpoint: Checkpoint) -> CheckpointClassifier:
    return OnnxClassifier(checkpoint) if request.param == "onnx" else TorchClassifier(checkpoint, "cpu")


def test_the_temperature_flattens_the_probabilities_of_the_logits(checkpoint: Checkpoint) -> None:
    inputs = random_inputs(8)
    meta = dict(checkpoint.meta)
    for build in (OnnxClassifier, lambda other: TorchClassifier(other, "cpu")):
        cold = build(Checkpoint(checkpoint.weights, {**meta, "temperature": 1.0})).run(*inputs).astype(np.float64)
        warm = build(Checkpoint(checkpoint.weights, {**meta, "temperature": 2.0})).run(*inputs)
        expected = np.sqrt(cold) / np.sqrt(cold).sum(axis=1, keepdims=True)
        assert np.abs(warm - expected).max() < TOLERANCE


def test_the_batch_a_window_is_in_does_not_change_its_probabilities(classifier: CheckpointClassifier) -> None:
    blocks = random_blocks(12, seed=3)
    expected, weights = classifier.predict(blocks)
    for size in (1, 5, 100):
        classifier.batch_size = size
        found, found_weights = classifier.predict(blocks)
        assert np.abs(found - expected).max() < TOLERANCE
        assert np.array_equal(found_weights, weights)
    backwards = {
        name: type(block)(
            name, block.scalars[::-1], block.clip_scalars, None if block.tensor is None else block.tensor[::-1]
        )
        for name, block in blocks.items()
    }
    assert np.abs(classifier.predict(backwards)[0][::-1] - expected).max() < TOLERANCE


def test_features_reach_the_network_in_the_order_of_the_model_file(
    classifier: CheckpointClassifier, checkpoint: Checkpoint
) -> None:
    blocks = random_blocks(6)
    mel, features = classifier.inputs(blocks)
    assert mel.shape == (6, 128, 130)
    for index, column in enumerate(checkpoint.features):
        extractor, place = checkpoint.position(column)
        assert np.array_equal(features[:, index], blocks[extractor].scalars[:, place], equal_nan=True)


def test_listening_and_labelling_are_two_steps_that_make_a_prediction(classifier: CheckpointClassifier) -> None:
    blocks = random_blocks(12, seed=5)
    embeddings, weights = classifier.listen(blocks)
    assert embeddings.shape == (12, classifier.n_embedding)
    expected, expected_weights = classifier.predict(blocks)
    assert np.array_equal(classifier.label(embeddings), expected)
    assert np.array_equal(weights, expected_weights)
    # Half precision, as a run stores embeddings, is enough for the label.
    assert np.abs(classifier.label(embeddings.astype(np.float16)) - expected).max() < 1e-3


def test_models_that_differ_in_the_last_layer_alone_listen_alike(checkpoint: Checkpoint) -> None:
    weights, meta = dict(checkpoint.weights), dict(checkpoint.meta)
    weights["head.bias"] = weights["head.bias"] + 1
    other_head = Checkpoint(weights, {**meta, "name": "adapted", "temperature": 2.0})
    assert other_head.listening_sha256 == checkpoint.listening_sha256
    weights["fusion.bias"] = weights["fusion.bias"] + 1
    assert Checkpoint(weights, meta).listening_sha256 != checkpoint.listening_sha256
    hop = {**meta, "features": meta["features"][::-1]}
    assert Checkpoint(checkpoint.weights, hop).listening_sha256 != checkpoint.listening_sha256


def test_pooling_weights_are_the_audible_seconds(classifier: CheckpointClassifier) -> None:
    blocks = random_blocks(6)
    assert np.array_equal(classifier.predict(blocks)[1], blocks["quality"].scalars[:, 0])


def test_inputs_are_neither_changed_nor_kept(classifier: CheckpointClassifier) -> None:
    blocks = random_blocks(4)
    for block in blocks.values():
        block.scalars.flags.writeable = False
        if block.tensor is not None:
            block.tensor.flags.writeable = False
    probabilities, _ = classifier.predict(blocks)
    assert probabilities.dtype == np.float32
    assert np.abs(probabilities.sum(axis=1) - 1).max() < TOLERANCE


def test_a_missing_extractor_or_tensor_is_named(classifier: CheckpointClassifier) -> None:
    blocks = random_blocks(2)
    without = {name: block for name, block in blocks.items() if name != "prosodic"}
    with pytest.raises(ModelError, match="needs the extractor 'prosodic', which did not run"):
        classifier.predict(without)
    narrow = {**blocks, "mel": type(blocks["mel"])("mel", *[np.zeros((2, 0), np.float32)] * 2)}
    with pytest.raises(ModelError, match=r"needs a tensor \(128, 130\).* gave none"):
        classifier.predict(narrow)


def test_the_graph_is_valid_and_says_what_it_is(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(build_onnx(checkpoint))
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", OPSET)]
    assert [item.name for item in model.graph.input] == ["mel", "features"]
    properties = {item.key: item.value for item in model.metadata_props}
    assert json.loads(properties[METADATA_KEY])["labels"] == list(LABELS)
    inputs = dict(zip(("mel", "features"), random_inputs(3), strict=True))
    heard, by_file = open_session(str(path)).run(["embedding", "probabilities"], inputs)
    classifier = OnnxClassifier(checkpoint)
    assert np.abs(by_file - classifier.run(*inputs.values())).max() < TOLERANCE
    assert np.abs(classifier.label(heard) - by_file).max() < TOLERANCE


def speech_between(first: int, last: int, seed: int = 0) -> NDArray[np.float32]:
    """Return a window (1, 128, 130) that is audible in frames `first` to `last` - 1 and nowhere else."""
    mel = np.random.default_rng(seed).normal(-75, 1, (1, 128, 130))
    mel[:, :, first:last] += 60
    return mel.astype(np.float32)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(("first", "last"), [(0, 130), (0, 1), (129, 130), (40, 41), (37, 90), (0, 60), (100, 130)])
def test_frames_that_are_left_out_have_no_say_in_the_torch_network(
    config: NetworkConfig, first: int, last: int
) -> None:
    network = TorchClassifier(random_checkpoint(config=config), "cpu")
    mel = speech_between(first, last)
    features = np.zeros((1, 13), np.float32)
    [(begin, end)] = audible_frames(mel, config)
    assert begin <= first
    assert last <= end
    other = mel.copy()
    other[:, :, :begin] -= 7.0
    other[:, :, end:] -= 7.0
    assert np.array_equal(network.run(mel, features), network.run(other, features))


def test_what_lies_just_beside_speech_has_a_say() -> None:
    config = NetworkConfig(dynamic_range_db=70, audible_range_db=45)  # the floor, 60 dB down, is seen but not audible
    [(begin, end)] = audible_frames(speech_between(48, 72), config)
    assert (begin, end) == (24, 88)  # the third step before has a say by its last three frames
    network = TorchClassifier(random_checkpoint(config=config), "cpu")
    mel, features = speech_between(48, 72), np.zeros((1, 13), np.float32)
    for frames in (slice(29, 32), slice(85, 88)):
        other = mel.copy()
        other[:, :, frames] -= 7.0
        assert not np.array_equal(network.run(mel, features), network.run(other, features))


def test_silence_is_seen_whole() -> None:
    silence = np.full((2, 128, 130), -100, np.float32)
    assert audible_frames(silence, NetworkConfig()).tolist() == [[0, 130], [0, 130]]


def test_the_parity_check_passes_equal_runtimes(checkpoint: Checkpoint) -> None:
    assert check_parity(OnnxClassifier(checkpoint), TorchClassifier(checkpoint, "cpu")) < TOLERANCE


def test_pooling_is_the_weighted_mean() -> None:
    windows = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], np.float32)
    found = pool_windows(("a", "b", "c"), windows, np.array([3.0, 1.0], np.float32))
    assert found.probabilities == pytest.approx([0.55, 0.35, 0.1], abs=1e-6)
    assert found.emotion == "a"
    assert found.confidence == pytest.approx(0.55, abs=1e-6)
    assert found.margin == pytest.approx(0.20, abs=1e-6)
    expected = -(0.55 * np.log(0.55) + 0.35 * np.log(0.35) + 0.1 * np.log(0.1)) / np.log(3)
    assert found.entropy == pytest.approx(expected, abs=1e-6)
    assert found.window_probabilities is windows


def test_silent_windows_count_nothing_unless_all_are_silent() -> None:
    windows = np.array([[0.7, 0.3], [0.0, 1.0]], np.float32)
    assert pool_windows(("a", "b"), windows, np.array([2, 0], np.float32)).probabilities == pytest.approx([0.7, 0.3])
    assert pool_windows(("a", "b"), windows, np.zeros(2, np.float32)).probabilities == pytest.approx([0.35, 0.65])


def test_entropy_spans_0_to_1() -> None:
    sure = pool_windows(("a", "b"), np.array([[1, 0]], np.float32), np.ones(1, np.float32))
    torn = pool_windows(("a", "b"), np.array([[0.5, 0.5]], np.float32), np.ones(1, np.float32))
    assert (sure.entropy, sure.margin, sure.confidence) == (0.0, 1.0, 1.0)
    assert (torn.entropy, torn.margin, torn.confidence) == (pytest.approx(1.0), 0.0, 0.5)


def test_hours_of_windows_still_sum_to_1() -> None:
    rng = np.random.default_rng(0)
    windows = rng.dirichlet(np.ones(6), 20_000).astype(np.float32)
    found = pool_windows(LABELS, windows, rng.uniform(0, 3, 20_000).astype(np.float32))
    assert abs(float(found.probabilities.sum()) - 1) < 1e-6


@pytest.mark.parametrize(("n_windows", "n_weights"), [(0, 0), (2, 1)])
def test_no_window_or_other_weights_are_an_error_of_the_caller(n_windows: int, n_weights: int) -> None:
    with pytest.raises(ValueError, match="need as many"):
        pool_windows(("a", "b"), np.ones((n_windows, 2), np.float32), np.ones(n_weights, np.float32))
