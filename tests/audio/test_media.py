"""Formats beyond libsndfile, by PyAV; and what is said of them where it is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from odd_recordings import chunk, encoded, fmt, read, read_bytes, voice, wav

from ser_batch.audio import NeedsMediaError, NoSoundError, reading
from ser_batch.audio.formats import MEDIA_SUFFIXES, media_format, pyav_reader
from ser_batch.cli.main import main

av = pytest.importorskip("av", reason='needs PyAV: pip install "ser-batch[media]"')

#: Suffix -> (container, codec, rate in Hz).
KINDS = {
    "aac.m4a": ("ipod", "aac", 44_100),
    "alac.m4a": ("ipod", "alac", 44_100),
    "phone.3gp": ("3gp", "aac", 8_000),
    "narrow.amr": ("amr", "libopencore_amrnb", 8_000),
    "adts.aac": ("adts", "aac", 44_100),
    "film.mp4": ("mp4", "aac", 44_100),
    "film.mov": ("mov", "pcm_s16le", 44_100),
    "film.mkv": ("matroska", "flac", 44_100),
    "film.webm": ("webm", "libopus", 48_000),
    "film.avi": ("avi", "mp3", 44_100),
    "windows.wma": ("asf", "wmav2", 44_100),
    "dolby.ac3": ("ac3", "ac3", 44_100),
    "wavpack.wv": ("wv", "wavpack", 44_100),
    "audio.tta": ("tta", "tta", 44_100),
    "alac.caf": ("caf", "alac", 44_100),
    "ac3.wav": ("wav", "ac3", 44_100),
    "g726.wav": ("wav", "g726", 8_000),
}
#: Of formats that the reader reads by itself, with an encoder that libsndfile does not have.
OWN_KINDS = {
    "layer2.mp2": ("mp2", "mp2", 44_100),
    "flac.oga": ("ogg", "flac", 44_100),
    "layer2.wav": ("wav", "mp2", 44_100),
}
SECONDS = 5.0
BIT_RATES = {"libopencore_amrnb": 12_200, "g726": 32_000, "wmav2": 96_000, "mp2": 128_000}


def made(path: Path, container: str, codec: str, rate_hz: int, n_tracks: int = 1, with_film: bool = False) -> Path:
    """Encode 5 s of a voice, by FFmpeg."""
    samples = (voice(SECONDS, rate_hz) * 32_767).astype(np.int16)
    options = {"movflags": "faststart"} if container in ("mp4", "ipod", "mov") else {}
    with av.open(str(path), "w", format=container, options=options) as output:
        if with_film:
            film = output.add_stream("mpeg4", rate=5)
            film.width = film.height = 64
        streams = []
        for _ in range(n_tracks):
            stream = output.add_stream(codec, rate=rate_hz, options={"strict": "-2"})
            stream.codec_context.layout = "mono"
            if codec in BIT_RATES:
                stream.codec_context.bit_rate = BIT_RATES[codec]
            streams.append(stream)
        if with_film:
            for _ in range(25):
                output.mux(film.encode(av.VideoFrame(64, 64, "yuv420p")))
            output.mux(film.encode(None))
        for stream in streams:
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate_hz, 0
            resampler = av.AudioResampler(
                stream.codec_context.format, "mono", rate_hz, stream.codec_context.frame_size or 1_024
            )
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                output.mux(stream.encode(part))
            output.mux(stream.encode(None))
    return path


def similarity(samples: np.ndarray, other: np.ndarray) -> float:
    """Highest correlation of two signals within 0.1 s of each other."""
    n = min(len(samples), len(other)) - 4_410
    other = other[2_205 : 2_205 + n]
    spectrum = np.fft.rfft(samples[: n + 4_410], 2 * n) * np.conj(np.fft.rfft(other, 2 * n))
    peak = np.fft.irfft(spectrum)[:4_410].max()
    return float(peak / np.linalg.norm(samples[:n]) / np.linalg.norm(other))


@pytest.mark.parametrize("name", [*KINDS, *OWN_KINDS])
def test_each_format_gives_the_voice_that_went_in(tmp_path, name):
    container, codec, rate_hz = (KINDS | OWN_KINDS)[name]
    reading = read(made(tmp_path / name, container, codec, rate_hz))
    assert (reading.note, reading.error) == ("", "")
    assert reading.duration_s == pytest.approx(SECONDS, abs=0.08 if rate_hz > 8_000 else 0.15)
    assert reading.reader.startswith("PyAV " if name in KINDS else "libsndfile ")
    original = read_bytes(tmp_path, encoded(voice(SECONDS, rate_hz), rate_hz, "WAV", "FLOAT"), "original.wav")
    assert similarity(reading.samples, original.samples) > {"libopencore_amrnb": 0.5, "g726": 0.9}.get(codec, 0.95)


def test_content_counts_and_not_the_suffix(tmp_path):
    made(tmp_path / "a.m4a", "ipod", "aac", 44_100).rename(tmp_path / "a.wav")
    assert read(tmp_path / "a.wav").reader.startswith("PyAV ")
    (tmp_path / "b.m4a").write_bytes(encoded(voice(1.0), 44_100, "WAV", "PCM_16"))
    assert read(tmp_path / "b.m4a").reader.startswith("libsndfile ")


def test_a_film_gives_its_sound_and_without_sound_is_skipped(tmp_path):
    reading = read(made(tmp_path / "film.mp4", "mp4", "aac", 44_100, with_film=True))
    assert (reading.note, reading.error) == ("", "") and reading.duration_s == pytest.approx(SECONDS, abs=0.08)
    with pytest.raises(NoSoundError, match="no sound track"):
        read(made(tmp_path / "mute.mp4", "mp4", "aac", 44_100, n_tracks=0, with_film=True))


def test_further_sound_tracks_are_noted(tmp_path):
    reading = read(made(tmp_path / "two.mkv", "matroska", "aac", 44_100, n_tracks=2))
    assert reading.note == "one of 2 sound tracks was read" and reading.error == ""


@pytest.mark.parametrize(
    "name", ["aac.m4a", "film.mov", "film.mkv", "film.avi", "windows.wma", "wavpack.wv", "audio.tta", "ac3.wav"]
)
def test_a_file_that_was_cut_is_partial(tmp_path, name):
    path = made(tmp_path / name, *KINDS[name])
    data = path.read_bytes()
    reading = read_bytes(tmp_path, data[: len(data) * 6 // 10], name)
    assert 1.5 < reading.duration_s < 4 and "truncated: the header promises" in reading.error


def test_broken_packets_are_noted_and_what_follows_is_read(tmp_path):
    path = made(tmp_path / "aac.m4a", *KINDS["aac.m4a"])
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat")
    data[start + 20_000 : start + 20_600] = np.random.default_rng(0).bytes(600)
    reading = read_bytes(tmp_path, bytes(data), "broken.m4a")
    assert "packets could not be decoded" in reading.note + reading.error
    assert reading.duration_s > SECONDS - 0.3


@pytest.mark.parametrize("name", ["aac.m4a", "film.mov", "film.webm", "film.mkv", "windows.wma", "narrow.amr"])
def test_joined_recordings_are_read_to_the_last(tmp_path, name):
    """FFmpeg reads the first of them, or takes the second for noise."""
    first = made(tmp_path / name, *KINDS[name]).read_bytes()
    reading = read_bytes(tmp_path, first + first, f"two.{name}")
    assert reading.error == "" and f"another recording begins at byte {len(first):,}" in reading.note
    alone = read(tmp_path / name).samples
    assert abs(len(reading.samples) - 2 * len(alone)) <= 2
    inside = slice(2_000, len(alone) // 2)
    np.testing.assert_allclose(reading.samples[len(alone) :][inside], alone[inside], atol=0.02)


def test_recordings_of_both_readers_in_one_file_are_read(tmp_path):
    sound = encoded(voice(2.0), 44_100, "WAV", "PCM_16")
    film = made(tmp_path / "aac.m4a", *KINDS["aac.m4a"]).read_bytes()
    for data in (sound + film, film + sound):
        reading = read_bytes(tmp_path, data, "both.m4a")
        assert reading.error == "" and "another recording begins" in reading.note
        assert reading.duration_s == pytest.approx(2.0 + SECONDS, abs=0.08)
        assert reading.reader.startswith("PyAV ")


def test_bytes_around_a_recording_are_accounted_for(tmp_path):
    data = made(tmp_path / "aac.m4a", *KINDS["aac.m4a"]).read_bytes()
    junk = np.random.default_rng(2).bytes(3_000)
    front = read_bytes(tmp_path, junk + data, "front.m4a")
    assert front.error == "" and "3,000 bytes in front of the audio were skipped" in front.note
    behind = read_bytes(tmp_path, data + junk, "behind.m4a")
    assert behind.error == "3,000 bytes behind the audio were not read"
    zeros = read_bytes(tmp_path, data + bytes(3_000), "zeros.m4a")
    assert zeros.error == "" and "3,000 zero bytes behind the audio were skipped" in zeros.note
    for found in (front, behind, zeros):
        assert found.duration_s == pytest.approx(SECONDS, abs=0.08)


def test_a_recording_without_its_index_is_said_to_be_unfinished(tmp_path):
    data = made(tmp_path / "film.mov", *KINDS["film.mov"]).read_bytes()
    index = data.find(b"moov") - 4
    size = int.from_bytes(data[index : index + 4], "big")
    unfinished = data[:index] + data[index + size :]
    assert read_bytes(tmp_path, unfinished, "x.mov").error == "the recording was never finished: it has no index (moov)"


def test_junk_is_no_audio_whatever_its_suffix(tmp_path):
    for name in ("x.m4a", "x.wav", "x.mp4", "x.aac"):
        reading = read_bytes(tmp_path, np.random.default_rng(1).bytes(100_000), name)
        assert reading.error and not len(reading.samples)


def test_without_pyav_such_files_are_told_from_broken_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "pyav_reader", lambda: "")
    for name, kind in KINDS.items():
        path = made(tmp_path / name, *kind)
        with pytest.raises(NeedsMediaError, match=r'pip install "ser-batch\[media\]"') as caught:
            read(path)
        assert path.suffix in str(caught.value) and caught.value.reader == "PyAV"
    for name, kind in OWN_KINDS.items():
        assert read(made(tmp_path / name, *kind)).duration_s == pytest.approx(SECONDS, abs=0.08)
    assert read_bytes(tmp_path, b"no audio", "x.wav").error == "Format not recognised"
    assert read_bytes(tmp_path, wav(fmt(tag=0), chunk(b"data", b"abc"))).error


@pytest.mark.parametrize("suffix", sorted(MEDIA_SUFFIXES))
def test_a_suffix_is_believed_where_the_bytes_say_nothing(suffix):
    assert media_format(b"", suffix) and not media_format(b"", ".wav")


HIDE_PYAV = """
import importlib.metadata as metadata
found = metadata.version
def version(name):
    if name == "av":
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.version = version
"""


@contextmanager
def without_pyav(folder: Path) -> Iterator[None]:
    """Hide PyAV from this process and from those that it starts."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(HIDE_PYAV)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        patch.setattr(importlib.metadata, "version", importlib.metadata.version)
        exec(HIDE_PYAV, {})
        pyav_reader.cache_clear()
        yield
    pyav_reader.cache_clear()


