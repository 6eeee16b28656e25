"""Tracks of segments: speakers, words and emotions, as independent readers of each format find them."""

from __future__ import annotations

from html import unescape
from pathlib import Path

import pytest
import webvtt
from praatio import textgrid
from pympi import Elan

from ser_batch.export.track_formats import TRACK_FORMATS, Stretch, Track
from ser_batch.segments.files import read_segments

STRETCHES = (
    Stretch(0.5, 2.0, "anger", 0.8, "anna", 'so "geht" <das> & nicht', 1),
    Stretch(1.5, 3.0, "fear", 0.6, "ben lee", "", 2),
    Stretch(3.25, 4.0, "", float("nan"), "anna", "mhm --> ja", 1),
    Stretch(3661.5, 3662.0, "joy", 0.5, "", "ende", 1),
)
TRACK = Track("tapes/one two.wav", 3670.0, STRETCHES, "/archive", "2026-01-01T00:00:00+00:00", is_spoken=True)


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Path]:
    paths = {}
    for name, (suffix, write) in TRACK_FORMATS.items():
        paths[name] = tmp_path / f"one{suffix}"
        paths[name].write_text(write(TRACK), encoding="utf-8")
    return paths


def test_elan_has_a_tier_of_words_for_each_speaker_and_one_of_emotions_that_depends_on_it(written: dict) -> None:
    document = Elan.Eaf(str(written["elan"]))
    assert sorted(document.get_tier_names()) == [
        "anna", "anna - emotion", "ben lee", "ben lee - emotion", "emotion", "speech",
    ]  # fmt: skip
    words = document.get_annotation_data_for_tier("anna")
    assert [(a, b, text) for a, b, text, *_ in words] == [(500, 2000, STRETCHES[0].text), (3250, 4000, "mhm --> ja")]
    felt = document.get_annotation_data_for_tier("anna - emotion")
    assert [(item[0], item[1], item[2]) for item in felt] == [(500, 2000, "anger"), (3250, 4000, "")]
    assert document.get_parameters_for_tier("anna - emotion")["PARENT_REF"] == "anna"
    # What is written is what is read as segments.
    segments = read_segments([written["elan"]]).segments
    assert [(item.speaker, item.text) for item in segments] == [
        (stretch.speaker or "speech", stretch.text) for stretch in STRETCHES
    ]


def test_textgrid_has_tiers_for_each_speaker(written: dict) -> None:
    grid = textgrid.openTextgrid(str(written["textgrid"]), includeEmptyIntervals=True)
    assert grid.tierNames == (
        "emotion", "probability", "text",
        "anna - emotion", "anna - probability", "anna - text", "ben lee - emotion", "ben lee - probability",
    )  # fmt: skip
    emotions = [tuple(entry) for entry in grid.getTier("anna - emotion").entries]
    assert emotions == [(0, 0.5, ""), (0.5, 2, "anger"), (2, 3.25, ""), (3.25, 4, ""), (4, 3670, "")]
    assert [entry.label for entry in grid.getTier("anna - text").entries if entry.label] == [
        STRETCHES[0].text, "mhm --> ja",
    ]  # fmt: skip


def test_rttm_names_the_speaker_and_the_emotion(written: dict) -> None:
    lines = [line.split(" ") for line in written["rttm"].read_text().splitlines()]
    assert [(line[2], line[6], line[7], line[8]) for line in lines] == [
        ("1", "anger", "anna", "0.800"), ("2", "fear", "ben%20lee", "0.600"), ("1", "<NA>", "anna", "<NA>"),
        ("1", "joy", "<NA>", "0.500"),
    ]  # fmt: skip
    assert {len(line) for line in lines} == {10}


def test_subtitles_hold_speaker_emotion_and_words(written: dict) -> None:
    cues = webvtt.read(str(written["vtt"])).captions
    assert [(cue.start, cue.end) for cue in cues][::3] == [
        ("00:00:00.500", "00:00:02.000"), ("01:01:01.500", "01:01:02.000"),
    ]  # fmt: skip
    assert [cue.voice for cue in cues] == ["anna", "ben lee", "anna", None]
    assert [unescape(cue.text) for cue in cues] == [
        '(anger) so "geht" <das> & nicht', "fear", "mhm --> ja", "(joy) ende",
    ]  # fmt: skip
    cues = webvtt.from_srt(str(written["srt"])).captions
    assert [cue.raw_text for cue in cues] == [
        'anna: (anger) so "geht" <das> & nicht', "ben lee: (fear)", "anna: mhm → ja", "(joy) ende",
    ]  # fmt: skip


def test_audacity_labels_say_it_all(written: dict) -> None:
    rows = [line.split("\t") for line in written["audacity"].read_text().splitlines()]
    assert [row[2] for row in rows][:2] == ['anna: (anger) so "geht" <das> & nicht', "ben lee: (fear)"]
