"""`EmotionPredictor`: files and arrays, good and bad, give what a scan would give."""

from __future__ import annotations

import io
import logging
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest
import soundfile
from random_model import LABELS, store_random_model

from ser_batch import EmotionPredictor, Status
from ser_batch.classifier.base import CheckpointClassifier
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import ConfigError, InputError, ModelError, NoVoiceError, PluginError
from ser_batch.hooks import load_classifier, register_extractors
from ser_batch.plugins import PluginRecipe
from ser_batch.records import ClipRef
from ser_batch.resources import shipped_models
from ser_batch.stages.analyse import analyse_clip, select_extractors

OWN = PluginRecipe(entry_points=())


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_random_model(tmp_path_factory.mktemp("models") / "random.safetensors", seed=4)


@pytest.fixture(scope="module")
def predictor(model: Path) -> EmotionPredictor:
    return EmotionPredictor(str(model), "cpu", OWN)


@pytest.fixture
def call(tmp_path: Path) -> Path:
    path = tmp_path / "call.wav"
    soundfile.write(path, synthetic_voice(7.5), 22_050, subtype="FLOAT")
    return path


def test_a_file_gives_an_emotion_and_probabilities(predictor: EmotionPredictor, call: Path) -> None:
    emotion, probabilities = predictor.predict(call)
    assert list(probabilities) == list(LABELS)
    assert abs(sum(probabilities.values()) - 1) < 1e-6
    assert emotion == max(probabilities, key=lambda label: probabilities[label])


def test_a_result_tells_more_by_name(predictor: EmotionPredictor, call: Path) -> None:
    result = predictor.predict(call)
    shares = sorted(result.probabilities.values())
    assert result.confidence == pytest.approx(shares[-1], abs=1e-6)
    assert result.margin == pytest.approx(shares[-1] - shares[-2], abs=1e-6)
    assert 0 <= result.entropy <= 1
    assert result.duration_s == pytest.approx(7.5)
    assert result.windows_s.tolist() == [
        pytest.approx(window_s, abs=0.02) for window_s in ([0, 2.76], [2.76, 5.74], [5.76, 7.5])
    ]
    assert result.window_probabilities.shape == (3, 6)
    assert result.features["prosodic__f0_median_hz"] == pytest.approx(150, rel=0.2)
    assert (result.status, result.error) == (Status.OK, "")


def test_a_file_gives_the_very_numbers_of_the_scan(predictor: EmotionPredictor, model: Path, call: Path) -> None:
    config = Config().with_values({"predict": {"model": str(model)}})
    manager = OWN.build()
    classifier = load_classifier(manager, str(model), "cpu")
    extractors = select_extractors(register_extractors(manager, config), config.extract.extractors, classifier)
    stat = call.stat()
    ref = ClipRef("call.wav", str(call), stat.st_size, stat.st_mtime_ns)
    outcome = analyse_clip(ref, config, extractors, classifier, manager)
    assert outcome.prediction is not None
    assert list(predictor.predict(call).probabilities.values()) == outcome.prediction.probabilities.tolist()


def test_a_batch_keeps_order_and_says_what_is_wrong_with_bad_files(
    predictor: EmotionPredictor, call: Path, tmp_path: Path
) -> None:
    text = tmp_path / "text.wav"
    text.write_text("no audio here")
    empty = tmp_path / "empty.wav"
    soundfile.write(empty, np.zeros(0), 22_050)
    results = predictor.predict_batch([tmp_path / "none.wav", call, text, empty, tmp_path, str(call)])
    assert [result.emotion is None for result in results] == [True, False, True, True, True, False]
    assert results[1].probabilities == results[5].probabilities
    assert [str(result.status) for result in results] == ["failed", "ok", "failed", "skipped", "failed", "ok"]
    assert results[0].error == "cannot be read: No such file or directory"
    assert results[2].error.startswith("failed in decode: ")
    assert results[3].error == "skipped in decode: the file holds no audio samples"
    assert "is a directory; use `ser-batch scan`" in results[4].error
    assert all(result.probabilities == {} for result in results if result.emotion is None)


