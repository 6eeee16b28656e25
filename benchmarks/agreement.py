"""How well our numbers agree with those of Praat and librosa, on the same audio.

    python -m benchmarks.agreement [--corpora DIR] [--clips N]

Prints a Markdown table. Needs the benchmark extra (praat-parselmouth, librosa) and the RAVDESS recordings in
``DIR/ravdess``; DIR is $SER_CORPORA or ../shared/corpora unless given. Takes about half a minute per hundred clips.
"""

from __future__ import annotations

import argparse
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE_HZ = 22_050
NOISE_SNR_DB = 10.0


def clip_paths(corpora: Path, n_clips: int) -> list[Path]:
    """Choose `n_clips` RAVDESS recordings at random, the same ones each time."""
    paths = sorted((corpora / "ravdess").rglob("*.flac")) + sorted((corpora / "ravdess").rglob("*.wav"))
    if not paths:
        raise SystemExit(f"No RAVDESS recordings under {corpora / 'ravdess'}; name their folder with --corpora.")
    return random.Random(1).sample(paths, min(n_clips, len(paths)))


def corpora_dir(given: Path | None) -> Path:
    """Return the folder of the corpora: as given, $SER_CORPORA, or ../shared/corpora."""
    return given or Path(os.environ.get("SER_CORPORA", "../shared/corpora"))


def read(path: Path) -> NDArray[np.float32]:
    """Decode one recording to mono at 22,050 Hz."""
    samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    return np.ascontiguousarray(soxr.resample(samples.mean(axis=1), rate_hz, RATE_HZ, "HQ"), dtype=np.float32)


