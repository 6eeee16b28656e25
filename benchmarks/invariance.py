"""Whether the same speech gets the same label: clips are changed as archives change them, and labelled again.

    python -m benchmarks.invariance [--corpora DIR] [--clips N] [--model NAME] [--only TEXT]

Prints a Markdown table. Needs ffmpeg and labelled recordings, a folder per corpus, in DIR, which is $SER_CORPORA or
../shared/corpora unless given. Takes about ten minutes per hundred clips.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from benchmarks.agreement import corpora_dir

#: Labels with a smaller margin may as well be another one.
CLEAR_MARGIN = 0.10
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}
#: Level of a quiet room, as the RMS of its noise re full scale.
ROOM_DB = -66.0

Samples = NDArray[np.float64]
Change = Callable[[Samples, int], tuple[Samples, int]]


@dataclass(frozen=True)
class Row:
    """A change of a recording, and how many labels of a hundred may flip by it."""

    name: str
    change: Change
    allowed: int = 0
    #: Arguments of ffmpeg, and the suffix of what it writes; the samples are written as they are without.
    codec: tuple[str, ...] = ()
    suffix: str = ".wav"


def clip_paths(corpora: Path, n_clips: int) -> list[Path]:
    """Choose clips of all corpora, as many of each, the same ones each time."""
    folders = sorted(path for path in corpora.iterdir() if path.is_dir())
    chosen = []
    for number, folder in enumerate(folders):
        paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
        n_here = (n_clips * (number + 1)) // len(folders) - (n_clips * number) // len(folders)
        chosen += random.Random(1).sample(paths, min(n_here, len(paths)))
    if not chosen:
        raise SystemExit(f"No recordings in the folders of {corpora}; name their folder with --corpora.")
    return chosen


def same(samples: Samples, rate_hz: int) -> tuple[Samples, int]:
    return samples, rate_hz


def gain(gain_db: float) -> Change:
    return lambda samples, rate_hz: (samples * 10 ** (gain_db / 20), rate_hz)


def offset(value: float) -> Change:
    return lambda samples, rate_hz: (samples + value, rate_hz)


def silence(front_s: float, behind_s: float, level_db: float = -np.inf) -> Change:
    """Lengthen a recording by digital silence, or by the noise of a room, which then lies under all of it."""

    def change(samples: Samples, rate_hz: int) -> tuple[Samples, int]:
        longer = np.pad(samples, (round(front_s * rate_hz), round(behind_s * rate_hz)))
        noise = np.random.default_rng(1).standard_normal(len(longer))
        return longer + 10 ** (level_db / 20) * noise, rate_hz

    return change


def channels(left: float, right: float, delay_s: float = 0.0) -> Change:
    def change(samples: Samples, rate_hz: int) -> tuple[Samples, int]:
        late = np.concatenate([np.zeros(round(delay_s * rate_hz)), samples])[: len(samples)]
        return np.column_stack([left * samples, right * late]), rate_hz

    return change


def rate(wanted_hz: int) -> Change:
    return lambda samples, rate_hz: (soxr.resample(samples, rate_hz, wanted_hz, "VHQ"), wanted_hz)


def all_rows() -> Iterator[Row]:
    """Yield every change of the table."""
    yield from (Row(f"gain {value:+d} dB", gain(value)) for value in (-40, -20, -6, 6))
    yield Row("polarity", lambda samples, rate_hz: (-samples, rate_hz))
    yield from (Row(f"DC {value:+.2f}", offset(value)) for value in (0.05, -0.05))
    for length_s in (0.3, 0.5, 1.0, 3.0, 10.0):
        for words, level_db in (("digital", -np.inf), ("room", ROOM_DB)):
            yield Row(f"{length_s:g} s of {words} silence in front", silence(length_s, 0, level_db), 2)
            yield Row(f"{length_s:g} s of {words} silence behind", silence(0, length_s, level_db), 2)
    yield Row("stereo, both the same", channels(1, 1))
    yield Row("stereo, one silent", channels(1, 0))
    yield Row("stereo, 0.8 ms apart", channels(1, 1, 0.0008), 2)
    yield Row("stereo, anti-phase", channels(1, -1), 2)
    yield Row("44.1 kHz", rate(44_100))
    yield Row("48 kHz", rate(48_000))
    yield Row("16 kHz", rate(16_000), 2)
    yield Row("FLAC", same, 0, ("-c:a", "flac"), ".flac")
    yield Row("MP3, 128 kbit/s", rate(44_100), 2, ("-c:a", "libmp3lame", "-b:a", "128k"), ".mp3")
    yield Row("AAC, 64 kbit/s", rate(44_100), 2, ("-c:a", "aac", "-b:a", "64k"), ".m4a")
    yield Row("Opus, 32 kbit/s", rate(48_000), 2, ("-c:a", "libopus", "-b:a", "32k"), ".opus")


def written(row: Row, samples: Samples, rate_hz: int, folder: Path) -> Path:
    """Write a changed clip; what is larger than full scale stays, but where a codec cuts it off."""
    changed, rate_hz = row.change(samples, rate_hz)
    path = folder / "clip.wav"
    soundfile.write(path, changed.astype(np.float32), rate_hz, subtype="FLOAT")
    if not row.codec:
        return path
    coded = path.with_suffix(row.suffix)
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(path), *row.codec, str(coded)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    return coded


def main() -> None:
    """Change, label, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpora", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--model", default="ser6")
    parser.add_argument("--only", default="", help="the rows that hold this text in their name")
    options = parser.parse_args()

    from ser_batch import EmotionPredictor

    predictor = EmotionPredictor(options.model, "cpu")
    table = [row for row in all_rows() if options.only in row.name]
    moved: dict[str, list[float]] = {row.name: [] for row in table}
    flips = dict.fromkeys(moved, 0)
    lost = dict.fromkeys(moved, 0)
    n_clear = 0
    with tempfile.TemporaryDirectory() as folder:
        for source in clip_paths(corpora_dir(options.corpora), options.clips):
            samples, rate_hz = soundfile.read(source, dtype="float64", always_2d=True)
            mono = samples.mean(axis=1)
            [first] = predictor.predict_batch([written(Row("", same), mono, rate_hz, Path(folder))])
            if first.emotion is None:
                print(f"{source}: {first.error}")
                continue
            is_clear = first.margin > CLEAR_MARGIN
            n_clear += is_clear
            before = np.array(list(first.probabilities.values()))
            for row in table:
                [then] = predictor.predict_batch([written(row, mono, rate_hz, Path(folder))])
                if then.emotion is None:
                    lost[row.name] += 1
                    continue
                after = np.array(list(then.probabilities.values()))
                moved[row.name].append(float(np.abs(after - before).max()))
                flips[row.name] += is_clear and then.emotion != first.emotion
    print(f"\n{n_clear} labels with a margin above {CLEAR_MARGIN:.2f}\n")
    print("| change | flips | allowed | median change of a probability | largest | without a label |")
    print("|---|---:|---:|---:|---:|---:|")
    for row in table:
        values = moved[row.name] or [float("nan")]
        print(
            f"| {row.name} | {flips[row.name]} | {row.allowed} | {np.median(values):.3f} | {max(values):.2f} "
            f"| {lost[row.name]} |"
        )


if __name__ == "__main__":
    main()
