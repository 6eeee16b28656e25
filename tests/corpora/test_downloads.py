"""Six downloads as people have them: `organize`, `train` and `evaluate` agree on every file and say what they leave.

The clips are made up; names, folders, twins, tables and what lies beside them are those of the downloads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from labelled_clips import write_clip
from random_model import store_random_model

from ser_batch.classifier import checkpoint
from ser_batch.cli.main import main
from ser_batch.corpora.builtin import BUILT_IN_CORPORA
from ser_batch.corpora.reading import read_corpus
from ser_batch.errors import ExitCode
from ser_batch.records import LabelledClip

EMOTIONS = ("anger", "fear", "sadness")
#: One epoch of a few clips, whatever comes of it.
TINY = [
    *("--set", "data.validation_share=0.3", "--set", "data.test_share=0", "--set", "augment.copies=0"),
    *("--set", "fit.epochs=1", "--set", "fit.batch_size=8", "--set", "fit.crop_frames=32", "--set", "fit.refit=false"),
]


@dataclass(frozen=True, slots=True)
class Expected:
    """What becomes of the files of a download."""

    n_taken: int
    n_twice: int = 0
    #: Reason -> files.
    passed_over: tuple[tuple[str, int], ...] = ()


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())


def spoken(speakers: int, first: int) -> Iterator[tuple[str, int, int]]:
    """Emotion, speaker from 1, and take from 1, of clips that no other download has."""
    for number in range(speakers):
        for emotion in EMOTIONS:
            yield emotion, number + 1, first + number


def kaggle_ravdess(root: Path) -> Expected:
    """The archive once more inside itself; a song, a film, and the sound of that film beside the take as audio."""
    codes = {"anger": "05", "fear": "06", "sadness": "04"}
    for emotion, actor, voice in spoken(3, 1):
        write_clip(root / f"Actor_{actor:02}" / f"03-01-{codes[emotion]}-01-01-01-{actor:02}.wav", emotion, voice)
    shutil.copytree(root, root / "audio_speech_actors_01-24")
    touch(
        *(
            root / "Actor_01" / f"{name}-05-01-01-01-01.{suffix}"
            for name, suffix in (("03-02", "wav"), ("01-01", "mp4"), ("01-01", "wav"))
        )
    )
    reasons = (("songs", 1), ("the same takes in another form", 1), ("videos, whose sound is not read", 1))
    return Expected(9, 9, reasons)


def kaggle_tess(root: Path) -> Expected:
    """Folders by speaker and emotion, and all of them once more inside."""
    top = root / "TESS Toronto emotional speech set data"
    codes = {"anger": "angry", "fear": "fear", "sadness": "sad"}
    for emotion, number, voice in spoken(2, 5):
        name = ("OAF", "YAF")[number - 1]
        write_clip(top / f"{name}_{emotion.capitalize()}" / f"{name}_back_{codes[emotion]}.wav", emotion, voice)
    shutil.copytree(top, top / top.name)
    return Expected(6, 6)


def crema_d(root: Path) -> Expected:
    """The audio as WAV and MP3, the films, and the table of actors."""
    codes = {"anger": "ANG", "fear": "FEA", "sadness": "SAD"}
    for emotion, number, voice in spoken(3, 8):
        stem = f"{1000 + number}_IEO_{codes[emotion]}_XX"
        for folder, suffix in (("AudioWAV", "wav"), ("AudioMP3", "mp3")):
            write_clip(root / folder / f"{stem}.{suffix}", emotion, voice)
        touch(root / "VideoFlash" / f"{stem}.flv")
    (root / "VideoDemographics.csv").write_text("ActorID,Age,Sex\n1001,30,Female\n1002,30,Male\n1003,30,Female\n")
    return Expected(9, 0, (("the same takes in another form", 9), ("videos, whose sound is not read", 9)))


def emo_db(root: Path) -> Expected:
    """Audio beside folders of transcripts."""
    codes = {"anger": "W", "fear": "A", "sadness": "T"}
    for emotion, number, voice in spoken(3, 12):
        stem = f"{('03', '08', '09')[number - 1]}a01{codes[emotion]}a"
        write_clip(root / "download" / "wav" / f"{stem}.wav", emotion, voice)
        touch(root / "download" / "lablaut" / f"{stem}.lablaut", root / "download" / "silb" / f"{stem}.silb")
    return Expected(9)


def savee(root: Path) -> Expected:
    """A folder per speaker, who is not in the name."""
    codes = {"anger": "a", "fear": "f", "sadness": "sa"}
    for emotion, number, voice in spoken(3, 16):
        write_clip(root / "AudioData" / ("DC", "JE", "KL")[number - 1] / f"{codes[emotion]}01.wav", emotion, voice)
    (root / "AudioData" / "Info.txt").write_text("SAVEE")
    return Expected(9)


def mix(root: Path) -> Expected:
    """All in one folder: in folders of their own, side by side, and beside one's own clips."""
    parts = [kaggle_ravdess(root), kaggle_tess(root / "TESS"), savee(root / "SAVEE"), crema_d(root / "CREMA-D")]
    parts.append(emo_db(root))
    for path in (root / "download" / "wav").iterdir():
        path.rename(root / path.name)
    for emotion, number, voice in spoken(3, 20):
        write_clip(root / "own" / emotion / f"ann{number}_1.wav", emotion, voice)
        write_clip(root / "own" / "rudeness" / f"ann{number}_{emotion}.wav", "disgust", voice, EMOTIONS.index(emotion))
    touch(root / "notes.wav")
    passed_over = [reason for part in parts for reason in part.passed_over]
    n_taken, n_twice = sum(part.n_taken for part in parts), sum(part.n_twice for part in parts)
    return Expected(n_taken + 18, n_twice, (*passed_over, ("of which nobody knows what they are", 1)))


