"""How often audio of a training is known again in another form; and keys for models of before there were any.

    python -m benchmarks.audio_keys measure FOLDER... [--clips N]
    python -m benchmarks.audio_keys store MODEL... --data FOLDER... [--cache FOLDER]

``measure`` prints by how many bits the nearest two clips differ, of all below FOLDER, and how many of N clips are known
again when they are stored in another form. ``store`` adds to model files the keys of the clips that they learnt from,
which it knows among those below FOLDER by their content; weights stay as they are. Training does so by itself.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from ser_batch.classifier import checkpoint
from ser_batch.config import AudioConfig
from ser_batch.corpora.files import audio_files
from ser_batch.plugins import PluginRecipe
from ser_batch.training.audio_keys import KEY_BYTES, KnownAudio, join_keys
from ser_batch.training.augment import AugmentConfig
from ser_batch.training.dataset import content_hashes
from ser_batch.training.evaluate import HASH_DIGITS
from ser_batch.training.features import extract_features, table_keys

Floats = NDArray[np.float32]


def _stored_as(form: str, subtype: str, gain: float = 1.0, rate_hz: int = 0) -> Callable[[Floats, int], bytes]:
    def store(samples: Floats, source_rate_hz: int) -> bytes:
        data = io.BytesIO()
        wanted_hz = rate_hz or source_rate_hz
        changed = gain * soxr.resample(samples, source_rate_hz, wanted_hz)
        soundfile.write(data, changed, wanted_hz, format=form, subtype=subtype)
        return data.getvalue()

    return store


FORMS = {
    "16 bits": _stored_as("WAV", "PCM_16"),
    "24 bits": _stored_as("WAV", "PCM_24"),
    "FLAC": _stored_as("FLAC", "PCM_16"),
    "at 30 %": _stored_as("WAV", "PCM_16", gain=0.3),
    "16 kHz": _stored_as("WAV", "PCM_16", rate_hz=16_000),
    "44.1 kHz": _stored_as("WAV", "PCM_16", rate_hz=44_100),
    "MP3": _stored_as("MP3", "MPEG_LAYER_III"),
    "Ogg Vorbis": _stored_as("OGG", "VORBIS"),
    "8 bits": _stored_as("WAV", "PCM_U8"),
}


def keys_of(paths: Sequence[Path], cache: Path, audio: AudioConfig | None = None) -> list[bytes]:
    """Return the key of each file, as training finds it."""
    names = [os.fspath(path) for path in paths]
    table = extract_features(
        names,
        content_hashes(names),
        cache_dir=cache,
        recipe=PluginRecipe(entry_points=()),
        changes=replace(AugmentConfig(), copies=0),
        audio=audio,
    )
    return table_keys(table, range(len(paths)))


def nearest_bits(keys: Sequence[bytes]) -> list[int]:
    """Return for each key by how many bits the nearest of the others differs, sorted."""
    bits = np.unpackbits(np.frombuffer(b"".join(keys), np.uint8)).reshape(-1, 8 * KEY_BYTES)
    signs = bits.astype(np.float32) * 2 - 1
    nearest: list[int] = []
    for start in range(0, len(signs), 512):
        agreement = signs[start : start + 512] @ signs.T
        rows = np.arange(len(agreement))
        agreement[rows, start + rows] = -np.inf
        nearest += ((8 * KEY_BYTES - agreement.max(axis=1)) / 2).astype(int).tolist()
    return sorted(nearest)


def measure(folders: Sequence[Path], n_clips: int, cache: Path) -> None:
    """Print a line for each form."""
    paths = [path for folder in folders for path in audio_files(folder)]
    keys = dict(zip(paths, keys_of(paths, cache), strict=True))
    nearest = nearest_bits([key for key in keys.values() if key])
    print(f"{len(keys)} clips, {len(keys) - len(nearest)} without a key; the nearest differ in {nearest[:20]} bits")
    known = [path for path, key in keys.items() if key]
    chosen = random.Random(0).sample(known, min(n_clips, len(known)))
    with tempfile.TemporaryDirectory() as folder:
        for form, store in FORMS.items():
            copies = [Path(folder, f"{number} {form}") for number in range(len(chosen))]
            for path, copy in zip(chosen, copies, strict=True):
                samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
                copy.write_bytes(store(samples[:, 0], rate_hz))
            again = keys_of(copies, Path(folder, "cache"))
            found = [key in KnownAudio(join_keys([keys[path]])) for path, key in zip(chosen, again, strict=True)]
            print(f"{form:12} {np.mean(found):6.1%} of {len(found)} known again")


def store(models: Sequence[Path], folders: Sequence[Path], cache: Path) -> None:
    """Add keys to model files."""
    paths = [path for folder in folders for path in audio_files(folder)]
    hashes = [content[:HASH_DIGITS] for content in content_hashes([os.fspath(path) for path in paths])]
    for name in models:
        model = checkpoint.load(name)
        text = model.meta["training"]["audio"]
        learnt = {text[start : start + HASH_DIGITS] for start in range(0, len(text), HASH_DIGITS)}
        found = {content: path for content, path in zip(hashes, paths, strict=True) if content in learnt}
        audio = AudioConfig(**model.meta["audio"], n_mel_bands=model.network.n_bands)
        training = {
            **model.meta["training"],
            "audio_keys": join_keys(keys_of(sorted(found.values()), cache, audio)),
        }
        checkpoint.save(name, checkpoint.Checkpoint(model.weights, {**model.meta, "training": training}))
        print(f"{name}: keys of {len(found)} of the {len(learnt)} clips that it learnt from")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("folders", nargs="+", type=Path)
    one.add_argument("--clips", type=int, default=400)
    two = commands.add_parser("store")
    two.add_argument("models", nargs="+", type=Path)
    two.add_argument("--data", nargs="+", type=Path, required=True)
    for command in (one, two):
        command.add_argument("--cache", type=Path, default=Path("data/cache"))
    options = parser.parse_args()
    if options.command == "measure":
        measure(options.folders, options.clips, options.cache)
    else:
        store(options.models, options.data, options.cache)


if __name__ == "__main__":
    main()