def test_a_scan_takes_up_what_it_skipped_once_pyav_is_there_and_nothing_else(tmp_path, capsys):
    audio, run = tmp_path / "audio", tmp_path / "run"
    audio.mkdir()
    for name in ("a.m4a", "b.m4a", "c.amr"):
        made(audio / name, *KINDS["narrow.amr" if name.endswith("amr") else "aac.m4a"])
    (audio / "d.wav").write_bytes(encoded(voice(2.0), 44_100, "WAV", "PCM_16"))

    def said(*command: object) -> str:
        assert main([*map(str, command)]) == 0
        return capsys.readouterr().out

    scan = ("features", audio, "-o", run, "--jobs", 1, "--extractor", "quality")
    words = "Skipped for want of PyAV: 2 .m4a, 1 .amr."
    with without_pyav(tmp_path / "hide"):
        assert '.m4a                2   not read without PyAV: pip install "ser-batch[media]"' in said(
            *scan, "--dry-run"
        )
        told = said(*scan)
        assert "4 files found: 1 ok, 3 skipped." in told and words in told
        assert words in said("status", run) and words in said("show", run)
        assert json.loads((run / "run.json").read_text())["needs_media"] == {".m4a": 2, ".amr": 1}
        assert words in (run / "report.html").read_text()
        files = pd.read_parquet(run / "files").set_index("clip_id")
        assert list(files["status"]) == ["skipped"] * 3 + ["ok"]
        assert set(files["error_type"][:3]) == {"NeedsMediaError"} and set(files["reader"][:3]) == {"PyAV"}
        assert "Nothing new" in said(*scan)

    assert "3 of them to do" in said(*scan, "--dry-run")
    told = said(*scan, "--no-report")
    assert "4 files found: 4 ok." in told and "PyAV" not in told
    later = pd.read_parquet(run / "files").set_index("clip_id")
    assert list(later["status"]) == ["ok"] * 4
    assert later["time_decode_s"]["d.wav"] == files["time_decode_s"]["d.wav"], "it was not read again"
    assert later["reader"]["a.m4a"] == f"PyAV {av.__version__}"
    assert "Nothing new" in said(*scan, "--no-report")
    with without_pyav(tmp_path / "hide"):
        assert "Nothing new" in said(*scan, "--no-report"), "what was read stays read without it"
