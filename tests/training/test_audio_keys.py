"""Audio of the training is known again in another format, at another level, under another name; other audio is not."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_batch.cli.main import main
from ser_batch.errors import ExitCode
from ser_batch.training.audio_keys import KEY_BYTES, KnownAudio, audio_key, join_keys

bench = pytest.importorskip("benchmarks.audio_keys", reason="runs from the repository root")


def test_keys_are_small_and_what_has_no_pattern_has_none() -> None:
    mel = np.random.default_rng(0).uniform(-40, 0, (2, 128, 130))
    assert len(audio_key(mel, np.array([3.0, 1.0]))) == KEY_BYTES
    assert audio_key(mel, np.array([0.0, np.nan])) == b""
    assert audio_key(mel[:0], np.zeros(0)) == b""
    tone = np.full((1, 128, 130), -100.0)
    tone[:, 40] = 0.0
    assert audio_key(tone, np.array([3.0])) == b""
    click = np.full((1, 128, 130), -100.0)
    click[:, :, 60:63] = mel[:1, :, :3]
    assert audio_key(click, np.array([0.1])) == b""


def test_levels_of_single_windows_and_silence_around_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    mel, active_s = rng.uniform(-40, 0, (3, 128, 130)), np.array([3.0, 3.0, 2.0])
    key = audio_key(mel, active_s)
    assert audio_key(mel - np.array([0.0, 7.0, 30.0])[:, None, None], active_s) == key
    hiss = rng.uniform(-90, -70, (1, 128, 130))
    assert audio_key(np.concatenate([hiss, mel, hiss]), np.array([0.0, *active_s, 0.0])) == key


def test_some_wrong_bits_are_forgiven_and_no_more() -> None:
    rng = np.random.default_rng(1)
    keys = [rng.bytes(KEY_BYTES) for _ in range(600)]
    known = KnownAudio(join_keys([*keys, b"", keys[0]]))
    assert all(key in known for key in keys)
    assert not any(key in known for key in (b"", rng.bytes(KEY_BYTES)))
    bits = np.unpackbits(np.frombuffer(keys[7], np.uint8))
    bits[:16] ^= 1
    assert np.packbits(bits).tobytes() in known
    bits[16] ^= 1
    assert np.packbits(bits).tobytes() not in known
    for nothing in ("", "not base64!", "AAAA"):
        assert keys[0] not in KnownAudio(nothing)


def real_clips(corpora_dir: Path, n_clips: int) -> list[Path]:
    """Return clips that lie side by side: of RAVDESS the two takes of one sentence."""
    chosen = []
    for corpus in ("ravdess", "emogator", "nemo", "emo-db", "savee"):
        paths = sorted(path for path in (corpora_dir / corpus).rglob("*") if path.suffix in (".flac", ".ogg", ".mp3"))
        start = random.Random(2).randrange(len(paths) - n_clips)
        chosen += paths[start : start + n_clips]
    return chosen


#: Share of clips that is known again, at least.
LEAST = {"24 bits": 0.95, "MP3": 0.9}
LEAST_OF_MORE = {"16 bits": 0.95, "FLAC": 0.95, "at 30 %": 0.95, "16 kHz": 0.95, "44.1 kHz": 0.95, "Ogg Vorbis": 0.85}


@pytest.mark.corpora
@pytest.mark.parametrize(
    ("n_clips", "least"), [(8, LEAST), pytest.param(60, LEAST | LEAST_OF_MORE, marks=pytest.mark.reliability)]
)
def test_real_clips_are_known_again_and_their_neighbours_are_not(
    corpora_dir: Path, tmp_path: Path, n_clips: int, least: dict[str, float]
) -> None:
    paths = real_clips(corpora_dir, n_clips)
    learnt, others = paths[::2], paths[1::2]
    copies = {(form, path): tmp_path / f"{number} {form}" for form in least for number, path in enumerate(learnt)}
    for (form, path), copy in copies.items():
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        copy.write_bytes(bench.FORMS[form](samples[:, 0], rate_hz))
    files = [*learnt, *others, *copies.values()]
    keys = dict(zip(files, bench.keys_of(files, tmp_path / "cache"), strict=True))
    known = KnownAudio(join_keys(keys[path] for path in learnt))
    assert np.mean([keys[path] in known for path in others]) <= 0.02
    for form, share in least.items():
        assert np.mean([keys[copies[form, path]] in known for path in learnt]) >= share, form


@pytest.mark.corpora
def test_the_shipped_model_knows_its_own_clips_again(
    corpora_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = [corpora_dir / "ravdess" / "Actor_03" / f"03-01-0{code}-01-01-01-03.flac" for code in (4, 5, 6)]
    for clip in clips:
        (tmp_path / "data" / clip.name[6:8]).mkdir(parents=True)
        samples, rate_hz = soundfile.read(clip, dtype="float32")
        soundfile.write(tmp_path / "data" / clip.name[6:8] / "me_1.wav", samples, rate_hz)
    for code, label in (("04", "sadness"), ("05", "anger"), ("06", "fear")):
        (tmp_path / "data" / code).rename(tmp_path / "data" / label)
    assert main(["evaluate", "ser6", str(tmp_path / "data"), "--jobs", "1"]) == ExitCode.DATA
    assert "3 of the first 3 files hold audio that this model was trained on" in capsys.readouterr().err
