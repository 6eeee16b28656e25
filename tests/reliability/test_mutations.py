"""2,000 damaged recordings of every format: no crash of the run, every one a row."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
import soundfile
from harness import CONFIG, assert_sound, results

from ser_batch.dsp.voice import synthetic_voice

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "wave": ("WAV", "FLOAT"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "ULAW"),
    "caf": ("CAF", "PCM_16"),
    "w64": ("W64", "PCM_U8"),
    "rf64": ("RF64", "PCM_24"),
    "voc": ("VOC", "PCM_16"),
}


def encoded(container: str, subtype: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, synthetic_voice(1.0, 24_000), 24_000, format=container, subtype=subtype)
    return stream.getvalue()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Damage a header, a body, or both: bits, bytes, runs, cuts, repeats."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        end = rng.choice([48, 256, len(damaged)])
        place = rng.randrange(max(min(end, len(damaged)), 1))
        kind = rng.randrange(6)
        if kind == 0:
            damaged[place : place + 1] = bytes([damaged[place] ^ (1 << rng.randrange(8))]) if damaged else b""
        elif kind == 1:
            damaged[place : place + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", rng.randbytes(4)])
        elif kind == 2:
            damaged[place : place + rng.randrange(200)] = rng.randbytes(rng.randrange(200))
        elif kind == 3:
            del damaged[place:]
        elif kind == 4:
            del damaged[place : place + rng.randrange(64)]
        else:
            damaged[place:place] = damaged[place : place + 500]
    return bytes(damaged)


def mutate_all(folder: Path, n_files: int, seed: int) -> Path:
    rng = random.Random(seed)
    folder.mkdir()
    whole = {suffix: encoded(*kind) for suffix, kind in FORMATS.items()}
    for index in range(n_files):
        suffix = list(whole)[index % len(whole)]
        (folder / f"{index:04d}.{suffix}").write_bytes(mutated(whole[suffix], rng))
    return folder


def check(scanner, folder: Path, run: Path, n_files: int) -> None:
    config = CONFIG | {"run": {"shard_size": 256}, "extract": CONFIG["extract"] | {"timeout_s": 20.0}}
    answer = scanner.scan(folder, run, config=config)
    assert answer["code"] in (0, 1), answer
    files = results(run)
    assert len(files) == n_files
    assert set(files["status"]) <= {"ok", "partial", "skipped", "failed"}
    assert files["status"].nunique() >= 3, "the damage is of many kinds"
    bad = files[files["status"] == "failed"]
    assert (bad["error_message"].str.len() > 0).all() and (bad["stage"].str.len() > 0).all()
    assert_sound(run)


def test_damaged_files_become_rows(scanner, tmp_path):
    check(scanner, mutate_all(tmp_path / "audio", 120, seed=5), tmp_path / "run", 120)


@pytest.mark.reliability
def test_long_two_thousand_damaged_files_become_rows(scanner, tmp_path):
    check(scanner, mutate_all(tmp_path / "audio", 2000, seed=6), tmp_path / "run", 2000)
