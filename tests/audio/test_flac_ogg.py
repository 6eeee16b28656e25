"""FLAC and Ogg: a broken frame costs itself, and streams that follow one another are all read."""

from __future__ import annotations

import numpy as np
import pytest
from odd_recordings import ID3V1, encoded, id3v2, ogg_flac, read_bytes, voice

from ser_batch.audio import flac

BLOCK_S = 4_096 / 44_100


@pytest.fixture(scope="module")
def whole() -> bytes:
    return encoded(voice(8.0), 44_100, "FLAC", "PCM_16")


def without_total(data: bytes) -> bytes:
    """As an encoder leaves it that writes to a pipe: neither number of samples nor checksum."""
    return data[:21] + bytes([data[21] & 0xF0]) + bytes(20) + data[42:]


@pytest.mark.parametrize("front", [b"", id3v2(3_000)], ids=["bare", "ID3v2"])
@pytest.mark.parametrize("behind", [b"", ID3V1], ids=["bare", "ID3v1"])
@pytest.mark.parametrize("is_open", [False, True], ids=["complete", "piped"])
def test_intact_flac_is_read_without_a_word(tmp_path, whole, front, behind, is_open):
    reading = read_bytes(tmp_path, front + (without_total(whole) if is_open else whole) + behind, "x.flac")
    assert (reading.note, reading.error) == ("", "")
    assert reading.duration_s == pytest.approx(8.0, abs=1e-3)


def test_flac_that_is_complete_by_its_own_count_is_whole_whatever_lies_behind(tmp_path, whole):
    for behind in (bytes(100_000), np.random.default_rng(0).bytes(300)):
        reading = read_bytes(tmp_path, whole + behind, "x.flac")
        assert reading.error == "" and reading.duration_s == pytest.approx(8.0, abs=1e-3)


@pytest.mark.parametrize("n_counted", [1, 4_096, 5 * 4_096 + 77, 8 * 44_100 - 1_000])
def test_flac_that_goes_on_behind_its_own_count_is_read_to_the_end(tmp_path, whole, n_counted):
    data = whole[:21] + bytes([whole[21] & 0xF0]) + n_counted.to_bytes(4, "big") + whole[26:]
    reading = read_bytes(tmp_path, data, "x.flac")
    assert reading.error == "" and f"the header gives {n_counted / 44_100:.2f} s" in reading.note
    np.testing.assert_array_equal(reading.samples, read_bytes(tmp_path, whole, "y.flac").samples)
    short = encoded(voice(0.2), 44_100, "FLAC", "PCM_16")
    joined = read_bytes(tmp_path, short + whole, "z.flac")
    assert joined.error == "" and "the header gives" not in joined.note
    assert joined.duration_s == pytest.approx(8.2, abs=1e-3)


def test_frames_whose_numbers_take_two_bytes_are_found_behind_the_count_too(tmp_path):
    long = encoded(voice(13.5), 44_100, "FLAC", "PCM_16")
    data = long[:21] + bytes([long[21] & 0xF0]) + (140 * 4_096 + 77).to_bytes(4, "big") + long[26:]
    reading = read_bytes(tmp_path, data, "x.flac")
    assert reading.duration_s == pytest.approx(13.5, abs=1e-3) and "goes on behind was read" in reading.note


@pytest.mark.parametrize("is_open", [False, True], ids=["complete", "piped"])
@pytest.mark.parametrize("n_flips", [1, 4])
def test_a_flipped_byte_costs_its_frame_and_no_other(tmp_path, whole, n_flips, is_open):
    data = bytearray(without_total(whole) if is_open else whole)
    for place in np.linspace(0.2, 0.8, n_flips):
        data[round(place * len(data))] ^= 0x55
    reading = read_bytes(tmp_path, bytes(data), "x.flac")
    assert reading.error == ""
    assert f"{n_flips * BLOCK_S:.2f} s of broken FLAC frames are silence" in reading.note
    intact = read_bytes(tmp_path, whole, "y.flac")
    assert len(reading.samples) == len(intact.samples)
    n_differ = np.count_nonzero(np.abs(reading.samples - intact.samples) > 1e-3)
    assert 0 < n_differ / 22_050 < n_flips * BLOCK_S * 1.2, "what follows stands where it stood"


@pytest.mark.parametrize("kind", ["hole", "cut out"])
def test_a_hole_is_as_long_as_what_was_in_it(tmp_path, whole, kind):
    middle, n_bytes = len(whole) // 2, len(whole) // 8
    filling = np.random.default_rng(0).bytes(n_bytes) if kind == "hole" else b""
    reading = read_bytes(tmp_path, whole[:middle] + filling + whole[middle + n_bytes :], "x.flac")
    assert reading.error == "" and "s of broken FLAC frames are silence at" in reading.note
    intact = read_bytes(tmp_path, whole, "y.flac")
    assert len(reading.samples) == len(intact.samples)
    np.testing.assert_allclose(reading.samples[-44_100:], intact.samples[-44_100:], atol=1e-3)


