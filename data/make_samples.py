"""Makes data/samples, synthetic voices in many formats, and data/broken, files that are wrong on purpose.

Run ``python data/make_samples.py`` from anywhere, with espeak-ng installed. The clips show that the pipeline works;
they say nothing about how well emotions are recognised, since espeak-ng has none.
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

Samples = NDArray[np.float64]

FOLDER = Path(__file__).resolve().parent

SENTENCES = (
    "The kettle is on, and the rain has stopped at last.",
    "I never thought that we would see this house again.",
    "Somebody has left the gate open for the third time this week.",
    "Could you please tell me where the last train leaves from?",
    "They painted the whole kitchen yellow while I was away!",
    "There is a noise in the cellar, and the light does not work.",
    "We counted the boxes twice, and still one was missing.",
    "My grandmother kept all of her letters in an old biscuit tin.",
    "Nobody told us that the meeting had been moved to Friday.",
    "Look at the sky, the first swallows are back!",
    "The bread is burnt, the milk is sour, and it is only Monday.",
    "I put the keys on the table, exactly where they always are.",
)

LANGUAGES = {
    "de": "Der Zug nach Hamburg fährt heute von Gleis sieben ab.",
    "es": "Mañana vamos al mercado a comprar naranjas y pan.",
    "fr": "La fenêtre est restée ouverte pendant toute la nuit.",
    "it": "Questa sera la piazza è piena di gente e di musica.",
    "pl": "Wczoraj wieczorem spadł pierwszy śnieg tej zimy.",
}


@dataclass(frozen=True, slots=True)
class Sample:
    """One clip: what is said by whom, what is done to it, and how it is stored."""

    path: str
    text: str
    voice: str = "en"
    #: Words per minute.
    rate: int = 160
    #: espeak-ng's pitch, 0 to 99.
    pitch: int = 50
    sample_rate_hz: int = 22_050
    format: str = "WAV"
    subtype: str = "PCM_16"
    #: From 0 (high bit rate) to 1 (low), for lossy formats.
    compression: float | None = None
    treat: Callable[[Samples], Samples] = np.asarray


def with_noise(samples: Samples) -> Samples:
    """Add white noise 15 dB below the speech."""
    noise = np.random.default_rng(15).standard_normal(len(samples))
    return samples + noise * np.sqrt(np.mean(samples**2) / 10**1.5)


def quiet(samples: Samples) -> Samples:
    return samples * 10 ** (-34 / 20)


def clipped(samples: Samples) -> Samples:
    return np.clip(samples * 8, -1, 1)


def with_offset(samples: Samples) -> Samples:
    return samples * 0.8 + 0.1


def in_stereo(samples: Samples) -> Samples:
    """Place the voice left of the middle, 0.3 ms earlier in the left ear."""
    return np.column_stack([samples, 0.6 * np.roll(samples, 14)])


def surround(samples: Samples) -> Samples:
    """Play the voice from the centre of a 5.1 layout, with a little of it all around."""
    return samples[:, None] * np.array([0.3, 0.3, 1.0, 0.0, 0.1, 0.1])


def amid_silence(samples: Samples) -> Samples:
    """Put two seconds of digital silence before the speech and three after it."""
    return np.concatenate([np.zeros(44_100), samples, np.zeros(66_150)])


def say(text: str, voice: str, rate: int, pitch: int) -> Samples:
    """Speak `text`: float64 (n_samples,) at 22,050 Hz, peak at 0.7."""
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(rate), "-p", str(pitch), text]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    samples, sample_rate_hz = soundfile.read(io.BytesIO(wav))
    samples = soxr.resample(samples, sample_rate_hz, 22_050)
    return samples * (0.7 / np.max(np.abs(samples)))


def plan() -> list[Sample]:
    """All clips that hold speech, except for the long one."""
    s = SENTENCES
    voices = [
        Sample("voices/low_slow.flac", s[1], "en+m3", 120, 20, format="FLAC"),
        Sample("voices/low_fast.flac", s[2], "en-us+m7", 240, 25, format="FLAC"),
        Sample("voices/middle.flac", s[0], "en-gb-scotland", 160, 45, 16_000, "FLAC"),
        Sample("voices/high_slow.flac", s[7], "en+f2", 125, 70, format="FLAC"),
        Sample("voices/high_fast.flac", s[4], "en-us+f5", 230, 85, format="FLAC"),
        Sample("voices/very_high.flac", s[9], "en+f4", 180, 99, format="FLAC"),
        Sample("voices/buzzing.flac", s[11], "en+klatt2", 150, 40, 16_000, "FLAC"),
        Sample("voices/whispered.flac", s[5], "en+whisper", 140, 50, 16_000, "FLAC"),
        Sample("voices/croaking.flac", s[10], "en-us+croak", 150, 30, 16_000, "FLAC"),
    ]
    languages = [
        Sample(f"languages/{code}/001.ogg", text, code, 150, 40 + 8 * i, 32_000, "OGG", "VORBIS", 0.6)
        for i, (code, text) in enumerate(LANGUAGES.items())
    ]
    formats = [
        Sample("formats/telephone_8khz_ulaw.wav", s[3], "en-us+m1", 165, sample_rate_hz=8_000, subtype="ULAW"),
        Sample("formats/8bit_11khz.wav", s[6], "en+m5", 170, sample_rate_hz=11_025, subtype="PCM_U8"),
        Sample(
            "formats/24bit_48khz_stereo.wav",
            "Here we are.",
            "en+f1",
            180,
            60,
            48_000,
            subtype="PCM_24",
            treat=in_stereo,
        ),
        Sample("formats/float_16khz.wav", "That is all I know.", "en-us+m2", sample_rate_hz=16_000, subtype="FLOAT"),
        Sample("formats/SHOUTED_SUFFIX.WAV", "Louder, please!", "en+f3", 190, 80, 16_000),
        Sample("formats/44khz_stereo.mp3", s[8], "en+m4", 170, 55, 44_100, "MP3", "MPEG_LAYER_III", 0.7, in_stereo),
        Sample("formats/48khz.opus", s[0], "en-us+f1", 170, 65, 48_000, "OGG", "OPUS", 0.8),
        Sample("formats/six_channels.flac", "One voice, six channels.", "en", 170, 50, 16_000, "FLAC", treat=surround),
        Sample("formats/big_endian.aiff", "The other byte order.", "en-us", 170, 50, 16_000, "AIFF"),
    ]
    rooms = [
        Sample("rooms/noisy_15db.ogg", s[2], "en+m6", 160, 40, 22_050, "OGG", "VORBIS", 0.6, with_noise),
        Sample("rooms/very_quiet.flac", s[7], "en-us+f4", 150, 60, 16_000, "FLAC", treat=quiet),
        Sample("rooms/clipped.flac", s[4], "en-us+m8", 200, 60, 16_000, "FLAC", treat=clipped),
        Sample("rooms/dc_offset.flac", s[3], "en+m1", 160, 35, 16_000, "FLAC", treat=with_offset),
        Sample("rooms/mostly_silence.flac", s[5], "en+f5", 160, 55, 16_000, "FLAC", treat=amid_silence),
    ]
    return voices + languages + formats + rooms


def long_conversation() -> Samples:
    """Two voices taking turns for about four minutes, with pauses between them."""
    voices = (("en+m3", 150, 30), ("en-us+f2", 165, 65))
    turns = []
    for i in range(72):
        voice, rate, pitch = voices[i % 2]
        # Pitch and rate drift, so that the windows differ from each other.
        turns.append(say(SENTENCES[(5 * i) % len(SENTENCES)], voice, rate + 10 * (i % 5), pitch + 5 * (i // 2 % 4)))
        turns.append(np.zeros(int(22_050 * (0.2 + 0.1 * (i % 3)))))
    return np.concatenate(turns)


def write(path: Path, samples: Samples, sample: Sample) -> None:
    """Store `samples` (22,050 Hz; (n_samples,) or (n_samples, n_channels)) as `sample` asks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    resampled = np.clip(soxr.resample(samples, 22_050, sample.sample_rate_hz), -1, 1)
    soundfile.write(
        path,
        resampled,
        sample.sample_rate_hz,
        format=sample.format,
        subtype=sample.subtype,
        compression_level=sample.compression,
    )


