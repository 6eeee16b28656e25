"""R7: peak memory grows neither with the number of files nor with the length of one."""

from __future__ import annotations

import threading
import tracemalloc
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
from harness import CONFIG, PLUGIN, Scanner

from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.hooks import load_classifier, register_extractors
from ser_batch.plugins import PluginRecipe
from ser_batch.records import ClipRef, Segment, SegmentSource, Status
from ser_batch.stages.analyse import analyse_clip


def peak_of_one_file(path: Path, minutes: int, *turns_s: float) -> int:
    """Peak of what Python and numpy allocate while a recording is analysed, in bytes.

    All of it is marked as said, once in turns of each of some lengths.
    """
    with soundfile.SoundFile(path, "w", 8_000, 1) as file:
        minute = synthetic_voice(60.0, 8_000)
        for _ in range(minutes):
            file.write(minute)
    recipe = PluginRecipe(files=(str(PLUGIN),), entry_points=(), built_in=("ser_batch.audio",))
    manager, config = recipe.build(), Config().with_values({"audio": {"piece_s": 12.0}})
    extractors = register_extractors(manager, config)
    classifier = load_classifier(manager, "guess", "cpu")
    length_s = 60.0 * minutes
    marks = [
        Segment(start_s, min(start_s + turn_s, length_s), speaker=f"{turn_s}")
        for turn_s in turns_s
        for start_s in np.arange(0, length_s, turn_s).tolist()
    ]
    tracemalloc.start()
    ref = ClipRef(path.name, str(path), 1, 1, SegmentSource(1, (), tuple(marks)) if marks else None)
    outcome = analyse_clip(ref, config, extractors, classifier, manager)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert outcome.status is Status.OK and len(outcome.windows_s) == minutes * 20
    assert len(outcome.segments) == len(marks)
    return peak


@pytest.mark.parametrize(
    "turns_s", [(), pytest.param((7.0, 3_600.0), marks=pytest.mark.reliability)], ids=["plain", "segments"]
)
def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path, turns_s):
    short, long = (peak_of_one_file(tmp_path / f"{minutes}.flac", minutes, *turns_s) for minutes in (2, 20))
    assert long < 1.2 * short


def peak_of_a_scan(scanner: Scanner, audio: Path, run: Path) -> float:
    """Peak of resident memory of a scan and its workers together, in bytes, beyond that of a process at rest."""
    peak, over = 0, threading.Event()
    at_rest = psutil.Process(scanner.pid).memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.02):
            total = 0
            for process in psutil.Process(scanner.pid).children(recursive=True):
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        answer = scanner.scan(audio, run, config=CONFIG | {"run": {"shard_size": 64}})
    finally:
        over.set()
        watcher.join()
    assert answer["code"] == 0, answer
    return peak - at_rest


@pytest.mark.reliability
def test_long_memory_does_not_grow_with_the_number_of_files(scanner, tmp_path):
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, synthetic_voice(1.0, 8_000), 8_000)
    peaks = []
    for n_files in (400, 4_000):
        audio = tmp_path / f"audio{n_files}"
        audio.mkdir()
        for index in range(n_files):
            (audio / f"{index:05d}.wav").symlink_to(clip)
        peaks.append(peak_of_a_scan(scanner, audio, tmp_path / f"run{n_files}"))
    assert peaks[1] < 1.1 * peaks[0]
