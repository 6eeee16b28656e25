"""MPEG audio is read to the last frame, whatever its headers say and whatever stands between the frames."""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pytest
import soundfile
from odd_recordings import ID3V1, chunk, frame_starts, id3v2, mp3, read_bytes, voice, wav, without_info

FRAME_S = 1_152 / 44_100


@pytest.fixture(scope="module")
def whole() -> bytes:
    """12 s with an Info header."""
    return mp3(voice(12.0))


@pytest.fixture(scope="module")
def constant() -> bytes:
    """12 s of constant bit rate without an Info header."""
    return without_info(mp3(voice(12.0), is_constant=True))


def seconds(data: bytes) -> float:
    """Audio in clean MP3 without an Info header."""
    return len(frame_starts(data)) * FRAME_S


def test_an_intact_file_has_the_length_that_was_encoded(tmp_path, whole):
    reading = read_bytes(tmp_path, whole, "x.mp3")
    assert (reading.note, reading.error) == ("", "")
    assert reading.duration_s == pytest.approx(12.0, abs=1e-3)


@pytest.mark.parametrize("order", ["loud first", "quiet first"])
def test_a_guess_from_the_first_frames_neither_ends_nor_condemns_a_file(tmp_path, order):
    """Variable bit rate without a header: libsndfile guesses too few frames, or too many."""
    parts = [np.random.default_rng(0).standard_normal(2 * 44_100).astype(np.float32) * 0.2, voice(18.0, 44_100, 1e-3)]
    data = without_info(mp3(np.concatenate(parts if order == "loud first" else parts[::-1])))
    guessed_s = soundfile.info(io.BytesIO(data)).duration
    assert abs(guessed_s - seconds(data)) > 4, "else this shows nothing"
    reading = read_bytes(tmp_path, data, "x.mp3")
    assert (reading.note, reading.error) == ("", "")
    assert reading.duration_s == pytest.approx(seconds(data), abs=1e-3)


@pytest.mark.parametrize("front", [b"", id3v2(200_000)], ids=["bare", "picture in front"])
@pytest.mark.parametrize("behind", [b"", ID3V1, id3v2(5_000)], ids=["bare", "ID3v1", "ID3v2"])
def test_tags_cost_nothing_and_need_no_words(tmp_path, constant, front, behind):
    reading = read_bytes(tmp_path, front + constant + behind, "x.mp3")
    assert (reading.note, reading.error) == ("", "")
    assert reading.duration_s == pytest.approx(seconds(constant), abs=1e-3)


def test_an_ape_tag_is_one_too(tmp_path, constant):
    items = b"\x05\0\0\0\0\0\0\0Title\0Hello"
    tag = [b"APETAGEX" + struct.pack("<IIII8x", 2_000, len(items) + 32, 1, 1 << 31 | flag) for flag in (1 << 29, 0)]
    reading = read_bytes(tmp_path, constant + tag[0] + items + tag[1] + ID3V1, "x.mp3")
    assert (reading.note, reading.error) == ("", "")


@pytest.mark.parametrize(
    "front",
    [
        b"\0" * 70_000,
        b"ICY 200 OK\r\nicy-name: radio\r\n\r\n",
        np.random.default_rng(1).bytes(5_000),
        id3v2(2_000) + b"\0" * 4_096,
    ],
    ids=["zeros", "ICY", "junk", "padding behind a tag"],
)
@pytest.mark.parametrize("kind", ["whole", "constant"])
def test_what_stands_in_front_is_skipped_with_a_note(tmp_path, request, kind, front):
    data = request.getfixturevalue(kind)
    reading = read_bytes(tmp_path, front + data, "x.mp3")
    assert reading.error == "" and "bytes in front of the audio were skipped" in reading.note
    expected = 12.0 if kind == "whole" else seconds(data)
    assert reading.duration_s == pytest.approx(expected, abs=1e-3)


def test_a_stream_cut_anywhere_begins_with_its_first_whole_frame(tmp_path, constant):
    starts = frame_starts(constant)
    reading = read_bytes(tmp_path, constant[starts[100] + 50 :], "x.mp3")
    assert reading.error == "" and "skipped" in reading.note
    assert reading.duration_s == pytest.approx((len(starts) - 101) * FRAME_S, abs=1e-3)