def write_odd_files(folder: Path) -> None:
    """Recordings in which there is next to nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / "silence.flac", np.zeros(4 * 16_000), 16_000)
    soundfile.write(folder / "twenty_milliseconds.wav", 0.3 * np.sin(np.arange(320) * 0.08), 16_000)


def write_broken_files(folder: Path, sound: bytes) -> None:
    """Files that are wrong on purpose, one of them half of `sound`; each must become a row that says so."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "text_named.wav").write_text("These are the minutes of a meeting, not a recording of it.\n")
    (folder / "broken_in_the_middle.flac").write_bytes(sound[: len(sound) // 2])


def main() -> None:
    """Make all clips anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, help="where to write samples/ and broken/ (default: data)"
    )
    parent = parser.parse_args().folder
    folder = parent / "samples"
    for old in (folder, parent / "broken"):
        shutil.rmtree(old, ignore_errors=True)
    for sample in plan():
        write(folder / sample.path, sample.treat(say(sample.text, sample.voice, sample.rate, sample.pitch)), sample)
    talk = Sample(
        "long/conversation.mp3", "", format="MP3", sample_rate_hz=16_000, subtype="MPEG_LAYER_III", compression=0.9
    )
    write(folder / talk.path, long_conversation(), talk)
    write_odd_files(folder / "odd")
    write_broken_files(parent / "broken", (folder / "voices/low_slow.flac").read_bytes())


if __name__ == "__main__":
    main()
