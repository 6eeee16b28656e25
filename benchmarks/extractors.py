"""What our three extractors cost, against the tools that people use, on the same audio.

    python -m benchmarks.extractors [--corpora DIR] [--clips N] [--librosa-clips N]

Prints Markdown tables. Needs the benchmark extra (opensmile, praat-parselmouth, librosa) and the RAVDESS recordings in
``DIR/ravdess``; DIR is $SER_CORPORA or ../shared/corpora unless given. Everything runs on one core with one thread; the
tools take turns on each clip. Leave the machine alone meanwhile: the slow tools take a few minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.agreement import RATE_HZ, clip_paths, corpora_dir, read

Tool = Callable[[NDArray[np.float32]], object]

#: Must be set before numpy is loaded.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
STAGES = ("signal", "pitch", "level", "hnr", "pulses", "low_rate", "formants", "cepstrum")


def our_extractors() -> Tool:
    """Mel, prosodic and voice quality, per 3 s window and per clip."""
    from ser_batch.extractors.mel import MelExtractor
    from ser_batch.extractors.prosodic import ProsodicExtractor
    from ser_batch.extractors.voice_quality import VoiceQualityExtractor
    from ser_batch.records import Clip
    from ser_batch.windows import plan_windows

    extractors = [MelExtractor(), ProsodicExtractor(), VoiceQualityExtractor()]

    def run(samples: NDArray[np.float32]) -> object:
        clip = Clip(samples, RATE_HZ, RATE_HZ, 1)
        windows_s = plan_windows(clip.duration_s)
        return [extractor.extract(clip, windows_s) for extractor in extractors]

    return run


def opensmile_functionals() -> Tool:
    """The eGeMAPSv02 functionals, one worker."""
    import opensmile

    smile = opensmile.Smile(
        opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals, num_workers=1, multiprocessing=False
    )
    return lambda samples: smile.process_signal(samples, RATE_HZ)


def parselmouth_script() -> Tool:
    """Pitch (ac), jitter, shimmer, HNR (cc) and F1 to F3, at Praat's defaults."""
    import parselmouth
    from parselmouth.praat import call

    def run(samples: NDArray[np.float32]) -> object:
        sound = parselmouth.Sound(samples.astype(np.float64), RATE_HZ)
        pitch = sound.to_pitch_ac(0.01)
        points = call([sound, pitch], "To PointProcess (cc)")
        formant = sound.to_formant_burg()
        return (
            call(pitch, "Get mean", 0, 0, "Hertz"),
            call(points, "Get jitter (local)", 0, 0, 0.0001, 0.02, 1.3),
            call([sound, points], "Get shimmer (local)", 0, 0, 0.0001, 0.02, 1.3, 1.6),
            call(sound.to_harmonicity_cc(), "Get mean", 0, 0),
            [call(formant, "Get mean", k, 0, 0, "hertz") for k in (1, 2, 3)],
        )

    return run


def librosa_script() -> Tool:
    """The usual script: mel, pyin over C2 to C7, rms, zcr, centroid, roll-off, bandwidth, MFCC."""
    import librosa

    def run(samples: NDArray[np.float32]) -> object:
        feature = librosa.feature
        return (
            librosa.power_to_db(feature.melspectrogram(y=samples, sr=RATE_HZ)),
            librosa.pyin(samples, sr=RATE_HZ, fmin=librosa.note_to_hz("C2"), fmax=librosa.note_to_hz("C7")),
            feature.rms(y=samples),
            feature.zero_crossing_rate(samples),
            feature.spectral_centroid(y=samples, sr=RATE_HZ),
            feature.spectral_rolloff(y=samples, sr=RATE_HZ),
            feature.spectral_bandwidth(y=samples, sr=RATE_HZ),
            feature.mfcc(y=samples, sr=RATE_HZ),
        )

    return run


def timed(tool: Tool, samples: NDArray[np.float32]) -> float:
    """Return how long a tool takes for one clip, in ms per second of audio."""
    copy = samples.copy()
    start = time.perf_counter()
    tool(copy)
    return 1000 * (time.perf_counter() - start) / (len(samples) / RATE_HZ)


def stage_costs(clips: list[NDArray[np.float32]]) -> dict[str, float]:
    """Return what each shared analysis costs by itself, median ms per second of audio."""
    from ser_batch.extractors import analyses
    from ser_batch.records import Clip

    costs: dict[str, list[float]] = {name: [] for name in STAGES}
    for samples in clips:
        clip = Clip(samples.copy(), RATE_HZ, RATE_HZ, 1)
        for name in STAGES:
            # Each comes after those that it is computed from.
            costs[name].append(timed(lambda _, name=name, clip=clip: getattr(analyses, name)(clip), samples))
    return {name: float(np.median(values)) for name, values in costs.items()}


def main() -> None:
    """Time, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--librosa-clips", type=int, default=20, help="pyin takes about a second per clip")
    arguments = parser.parse_args()
    if not ONE_THREAD.items() <= os.environ.items():
        os.execve(
            sys.executable, [sys.executable, "-m", "benchmarks.extractors", *sys.argv[1:]], os.environ | ONE_THREAD
        )
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    clips = [read(path) for path in clip_paths(corpora_dir(arguments.corpora), arguments.clips)]
    tools = {
        "ser-batch: mel, prosodic, voice_quality": (our_extractors(), len(clips), None),
        "openSMILE eGeMAPSv02 functionals": (opensmile_functionals(), len(clips), 12),
        "parselmouth script": (parselmouth_script(), len(clips), 18),
        "librosa script with pyin": (librosa_script(), arguments.librosa_clips, 40),
    }
    for tool, _, _ in tools.values():
        tool(clips[0].copy())
    costs: dict[str, list[float]] = {name: [] for name in tools}
    for index, samples in enumerate(clips):
        for name, (tool, n_clips, _) in tools.items():
            if index < n_clips:
                costs[name].append(timed(tool, samples))
    ours, *others = tools
    own = float(np.median(costs[ours]))
    print(f"{len(clips)} RAVDESS clips ({arguments.librosa_clips} for librosa), whole, at 22,050 Hz, one core.\n")
    print("| tool | ms per s of audio, median (10 % to 90 %) | times ours | to reach |\n| --- | ---: | ---: | ---: |")
    for name in [ours, *others]:
        median, low, high = np.percentile(costs[name], [50, 10, 90])
        bar = tools[name][2]
        ratio = f"{median / own:.1f}"
        print(f"| {name} | {median:.2f} ({low:.2f} to {high:.2f}) | {ratio} | {f'≥ {bar}' if bar else ''} |")
    print("\n| shared analysis | ms per s of audio, median |\n| --- | ---: |")
    for name, cost in stage_costs(clips).items():
        print(f"| {name} | {cost:.3f} |")


if __name__ == "__main__":
    main()
