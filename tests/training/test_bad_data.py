"""Data that cannot be learnt from: ``ser-batch train`` says what is wrong, where, and what to do, in one line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from labelled_clips import LABELS, write_clip, write_folder

from ser_batch.cli.main import main
from ser_batch.errors import ExitCode

pytestmark = pytest.mark.usefixtures("no_pictures")

#: One epoch, no copies: what must be trained at all is trained in seconds.
TINY = """
[data]
labels = ["anger", "fear"]
validation_share = 0.3
test_share = 0.0

[augment]
copies = 0

[fit]
epochs = 1
crop_frames = 32
batch_size = 4
refit = false
"""


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny.toml").write_text(TINY)


def train(*arguments: str) -> int:
    return main(
        ["train", "--device", "cpu", "--jobs", "1", "--cache", "cache", "--output", "own.safetensors", *arguments]
    )


def names_only(folder: Path, n_speakers: int = 3) -> Path:
    """All six labels, as files that no decoder is ever asked about."""
    for label in LABELS:
        for speaker in range(1, n_speakers + 1):
            path = folder / label / f"s{speaker}_1.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{label} {speaker}".encode())
    return folder


def an_empty_class() -> None:
    names_only(Path("raw"))
    shutil.rmtree("raw/fear")
    Path("raw/fear").mkdir()


def a_missing_class() -> None:
    names_only(Path("raw"))
    shutil.rmtree("raw/surprise")


def a_single_class() -> None:
    names_only(Path("raw"))
    for label in LABELS[1:]:
        shutil.rmtree(f"raw/{label}")


def one_speaker() -> None:
    names_only(Path("raw"), n_speakers=1)


def a_class_of_one_speaker() -> None:
    """Whoever is held out, some speaker is the only one of a class."""
    for number, label in enumerate(LABELS):
        for take in (1, 2):
            path = Path("raw", label, f"s{number % 2}_{take}.wav")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{label} {take}".encode())


def an_unknown_class() -> None:
    names_only(Path("raw"))
    Path("raw/anger").rename("raw/agner")


def the_same_audio_as_two_emotions() -> None:
    names_only(Path("raw"))
    shutil.copy("raw/anger/s1_1.wav", "raw/fear/s1_2.wav")


def nothing_but_bad_audio() -> None:
    names_only(Path("raw"))


def labels_without_a_column() -> None:
    Path("raw").mkdir()
    Path("raw/a.wav").touch()
    Path("raw/labels.csv").write_text("file,emotion\na.wav,anger\n")


def labels_of_a_missing_file() -> None:
    labels_without_a_column()
    Path("raw/labels.csv").write_text("file,emotion,speaker\nb.wav,anger,1\n")


def speakers_without_a_column() -> None:
    names_only(Path("raw"))
    Path("raw/speakers.csv").write_text("file,who\nanger/s1_1.wav,1\n")


def no_audio() -> None:
    Path("raw/anger").mkdir(parents=True)


def a_file_in_place_of_a_folder() -> None:
    Path("raw").touch()


def nothing() -> None:
    pass


def a_config(text: str) -> Callable[[], None]:
    def prepare() -> None:
        names_only(Path("raw"))
        Path("own.toml").write_text(text)

    return prepare


def names_only_there() -> None:
    names_only(Path("raw"))


def a_file_in_the_way() -> None:
    names_only(Path("raw"))
    Path("file").touch()
    Path("raw.safetensors").mkdir()


OWN = ("--data", "raw", "--config", "own.toml")

#: Taken without a word, or a traceback in mid-training, before each had a range.
OUT_OF_RANGE = (
    "fit.band_masks=-1",
    "fit.frame_masks=-1",
    "fit.band_mask_bands=129",
    "fit.frame_mask_frames=-2",
    "fit.mixup=-1.0",
    "fit.warmup_epochs=-5.0",
    "fit.weight_decay=-1.0",
    "fit.auxiliary_weight=-0.1",
    "fit.adversary_weight=-0.1",
    "augment.seed=-1",
    "augment.pitch_st=-1.0",
    "augment.shift_max_s=-0.5",
    "augment.reverberation_min_s=0.0",
    "augment.reverberation_min_s=0.9",
    "augment.lowpass_min_hz=9500.0",
)


@pytest.mark.parametrize(
    ("prepare", "arguments", "code", "words"),
    [
        (an_empty_class, ("--data", "raw"), ExitCode.DATA, ("raw/fear", "holds no audio", "remove the empty folder")),
        (
            a_missing_class,
            ("--data", "raw", "--labels", "anger,surprise"),
            ExitCode.DATA,
            ("No clip of 'surprise'", "anger (3)", "--labels LABEL,LABEL"),
        ),
        (a_single_class, ("--data", "raw"), ExitCode.DATA, ("only one label (anger)", "Add clips of another")),
        (one_speaker, ("--data", "raw"), ExitCode.DATA, ("Only one speaker (raw-s1)", "6 clips", "speakers.csv")),
        (a_class_of_one_speaker, ("--data", "raw"), ExitCode.DATA, ("Too few speakers", "Add speakers")),
        (an_unknown_class, ("--data", "raw"), ExitCode.DATA, ("raw/agner", "Did you mean 'anger'", "Rename")),
        (the_same_audio_as_two_emotions, ("--data", "raw"), ExitCode.DATA, ("s1_1.wav", "s1_2.wav", "very same audio")),
        (nothing_but_bad_audio, ("--data", "raw"), ExitCode.DATA, ("None of the 18 clips can be read",)),
        (
            labels_without_a_column,
            ("--data", "raw"),
            ExitCode.DATA,
            ("labels.csv", "no column 'speaker'", "file, emotion"),
        ),
        (labels_of_a_missing_file, ("--data", "raw"), ExitCode.DATA, ("labels.csv", "'b.wav'", "none of its 1 rows")),
        (speakers_without_a_column, ("--data", "raw"), ExitCode.DATA, ("speakers.csv", "no column 'speaker'")),
        (no_audio, ("--data", "raw"), ExitCode.DATA, ("raw holds no audio files",)),
        (a_file_in_place_of_a_folder, ("--data", "raw"), ExitCode.INPUT, ("raw",)),
        (nothing, ("--data", "raw"), ExitCode.INPUT, ("raw does not exist",)),
        (nothing, (), ExitCode.USAGE, ("give a folder", "--corpus NAME=PATH")),
        (nothing, ("--corpus", "ravdess"), ExitCode.USAGE, ("'ravdess'", "NAME=PATH")),
        (one_speaker, ("--corpus", "ravdes=raw"), ExitCode.DATA, ("'ravdes'", "Did you mean 'ravdess'")),
        (one_speaker, ("--data", "raw", "--config", "fast"), ExitCode.USAGE, ("'fast'", "quick")),
        (a_config('[data]\nlabels = ["anger", "haste"]'), OWN, ExitCode.DATA, ("'haste'", "Found: anger (3)")),
        (a_config('[data]\nlabels = ["anger"]'), OWN, ExitCode.USAGE, ("data.labels", "two labels")),
        (a_config("[fit]\nepoch = 3"), OWN, ExitCode.USAGE, ("own.toml", "'fit.epoch'", "Did you mean 'epochs'")),
        (a_config('[fit]\nepochs = "many"'), OWN, ExitCode.USAGE, ("own.toml", "'fit.epochs'", "int")),
        (a_config("[augment]\nspeed = 0.7"), OWN, ExitCode.USAGE, ("augment.speed", "below 0.5")),
        (one_speaker, ("--data", "raw", "--set", "fit.epoch=3"), ExitCode.USAGE, ("--set fit.epoch=3", "'epochs'")),
        (one_speaker, ("--data", "raw", "--set", "epochs=3"), ExitCode.USAGE, ("--set", "SECTION.KEY=VALUE")),
        (one_speaker, ("--data", "raw", "--set", "fit.branches=both"), ExitCode.USAGE, ("fit.branches", "hybrid")),
        (a_config("[fit\n"), OWN, ExitCode.USAGE, ("own.toml", "not valid TOML")),
        *(
            (one_speaker, ("--data", "raw", "--set", item), ExitCode.USAGE, (item.split("=")[0],))
            for item in OUT_OF_RANGE
        ),
        (names_only_there, ("--data", "raw", "--output", "mine"), ExitCode.USAGE, ("--output mine", ".safetensors")),
        (names_only_there, ("--data", "raw", "--also", "a/b=anger,fear"), ExitCode.USAGE, ("--also a/b", "not a path")),
        (names_only_there, ("--data", "raw", "--also", "own=anger,fear"), ExitCode.USAGE, ("--also own", "another")),
        (names_only_there, ("--data", "raw", "--also", "anger"), ExitCode.USAGE, ("--also 'anger'", "NAME=LABEL")),
        *(
            (
                a_file_in_the_way,
                ("--data", "raw", option, f"file{rest}"),
                ExitCode.RUN,
                (option, "file", "cannot be written"),
            )
            for option, rest in (("--cache", ""), ("--report", "/below"), ("--output", "/own.safetensors"))
        ),
        (
            a_file_in_the_way,
            ("--data", "raw", "--output", "raw.safetensors"),
            ExitCode.RUN,
            ("--output", "is a folder"),
        ),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_what_is_wrong_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[], None],
    arguments: tuple[str, ...],
    code: ExitCode,
    words: tuple[str, ...],
) -> None:
    prepare()
    assert train(*arguments) == code
    *said, message = capsys.readouterr().err.splitlines()
    assert all(
        re.match(r"Device: |\d+ clips|Left out: |Workers are still |[\w-]+, .+ files found = ", line) for line in said
    ), said
    assert message.startswith("Error: ")
    assert all(word in message for word in words), message
    assert not Path("own.safetensors").exists()
    # All of it was known before anything was computed.
    assert prepare is nothing_but_bad_audio or not list(Path().glob("cache/*.npz"))


def test_unknown_speakers_are_a_loud_warning(capsys: pytest.CaptureFixture[str]) -> None:
    for label in LABELS:
        for take in range(6):
            path = Path("raw", label, f"{take}.wav")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{label} {take}".encode())
    assert train("--data", "raw") == ExitCode.DATA
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("WARNING")]
    assert "the speaker of 36 clips is unknown" in warning
    assert "cannot keep speakers apart" in warning
    assert "speakers.csv" in warning


def test_corrupt_audio_among_good_is_named_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("raw"), ("anger", "fear"))
    good = write_clip(Path("good.flac"), take=7).read_bytes()
    bad = {
        "anger/s1_text.wav": b"this is no audio",
        "anger/s2_empty.wav": b"",
        "fear/s2_empty.wav": b"",
        "fear/s3_cut.flac": good[: len(good) // 2],
    }
    for name, content in bad.items():
        Path("raw", name).write_bytes(content)
    assert train("--data", "raw", "--config", "tiny.toml") == ExitCode.OK
    captured = capsys.readouterr()
    left_out = dict(
        line.removeprefix("Left out: ").split(": ", 1)
        for line in captured.err.splitlines()
        if line.startswith("Left out: ")
    )
    assert set(left_out) == {f"raw/{name}" for name in bad}
    assert all(left_out.values())
    assert "4 of 16 clips cannot be read and are left out." in captured.err
    report = json.loads(Path("reports/train-own/training.json").read_text())
    assert sum(report["n_clips"].values()) == 12
    assert Path("own.safetensors").is_file()


def test_a_batch_is_no_larger_than_the_clips_that_are_learnt_from(capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(Path("raw"), ("anger", "fear"))
    assert train("--data", "raw", "--config", "tiny.toml", "--set", "fit.batch_size=500") == ExitCode.OK
    said = capsys.readouterr().err
    assert "fit.batch_size is 500, but only 8 clips are learnt from: steps are of 8 windows." in said
