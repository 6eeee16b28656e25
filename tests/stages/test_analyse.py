"""One file to its outcome: long recordings piece by piece, failures as values, plugins held to their word."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator

import numpy as np
import pluggy
import pytest
import soundfile

from ser_batch.audio import DecodeError
from ser_batch.config import Config
from ser_batch.contracts import CheckedExtractor
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import ModelError, PluginError
from ser_batch.extractors.mel import MelExtractor
from ser_batch.hookspecs import hookimpl
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Clip, ClipRef, FeatureBlock, FeatureSpec, Prediction, Status
from ser_batch.stages.analyse import analyse_clip, select_extractors

RATE_HZ = 22_050


class Level:
    """Mean square of each window, and a tensor that would fill memory if it were kept."""

    spec = FeatureSpec(
        "level", 2, (("power", ""), ("undefined", "hz"), ("time", "s")), tensor_shape=(4, 5), totals=("time",)
    )

    def extract(self, clip: Clip, windows_s) -> FeatureBlock:
        rows = [[float(np.mean(np.square(clip.window(*window)))), np.nan, 1.0] for window in windows_s]
        whole = [float(np.mean(np.square(clip.samples))), np.nan if clip.start_s else 7.0, clip.duration_s]
        tensor = np.zeros((len(rows), 4, 5), np.float32)
        return FeatureBlock("level", np.array(rows, np.float32), np.array(whole, np.float32), tensor)


class Sign:
    """A classifier of two labels, that pools by weight."""

    name, sha256, device = "sign", "0" * 64, "cpu"
    labels = ("quiet", "loud")
    needs = (("level", 2),)

    def predict(self, blocks):
        assert blocks["level"].tensor is not None
        loud = np.minimum(blocks["level"].scalars[:, 0], 1)
        return np.column_stack([1 - loud, loud]).astype(np.float32), np.ones(len(loud), np.float32)

    def pool(self, window_probabilities, weights):
        mean = np.average(window_probabilities, axis=0, weights=weights).astype(np.float32)
        return Prediction(self.labels[mean.argmax()], mean, window_probabilities, float(mean.max()), 0.0, 0.0)


def level(extractor: Level) -> tuple[str, CheckedExtractor]:
    return "its plugin", CheckedExtractor("its plugin", extractor)


def checked(classifier) -> CheckedClassifier:
    return CheckedClassifier("signs", classifier)


@pytest.fixture(scope="module")
def manager() -> pluggy.PluginManager:
    return PluginRecipe(entry_points=(), built_in=("ser_batch.audio",)).build()


@pytest.fixture
def long_file(tmp_path):
    """25 s, its level rising and its pitch moving: 8 windows of 3 s and one of 1 s."""
    times = np.arange(25 * RATE_HZ) / RATE_HZ
    voice = np.sin(2 * np.pi * 300 * times + 60 * np.sin(5 * times))
    soundfile.write(tmp_path / "long.wav", (0.3 + times / 50) * voice, RATE_HZ, subtype="FLOAT")
    return ClipRef("long.wav", str(tmp_path / "long.wav"), 1, 1)


def analyse(ref: ClipRef, manager, *, piece_s: float = 60.0, extractor=None, classifier=None, **more):
    config = Config().with_values({"audio": {"piece_s": piece_s}})
    return analyse_clip(ref, config, {"level": level(extractor or Level())}, classifier, manager, **more)


def test_a_long_recording_gives_the_windows_of_the_whole_piece_by_piece(manager, long_file):
    whole = analyse(long_file, manager, classifier=Sign())
    parts = analyse(long_file, manager, piece_s=6.0, classifier=Sign())
    assert whole.status is parts.status is Status.OK
    assert len(whole.windows_s) == 9 and whole.duration_s == parts.duration_s == 25.0
    np.testing.assert_allclose(parts.windows_s, whole.windows_s)
    np.testing.assert_allclose(parts.blocks[0].scalars, whole.blocks[0].scalars, rtol=1e-5)
    np.testing.assert_allclose(parts.prediction.probabilities, whole.prediction.probabilities, atol=1e-6)
    assert parts.prediction.window_probabilities.shape == (9, 2)
    assert parts.blocks[0].tensor is None and whole.blocks[0].tensor is None


def test_features_of_a_long_file_are_means_weighted_by_audio_and_undefined_pieces_have_no_say(manager, long_file):
    parts = analyse(long_file, manager, piece_s=6.0).blocks[0].clip_scalars
    power = np.square(soundfile.read(long_file.path)[0])
    # Pieces of 6 s reach 3 s into the next one.
    means = [np.mean(power[round(start_s * RATE_HZ) :][: 9 * RATE_HZ]) for start_s in (0, 6, 12, 18)]
    np.testing.assert_allclose(parts[0], np.average(means, weights=[6, 6, 6, 7]), rtol=1e-3)
    assert parts[1] == 7.0, "defined in the first piece alone"
    assert parts[2] == pytest.approx(25.0), "a total adds up"


def test_totals_count_what_pieces_share_once(manager, long_file):
    config = Config().with_values({"audio": {"piece_s": 6.0, "window_hop_s": 1.5}})
    outcome = analyse_clip(long_file, config, {"level": level(Level())}, None, manager)
    assert outcome.blocks[0].clip_scalars[2] == pytest.approx(25.0)


def test_tensors_stay_for_a_parent_that_predicts_and_for_nobody_else(manager, long_file):
    assert analyse(long_file, manager, keep_tensors=Sign).blocks[0].tensor.shape == (9, 4, 5)
    assert analyse(long_file, manager).blocks[0].tensor is None


def test_a_long_recording_is_predicted_where_it_is_read(manager, long_file):
    """Even where the parent predicts: the tensors of hours of audio are not to be kept."""
    outcome = analyse(long_file, manager, piece_s=6.0, keep_tensors=Sign)
    expected = analyse(long_file, manager, classifier=Sign())
    assert outcome.blocks[0].tensor is None
    np.testing.assert_allclose(outcome.prediction.probabilities, expected.prediction.probabilities, atol=1e-6)
    assert analyse(long_file, manager, keep_tensors=Sign).prediction is None, "a short one waits for the parent"


class Breaking:
    """A reader whose file breaks after its first piece."""

    @hookimpl
    def read_clip(self, ref: ClipRef, sample_rate_hz: int) -> Iterator[Clip]:
        def pieces():
            yield Clip(synthetic_voice(6.0, sample_rate_hz), sample_rate_hz, 8_000, 2)
            raise DecodeError("broken after 6.00 s: lost sync")

        return pieces()


def test_a_file_that_breaks_midway_keeps_what_came_before(manager):
    breaking = PluginRecipe(entry_points=(), built_in=()).build()
    breaking.register(Breaking())
    outcome = analyse(ClipRef("x", "x", 1, 1), breaking, classifier=Sign())
    assert outcome.status is Status.PARTIAL
    assert (outcome.stage, outcome.error_type) == ("decode", "DecodeError")
    assert outcome.error_message == "broken after 6.00 s: lost sync"
    assert len(outcome.windows_s) == 2 and outcome.duration_s == 6.0
    assert outcome.prediction.window_probabilities.shape == (2, 2)


def test_an_empty_file_is_skipped_with_the_reason(manager, tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 8_000)
    outcome = analyse(ClipRef("none.wav", str(tmp_path / "none.wav"), 44, 1), manager)
    assert outcome.status is Status.SKIPPED and "no audio samples" in outcome.error_message


def test_mended_samples_are_noted_on_a_file_that_is_ok(manager, tmp_path):
    samples = np.full(8_000, 0.1)
    samples[5] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, 8_000, subtype="FLOAT")
    outcome = analyse(ClipRef("nan.wav", str(tmp_path / "nan.wav"), 1, 1), manager)
    assert outcome.status is Status.OK
    assert outcome.error_message == "1 samples that are not finite were read as 0"


def test_a_missing_file_is_a_failed_outcome(manager):
    outcome = analyse(ClipRef("gone.wav", "/nowhere/gone.wav", 0, 0), manager)
    assert (outcome.status, outcome.stage, outcome.error_type) == (Status.FAILED, "decode", "FileNotFoundError")


def faulty(change) -> Level:
    extractor = Level()
    sound = extractor.extract
    extractor.extract = lambda clip, windows_s: change(sound(clip, windows_s))
    return extractor


def with_value(block: FeatureBlock, value: float) -> FeatureBlock:
    scalars = block.scalars.copy()
    scalars[0, 1] = value
    return FeatureBlock("level", scalars, block.clip_scalars, block.tensor)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda block: None, "must return a FeatureBlock, not NoneType"),
        (
            lambda block: FeatureBlock("level", block.scalars[:, :1], block.clip_scalars, block.tensor),
            "scalars must be float32 of shape (9, 3)",
        ),
        (
            lambda block: FeatureBlock("level", block.scalars, block.clip_scalars[:1], block.tensor),
            "clip_scalars must be float32 of shape (3,)",
        ),
        (lambda block: FeatureBlock("level", block.scalars, block.clip_scalars, None), "returned no tensor"),
        (lambda block: with_value(block, np.inf), "infinity in column 'level__undefined_hz'"),
        (
            lambda block: FeatureBlock("level", block.scalars > 0, block.clip_scalars, block.tensor),
            "not bool",
        ),
        (lambda block: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_plugin_that_breaks_its_word_is_blamed_by_name(manager, long_file, change, words):
    outcome = analyse(long_file, manager, extractor=faulty(change))
    assert (outcome.status, outcome.stage, outcome.error_type) == (Status.FAILED, "extract", "PluginError")
    assert "Plugin 'its plugin': extractor 'level'" in outcome.error_message
    assert words in outcome.error_message


def test_an_extractor_that_uses_one_array_for_all_pieces_gives_each_its_own_numbers(manager, long_file):
    class Thrifty(Level):
        scalars = np.zeros((3, 3), np.float32)

        def extract(self, clip, windows_s):
            block = super().extract(clip, windows_s)
            self.scalars[: len(windows_s)] = block.scalars
            return FeatureBlock("level", self.scalars[: len(windows_s)], block.clip_scalars, block.tensor)

    found, expected = (
        analyse(long_file, manager, piece_s=6.0, extractor=which).blocks[0] for which in (Thrifty(), None)
    )
    np.testing.assert_array_equal(found.scalars, expected.scalars)


@pytest.mark.parametrize("what", ["clip.samples", "windows_s"])
def test_an_extractor_that_writes_into_what_all_are_shown_is_refused(manager, long_file, what):
    class Vandal(Level):
        def extract(self, clip, windows_s):
            array = {"clip.samples": clip.samples, "windows_s": windows_s}[what]
            array.flags.writeable = True
            array[...] = 0
            return super().extract(clip, windows_s)

    outcome = analyse(long_file, manager, extractor=Vandal())
    assert (outcome.status, outcome.error_type) == (Status.FAILED, "PluginError")
    assert "extractor 'level' failed: ValueError: cannot set WRITEABLE flag" in outcome.error_message


def test_an_extractor_whose_spec_changes_later_is_held_to_what_it_registered(manager, long_file):
    class Fickle(Level):
        def extract(self, clip, windows_s):
            self.spec = FeatureSpec("level", 2, (("power", ""),))
            return FeatureBlock("level", np.zeros((len(windows_s), 1), np.float32), np.zeros(1, np.float32))

    outcome = analyse(long_file, manager, extractor=Fickle())
    assert "scalars must be float32 of shape (9, 3), not float32 of shape (9, 1)" in outcome.error_message


def test_messages_as_long_as_a_book_are_cut(manager, long_file):
    def explode(block):
        raise ValueError("x" * 10_000)

    assert len(analyse(long_file, manager, extractor=faulty(explode)).error_message) <= 500


def test_ctrl_c_ends_the_work_of_a_caller_in_the_same_process(manager, long_file):
    def interrupt(block):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyse(long_file, manager, extractor=faulty(interrupt))


def test_extractors_are_selected_with_those_of_the_model_at_its_versions():
    offered = {"level": level(Level())}
    model = checked(Sign())
    assert list(select_extractors(offered, [], model)) == ["level"]
    model.needs = (("level", 1),)
    with pytest.raises(ModelError, match="version 1 of extractor 'level'; plugin 'its plugin' offers version 2"):
        select_extractors(offered, [], model)
    with pytest.raises(PluginError, match="No plugin offers an extractor 'pitch'"):
        select_extractors(offered, ["pitch"])


def test_columns_of_a_model_are_held_against_those_of_the_extractor():
    offered = {"level": level(Level())}
    model = checked(Sign())
    model.columns = {"level": ("level__power", "level__undefined_hz")}
    assert list(select_extractors(offered, [], model)) == ["level"]
    model.columns = {"level": ("level__undefined_hz", "level__power")}
    with pytest.raises(ModelError, match=r"other columns of extractor 'level' than plugin .* offers: .*undef"):
        select_extractors(offered, [], model)


def test_tensors_are_kept_over_all_pieces_where_they_are_asked_for(manager, long_file):
    outcome = analyse(long_file, manager, piece_s=6.0, keep_tensors=True)
    assert outcome.prediction is None
    assert outcome.blocks[0].tensor.shape == (9, 4, 5)


class Fading:
    """A change that has something to remember from piece to piece: each is half as loud as the one before."""

    def __call__(self, ref: ClipRef) -> Callable[[Clip], Clip]:
        gains = itertools.accumulate(itertools.repeat(0.5), operator.mul, initial=len(ref.clip_id) / 8)

        def fade(piece: Clip) -> Clip:
            samples = np.float32(next(gains)) * piece.samples
            return Clip(samples, piece.sample_rate_hz, piece.source_rate_hz, piece.source_channels, piece.start_s)

        return fade


def test_a_change_is_done_to_each_piece_in_turn_of_each_file_anew(manager, long_file):
    plain = analyse(long_file, manager, piece_s=6.0).blocks[0].scalars[:, 0]
    for _ in range(2):
        faded = analyse(long_file, manager, piece_s=6.0, change=Fading()).blocks[0].scalars[:, 0]
        # Power falls by a factor of 4 from piece to piece, which the high-pass hears as a step.
        piece = np.array([0, 0, 0, 1, 1, 2, 2, 3, 3])
        np.testing.assert_allclose(faded, plain * 4.0**-piece, rtol=2e-3)


def test_a_change_that_fails_is_a_failure_of_decoding(manager, long_file):
    def refuse(ref: ClipRef) -> Callable[[Clip], Clip]:
        raise OSError("no such codec")

    outcome = analyse(long_file, manager, change=refuse)
    assert (outcome.status, outcome.stage, outcome.error_message) == (Status.FAILED, "decode", "no such codec")


class Heard:
    """An extractor that keeps what it is shown."""

    spec = FeatureSpec("level", 2)

    def __init__(self) -> None:
        self.clips: list[Clip] = []

    def extract(self, clip: Clip, windows_s) -> FeatureBlock:
        self.clips.append(clip)
        return FeatureBlock("level", np.zeros((len(windows_s), 0), np.float32), np.zeros(0, np.float32))


def test_an_offset_reaches_no_extractor_and_pieces_are_filtered_as_the_whole(manager, tmp_path):
    samples = 0.2 * np.random.default_rng(1).standard_normal(20 * RATE_HZ)
    refs = []
    for name, offset in (("plain.wav", 0.0), ("offset.wav", 0.1)):
        soundfile.write(tmp_path / name, samples + offset, RATE_HZ, subtype="FLOAT")
        refs.append(ClipRef(name, str(tmp_path / name), 1, 0))
    whole, parts, plain = Heard(), Heard(), Heard()
    analyse(refs[1], manager, extractor=whole)
    analyse(refs[1], manager, extractor=parts, piece_s=6.0)
    analyse(refs[0], manager, extractor=plain)
    assert len(parts.clips) > 2
    for clip in parts.clips:
        first = round(clip.start_s * RATE_HZ)
        np.testing.assert_array_equal(clip.samples, whole.clips[0].samples[first : first + len(clip.samples)])
    np.testing.assert_allclose(plain.clips[0].samples, whole.clips[0].samples, atol=1e-6)
    np.testing.assert_allclose(whole.clips[0].as_read, samples + 0.1, atol=1e-6)


def test_a_sample_beyond_all_measure_does_not_ring_through_the_rest(manager, tmp_path):
    samples = 0.2 * np.random.default_rng(1).standard_normal(3 * RATE_HZ)
    samples[100] = 1e30
    soundfile.write(tmp_path / "a.wav", samples, RATE_HZ, subtype="FLOAT")
    heard = Heard()
    analyse(ClipRef("a.wav", str(tmp_path / "a.wav"), 1, 0), manager, extractor=heard)
    assert np.abs(heard.clips[0].samples).max() < 2


def written(path, samples) -> ClipRef:
    soundfile.write(path, samples, RATE_HZ, subtype="FLOAT")
    return ClipRef(path.name, str(path), 1, 0)


@pytest.mark.parametrize("piece_s", [60.0, 6.0])
def test_where_nobody_is_heard_there_is_no_label_but_there_are_numbers(manager, tmp_path, piece_s):
    noise = 0.1 * np.random.default_rng(1).standard_normal(20 * RATE_HZ)
    ref = written(tmp_path / "noise.wav", noise)
    for more in ({"classifier": Sign()}, {"keep_tensors": True}, {"keep_tensors": Sign}):
        outcome = analyse(ref, manager, piece_s=piece_s, **more)
        assert (outcome.status, outcome.stage, outcome.error_type) == (Status.SKIPPED, "predict", "NoVoice")
        assert (outcome.error_message, outcome.duration_s) == ("no voice", 20.0)
        assert outcome.prediction is None and not len(outcome.windows_s)
    extracted = analyse(ref, manager, piece_s=piece_s)
    assert extracted.status is Status.OK
    assert extracted.windows_s[:, 0].tolist() == [0, 3, 6, 9, 12, 15, 18] and extracted.windows_s[-1, 1] == 20
    assert extracted.blocks[0].scalars[:, 0] == pytest.approx(0.01, rel=0.1)


def test_a_file_that_breaks_and_holds_no_voice_says_both(manager):
    class Silent(Breaking):
        @hookimpl
        def read_clip(self, ref: ClipRef, sample_rate_hz: int) -> Iterator[Clip]:
            yield Clip(np.zeros(sample_rate_hz * 6, np.float32), sample_rate_hz, 8_000, 2, note="a note")
            raise DecodeError("broken after 6.00 s")

    breaking = PluginRecipe(entry_points=(), built_in=()).build()
    breaking.register(Silent())
    outcome = analyse(ClipRef("x", "x", 1, 1), breaking, classifier=Sign())
    assert (outcome.status, outcome.error_type) == (Status.SKIPPED, "NoVoice")
    assert outcome.error_message == "no voice; broken after 6.00 s; a note"


@pytest.mark.parametrize("piece_s", [60.0, 6.0])
@pytest.mark.parametrize("keep", [False, True])
def test_windows_lie_where_somebody_is_heard_and_no_others_count(manager, tmp_path, piece_s, keep):
    voice = synthetic_voice(1.4, RATE_HZ)
    samples = np.zeros(40 * RATE_HZ, np.float32)
    for start_s in (10.0, 25.0):
        samples[round(start_s * RATE_HZ) :][: len(voice)] = voice
    ref = written(tmp_path / "rare.wav", samples)
    more = {"keep_tensors": True} if keep else {"classifier": Sign()}
    outcome = analyse(ref, manager, piece_s=piece_s, **more)
    assert outcome.status is Status.OK and outcome.duration_s == 40.0
    assert outcome.windows_s == pytest.approx(np.array([[9.75, 11.65], [24.75, 26.65]]), abs=0.03)
    assert len(outcome.blocks[0].scalars) == 2 and outcome.blocks[0].clip_scalars[2] == pytest.approx(40.0)
    if keep:
        assert outcome.blocks[0].tensor.shape == (2, 4, 5)
    else:
        assert outcome.prediction.window_probabilities.shape == (2, 2)


def test_silence_around_a_voice_moves_its_windows_and_changes_nothing_in_them(manager, tmp_path):
    voice = synthetic_voice(4.0, RATE_HZ)
    mel = CheckedExtractor("its plugin", MelExtractor())
    outcomes = []
    for name, front_s, behind_s in (("bare", 0, 0), ("around", 1.3, 2.2)):
        padded = np.pad(voice, (round(front_s * RATE_HZ), round(behind_s * RATE_HZ)))
        ref = written(tmp_path / f"{name}.wav", padded)
        outcomes.append(analyse_clip(ref, Config(), {"mel": ("p", mel)}, None, manager, keep_tensors=True))
    bare, around = outcomes
    assert len(bare.windows_s) == 2
    # The high-pass begins with the offset of what comes first, which shows 50 dB below the voice.
    heard = bare.blocks[0].tensor > bare.blocks[0].tensor.max() - 50
    np.testing.assert_allclose(bare.blocks[0].tensor[heard], around.blocks[0].tensor[heard], atol=0.1)
    assert around.windows_s[1] - 1.3 == pytest.approx([bare.windows_s[1, 0], 3.74], abs=0.02)
    assert bare.windows_s[0, 0] == 0, "what lies before the recording is no time of it"