def test_predicting_a_bad_file_raises_with_its_name_and_the_reason(predictor: EmotionPredictor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.wav: cannot be read: No such file"):
        predictor.predict(tmp_path / "none.wav")
    with pytest.raises(InputError) as caught:
        predictor.predict(tmp_path / "a\x1b[2Jb\nc.wav")
    assert str(caught.value).isprintable()
    with pytest.raises(InputError, match="null"):
        predictor.predict("a\0b.wav")


def test_a_file_that_breaks_midway_counts_as_far_as_it_goes(predictor: EmotionPredictor, tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, synthetic_voice(7.5), 22_050)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = predictor.predict(path)
    assert result.status == Status.PARTIAL
    assert result.emotion in LABELS
    assert result.duration_s == pytest.approx(3.75, abs=0.1)
    assert result.error.startswith("partial in decode: ")


class Stream:
    """A file object that can only be read forward, as a body of HTTP."""

    name = 7

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._data.read(min(size, 1000))


class Upload:
    """As Starlette's: asynchronous, with the file itself beside it."""

    def __init__(self, data: bytes, filename: str) -> None:
        self.file, self.filename = io.BytesIO(data), filename

    async def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


def test_file_objects_give_what_their_file_gives(predictor: EmotionPredictor, call: Path) -> None:
    expected = predictor.predict(call)
    data = call.read_bytes()
    read_before = io.BytesIO(data)
    read_before.read()
    with call.open("rb") as opened, zipped(call) as member:
        sources = [io.BytesIO(data), read_before, opened, Stream(data), Upload(data, "../a\0b/call.wav"), member]
        results = predictor.predict_batch(sources)
    assert [result.path for result in results] == [
        *("<BytesIO>", "<BytesIO>", str(call), "<Stream>", "../a\0b/call.wav", "call.wav")
    ]
    for result in results:
        assert result.probabilities == expected.probabilities, result.error
        assert result.window_probabilities.tolist() == expected.window_probabilities.tolist()


@contextmanager
def zipped(path: Path) -> Iterator[IO[bytes]]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(path, path.name)
    with zipfile.ZipFile(packed) as archive, archive.open(path.name) as member:
        yield member


def test_a_file_object_that_cannot_be_used_says_why(predictor: EmotionPredictor, tmp_path: Path) -> None:
    class Asynchronous:
        async def read(self, size: int = -1) -> bytes:
            return b""

    class Broken:
        name = "body.wav"

        def read(self, size: int) -> bytes:
            raise ConnectionResetError(104, "Connection reset by peer")

    class Nothing:
        def read(self, size: int) -> None:
            return None

    closed = io.BytesIO(b"RIFF")
    closed.close()
    for source, words in (
        (io.StringIO(""), "open it with mode 'rb'"),
        (b"RIFF....", "give bytes as io.BytesIO"),
        (np.zeros(9), "arrays to predict_samples"),
        (Asynchronous(), r"<Asynchronous>: cannot be read without `await`; give io.BytesIO\(await"),
        (Broken(), "^body.wav: cannot be read: Connection reset by peer"),
        (Nothing(), "its read.. gives NoneType, not bytes"),
        (closed, "cannot be read: .*closed file"),
        (io.BytesIO(b""), "failed in decode|skipped in decode"),
        (io.BytesIO(b"no audio here"), "failed in decode"),
    ):
        with pytest.raises(InputError, match=words):
            predictor.predict(source)  # type: ignore[arg-type]
        with pytest.raises(InputError, match=words):
            predictor.network_inputs(source)  # type: ignore[arg-type]
    assert not list(Path(tempfile.gettempdir()).glob("ser-batch-*/upload*"))


def test_the_inputs_of_the_network_give_its_answer(predictor: EmotionPredictor, call: Path) -> None:
    inputs = predictor.network_inputs(io.BytesIO(call.read_bytes()))
    assert inputs.mel.shape == (3, 128, 130)
    assert inputs.features.shape == (3, 13)
    assert inputs.windows_s.tolist() == predictor.predict(call).windows_s.tolist()
    # The last window is half empty.
    assert inputs.weights[2] < inputs.weights[0] <= 3
    network = predictor.classifier.inner
    assert isinstance(network, CheckpointClassifier)
    expected = predictor.predict(call).window_probabilities
    np.testing.assert_array_equal(network.run(inputs.mel, inputs.features), expected)


def test_names_that_are_not_utf8_are_read(predictor: EmotionPredictor, call: Path) -> None:
    odd = os.fsdecode(os.fsencode(call.parent) + b"/\xff call.wav")
    try:
        Path(odd).write_bytes(call.read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names")
    assert predictor.predict(odd).probabilities == predictor.predict(call).probabilities


@pytest.fixture(scope="module")
def in_pieces(model: Path) -> EmotionPredictor:
    """A predictor that takes what is longer than 8 s in pieces."""
    return EmotionPredictor(str(model), "cpu", OWN, Config().with_values({"audio": {"piece_s": 8.0}}))


@pytest.mark.parametrize("sample_rate_hz", [22_050, 16_000])
@pytest.mark.parametrize("duration_s", [0.4, 7.5, 11.0, 21.0])
def test_an_array_gives_what_a_file_of_it_gives(
    in_pieces: EmotionPredictor, tmp_path: Path, sample_rate_hz: int, duration_s: float
) -> None:
    samples = synthetic_voice(duration_s, sample_rate_hz)
    path = tmp_path / "same.wav"
    soundfile.write(path, samples, sample_rate_hz, subtype="FLOAT")
    by_file, by_array = in_pieces.predict(path), in_pieces.predict_samples(samples, sample_rate_hz)
    assert by_array.windows_s.tolist() == by_file.windows_s.tolist()
    assert by_array.duration_s == pytest.approx(by_file.duration_s, abs=1e-4)
    assert np.abs(by_array.window_probabilities - by_file.window_probabilities).max() < 1e-4
    assert by_array.emotion == by_file.emotion


def test_channels_are_read_as_those_of_a_file_and_integers_scaled(predictor: EmotionPredictor) -> None:
    mono = synthetic_voice(3)
    expected = np.array(list(predictor.predict_samples(mono, 22_050).probabilities.values()))
    stereo = np.stack([mono * 1.5, mono * 0.5], axis=1)
    opposite = np.stack([mono, -mono], axis=1)
    for same in (stereo, opposite, np.round(mono * 32_768).astype(np.int16), np.round(mono * 2**31).astype(np.int32)):
        found = np.array(list(predictor.predict_samples(same, 22_050).probabilities.values()))
        assert np.abs(found - expected).max() < 0.01
    offset = np.round(mono * 128 + 128).astype(np.uint8)
    assert predictor.predict_samples(offset, 22_050).features["quality__level_dbfs"] == pytest.approx(
        predictor.predict_samples(mono, 22_050).features["quality__level_dbfs"], abs=0.5
    )


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(0), 22_050, "holds no samples"),
        (np.full(4_000, np.nan), 22_050, "no finite sample"),
        (np.zeros((2, 4_000)), 22_050, r"look like \(n_channels, n_samples\); transpose"),
        (np.zeros((3, 3, 3)), 22_050, r"not float64 \(3, 3, 3\)"),
        (np.array(["a"]), 22_050, "must be numbers"),
        (np.zeros(100), 10, "at least 1,000 Hz, not 10"),
    ],
)
def test_an_array_that_is_not_audio_is_refused(
    predictor: EmotionPredictor, samples: np.ndarray, rate: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        predictor.predict_samples(samples, rate)


def test_the_array_of_the_caller_is_left_alone(predictor: EmotionPredictor) -> None:
    samples = synthetic_voice(3.0)
    before = samples.copy()
    predictor.predict_samples(samples, 22_050)
    samples[0] = 0.5  # still writeable
    assert np.array_equal(samples[1:], before[1:])


def test_where_nobody_is_heard_there_is_nothing_to_label(predictor: EmotionPredictor, tmp_path: Path) -> None:
    for samples in (np.zeros(70_000), 0.1 * np.random.default_rng(1).standard_normal(70_000)):
        with pytest.raises(NoVoiceError, match="samples: skipped in predict: no voice"):
            predictor.predict_samples(samples, 22_050)
    soundfile.write(tmp_path / "line-up.wav", 0.5 * np.sin(np.arange(70_000) * 2 * np.pi * 1_000 / 22_050), 22_050)
    [result] = predictor.predict_batch([tmp_path / "line-up.wav"])
    assert (result.emotion, result.status, result.error) == (None, Status.SKIPPED, "skipped in predict: no voice")
    with pytest.raises(NoVoiceError):
        predictor.predict(tmp_path / "line-up.wav")


def test_harmless_changes_of_a_recording_change_no_probability(predictor: EmotionPredictor) -> None:
    rate_hz = 22_050
    voice = synthetic_voice(4.0, rate_hz).astype(np.float64)
    first = np.array(list(predictor.predict_samples(voice, rate_hz).probabilities.values()))
    changed = {
        "offset": voice + 0.05,
        "polarity": -voice,
        "gain": 0.1 * voice,
        "silence": np.pad(voice, (3 * rate_hz, 5 * rate_hz)),
    }
    for name, samples in changed.items():
        found = np.array(list(predictor.predict_samples(samples, rate_hz).probabilities.values()))
        assert np.abs(found - first).max() < 0.02, name


def test_a_device_that_is_absent_is_said_aloud(
    model: Path, call: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_batch.classifier.device._why_absent", lambda device: "none here")
    with caplog.at_level(logging.WARNING, logger="ser_batch"):
        predictor = EmotionPredictor(str(model), "mps", OWN)
    assert predictor.device.device == "cpu"
    assert caplog.messages == ["mps is not available (none here); computing on the CPU."]
    assert predictor.predict(call).emotion in LABELS


def test_only_the_labels_that_were_asked_for_are_answered(predictor: EmotionPredictor, model: Path, call: Path) -> None:
    kept = ("sadness", "anger", "joy")  # in another order than the model's
    whole, among = predictor.predict(call), EmotionPredictor(str(model), "cpu", labels=kept).predict(call)
    assert list(among.probabilities) == [label for label in LABELS if label in kept]
    places = [LABELS.index(label) for label in among.probabilities]
    windows = whole.window_probabilities[:, places]
    expected = windows / windows.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(among.window_probabilities, expected, atol=1e-6)
    shares = np.array(list(among.probabilities.values()))
    assert among.emotion == list(among.probabilities)[shares.argmax()]
    assert among.confidence == pytest.approx(shares.max(), abs=1e-6)
    assert among.entropy == pytest.approx(-(shares * np.log(shares)).sum() / np.log(3), abs=1e-5)
    assert among.margin == pytest.approx(np.diff(np.sort(shares)[-2:])[0], abs=1e-6)


def test_labels_that_the_model_does_not_have_are_refused(model: Path) -> None:
    with pytest.raises(ModelError, match=r"has no label 'angr'\. Did you mean 'anger'\? Its labels: anger, disgust"):
        EmotionPredictor(str(model), "cpu", labels=("angr", "joy"))
    with pytest.raises(ModelError, match="among 'joy' alone is no question"):
        EmotionPredictor(str(model), "cpu", labels=("joy",))


def test_other_audio_settings_than_the_model_was_trained_with_are_refused(model: Path) -> None:
    config = Config().with_values({"audio": {"sample_rate_hz": 16_000}})
    with pytest.raises(ConfigError, match=r"audio\.sample_rate_hz is 16000, but .* was trained with 22050"):
        EmotionPredictor(str(model), "cpu", OWN, config)
    config = Config().with_values({"audio": {"window_hop_s": 1.0}})
    assert EmotionPredictor(str(model), "cpu", OWN, config).labels == LABELS


def test_an_unknown_model_and_an_unknown_device_are_named(model: Path) -> None:
    with pytest.raises(ModelError, match="'unheard_of'"):
        EmotionPredictor("unheard_of", "cpu", OWN)
    with pytest.raises(ConfigError, match=r"auto, cuda, mps, cpu"):
        EmotionPredictor(str(model), "tpu", OWN)


def test_a_model_for_another_version_of_an_extractor_is_refused(tmp_path: Path, model: Path) -> None:
    from ser_batch.classifier.checkpoint import Checkpoint, load, save  # noqa: PLC0415

    other = load(model)
    needs = [[name, version + (name == "prosodic")] for name, version in other.needs]
    save(tmp_path / "old.safetensors", Checkpoint(other.weights, {**other.meta, "extractors": needs}))
    with pytest.raises((ModelError, PluginError), match=r"prosodic.*version"):
        EmotionPredictor(str(tmp_path / "old.safetensors"), "cpu", OWN)


@pytest.mark.skipif("ser6" not in shipped_models(), reason="the model ser6 is not in this checkout")
def test_the_shipped_model_predicts_by_default(call: Path) -> None:
    emotion, probabilities = EmotionPredictor(plugins=OWN).predict(call)
    assert emotion in probabilities
    assert set(probabilities) == {"anger", "disgust", "fear", "happiness", "sadness", "surprise"}


@pytest.mark.corpora
@pytest.mark.skipif("ser6" not in shipped_models(), reason="the model ser6 is not in this checkout")
def test_the_shipped_model_hears_loud_anger_and_sadness_in_ravdess(corpora_dir: Path) -> None:
    """Actors 1 and 2 with strong intensity; far below the score of the card, far above chance (1 of 6)."""
    predictor = EmotionPredictor(device="cpu", plugins=OWN)
    expected = {"04": "sadness", "05": "anger"}
    paths = [path for code in expected for path in sorted(corpora_dir.glob(f"ravdess/Actor_0[12]/03-01-{code}-02-*.*"))]
    assert len(paths) == 16
    results = predictor.predict_batch(paths)
    n_right = sum(result.emotion == expected[path.name[6:8]] for path, result in zip(paths, results, strict=True))
    assert n_right >= 8