def test_flac_that_was_cut_gives_all_whole_frames_and_is_partial(tmp_path, whole):
    reading = read_bytes(tmp_path, whole[: len(whole) // 2], "x.flac")
    assert 3.8 < reading.duration_s < 4.2
    assert f"promises 8.00 s, the file ends after {reading.duration_s:.2f} s" in reading.error


def test_joined_flac_is_read_to_the_last(tmp_path, whole):
    other = encoded(voice(3.0, 48_000), 48_000, "FLAC", "PCM_24")
    reading = read_bytes(tmp_path, whole + other, "x.flac")
    assert reading.error == "" and f"another recording begins at byte {len(whole):,}" in reading.note
    assert reading.duration_s == pytest.approx(11.0, abs=1e-3)


@pytest.mark.parametrize("number", [0, 0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x1FFFFF, 0x3FFFFFF, 0x7FFFFFFF, 2**36 - 1])
def test_numbers_of_frames_are_decoded_as_they_are_coded(number):
    if number < 0x80:
        coded = bytes([number])
    else:
        n_more = next(n for n in range(1, 7) if number < 1 << (5 * n + 6))
        first = (0xFF00 >> n_more + 1 & 0xFF) | number >> 6 * n_more
        coded = bytes([first, *(0x80 | number >> 6 * shift & 0x3F for shift in range(n_more - 1, -1, -1))])
    assert flac._number(coded + b"\x55", 0) == (number, len(coded))


@pytest.fixture(scope="module")
def streams() -> dict[str, bytes]:
    stereo = np.column_stack([voice(2.0, 48_000), voice(2.0, 48_000)])
    return {
        "vorbis": encoded(voice(3.0), 44_100, "OGG", "VORBIS"),
        "opus": encoded(stereo, 48_000, "OGG", "OPUS"),
        "flac": ogg_flac(encoded(voice(4.0), 44_100, "FLAC", "PCM_16"), serial=7),
    }


SECONDS = {"vorbis": 3.0, "opus": 2.0, "flac": 4.0}


@pytest.mark.parametrize("kind", SECONDS)
def test_one_stream_needs_no_words(tmp_path, streams, kind):
    reading = read_bytes(tmp_path, streams[kind], "x.ogg")
    assert (reading.note, reading.error) == ("", "")
    assert reading.duration_s == pytest.approx(SECONDS[kind], abs=1e-3)


@pytest.mark.parametrize("kinds", ["vorbis vorbis", "opus opus opus", "flac flac", "vorbis opus flac vorbis"])
def test_chained_streams_are_read_to_the_last(tmp_path, streams, kinds):
    names = kinds.split()
    reading = read_bytes(tmp_path, b"".join(streams[name] for name in names), "x.ogg")
    assert reading.error == "" and f"{len(names)} Ogg streams are joined" in reading.note
    assert reading.duration_s == pytest.approx(sum(SECONDS[name] for name in names), abs=2e-3)
    alone = read_bytes(tmp_path, streams[names[-1]], "y.ogg").samples
    np.testing.assert_allclose(reading.samples[-22_050:], alone[-22_050:], atol=1e-3)


def test_a_joined_stream_that_nobody_can_read_costs_itself(tmp_path, streams):
    unknown = streams["opus"].replace(b"OpusHead", b"NobodyXX")
    reading = read_bytes(tmp_path, streams["vorbis"] + unknown + streams["vorbis"], "x.ogg")
    assert reading.duration_s == pytest.approx(6.0, abs=1e-3)
    assert f"{len(unknown):,} bytes of a joined stream were not read" in reading.error


def test_flac_out_of_ogg_is_the_flac_that_went_in(tmp_path, streams):
    native = read_bytes(tmp_path, encoded(voice(4.0), 44_100, "FLAC", "PCM_16"), "x.flac")
    np.testing.assert_array_equal(read_bytes(tmp_path, streams["flac"], "x.oga").samples, native.samples)


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
def test_ogg_that_was_cut_within_a_page_is_partial(tmp_path, streams, kind):
    data = streams[kind]
    reading = read_bytes(tmp_path, data[: len(data) - 700], "x.ogg")
    assert "truncated: the last page has 700 bytes too few" in reading.error
    last_page = data.rfind(b"OggS")
    cut = read_bytes(tmp_path, data[:last_page], "y.ogg")
    assert cut.error == "" and "no page is marked as the last" in cut.note


def test_pages_that_are_broken_are_counted(tmp_path, streams):
    data = bytearray(encoded(voice(20.0), 44_100, "OGG", "VORBIS"))
    data[len(data) // 2] ^= 0x55
    reading = read_bytes(tmp_path, bytes(data), "x.ogg")
    assert reading.duration_s > 17
    assert reading.error == f"{20 - reading.duration_s:.2f} of 20.00 s are in broken or missing pages"


@pytest.mark.parametrize("kind", SECONDS)
def test_junk_around_ogg_is_said(tmp_path, streams, kind):
    junk = np.random.default_rng(0).bytes(3_000)
    reading = read_bytes(tmp_path, junk + streams[kind], "x.ogg")
    assert reading.error == "" and "3,000 bytes in front of the audio were skipped" in reading.note
    assert read_bytes(tmp_path, streams[kind] + junk, "x.ogg").error == "3,000 bytes behind the audio were not read"
    assert reading.duration_s == pytest.approx(SECONDS[kind], abs=1e-3)


def test_flac_in_ogg_with_a_page_missing_says_so(tmp_path, streams):
    data = streams["flac"]
    first, second = data.find(b"OggS", 70_000), data.find(b"OggS", 140_000)
    reading = read_bytes(tmp_path, data[:first] + data[second:], "x.oga")
    assert reading.error == "1 of 6 Ogg pages are missing"
