"""Containers whose header does not say what the file holds: everything is read, or the row says how much was not."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from odd_recordings import ID3V1, chunk, encoded, fmt, pcm, read_bytes, voice, wav

from ser_batch.audio.containers import layout_of
from ser_batch.audio.sound import Sound
from ser_batch.audio.source import Joined, Source

VOICE = voice(5.0)
PCM = pcm(VOICE)
N = len(PCM)
READ_ALL = rf"bytes of audio, {N:,} were there and were read"
LIST = chunk(b"LIST", b"INFOISFT\x05\0\0\0Lavf\0\0")


def ds64(n_bytes: int) -> bytes:
    return chunk(b"ds64", struct.pack("<QQQI", n_bytes + 72, n_bytes, n_bytes // 2, 0))


def w64_with_size(n_bytes: int, data: bytes) -> bytes:
    at = data.find(b"data\xf3\xac") + 16
    return data[:at] + struct.pack("<Q", n_bytes) + data[at + 8 :]


def caf_with_size(n_bytes: int, data: bytes) -> bytes:
    at = data.find(b"data") + 4
    return data[:at] + struct.pack(">q", n_bytes) + data[at + 8 :]


def au_with_size(n_bytes: int, data: bytes) -> bytes:
    return data[:8] + struct.pack(">I", n_bytes) + data[12:]


W64, CAF, AU = (encoded(VOICE, 44_100, kind, "PCM_16") for kind in ("W64", "CAF", "AU"))
AIFF = encoded(VOICE, 44_100, "AIFF", "PCM_16")
FLOAT = wav(fmt(tag=3, n_bits=32), chunk(b"data", VOICE.tobytes()))

#: Whole files, of which nothing needs to be said.
INTACT = {
    "plain": wav(fmt(), chunk(b"data", PCM)),
    "float": FLOAT,
    "broadcast": wav(chunk(b"bext", bytes(602)), fmt(), chunk(b"iXML", b"<x/>"), chunk(b"data", PCM), LIST, LIST),
    "tag behind": wav(fmt(), chunk(b"data", PCM)) + ID3V1,
    "streamed": wav(fmt(), chunk(b"data", PCM, size=0xFFFFFFFF), riff_bytes=0xFFFFFFFF),
    "streamed by sox": wav(fmt(), chunk(b"data", PCM, size=0x7FFFF000), riff_bytes=0x7FFFF024),
    "header counted in": wav(fmt(), chunk(b"data", PCM, size=N + 44)),
    "audio before its format": wav(chunk(b"data", PCM), fmt()),
    "RF64": wav(ds64(N), fmt(), chunk(b"data", PCM, size=0xFFFFFFFF), riff_bytes=0xFFFFFFFF, form=b"RF64"),
    "BW64": wav(
        ds64(N), fmt(), chunk(b"chna", bytes(44)), chunk(b"axml", b"<ebuCoreMain/>" * 3_000),
        chunk(b"data", PCM, size=-1),
        riff_bytes=-1, form=b"BW64",
    ),
    "W64": W64, "CAF": CAF, "AU": AU, "AIFF": AIFF,
    "AU of open length": au_with_size(0xFFFFFFFF, AU),
    "VOC": encoded(VOICE, 44_100, "VOC", "PCM_16"),
    "SPHERE": encoded(VOICE, 44_100, "NIST", "PCM_16"),
}  # fmt: skip

#: Files that hold more than their header says.
UNFINISHED = {
    "size 0": wav(fmt(), chunk(b"data", PCM, size=0), riff_bytes=36),
    "both sizes 0": wav(fmt(), chunk(b"data", PCM, size=0), riff_bytes=0),
    "size 44": wav(fmt(), chunk(b"data", PCM, size=44)),
    "size 36": wav(fmt(), chunk(b"data", PCM, size=36), riff_bytes=36),
    "size too small": wav(fmt(), chunk(b"data", PCM, size=N // 2)),
    "AVAudioFile": wav(
        chunk(b"JUNK", bytes(28)), fmt(), chunk(b"FLLR", bytes(4_008)), chunk(b"data", PCM, size=0), riff_bytes=4_088,
    ),
    "RF64": wav(ds64(0), fmt(), chunk(b"data", PCM, size=-1), riff_bytes=-1, form=b"RF64"),
    "W64": w64_with_size(0, W64),
    "W64 with less": w64_with_size(24 + 1_000, W64),
    "AU": au_with_size(0, AU),
    "AU with less": au_with_size(1_000, AU),
    "CAF": caf_with_size(0, CAF),
    "CAF of open length": caf_with_size(-1, CAF),
}  # fmt: skip


@pytest.mark.parametrize("name", INTACT)
def test_intact_files_are_read_without_a_word(tmp_path, name):
    reading = read_bytes(tmp_path, INTACT[name])
    assert (reading.note, reading.error) == ("", "")
    assert reading.duration_s == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize("name", UNFINISHED)
def test_what_lies_behind_a_size_that_is_too_small_is_read_with_a_note(tmp_path, name):
    reading = read_bytes(tmp_path, UNFINISHED[name])
    assert reading.error == "" and READ_ALL in reading.note
    intact = read_bytes(tmp_path, INTACT["plain"], "intact.wav")
    np.testing.assert_allclose(reading.samples, intact.samples, atol=1e-4)


def test_an_aiff_whose_sizes_were_never_written_is_read(tmp_path):
    data = bytearray(AIFF)
    ssnd, comm = data.find(b"SSND"), data.find(b"COMM")
    for place, size in ((4, 46), (ssnd + 4, 1_008), (comm + 10, 500)):
        data[place : place + 4] = struct.pack(">I", size)
    reading = read_bytes(tmp_path, bytes(data), "x.aiff")
    assert reading.error == "" and READ_ALL in reading.note
    assert reading.duration_s == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize("n_counted", [0, 1_000, 5 * 44_100 - 50])
def test_an_aiff_that_counts_too_few_samples_is_read_to_the_end(tmp_path, n_counted):
    data = bytearray(AIFF)
    place = data.find(b"COMM") + 10
    data[place : place + 4] = struct.pack(">I", n_counted)
    reading = read_bytes(tmp_path, bytes(data), "x.aiff")
    assert reading.error == "" and READ_ALL in reading.note
    assert reading.duration_s == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("line", [b"sample_count -i 0", b"speaker_id -s3 abc"], ids=["zero", "none"])
def test_sphere_without_a_count_is_read_to_the_end(tmp_path, order, line):
    fields = [line, b"channel_count -i 1", b"sample_rate -i 44100", b"sample_n_bytes -i 2", b"sample_coding -s3 pcm"]
    fields.append(b"sample_byte_format -s2 " + (b"01" if order == "little" else b"10"))
    head = b"NIST_1A\n   1024\n" + b"\n".join([*fields, b"end_head\n"])
    samples = PCM if order == "little" else np.frombuffer(PCM, "<i2").astype(">i2").tobytes()
    reading = read_bytes(tmp_path, head.ljust(1_024) + samples, "x.sph")
    assert reading.error == "" and READ_ALL in reading.note
    intact = read_bytes(tmp_path, INTACT["plain"], "intact.wav")
    np.testing.assert_allclose(reading.samples, intact.samples, atol=1e-4)


def test_a_chunk_of_odd_length_without_its_last_byte_hides_nothing(tmp_path):
    odd = chunk(b"LIST", b"INFOINAM\x03\0\0\0abc")
    assert odd.endswith(b"\0")
    for content in (wav(fmt(), odd, chunk(b"data", PCM)), wav(fmt(), odd[:-1], chunk(b"data", PCM))):
        reading = read_bytes(tmp_path, content)
        assert (reading.note, reading.error) == ("", "")
        assert reading.duration_s == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize("name", ["plain", "float", "RF64", "BW64", "W64", "CAF", "AU", "AIFF", "VOC", "SPHERE"])
def test_a_file_that_was_cut_is_partial_and_says_how_much_is_there(tmp_path, name):
    whole = INTACT[name]
    reading = read_bytes(tmp_path, whole[: len(whole) * 3 // 5])
    assert reading.duration_s == pytest.approx(3.0, abs=0.25)
    assert reading.error == (f"truncated: the header promises 5.00 s, the file ends after {reading.duration_s:.2f} s")


def test_a_header_without_the_audio_it_promises_cannot_be_decoded(tmp_path):
    reading = read_bytes(tmp_path, wav(fmt(), chunk(b"data", b"", size=N)))
    assert reading.error == f"the header promises {N:,} bytes of audio, the file ends before them"


@pytest.mark.parametrize("name", ["plain", "RF64", "W64", "CAF", "AU", "AIFF"])
def test_joined_files_are_read_one_after_another(tmp_path, name):
    reading = read_bytes(tmp_path, INTACT[name] * 3)
    assert reading.error == "" and f"another recording begins at byte {len(INTACT[name]):,}" in reading.note
    assert reading.duration_s == pytest.approx(15.0, abs=2e-3)


@pytest.mark.parametrize("name", ["plain", "RF64", "W64", "CAF", "AU", "AIFF"])
def test_zeros_behind_the_audio_are_skipped_with_a_note(tmp_path, name):
    reading = read_bytes(tmp_path, INTACT[name] + bytes(50_000))
    assert reading.error == "" and "50,000 zero bytes behind the audio were skipped" in reading.note
    assert reading.duration_s == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize("name", ["plain", "RF64", "W64", "CAF", "AIFF", "SPHERE"])
def test_unknown_bytes_behind_a_complete_container_are_said_not_to_be_read(tmp_path, name):
    junk = np.random.default_rng(0).bytes(50_000)
    reading = read_bytes(tmp_path, INTACT[name] + junk)
    assert reading.error == "50,000 bytes behind the audio were not read"
    assert reading.duration_s == pytest.approx(5.0, abs=1e-3)


def test_text_in_front_of_a_wav_is_skipped_with_a_note(tmp_path):
    text = b"Content-Type: audio/wav\r\n\r\n"
    reading = read_bytes(tmp_path, text + INTACT["plain"])
    assert reading.error == "" and "27 bytes in front of the audio were skipped" in reading.note
    assert reading.duration_s == pytest.approx(5.0, abs=1e-3)


def test_audio_in_two_chunks_is_read_with_a_word(tmp_path):
    """Other programs read the first of them."""
    halves = chunk(b"data", PCM[: N // 2]), chunk(b"data", PCM[N // 2 :])
    reading = read_bytes(tmp_path, wav(fmt(), halves[0], LIST, halves[1]))
    assert (reading.note, reading.error) == ("the audio is in 2 chunks: all were read", "")
    assert reading.duration_s == pytest.approx(5.0, abs=1e-3)


@pytest.mark.parametrize("chunks_behind", [b"", LIST])
def test_a_size_beyond_4_gb_that_wrapped_is_put_right(tmp_path, chunks_behind):
    """Only looked at, not decoded: 13 hours."""
    n_bytes = (1 << 32) + 44_100 * 2
    head = wav(fmt(), chunk(b"data", b"", size=n_bytes), riff_bytes=n_bytes + 36)
    with (tmp_path / "x.wav").open("wb+") as file:
        file.write(head)
        file.truncate(len(head) + n_bytes)
        file.seek(0, 2)
        file.write(chunks_behind)
        source = Source(file.fileno())
        layout = layout_of(source, 0, head)
        assert layout.stretches == [(len(head), len(head) + n_bytes)] and layout.declared_bytes == 88_200
        assert layout.end == source.size_bytes
        assert Sound(Joined(source, [layout.header, *layout.stretches])).n_promised == n_bytes // 2
