"""The reader: exact where audio is sound, honest where it is not, flat in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from ser_batch.audio import DecodeError, read_clip
from ser_batch.records import Clip, ClipRef

RATE_HZ = 22_050


def pieces(path: Path, piece_s: float = 60.0, overlap_s: float = 0.0) -> list[Clip]:
    ref = ClipRef(path.name, str(path), 0, 0)
    return list(read_clip(ref=ref, sample_rate_hz=RATE_HZ, piece_s=piece_s, overlap_s=overlap_s))


def pieces_until_error(path: Path) -> tuple[list[Clip], str]:
    found: list[Clip] = []
    with pytest.raises(DecodeError) as caught:
        for clip in read_clip(ref=ClipRef("x", str(path), 0, 0), sample_rate_hz=RATE_HZ, piece_s=60.0, overlap_s=0.0):
            found.append(clip)
    return found, str(caught.value)


def voice(seconds: float, rate_hz: int) -> np.ndarray:
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * 220 * times) + 0.1 * np.sin(2 * np.pi * 1234 * times)).astype(np.float32)


def test_a_short_file_is_what_soxr_gives_for_the_whole_signal(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(2.5, 48_000), 48_000, subtype="FLOAT")
    [clip] = pieces(tmp_path / "a.wav")
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_array_equal(clip.samples, soxr.resample(samples, 48_000, RATE_HZ, quality="HQ"))
    assert (clip.source_rate_hz, clip.source_channels, clip.start_s) == (48_000, 1, 0.0)


@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [("wav", "PCM_U8"), ("wav", "PCM_24"), ("flac", "PCM_16"), ("aiff", "PCM_16"), ("ogg", "VORBIS"), ("mp3", None)],
)
def test_formats_give_the_tone_that_went_in(tmp_path, suffix, subtype):
    path = tmp_path / f"a.{suffix}"
    times = np.arange(24_000) / 24_000
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * times), 24_000, subtype=subtype)
    [clip] = pieces(path)
    spectrum = np.abs(np.fft.rfft(clip.samples * np.hanning(len(clip.samples))))
    assert abs(spectrum.argmax() * RATE_HZ / len(clip.samples) - 440) < 2
    assert clip.duration_s == pytest.approx(1.0, abs=0.06)
    assert np.abs(clip.samples[2000:-2000]).max() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("other", [-1.0, -0.9, -1.05])
def test_channels_that_cancel_each_other_do_not_become_silence(tmp_path, other):
    left = voice(3.0, RATE_HZ)
    soundfile.write(tmp_path / "x.wav", np.column_stack([left, other * left]), RATE_HZ, subtype="FLOAT")
    [clip] = pieces(tmp_path / "x.wav")
    louder = left if abs(other) <= 1 else other * left
    np.testing.assert_allclose(clip.samples, louder, atol=1e-6)
    assert "the channels cancel each other" in clip.note


def speech(seed: int, n_samples: int = 3 * RATE_HZ) -> np.ndarray:
    """Noise whose level rises and falls as that of syllables."""
    rng = np.random.default_rng(seed)
    levels = np.interp(np.arange(n_samples), np.linspace(0, n_samples, 12), rng.uniform(0, 0.1, 12))
    return (levels * rng.standard_normal(n_samples)).astype(np.float32)


@pytest.mark.parametrize("kind", ["same", "one silent", "apart", "opposite but another level"])
def test_of_channels_with_the_same_sound_the_loudest_is_read_without_a_word(tmp_path, kind):
    left = speech(1)
    right = {
        "same": left,
        "one silent": 0 * left,
        "apart": 0.9 * np.roll(left, 18),
        "opposite but another level": -0.3 * left,
    }[kind]
    soundfile.write(tmp_path / "x.wav", np.column_stack([right, left, 0 * left]), RATE_HZ, subtype="FLOAT")
    [clip] = pieces(tmp_path / "x.wav")
    np.testing.assert_allclose(clip.samples, left, atol=1e-6)
    assert clip.note == "" and clip.source_channels == 3


@pytest.mark.parametrize("crosstalk", [0.0, 0.1])
def test_channels_with_sounds_of_their_own_are_averaged_without_a_word(tmp_path, crosstalk):
    one, other = speech(1), speech(2)
    left, right = one + crosstalk * other, other + crosstalk * one
    soundfile.write(tmp_path / "x.wav", np.column_stack([left, right]), RATE_HZ, subtype="FLOAT")
    [clip] = pieces(tmp_path / "x.wav")
    np.testing.assert_allclose(clip.samples, (left + right) / 2, atol=1e-6)
    assert clip.note == ""


def test_the_channel_that_is_read_alone_does_not_change_for_a_trifle(tmp_path):
    voice_of = speech(1, 60 * RATE_HZ)
    rising = np.linspace(0.9, 1.2, len(voice_of), dtype=np.float32)
    soundfile.write(tmp_path / "x.wav", np.column_stack([voice_of, rising * voice_of]), RATE_HZ, subtype="FLOAT")
    heard = np.concatenate([clip.samples for clip in pieces(tmp_path / "x.wav")])
    np.testing.assert_allclose(heard, voice_of, atol=1e-6)


def test_192_khz_and_a_fiftieth_of_a_second_are_read(tmp_path):
    soundfile.write(tmp_path / "high.wav", voice(0.5, 192_000), 192_000)
    soundfile.write(tmp_path / "short.wav", voice(0.02, 8_000), 8_000)
    assert pieces(tmp_path / "high.wav")[0].duration_s == pytest.approx(0.5, abs=1e-3)
    assert pieces(tmp_path / "short.wav")[0].duration_s == pytest.approx(0.02, abs=1e-3)


def test_a_file_without_samples_gives_no_piece(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 8_000)
    assert pieces(tmp_path / "none.wav") == []


def test_pieces_overlap_by_what_was_asked_and_join_to_the_whole(tmp_path):
    soundfile.write(tmp_path / "long.wav", voice(10.0, 16_000), 16_000, subtype="FLOAT")
    [whole] = pieces(tmp_path / "long.wav")
    parts = pieces(tmp_path / "long.wav", piece_s=3.0, overlap_s=0.5)
    assert [part.start_s for part in parts] == [0.0, 3.0, 6.0, 9.0]
    assert [round(part.duration_s, 3) for part in parts] == [3.5, 3.5, 3.5, 1.0]
    for part in parts:
        first = round(part.start_s * RATE_HZ)
        np.testing.assert_array_equal(part.samples, whole.samples[first : first + len(part.samples)])


def test_a_file_as_long_as_a_piece_with_its_overlap_is_one_piece(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(3.5, RATE_HZ), RATE_HZ)
    assert len(pieces(tmp_path / "a.wav", piece_s=3.0, overlap_s=0.5)) == 1


def test_samples_that_are_not_finite_are_read_as_zero_and_counted(tmp_path):
    samples = voice(1.0, RATE_HZ)
    samples[100:110] = np.nan
    samples[200] = np.inf
    soundfile.write(tmp_path / "nan.wav", samples, RATE_HZ, subtype="FLOAT")
    [clip] = pieces(tmp_path / "nan.wav")
    assert clip.note == "11 samples that are not finite were read as 0"
    assert not clip.samples[100:110].any() and np.isfinite(clip.samples).all()


def test_a_file_of_nothing_but_nan_cannot_be_decoded(tmp_path):
    soundfile.write(tmp_path / "nan.wav", np.full(8_000, np.nan), 8_000, subtype="FLOAT")
    found, message = pieces_until_error(tmp_path / "nan.wav")
    assert not found and "no finite sample" in message


@pytest.mark.parametrize("suffix", ["wav", "aiff", "flac", "mp3"])
def test_a_file_that_ends_early_gives_what_is_there_and_says_so(tmp_path, suffix):
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    rng = np.random.default_rng(0)
    soundfile.write(whole, voice(6.0, 24_000) + 0.01 * rng.standard_normal(144_000), 24_000)
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    found, message = pieces_until_error(cut)
    assert len(found) == 1
    assert found[0].duration_s == pytest.approx(3.0, abs=1.4)  # within the block in which FLAC loses its way
    assert "truncated" in message or "broken after" in message


def test_a_wav_of_open_length_is_whole(tmp_path):
    """Programs that write to a pipe leave the length at its maximum; that promises nothing."""
    soundfile.write(tmp_path / "a.wav", voice(1.0, 8_000), 8_000)
    data = bytearray((tmp_path / "a.wav").read_bytes())
    for place in (4, data.index(b"data") + 4):
        data[place : place + 4] = b"\xff\xff\xff\xff"
    (tmp_path / "a.wav").write_bytes(data)
    [clip] = pieces(tmp_path / "a.wav")
    assert clip.duration_s == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("content", [b"", b"these are no samples", b"RIFF\x00\x00\x00\x00WAVE"])
def test_what_is_no_audio_is_said_to_be_none(tmp_path, content):
    (tmp_path / "no.wav").write_bytes(content)
    found, message = pieces_until_error(tmp_path / "no.wav")
    assert not found and message


def test_a_header_with_an_absurd_sample_rate_is_refused(tmp_path):
    soundfile.write(tmp_path / "slow.wav", voice(1.0, 8_000), 8_000)
    data = bytearray((tmp_path / "slow.wav").read_bytes())
    data[24:28] = (1).to_bytes(4, "little")
    (tmp_path / "slow.wav").write_bytes(data)
    assert "sample rate of 1 Hz" in pieces_until_error(tmp_path / "slow.wav")[1]


def test_missing_forbidden_and_special_files_are_named_as_such(tmp_path):
    with pytest.raises(FileNotFoundError):
        pieces(tmp_path / "missing.wav")
    with pytest.raises(DecodeError, match="not a regular file"):
        pieces(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(DecodeError, match="not a regular file"):
        pieces(tmp_path / "pipe.wav")


def test_a_file_that_fails_leaves_no_descriptor_open_and_closes_no_other(tmp_path):
    (tmp_path / "no.wav").write_bytes(b"RIFF")
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("needs /proc")
    before = len(list(descriptors.iterdir()))
    keeper = os.open(tmp_path, os.O_RDONLY)
    for _ in range(5):
        pieces_until_error(tmp_path / "no.wav")
    os.fstat(keeper)
    os.close(keeper)
    assert len(list(descriptors.iterdir())) == before


def test_names_that_are_not_utf8_can_be_opened(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.wav")
    soundfile.write(tmp_path / "a.wav", voice(0.5, 8_000), 8_000)
    (tmp_path / "a.wav").rename(path)
    assert len(pieces(Path(path))) == 1


def test_a_channel_that_comes_later_in_a_joined_file_is_there_to_be_read(tmp_path):
    mono, stereo = (tmp_path / name for name in ("mono.wav", "stereo.wav"))
    left, right = voice(1.0, RATE_HZ), voice(1.0, RATE_HZ)[::-1].copy()
    soundfile.write(mono, left, RATE_HZ, subtype="FLOAT")
    soundfile.write(stereo, np.column_stack([left, right]), RATE_HZ, subtype="FLOAT")
    path = tmp_path / "joined.wav"
    path.write_bytes(mono.read_bytes() + stereo.read_bytes())
    for channel, later in ((1, left), (2, right)):
        ref = ClipRef("x", str(path), 0, 0, channel=channel)
        [clip] = read_clip(ref=ref, sample_rate_hz=RATE_HZ, piece_s=60.0, overlap_s=0.0)
        assert (clip.channel, clip.source_channels) == (channel, 2)
        np.testing.assert_array_equal(clip.samples, np.concatenate([left, later]))
