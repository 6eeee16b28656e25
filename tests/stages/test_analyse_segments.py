"""Segments are analysed as recordings of their own, whatever pieces a recording is read in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pluggy
import pytest
import soundfile

from ser_batch import hooks
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.hookspecs import hookimpl
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Classifier, Clip, ClipOutcome, ClipRef, Segment, SegmentSource, Status
from ser_batch.stages.analyse import analyse_clip, select_extractors
from ser_batch.stages.discover import FileList, discover

RATE_HZ = 22_050
EXTRACTORS = ("mel", "prosodic", "quality", "voice_quality")


@pytest.fixture(scope="module")
def manager() -> pluggy.PluginManager:
    return PluginRecipe(entry_points=()).build()


@pytest.fixture(scope="module")
def classifier(manager: pluggy.PluginManager) -> Classifier:
    return hooks.load_classifier(manager, "ser6", "cpu")


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    """14 s in which voices and pauses alternate, unlike each other."""
    parts = []
    for number in range(7):
        parts += [synthetic_voice(1.4, RATE_HZ) * (0.2 + 0.1 * number), np.zeros(RATE_HZ * 6 // 10, np.float32)]
    return np.concatenate(parts).astype(np.float32)


def written(folder: Path, samples: np.ndarray, name: str = "one.wav") -> ClipRef:
    soundfile.write(folder / name, samples, RATE_HZ, subtype="FLOAT")
    return ClipRef(name, str(folder / name), 1, 1)


def analyse(ref: ClipRef, manager, classifier=None, piece_s: float = 60.0, **more) -> ClipOutcome:
    config = Config().with_values({"audio": {"piece_s": piece_s}})
    offered = hooks.register_extractors(manager, config)
    return analyse_clip(ref, config, select_extractors(offered, EXTRACTORS), classifier, manager, **more)


def with_segments(ref: ClipRef, *segments: Segment) -> ClipRef:
    return replace(ref, segments=SegmentSource(1, (), segments))


def test_a_segment_gets_what_a_file_of_it_alone_gets(tmp_path: Path, manager, classifier, samples: np.ndarray) -> None:
    marks = [(0.5, 2.25), (2.0, 5.5), (4.0, 13.25)]
    ref = with_segments(written(tmp_path, samples), *(Segment(a, b, 1, "anna", "so", "csv") for a, b in marks))
    # In pieces of 6 s the last segment begins in the first piece and ends in the third; as a file it is read in two.
    outcome = analyse(ref, manager, classifier, piece_s=6.0)
    assert outcome.status is Status.OK
    assert outcome.error_message == ""
    assert [(found.segment.start_s, found.segment.end_s) for found in outcome.segments] == marks
    for (start_s, end_s), found in zip(marks, outcome.segments, strict=True):
        cut = samples[round(start_s * RATE_HZ) : round(end_s * RATE_HZ)]
        alone = analyse(written(tmp_path, cut, "cut.wav"), manager, classifier, piece_s=6.0)
        np.testing.assert_array_equal(found.prediction.probabilities, alone.prediction.probabilities)
        for mine, other in zip(found.blocks, alone.blocks, strict=True):
            np.testing.assert_array_equal(mine.clip_scalars, other.clip_scalars)
            assert mine.tensor is None
        assert found.context_s == 0
        assert (found.segment.speaker, found.segment.text, found.segment.source) == ("anna", "so", "csv")


def test_segments_change_nothing_of_the_file(tmp_path: Path, manager, classifier, samples: np.ndarray) -> None:
    ref = written(tmp_path, samples)
    plain = analyse(ref, manager, classifier, piece_s=6.0)
    other = analyse(with_segments(ref, Segment(0.5, 9.0)), manager, classifier, piece_s=6.0)
    np.testing.assert_array_equal(plain.prediction.window_probabilities, other.prediction.window_probabilities)
    np.testing.assert_array_equal(plain.blocks[0].clip_scalars, other.blocks[0].clip_scalars)
    assert plain.segments == ()


def test_a_short_segment_takes_audio_around_it_and_says_how_much(tmp_path: Path, manager, samples: np.ndarray) -> None:
    ref = with_segments(written(tmp_path, samples), Segment(0.1, 0.3), Segment(6.2, 6.4), Segment(13.9, 14.0))
    outcome = analyse(ref, manager, piece_s=6.0)
    assert [found.context_s for found in outcome.segments] == pytest.approx([0.5, 0.8, 0.45], abs=1e-3)
    cut = written(tmp_path, samples[round(5.8 * RATE_HZ) : round(6.8 * RATE_HZ)], "cut.wav")
    np.testing.assert_array_equal(
        outcome.segments[1].blocks[1].clip_scalars, analyse(cut, manager).blocks[1].clip_scalars
    )


def test_what_lies_behind_the_end_is_told(tmp_path: Path, manager, samples: np.ndarray) -> None:
    ref = written(tmp_path, samples)
    outcome = analyse(with_segments(ref, Segment(1, 2), Segment(13, 14.3), Segment(15, 16)), manager)
    assert [(found.segment.start_s, found.segment.end_s) for found in outcome.segments] == [(1, 2), (13, 14)]
    assert outcome.error_message == "1 of 3 segments begin behind the end of the recording"
    assert outcome.status is Status.OK
    outcome = analyse(with_segments(ref, Segment(13, 17)), manager)
    assert outcome.error_message == "a segment goes on behind the end of the recording"


def test_a_file_of_segments_that_is_broken_costs_the_segments_alone(
    tmp_path: Path, manager, classifier, samples
) -> None:
    ref = written(tmp_path, samples)
    (tmp_path / "one.rttm").write_text("SPEAKER one 1 0 2 <NA> <NA> a\nSPEAKER one 1 1 2 <NA> <NA> a\n")
    found = discover([tmp_path / "one.wav"], with_segments=True).ref(0)
    outcome = analyse(found, manager, classifier)
    assert outcome.status is Status.OK
    assert outcome.segments == ()
    assert outcome.prediction.emotion == analyse(ref, manager, classifier).prediction.emotion
    assert outcome.error_message.startswith("no segments: one.rttm: segments of 'a' overlap")


def test_where_the_parent_predicts_files_segments_are_predicted_here(tmp_path, manager, classifier, samples) -> None:
    ref = with_segments(written(tmp_path, samples), Segment(0.5, 4.0))
    outcome = analyse(ref, manager, None, keep_tensors=lambda: classifier)
    assert outcome.prediction is None
    expected = analyse(ref, manager, classifier).segments[0].prediction
    np.testing.assert_array_equal(outcome.segments[0].prediction.probabilities, expected.probabilities)


def test_files_of_the_same_stem_are_found_in_the_order_in_which_they_count(tmp_path: Path) -> None:
    for name in (
        "a/one.wav", "a/one.srt", "a/one.TextGrid", "a/one.JSON", "a/one.wav.rttm", "a/One.rttm", "a/.one.rttm",
        "b/one.wav", "b/two.wav", "b/two.txt", "c.mp3", "c.rttm", "c.wav",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    paths = {clip_id: [Path(path).name for path in source.paths] for clip_id, source in beside([tmp_path]).items()}
    assert paths == {"a/one.wav": ["one.TextGrid", "one.JSON", "one.srt"], "c.mp3": ["c.rttm"], "c.wav": ["c.rttm"]}
    assert not beside([tmp_path], with_segments=False)
    assert list(beside(FileList((str(tmp_path / "c.wav"), str(tmp_path / "b/one.wav")), "-"))) == ["c.wav"]
    key = beside([tmp_path])["c.wav"].key
    assert beside([tmp_path])["c.wav"].key == key
    (tmp_path / "c.rttm").write_text("xy")
    assert beside([tmp_path])["c.wav"].key != key


def beside(inputs, with_segments: bool = True) -> dict[str, SegmentSource]:
    found = discover(inputs, with_segments=with_segments)
    refs = map(found.ref, range(len(found)))
    return {ref.clip_id: ref.segments for ref in refs if ref.segments}


def analyse_voice(ref: ClipRef, manager, classifier=None, piece_s: float = 60.0) -> ClipOutcome:
    config = Config().with_values({"audio": {"piece_s": piece_s}, "segments": {"source": "voice"}})
    offered = hooks.register_extractors(manager, config)
    return analyse_clip(ref, config, select_extractors(offered, EXTRACTORS), classifier, manager)


def test_stretches_of_voice_are_found_also_across_pieces(tmp_path: Path, manager, classifier, samples) -> None:
    noise = np.random.default_rng(0).standard_normal(len(samples)).astype(np.float32) * np.float32(1e-4)
    ref = written(tmp_path, samples + noise)
    whole = analyse_voice(ref, manager, classifier)
    # Voices of 1.4 s begin every 2 s. Pieces begin every 3 s: some voices lie across a border.
    parts = analyse_voice(ref, manager, classifier, piece_s=3.0)
    for outcome in (whole, parts):
        times_s = np.array([(found.segment.start_s, found.segment.end_s) for found in outcome.segments])
        expected_s = np.arange(7)[:, None] * 2 + np.array([0, 1.4])
        np.testing.assert_allclose(times_s, expected_s, atol=0.2)
        assert {found.segment.source for found in outcome.segments} == {"voice"}
    across = parts.segments[1]
    cut = (samples + noise)[round(across.segment.start_s * RATE_HZ) : round(across.segment.end_s * RATE_HZ)]
    alone = analyse(written(tmp_path, cut, "cut.wav"), manager, classifier, piece_s=3.0)
    np.testing.assert_array_equal(across.prediction.probabilities, alone.prediction.probabilities)


def test_a_file_beside_the_recording_goes_before_stretches_of_voice(tmp_path: Path, manager, samples) -> None:
    ref = with_segments(written(tmp_path, samples), Segment(1, 2, source="csv"))
    assert [found.segment.source for found in analyse_voice(ref, manager).segments] == ["csv"]


@pytest.mark.parametrize("kind", ["silence", "noise"])
def test_where_there_is_no_voice_there_is_no_segment(tmp_path: Path, manager, kind: str) -> None:
    rng = np.random.default_rng(1)
    sound = np.zeros(4 * RATE_HZ) if kind == "silence" else 0.1 * rng.standard_normal(4 * RATE_HZ)
    assert analyse_voice(written(tmp_path, sound.astype(np.float32)), manager).segments == ()


class Clock:
    """Finds a turn of one speaker in every whole second, the turns of a piece in no order."""

    @hookimpl
    def find_segments(self, clip: Clip):
        first, last = round(clip.start_s), int(clip.start_s + clip.duration_s)
        return [Segment(s, s + 1.0, 1, f"{s % 3}", "tick", "") for s in reversed(range(first, last))]


class Elsewhere:
    @hookimpl
    def find_segments(self, clip: Clip):
        return [Segment(0.0, 100.0)]


def test_a_plugin_finds_segments_and_is_named_when_it_finds_what_cannot_be(tmp_path: Path, samples) -> None:
    manager = PluginRecipe(entry_points=()).build()
    manager.register(Clock(), "clock")
    outcome = analyse_voice(written(tmp_path, samples), manager, piece_s=3.0)
    assert [found.segment.start_s for found in outcome.segments] == list(range(14))
    assert {(found.segment.text, found.segment.source) for found in outcome.segments} == {("tick", "clock")}
    manager.register(Elsewhere(), "elsewhere")
    outcome = analyse_voice(written(tmp_path, samples), manager)
    assert outcome.status is Status.FAILED
    assert "Plugin 'elsewhere': find_segments gave a segment from 0.000 to 100.000 s" in outcome.error_message


def test_a_segment_in_which_nobody_is_heard_keeps_its_row(tmp_path, manager, classifier, samples) -> None:
    quiet = np.concatenate([samples[:RATE_HZ], np.zeros(3 * RATE_HZ, np.float32)])
    marks = (Segment(0, 1, speaker="anna"), Segment(2, 3.5, speaker="ben", text="nothing"))
    outcome = analyse(with_segments(written(tmp_path, quiet), *marks), manager, classifier)
    assert [found.prediction is None for found in outcome.segments] == [False, True]
    assert outcome.segments[1].segment == marks[1]
    silent = with_segments(written(tmp_path, np.zeros(3 * RATE_HZ, np.float32)), marks[0])
    outcome = analyse(silent, manager, classifier)
    assert outcome.status is Status.SKIPPED
    assert [(found.segment.speaker, found.prediction) for found in outcome.segments] == [("anna", None)]