@pytest.mark.parametrize("hole", [b"\0" * 20_000, np.random.default_rng(2).bytes(20_000)], ids=["zeros", "junk"])
@pytest.mark.parametrize("kind", ["whole", "constant"])
def test_a_hole_costs_what_was_in_it(tmp_path, request, kind, hole):
    data = request.getfixturevalue(kind)
    starts = frame_starts(data)
    first = starts[150] + 77
    damaged = data[:first] + hole + data[first + len(hole) :]
    last = next(index for index, start in enumerate(starts) if start >= first + len(hole))
    n_lost = last - 150
    reading = read_bytes(tmp_path, damaged, "x.mp3")
    assert reading.error == ""
    assert re.search(r"bytes that are no MPEG audio were skipped after 3\.(8|9)", reading.note)
    n_before = len(starts) - (kind == "whole")
    assert reading.duration_s == pytest.approx((n_before - n_lost) * FRAME_S, abs=0.03)
    intact = read_bytes(tmp_path, data, "y.mp3").samples
    tail = slice(-4 * 22_050, -2 * 22_050)
    if kind == "constant":
        np.testing.assert_allclose(reading.samples[tail], intact[tail], atol=2e-3)


def test_joined_files_are_read_to_the_last_whatever_their_rates_and_channels(tmp_path):
    stereo = np.column_stack([voice(4.0), voice(4.0)])
    parts = [mp3(voice(5.0)), ID3V1 + id3v2(300), mp3(voice(6.0, 22_050), 22_050), mp3(stereo)]
    reading = read_bytes(tmp_path, b"".join(parts), "x.mp3")
    assert reading.error == ""
    assert "3 MPEG streams are joined" in reading.note
    assert "from 5.00 s on: 22050 Hz, 1 channels" in reading.note
    assert "from 11.00 s on: 44100 Hz, 2 channels" in reading.note
    assert reading.duration_s == pytest.approx(15.0, abs=2e-3)
    alone = read_bytes(tmp_path, parts[2], "y.mp3").samples
    inside = slice(22_050, 5 * 22_050)
    np.testing.assert_allclose(reading.samples[5 * 22_050 :][inside], alone[inside], atol=2e-3)


@pytest.mark.parametrize("factor", [0, 0.25, 3])
def test_a_header_that_miscounts_a_whole_file_is_not_believed(tmp_path, whole, factor):
    data = bytearray(whole)
    place = data.find(b"Xing") + 8
    n_frames = struct.unpack(">I", data[place : place + 4])[0]
    assert n_frames == len(frame_starts(whole)) - 1
    data[place : place + 4] = struct.pack(">I", round(n_frames * factor))
    reading = read_bytes(tmp_path, bytes(data), "x.mp3")
    assert (reading.note, reading.error) == ("", "")
    assert reading.duration_s == pytest.approx(n_frames * FRAME_S, abs=1e-3)


def test_a_file_that_ends_before_its_header_says_is_partial(tmp_path, whole):
    reading = read_bytes(tmp_path, whole[: frame_starts(whole)[200]], "x.mp3")
    assert reading.duration_s == pytest.approx(199 * FRAME_S, abs=1e-3)
    assert "truncated: the header promises 12." in reading.error and "after 5.20 s" in reading.error


def test_mp3_inside_wav_goes_by_its_frames(tmp_path, constant):
    form = struct.pack("<HHIIHHHHIHHH", 0x55, 1, 44_100, 8_000, 1, 0, 12, 1, 2, 417, 1, 1_393)
    reading = read_bytes(tmp_path, wav(chunk(b"fmt ", form), chunk(b"data", constant)))
    assert (reading.note, reading.error) == ("", "")
    assert reading.duration_s == pytest.approx(seconds(constant), abs=1e-3)
    cut = wav(chunk(b"fmt ", form), chunk(b"data", constant[: len(constant) // 2], size=len(constant)))
    assert "truncated" in read_bytes(tmp_path, cut).error


def test_words_like_headers_in_other_data_are_none(tmp_path):
    rng = np.random.default_rng(3)
    data = bytearray(rng.bytes(300_000))
    for place in rng.integers(0, 299_000, 500):
        data[place : place + 2] = b"\xff\xfb"
    assert "no frames" in read_bytes(tmp_path, b"\xff\xfb" + bytes(data), "x.mp3").error
