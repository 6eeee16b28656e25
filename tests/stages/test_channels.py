"""Channels that are split have the labels that they have alone; mixed ones are one voice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from test_analyse_segments import EXTRACTORS, RATE_HZ, classifier, manager  # noqa: F401 - fixtures

from ser_batch import hooks
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.hookspecs import hookimpl
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Clip, ClipOutcome, ClipRef, Segment, SegmentSource, Status
from ser_batch.stages.analyse import analyse_clip, select_extractors

LEFT = synthetic_voice(7.0, RATE_HZ, 110.0)
RIGHT = 0.5 * synthetic_voice(7.0, RATE_HZ, 230.0, seed=4)


def analyse(path: Path, manager, classifier, channels: str = "split", *segments: Segment, **more) -> ClipOutcome:  # noqa: F811
    config = Config().with_values({"extract": {"channels": channels}, "audio": {"piece_s": 3.0}})
    selected = select_extractors(hooks.register_extractors(manager, config), EXTRACTORS)
    source = SegmentSource(1, (), segments) if segments else None
    return analyse_clip(ClipRef(path.name, str(path), 1, 1, source), config, selected, classifier, manager, **more)


def written(path: Path, *channels: np.ndarray, rate_hz: int = RATE_HZ) -> Path:
    soundfile.write(path, np.column_stack(channels), rate_hz, subtype="PCM_16")
    return path


@pytest.mark.parametrize("rate_hz", [RATE_HZ, 16_000])
def test_each_channel_has_what_a_mono_file_of_it_has(tmp_path, manager, classifier, rate_hz) -> None:  # noqa: F811
    both = analyse(written(tmp_path / "both.wav", LEFT, RIGHT, rate_hz=rate_hz), manager, classifier)
    alone = [
        analyse(written(tmp_path / f"{n}.wav", samples, rate_hz=rate_hz), manager, classifier, "mix")
        for n, samples in enumerate((LEFT, RIGHT))
    ]
    assert both.status is Status.OK
    assert both.source_channels == 2
    assert [found.segment.channel for found in both.segments] == [1, 2]
    for number, (found, mono) in enumerate(zip(both.segments, alone, strict=True), 1):
        assert (found.segment.start_s, found.segment.end_s, found.segment.source) == (0, mono.duration_s, "channel")
        np.testing.assert_array_equal(found.prediction.probabilities, mono.prediction.probabilities)
        mine = both.channels == number
        np.testing.assert_array_equal(both.windows_s[mine], mono.windows_s)
        np.testing.assert_array_equal(both.prediction.window_probabilities[mine], mono.prediction.window_probabilities)
        for block, other in zip(both.blocks, mono.blocks, strict=True):
            np.testing.assert_array_equal(block.scalars[mine], other.scalars)
    assert len(both.channels) == len(both.windows_s) == len(both.weights)
    mean = np.mean([mono.blocks[1].clip_scalars for mono in alone], axis=0)
    np.testing.assert_allclose(both.blocks[1].clip_scalars, mean, rtol=1e-5)


def test_mixed_channels_name_none_and_a_silent_one_is_told(tmp_path, manager, classifier) -> None:  # noqa: F811
    mixed = analyse(written(tmp_path / "both.wav", LEFT, RIGHT), manager, classifier, "mix")
    assert len(mixed.channels) == 0 and mixed.segments == ()
    one = analyse(written(tmp_path / "one.wav", np.zeros_like(LEFT), RIGHT), manager, classifier)
    assert one.error_message == "nobody is heard in channel 1"
    assert set(one.channels) == {2}
    none = analyse(written(tmp_path / "none.wav", 0 * LEFT, 0 * RIGHT), manager, classifier)
    assert (none.status, none.error_type, none.prediction) == (Status.SKIPPED, "NoVoice", None)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    assert analyse(tmp_path / "bad.wav", manager, classifier).status is Status.FAILED


def test_a_segment_is_of_the_channel_that_it_names_or_of_the_louder_one(tmp_path, manager, classifier) -> None:  # noqa: F811
    left, right = LEFT.copy(), RIGHT.copy()
    left[3 * RATE_HZ :] *= 0.05
    marks = [Segment(0.5, 2.0, 0, "a"), Segment(0.5, 2.0, 2, "b"), Segment(4.0, 6.0, 0, "c")]
    both = analyse(written(tmp_path / "both.wav", left, right), manager, classifier, "split", *marks)
    told = {item.segment.speaker: item.segment.channel for item in both.segments if item.segment.source != "channel"}
    assert told == {"a": 1, "b": 2, "c": 2}
    # Diarisation tools write channel 1, whatever they heard.
    marks = [Segment(0.5, 2.0, 1, "a"), Segment(4.0, 6.0, 1, "c")]
    both = analyse(written(tmp_path / "both.wav", left, right), manager, classifier, "split", *marks)
    told = {item.segment.speaker: item.segment.channel for item in both.segments if item.segment.source != "channel"}
    assert told == {"a": 1, "c": 2}


def test_where_the_parent_predicts_split_files_are_predicted_here(tmp_path, manager, classifier) -> None:  # noqa: F811
    path = written(tmp_path / "both.wav", LEFT, RIGHT)
    outcome = analyse(path, manager, None, keep_tensors=lambda: classifier)
    assert outcome.prediction.emotion == analyse(path, manager, classifier).prediction.emotion


class Mixing:
    """A reader that knows nothing of channels."""

    @hookimpl
    def read_clip(self, ref, sample_rate_hz, piece_s, overlap_s):
        yield Clip(LEFT[:20_000].copy(), sample_rate_hz, sample_rate_hz, 2)


def test_a_reader_that_mixes_is_not_taken_for_one_channel(tmp_path: Path) -> None:
    plugins = PluginRecipe(entry_points=()).build()
    plugins.register(Mixing(), "mixing")
    outcome = analyse(written(tmp_path / "both.wav", LEFT, RIGHT), plugins, None)
    assert outcome.status is Status.FAILED
    assert "`ser-batch scan --channels mix` reads it" in outcome.error_message
    assert replace(outcome.ref, segments=None) == ClipRef("both.wav", str(tmp_path / "both.wav"), 1, 1)
