"""Features for training: what a scan would compute, once, kept whole, and never the end of a training."""

from __future__ import annotations

import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from labelled_clips import speak, write_clip, write_folder

from ser_batch import hooks
from ser_batch.classifier.dense import DENSE_FEATURES
from ser_batch.config import AudioConfig, Config
from ser_batch.dsp.highpass import HighPass
from ser_batch.errors import RunError
from ser_batch.extractors.voicing import voice_spans
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Clip
from ser_batch.training import buckets, features
from ser_batch.training.augment import AugmentConfig, augment, clip_generator
from ser_batch.training.dataset import content_hashes
from ser_batch.training.features import STEP_DB, FeatureTable, extract_features
from ser_batch.windows import VoiceGrid

RECIPE = PluginRecipe(entry_points=())
READER = str(Path(__file__).parent / "odd_reader.py")
PLAIN = AugmentConfig(copies=0)


@pytest.fixture
def reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file in which `odd_reader` notes what it was asked for."""
    path = tmp_path / "reads.log"
    monkeypatch.setenv("SER_TEST_READS", str(path))
    return path


def extract(
    paths: list[Path], cache: Path, changes: AugmentConfig = PLAIN, recipe: PluginRecipe = RECIPE
) -> FeatureTable:
    names = [str(path) for path in paths]
    return extract_features(names, content_hashes(names), cache_dir=cache, recipe=recipe, changes=changes, jobs=1)


def assert_same(one: FeatureTable, other: FeatureTable) -> None:
    for name in (item.name for item in fields(FeatureTable) if item.name != "failures"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.failures == other.failures


def test_rows_are_what_the_extractors_say_of_the_clip_and_of_its_copies(tmp_path: Path) -> None:
    changes = replace(AugmentConfig(), copies=2, pitch_probability=0.5)
    path = write_clip(tmp_path / "a.wav", duration_s=4.0)
    table = extract([path], tmp_path / "cache", changes)
    offered = hooks.register_extractors(RECIPE.build(), Config())
    ref = buckets.clip_ref(str(path), "a.wav")
    samples = next(hooks.read_clip(RECIPE.build(), ref, 22_050, 60.0, 0.0)).samples
    for copy in range(3):
        generator = clip_generator(changes.seed, content_hashes([str(path)])[0], copy)
        copied = augment(samples, 22_050, changes, generator) if copy else samples.copy()
        heard = HighPass(22_050)(copied, len(copied))
        clip = Clip(heard, 22_050, 16_000, 1, as_read=copied)
        windows_s = VoiceGrid(3.0, 3.0).lay(voice_spans(clip), 0.0, clip.duration_s)
        blocks = {name: extractor.extract(clip, windows_s) for name, (_, extractor) in offered.items()}
        values = {
            column: blocks[name].scalars[:, place]
            for name, (_, extractor) in offered.items()
            for place, column in enumerate(extractor.spec.columns)
        }
        rows = table.copy == copy
        np.testing.assert_array_equal(table.dense[rows], np.column_stack([values[name] for name in DENSE_FEATURES]))
        np.testing.assert_array_equal(table.active_s[rows], values["quality__active_s"])
        mel = blocks["mel"].tensor
        below = np.maximum(mel - mel.max(axis=(1, 2), keepdims=True), -255 * STEP_DB)
        np.testing.assert_allclose(-STEP_DB * table.mel[rows].astype(float), below, atol=STEP_DB / 2 + 1e-4)


def test_a_long_recording_gives_all_its_windows(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(speak("fear", 1, 1), 110), 16_000)
    changes = replace(PLAIN, copies=1, noise_probability=1.0, speed_probability=0.0, shift_probability=0.0)
    changes = replace(changes, reverberation_probability=0.0)
    table = extract([path], tmp_path / "cache", changes)
    # 132 s: three pieces of a minute.
    assert [(table.copy == copy).sum() for copy in (0, 1)] == [44, 44]
    assert not np.array_equal(table.mel[table.copy == 0], table.mel[table.copy == 1])


def test_nothing_is_read_twice_whatever_can_be_read(tmp_path: Path, reads: Path) -> None:
    paths = [write_clip(tmp_path / f"{take}.wav", take=take) for take in range(3)]
    (tmp_path / "text.wav").write_text("this is no audio")
    paths.append(tmp_path / "text.wav")
    recipe = replace(RECIPE, files=(READER,))
    table = extract(paths, tmp_path / "cache", recipe=recipe)
    assert set(table.clip) == {0, 1, 2}
    assert set(table.failures) == {3}
    kept = table.only([0, 1, 2])
    assert_same(kept, replace(table, failures={}))
    assert_same(extract(paths, tmp_path / "cache", recipe=recipe), table)
    assert sorted(line.split()[1] for line in reads.read_text().splitlines()) == ["0.wav", "1.wav", "2.wav", "text.wav"]


def test_rows_of_some_clips_know_them_by_their_new_place(tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / f"{take}.wav", take=take) for take in range(3)]
    (tmp_path / "text.wav").write_text("this is no audio")
    table = extract([paths[0], tmp_path / "text.wav", *paths[1:]], tmp_path / "cache")
    part = table.only([1, 3])
    assert set(part.clip) == {1}
    assert set(part.failures) == {0}
    np.testing.assert_array_equal(part.dense, table.dense[table.clip == 3])


def test_the_same_file_twice_gives_its_rows_to_both(tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / f"{take}.wav", take=take) for take in range(2)]
    twin = Path(shutil.copy(paths[0], tmp_path / "twin.wav"))
    table = extract([*paths, twin], tmp_path / "cache")
    np.testing.assert_array_equal(table.mel[table.clip == 0], table.mel[table.clip == 2])
    assert (table.clip == 2).sum() == 1


def test_a_decoder_that_crashes_costs_its_clip_and_is_tried_again_next_time(tmp_path: Path, reads: Path) -> None:
    paths = [write_clip(tmp_path / name, take=take) for take, name in enumerate(("a.wav", "crash.wav", "b.wav"))]
    recipe = replace(RECIPE, files=(READER,))
    table = extract(paths, tmp_path / "cache", recipe=recipe)
    assert set(table.clip) == {0, 2}
    assert "signal 11" in table.failures[1]
    n_reads = len(reads.read_text().splitlines())
    assert_same(extract(paths, tmp_path / "cache", recipe=recipe), table)
    assert "crash.wav" in reads.read_text().splitlines()[n_reads:][0]


def damaged(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {
        "empty": b"",
        "text": b"no archive",
        "cut": content[:middle],
        "cut at the end": content[:-10],
        "a byte changed": content[:middle]
        + bytes(255 - byte for byte in content[middle : middle + 1])
        + content[middle + 1 :],
        "zeros": bytes(len(content)),
    }


def test_a_damaged_cache_is_computed_again(tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / f"{take}.wav", take=take, duration_s=0.5) for take in range(12)]
    expected = extract(paths, tmp_path / "cache")
    stored = sorted((tmp_path / "cache").iterdir())
    contents = [path.read_bytes() for path in stored]
    damages = damaged(b"")
    assert len(stored) >= len(damages) + 3
    # Each file in another way; one is left alone.
    for path, content, what in zip(stored[3:], contents[3:], damages, strict=False):
        path.write_bytes(damaged(content)[what])
    # Whole, but of something else.
    np.savez(stored[1], mel=np.zeros((1, 4)))
    np.savez(stored[2], **{**np.load(stored[2]), "dense": np.zeros((7, 13), np.float32)})
    assert_same(extract(paths, tmp_path / "cache"), expected)
    assert [path.read_bytes() for path in stored] == contents


def test_another_reader_has_a_cache_of_its_own(tmp_path: Path, reads: Path) -> None:
    path = write_clip(tmp_path / "louder.wav")
    cache = tmp_path / "cache"
    plain = extract([path], cache)
    with_reader = extract([path], cache, recipe=replace(RECIPE, files=(READER,)))
    assert not np.array_equal(plain.mel, with_reader.mel), "the numbers of another reader were given"
    assert len(list(cache.iterdir())) == 2


def test_what_features_depend_on_says_reader_extractors_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = features.feature_settings(features.feature_ingredients(RECIPE, AudioConfig()))
    assert {"extractor mel", "extractor prosodic", "reader ser_batch.audio", "audio.window_s"} <= set(settings)
    monkeypatch.setattr("ser_batch.training.features.__version__", "9.9")
    monkeypatch.setattr("ser_batch.audio.READER_VERSION", 99)
    changed = features.feature_settings(features.feature_ingredients(RECIPE, AudioConfig(n_mel_bands=64)))
    different = {key for key in settings if settings[key] != changed[key]}
    assert different == {"ser-batch", "reader ser_batch.audio", "audio.n_mel_bands"}


def test_a_cache_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.wav")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(RunError, match=r"Cannot write features to the cache .*--cache"):
        extract([path], tmp_path / "cache")


def test_a_folder_of_clips_is_not_told_apart_by_where_it_lies(tmp_path: Path) -> None:
    here = write_folder(tmp_path / "here", ("anger",), n_takes=1)
    there = Path(shutil.copytree(here, tmp_path / "there"))
    cache = tmp_path / "cache"
    tables = [extract(sorted(folder.rglob("*.wav")), cache) for folder in (here, there)]
    assert_same(*tables)
    assert len(list(cache.iterdir())) <= 3