def with_noise(samples: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Add white noise 10 dB below the mean power of the clip."""
    rms = np.sqrt(np.mean(samples.astype(np.float64) ** 2) / 10 ** (NOISE_SNR_DB / 10))
    return (samples + rms * rng.standard_normal(len(samples))).astype(np.float32)


def with_zeros(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put digital silence in front, at the end, and into the middle, as cut and mended recordings hold it."""
    silenced = samples.copy()
    silenced[-round(0.3 * RATE_HZ) :] = 0
    middle = len(samples) // 2
    silenced[middle : middle + round(0.3 * RATE_HZ)] = 0
    return np.concatenate([np.zeros(round(0.5 * RATE_HZ), np.float32), silenced])


def praat_cpps_db(cepstrogram: object, heard: NDArray[np.bool_]) -> float:
    """Return CPPS over the frames that hold a signal: of digital silence Praat measures its own rounding, to 27 dB."""
    from parselmouth.praat import call

    trend = (0.001, 0, "Straight", "Robust")
    if heard.all():
        return float(call(cepstrogram, "Get CPPS", False, 0.01, 0.001, 60, 330, 0.05, "Parabolic", *trend))
    smooth = call(cepstrogram, "Smooth", 0.01, 0.001)
    times_s = [call(smooth, "Get time from frame number", int(frame) + 1) for frame in np.flatnonzero(heard)]
    slices = [call(smooth, "To PowerCepstrum (slice)", time_s) for time_s in times_s]
    return float(np.mean([call(part, "Get peak prominence", 60, 330, "Parabolic", *trend) for part in slices]))


def praat_values(samples: NDArray[np.float32], heard: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    """Measure one clip with Praat: F0 frames, and the means over the clip that scripts report.

    `heard` says which frames of the cepstrum hold a signal.
    """
    import parselmouth
    from parselmouth.praat import call

    sound = parselmouth.Sound(samples.astype(np.float64), RATE_HZ)
    pitch = sound.to_pitch_ac(0.01, 75.0, pitch_ceiling=600.0)
    points = call([sound, pitch], "To PointProcess (cc)")
    formant = sound.to_formant_burg(0.01)
    voiced_s = [time_s for time_s in formant.xs() if not np.isnan(pitch.get_value_at_time(time_s))]
    cepstrogram = call(sound, "To PowerCepstrogram", 60, 0.01, 5000, 50)
    return {
        "f0_hz": pitch.selected_array["frequency"],
        "hnr_db": call(sound.to_harmonicity_ac(0.01, 75.0, 0.1, 4.5), "Get mean", 0, 0),
        "jitter": call(points, "Get jitter (local)", 0, 0, 0.0001, 0.02, 1.3),
        "shimmer": call([sound, points], "Get shimmer (local)", 0, 0, 0.0001, 0.02, 1.3, 1.6),
        "formants_hz": np.array(
            [np.nanmean([formant.get_value_at_time(k, time_s) for time_s in voiced_s]) for k in (1, 2, 3)]
            if voiced_s
            else [np.nan] * 3
        ),
        "cpps_db": praat_cpps_db(cepstrogram, heard),
    }


def our_values(samples: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Measure one clip with our extractors: the columns of the whole clip, and frames of F0 and of CPPS behind them."""
    from ser_batch.extractors import analyses
    from ser_batch.extractors.voice_quality import VoiceQualityExtractor
    from ser_batch.records import Clip

    clip = Clip(samples, RATE_HZ, RATE_HZ, 1)
    extractor = VoiceQualityExtractor()
    values = extractor.extract(clip, np.zeros((0, 2))).clip_scalars.astype(np.float64)
    column = dict(zip((name for name, _ in extractor.spec.scalars), values, strict=True))
    return {
        "f0_hz": np.nan_to_num(analyses.pitch(clip).f0_hz),
        "hnr_db": column["hnr"],
        "jitter": column["jitter_local"],
        "shimmer": column["shimmer_local"],
        "formants_hz": np.array([column[f"f{k}_mean"] for k in (1, 2, 3)]),
        "cpps_db": column["cpps"],
        "heard": ~np.isnan(analyses.cepstrum(clip).cpps_db),
    }


Values = list[dict[str, NDArray[np.float64]]]


def both(clips: list[NDArray[np.float32]]) -> tuple[Values, Values]:
    """Measure clips with our extractors and with Praat."""
    ours = [our_values(samples) for samples in clips]
    return ours, [praat_values(samples, mine["heard"]) for samples, mine in zip(clips, ours, strict=True)]


def mel_difference_db(samples: NDArray[np.float32]) -> float:
    """Return the largest difference between our mel spectrogram and librosa's, over the windows of one clip."""
    import librosa

    from ser_batch.dsp.mel import log_mel

    largest = 0.0
    for start in range(0, len(samples), 66_150):
        window = samples[start : start + 66_150]
        power = librosa.feature.melspectrogram(
            y=np.pad(window, (0, 66_150 - len(window))), sr=RATE_HZ, n_fft=2048, hop_length=512, n_mels=128,
            fmin=0, fmax=8000, htk=False, norm="slaney", center=True, pad_mode="constant", power=2,
        )  # fmt: skip
        reference = librosa.power_to_db(power, ref=1.0, amin=1e-10, top_db=None)
        largest = max(largest, float(np.abs(log_mel(window, 66_150, RATE_HZ) - reference).max()))
    return largest


def rank_correlation(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """Return Spearman's correlation; no two values are equal."""
    return float(np.corrcoef(np.argsort(np.argsort(left)), np.argsort(np.argsort(right)))[0, 1])


def rows(
    ours: list[dict[str, NDArray[np.float64]]], theirs: list[dict[str, NDArray[np.float64]]], noisy: bool
) -> Iterator[tuple[str, str, str]]:
    """Yield (what, measured, to reach) for one condition."""
    left, right = (np.concatenate([clip["f0_hz"] for clip in side]) for side in (ours, theirs))
    both = (left > 0) & (right > 0)
    cents = 1200 * np.abs(np.log2(left[both] / right[both]))
    vde, gross = 100 * np.mean((left > 0) != (right > 0)), 100 * np.mean(cents > 1200 * np.log2(1.2))
    bars = ("3 %", "5 cents", "1 %") if noisy else ("1 %", "2 cents", "0.5 %")
    yield "F0: voicing decisions that differ", f"{vde:.3f} %", f"≤ {bars[0]}"
    yield "F0: median difference", f"{np.median(cents):.4f} cents", f"≤ {bars[1]}"
    yield "F0: gross errors over 20 %", f"{gross:.3f} %", f"≤ {bars[2]}"

    def pairs(name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        left, right = (np.array([clip[name] for clip in side]) for side in (ours, theirs))
        defined = ~(np.isnan(left) | np.isnan(right)).reshape(len(left), -1).any(axis=1)
        return left[defined], right[defined]

    left, right = pairs("hnr_db")
    yield "HNR per clip, median difference", f"{np.median(np.abs(left - right)):.4f} dB", "≤ 0.3 dB"
    for name, bar in (("jitter", 0.1), ("shimmer", 0.5)):
        left, right = pairs(name)
        yield f"{name} (local): rank correlation", f"{rank_correlation(left, right):.4f}", "≥ 0.97"
        difference = 100 * np.median(np.abs(left - right))
        yield f"{name} (local): median difference", f"{difference:.5f} points", f"≤ {bar} points"
    left, right = pairs("formants_hz")
    difference = np.median(np.abs(left - right), axis=0)
    yield "F1, F2, F3 means: median differences", "{:.1f}, {:.1f}, {:.1f} Hz".format(*difference), "≤ 15, 25, 35 Hz"
    left, right = pairs("cpps_db")
    yield "CPPS per clip: correlation", f"{np.corrcoef(left, right)[0, 1]:.4f}", "≥ 0.97"
    yield "CPPS per clip: largest difference", f"{np.abs(left - right).max():.3f} dB", "≤ 1 dB"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    arguments = parser.parse_args()
    paths = clip_paths(corpora_dir(arguments.corpora), arguments.clips)
    rng = np.random.default_rng(0)
    print(f"{len(paths)} RAVDESS clips, whole, at 22,050 Hz; Praat by parselmouth, F0 from 75 to 600 Hz.\n")
    print("| what | audio | measured | to reach |\n| --- | --- | ---: | ---: |")
    clips = [read(path) for path in paths]
    changes = {
        "as recorded": lambda samples: samples,
        "noise at 10 dB": lambda samples: with_noise(samples, rng),
        "digital silence put in": with_zeros,
    }
    for words, change in changes.items():
        ours, theirs = both([change(samples) for samples in clips])
        for what, measured, bar in rows(ours, theirs, words.startswith("noise")):
            print(f"| {what} | {words} | {measured} | {bar} |", flush=True)
    difference = max(mel_difference_db(samples) for samples in clips)
    print(f"| mel against librosa: largest difference | as recorded | {difference:.6f} dB | ≤ 0.001 dB |")


if __name__ == "__main__":
    main()
