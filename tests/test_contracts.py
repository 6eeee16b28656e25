"""What plugins return is held against the contract, copied, and explained to whoever broke it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from ser_batch.contracts import check_block, check_clips
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.errors import ModelError, PluginError
from ser_batch.records import Clip, FeatureBlock, FeatureSpec, Prediction

SPEC = FeatureSpec("tone", 1, (("f0", "hz"), ("level", "db")), tensor_shape=(4, 5))


def block(**changes: object) -> FeatureBlock:
    parts: dict[str, object] = {
        "extractor": "tone",
        "scalars": np.zeros((3, 2), np.float32),
        "clip_scalars": np.zeros(2, np.float32),
        "tensor": np.zeros((3, 4, 5), np.float32),
    }
    return FeatureBlock(**(parts | changes))  # type: ignore[arg-type]


def test_a_block_that_keeps_its_promise_passes() -> None:
    undefined = np.full((3, 2), np.nan, np.float32)
    found = check_block("tuner", SPEC, block(scalars=undefined), 3)
    assert np.isnan(found.scalars).all() and found.tensor is not None and found.tensor.shape == (3, 4, 5)


def test_an_extractor_that_uses_its_arrays_again_changes_nothing_that_it_gave() -> None:
    mine = block()
    found = check_block("tuner", SPEC, mine, 3)
    for name in ("scalars", "clip_scalars", "tensor"):
        getattr(mine, name)[...] = 7
        assert not getattr(found, name).any()
        with pytest.raises(ValueError, match="WRITEABLE"):
            getattr(found, name).flags.writeable = True


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, r"must return a FeatureBlock, not NoneType"),
        (block(extractor="tune"), r"returned a block named 'tune'"),
        (block(scalars=[[1, 2]]), r"scalars must be a numpy array, not list"),
        (block(scalars=np.zeros((3, 2))), r"scalars must be float32 of shape \(3, 2\), not float64 of shape \(3, 2\)"),
        (block(scalars=np.zeros((3, 3), np.float32)), r"scalars must be float32 of shape \(3, 2\), not .*\(3, 3\)"),
        (block(scalars=np.zeros((2, 2), np.float32)), r"of shape \(3, 2\), not float32 of shape \(2, 2\)"),
        (block(clip_scalars=np.zeros((1, 2), np.float32)), r"clip_scalars must be float32 of shape \(2,\)"),
        (block(scalars=np.array([[0, 0], [0, np.inf], [0, 0]], np.float32)), r"infinity in column 'tone__level_db'"),
        (block(clip_scalars=np.array([-np.inf, 0], np.float32)), r"infinity in column 'tone__f0_hz'; use NaN"),
        (block(tensor=None), r"no tensor, but its spec declares one of shape \(4, 5\)"),
        (block(tensor=np.zeros((3, 5, 4), np.float32)), r"tensor must be float32 of shape \(3, 4, 5\)"),
        (block(tensor=np.full((3, 4, 5), np.inf, np.float32)), r"infinity in its tensor"),
    ],
)
def test_a_block_that_breaks_its_promise_is_explained(bad: object, message: str) -> None:
    with pytest.raises(PluginError, match=message) as caught:
        check_block("tuner", SPEC, bad, 3)
    assert str(caught.value).startswith("Plugin 'tuner': extractor 'tone'")


def test_a_tensor_that_was_not_declared_is_refused() -> None:
    with pytest.raises(PluginError, match=r"returned a tensor, but its spec declares none"):
        check_block("tuner", FeatureSpec("tone", 1, SPEC.scalars), block(), 3)


RATE_HZ = 1000


def piece(begin_s: float, duration_s: float, **changes: Any) -> Clip:
    parts: dict[str, Any] = {
        "samples": np.full(round(duration_s * RATE_HZ), 0.1, np.float32),
        "sample_rate_hz": RATE_HZ,
        "source_rate_hz": 8000,
        "source_channels": 2,
        "start_s": begin_s,
    }
    return Clip(**(parts | changes))


def checked(pieces: Iterable[Any]) -> list[Clip]:
    return list(check_clips("reader", pieces, RATE_HZ, piece_s=4.0, overlap_s=1.0))


@pytest.mark.parametrize(
    "places",
    [
        [],
        [(0, 0)],
        [(0, 2.5)],
        [(0, 5)],
        [(0, 5), (4, 5), (8, 1.5)],
        [(0, 4.3), (4, 0.3)],  # no more to overlap with
        [(0, 4.9995), (4.001, 3)],  # a sample more or less
    ],
)
def test_pieces_in_their_order_pass(places: list[tuple[float, float]]) -> None:
    found = checked(piece(*place) for place in places)
    assert [clip.start_s for clip in found] == [start_s for start_s, _ in places]


def broken(**changes: Any) -> list[Clip]:
    return [piece(0, 5, **changes)]


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        (7, r"must return an iterable of Clip, not 7"),
        ([np.zeros(5)], r"must give Clips, not ndarray"),
        (
            broken(samples=np.zeros(5)),
            r"samples must be float32 .* mono, not float64 of shape \(5,\)",
        ),
        (broken(samples=np.zeros((5, 2), np.float32)), r"mono, not float32 of shape \(5, 2\)"),
        (broken(samples=np.array([0, np.nan], np.float32)), r"NaN or infinite; read them as 0 and say so in `note`"),
        (broken(sample_rate_hz=8000), r"gave 8000 Hz where 1000 Hz were asked for"),
        (broken(source_rate_hz=44_100.0), r"source_rate_hz must be a whole number from 0 to [0-9,]+, not 44100\.0"),
        (broken(source_channels=-1), r"source_channels must be a whole number from 0 to 32,767, not -1"),
        (broken(source_channels=70_000), r"source_channels must be a whole number from 0 to 32,767, not 70000"),
        (broken(start_s=np.nan), r"start_s must be a time in s, not nan"),
        (broken(note=None), r"note must be text, not None"),
        ([piece(1, 2)], r"begins at 1 s, where 0 s is next"),
        ([piece(0, 6)], r"a piece of 6 s; a piece is at most piece_s \+ overlap_s, 5 s"),
        ([piece(0, 5), piece(8, 5), piece(4, 5)], r"begins at 8 s, where 4 s is next"),
        ([piece(0, 5), piece(0, 5)], r"begins at 0 s, where 4 s is next"),
        ([piece(0, 4), piece(4, 5)], r"reaches 0 s beyond the start of the next one; 1 s were asked for"),
    ],
)
def test_pieces_that_are_not_what_was_asked_for_are_explained(pieces: Any, message: str) -> None:
    with pytest.raises(PluginError, match=rf"^Plugin 'reader': read_clip.* ?{message}"):
        checked(pieces)


def test_a_reader_that_uses_its_array_again_and_one_who_writes_change_no_samples() -> None:
    mine = np.full(5 * RATE_HZ, 0.1, np.float32)
    places = iter([(0, 1), (4, 2)])

    def pieces() -> Iterable[Clip]:
        for start_s, value in places:
            mine.flags.writeable = True
            mine[:] = value
            yield piece(start_s, 5, samples=mine)

    first, second = checked(pieces())
    assert (first.samples == 1).all() and (second.samples == 2).all()
    with pytest.raises(ValueError, match="WRITEABLE"):
        first.samples.flags.writeable = True


def test_what_a_reader_raises_between_pieces_stays_as_it_is_unless_it_wants_out() -> None:
    def pieces(error: BaseException) -> Iterable[Clip]:
        yield piece(0, 5)
        raise error

    with pytest.raises(OSError, match=r"^torn$"):
        checked(pieces(OSError("torn")))
    with pytest.raises(PluginError, match="'reader': read_clip failed: SystemExit: 0"):
        checked(pieces(SystemExit(0)))


class Sign:
    """Two labels; every part can be replaced."""

    name, sha256, device = "sign", "0" * 64, "cpu"
    labels = ("no", "yes")
    needs = (("x", 1),)

    def __init__(self, **changes: Any) -> None:
        self.__dict__.update(changes)

    def predict(self, blocks: Any) -> Any:
        yes = blocks["x"].scalars[:, 0]
        return np.column_stack([1 - yes, yes]), np.ones(len(yes))

    def pool(self, window_probabilities: Any, weights: Any) -> Any:
        mean = window_probabilities.mean(axis=0)
        return Prediction(
            self.labels[int(mean.argmax())],
            mean,
            window_probabilities,
            mean.max(),
            1 + 1e-7,
            float(abs(mean[0] - mean[1])),
        )


BLOCKS = {"x": FeatureBlock("x", np.array([[0.2], [0.3], [0.9]], np.float32), np.zeros(1, np.float32))}


def predict(**changes: Any) -> Prediction:
    model = CheckedClassifier("signs", Sign(**changes))  # type: ignore[arg-type]
    return model.pool(*model.predict(BLOCKS))


def test_a_classifier_that_keeps_its_promise_passes_as_float32() -> None:
    found = predict()
    assert found.emotion == "no"
    assert found.window_probabilities.dtype == found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.window_probabilities[:, 1], [0.2, 0.3, 0.9], rtol=1e-6)
    assert (type(found.confidence), found.entropy) == (float, 1.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, r"the model: name must be text, not ''"),
        (
            {"sha256": "abc"},
            r"model 'sign': sha256 must be 64 hexadecimal digits, of the file of the weights, not 'abc'",
        ),
        ({"device": None}, r"device must be cpu, cuda or mps, not None"),
        ({"labels": ("yes",)}, r"labels must be at least two different emotions, not \('yes',\)"),
        ({"labels": ("yes", "yes")}, r"at least two different emotions"),
        ({"labels": "no"}, r"at least two different emotions, not 'no'"),
        ({"labels": ([], {})}, r"at least two different emotions"),
        ({"needs": ["x"]}, r"needs must be \(extractor, version\) pairs, not \['x'\]"),
        ({"columns": ["x__a"]}, r"columns must be extractor -> list of its columns"),
        ({"card": {"made": object()}}, r"card must be what the metadata of a model file may hold"),
        ({"card": {"scores": {"uar": float("nan")}}}, r"card must be"),
        ({"card": {"training": "long ago"}}, r"card must be"),
        ({"card": {"created": 10**400}}, r"card must be"),
    ],
)
def test_a_classifier_that_is_none_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PluginError, match=rf"^Plugin 'signs': .*{message}"):
        predict(**changes)


def gives(value: Any) -> Any:
    return lambda *_: value


def table(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


FAIR = table((0.5, 0.5), (0.2, 0.8), (1, 0))
ONES = np.ones(3, np.float32)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, r"predict must return \(probabilities, weights\), not NoneType"),
        ((FAIR[:2], ONES[:2]), r"predict: probabilities must be of shape \(3, 2\), not \(2, 2\)"),
        ((FAIR[:, :1], ONES), r"predict: probabilities must be of shape \(3, 2\), not \(3, 1\)"),
        ((FAIR, ONES[:2]), r"predict: weights must be of shape \(3,\), not \(2,\)"),
        ((FAIR * np.nan, ONES), r"predict: probabilities must be finite and 0 or more"),
        ((table((1.5, -0.5), (1, 0), (0, 1)), ONES), r"predict: probabilities must be finite and 0 or more"),
        ((FAIR * 2, ONES), r"predict: probabilities must add up to 1 in each row, not to 2"),
        ((FAIR, -ONES), r"predict: weights must be finite and 0 or more"),
        ((FAIR, ONES * np.inf), r"predict: weights must be finite and 0 or more"),
        (([["a", "b"]] * 3, ONES), r"predict: probabilities must be numbers of one shape: ValueError"),
        (([[1, 0], [1]], ONES), r"predict: probabilities must be numbers of one shape: ValueError"),
    ],
)
def test_window_probabilities_that_are_none_are_explained(answer: Any, message: str) -> None:
    with pytest.raises(PluginError, match=rf"^Plugin 'signs': model 'sign': {message}"):
        predict(predict=gives(answer))


def pooled(emotion: Any = "yes", probabilities: Any = (0.4, 0.6), windows: Any = FAIR, **numbers: Any) -> Prediction:
    shares = {"confidence": 0.6, "entropy": 0.9, "margin": 0.2} | numbers
    return Prediction(emotion, probabilities, windows, **shares)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("yes", r"pool must return a Prediction, not str"),
        (pooled("maybe"), r"pool gave the emotion 'maybe', which is none of its labels"),
        (pooled(["yes"]), r"pool gave the emotion \['yes'\]"),
        (pooled("no"), r"pool gave 'no', which is not the most probable emotion"),
        (pooled(probabilities=(0.4, 0.4)), r"pool: probabilities must add up to 1 in each row, not to 0\.8"),
        (pooled(probabilities=(0, np.nan)), r"pool: probabilities must be finite"),
        (pooled(probabilities=None), r"pool: probabilities must be"),
        (pooled(windows=FAIR[:1]), r"pool: window_probabilities must be of shape \(3, 2\), not \(1, 2\)"),
        (pooled(confidence=np.nan), r"pool: confidence must be a number in \[0, 1\], not nan"),
        (pooled(entropy=1.2), r"pool: entropy must be a number in \[0, 1\], not 1\.2"),
        (pooled(margin="much"), r"pool: margin must be a number in \[0, 1\], not 'much'"),
    ],
)
def test_a_prediction_that_is_none_is_explained(answer: Any, message: str) -> None:
    with pytest.raises(PluginError, match=rf"^Plugin 'signs': model 'sign': {message}"):
        predict(pool=gives(answer))


def test_a_classifier_that_fails_is_named_and_one_that_knows_the_cure_speaks_for_itself() -> None:
    def fails(error: BaseException) -> Any:
        def method(*_: Any) -> None:
            raise error

        return method

    for method in ("predict", "pool"):
        with pytest.raises(PluginError, match=rf"^Plugin 'signs': model 'sign' failed in {method}: SystemExit: 0$"):
            predict(**{method: fails(SystemExit(0))})
        with pytest.raises(ModelError, match=r"^needs mel$"):
            predict(**{method: fails(ModelError("needs mel"))})


def test_a_classifier_that_uses_its_arrays_again_changes_nothing_that_it_gave() -> None:
    mine = FAIR.copy(), ONES.copy()
    model = CheckedClassifier("signs", Sign(predict=gives(mine)))  # type: ignore[arg-type]
    probabilities, weights = model.predict(BLOCKS)
    for array in mine:
        array[...] = 7
    np.testing.assert_array_equal(probabilities, FAIR)
    np.testing.assert_array_equal(weights, ONES)