DOWNLOADS = (kaggle_ravdess, kaggle_tess, crema_d, emo_db, savee, mix)


def read(root: Path, expected: Expected) -> tuple[list[LabelledClip], list[str]]:
    """Return the clips of a download, and what is said of its files."""
    reading = read_corpus(root, BUILT_IN_CORPORA)
    assert len(reading.clips) == sum(account.n_taken for account in reading.accounts) == expected.n_taken
    assert sum(account.n_twice for account in reading.accounts) == expected.n_twice
    reasons = sorted(reason for account in reading.accounts for reason in account.passed_over.items())
    assert reasons == sorted(expected.passed_over)
    return reading.clips, list(reading.lines())


@pytest.mark.parametrize("make", DOWNLOADS)
def test_every_file_of_a_download_is_accounted_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], Expected]
) -> None:
    expected = make(tmp_path / "download")
    _, lines = read(tmp_path / "download", expected)
    assert (
        main(["organize", "auto", str(tmp_path / "download"), str(tmp_path / "raw"), "--all-emotions"]) == ExitCode.OK
    )
    organized = capsys.readouterr().out.splitlines()
    assert set(lines) <= set(organized)
    assert organized[-1] == f"{expected.n_taken} copied to {tmp_path / 'raw'}, 0 already there."
    assert all(f"{count} {reason}" in " ".join(lines) for reason, count in expected.passed_over)
    # What was sorted is the same data again.
    again = read_corpus(tmp_path / "raw", BUILT_IN_CORPORA)
    assert len(again.clips) == expected.n_taken


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    "make",
    [make if make is mix else pytest.param(make, marks=pytest.mark.reliability) for make in DOWNLOADS],
)
def test_training_and_scores_are_of_the_same_files(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Expected],
) -> None:
    monkeypatch.chdir(tmp_path)
    clips, lines = read(tmp_path / "download", make(tmp_path / "download"))
    fixed = ["--cache", "cache", "--device", "cpu", "--jobs", "1"]
    assert main(["train", "--data", "download", "--output", "own.safetensors", *TINY, *fixed]) == ExitCode.OK
    lines = [line.replace(str(tmp_path / "download"), "download") for line in lines]
    assert set(lines) <= set(capsys.readouterr().err.splitlines())
    model = checkpoint.load("own.safetensors")
    assert model.labels == tuple(sorted({clip.emotion for clip in clips}))
    assert model.meta["training"]["n_clips"] == len(clips)
    assert model.meta["training"]["n_speakers"] == len({clip.speaker for clip in clips})
    other = str(store_random_model(Path("other.safetensors")))
    assert main(["evaluate", other, "download", "--json", "-", *fixed]) == ExitCode.OK
    told = capsys.readouterr()
    assert set(lines) <= set(told.err.splitlines())
    assert json.loads(told.out)["overall"]["n_clips"] == sum(clip.emotion in EMOTIONS for clip in clips)
    # These speakers were learnt.
    assert main(["evaluate", "own.safetensors", "download", *fixed]) == ExitCode.DATA
