"""``ser-batch listen``: windows of 3 s, one each second, of a microphone or of a file in its place."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from random_model import store_random_model

from ser_batch import EmotionPredictor
from ser_batch.cli.listen import sliding_windows
from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import ExitCode
from ser_batch.plugins import PluginRecipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_random_model(tmp_path_factory.mktemp("models") / "random.safetensors", seed=4)


@pytest.fixture(scope="module")
def call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Speech for 5 s, then silence for 3.4 s; stereo, at 16 kHz."""
    path = tmp_path_factory.mktemp("calls") / "call.wav"
    samples = np.concatenate([synthetic_voice(5.0, 16_000), np.zeros(round(3.4 * 16_000), np.float32)])
    soundfile.write(path, np.stack([samples, samples], axis=1), 16_000, subtype="FLOAT")
    return path


class Blocks:
    """A source of given blocks of a ramp, 100 samples per second."""

    sample_rate_hz = 100

    def __init__(self, sizes: list[int], live: bool = False) -> None:
        self.sizes, self.live = sizes, live

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        first = 0
        for size in self.sizes:
            yield np.arange(first, first + size, dtype=np.float32)
            first += size


@pytest.mark.parametrize("sizes", [[650], [10] * 65, [1] * 650, [7, 300, 43, 299, 1]])
def test_windows_of_3_s_begin_every_second_however_audio_comes_in(sizes: list[int]) -> None:
    found = list(sliding_windows(Blocks(sizes)))
    assert [(start_s, end_s) for start_s, end_s, *_ in found] == [(0, 3), (1, 4), (2, 5), (3, 6)]
    for start_s, _, samples, n_missed in found:
        assert np.array_equal(samples, np.arange(300) + 100 * start_s)
        assert n_missed == 0


def test_audio_of_less_than_a_window_is_one_shorter_window() -> None:
    [(start_s, end_s, samples, _)] = sliding_windows(Blocks([120]))
    assert (start_s, end_s, len(samples)) == (0.0, 1.2, 120)
    assert list(sliding_windows(Blocks([]))) == []


def test_listening_ends_after_the_duration_asked_for() -> None:
    endless = Blocks([50] * 10_000)
    assert [start_s for start_s, *_ in sliding_windows(endless, 5.5)] == [0, 1, 2]
    [(_, end_s, _, _)] = sliding_windows(endless, 1.25)
    assert end_s == 1.25


def test_a_live_source_that_is_ahead_loses_old_windows_and_they_are_counted() -> None:
    found = [(start_s, n_missed) for start_s, _, _, n_missed in sliding_windows(Blocks([300, 450, 100], live=True))]
    assert found == [(0, 0), (4, 3), (5, 0)]


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["listen", *map(str, arguments)]) == ExitCode.OK
    return capsys.readouterr().out.splitlines()


def test_a_file_is_heard_through_the_same_path(capsys: pytest.CaptureFixture[str], model: Path, call: Path) -> None:
    rows = [json.loads(row) for row in lines(capsys, "--from-file", call, "--fast", "--json", "--model", model)]
    assert [(row["start_s"], row["end_s"]) for row in rows] == [(n, n + 3) for n in range(6)]
    samples, rate = soundfile.read(call, dtype="float32")
    predictor = EmotionPredictor(str(model), "cpu", PluginRecipe())
    for row in rows[:3]:
        first = round(row["start_s"] * rate)
        expected = predictor.predict_samples(samples[first : first + 3 * rate], rate)
        assert row["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
        assert row["emotion"] == expected.emotion


def test_silence_is_not_given_an_emotion(capsys: pytest.CaptureFixture[str], model: Path, call: Path) -> None:
    rows = [json.loads(row) for row in lines(capsys, "--from-file", call, "--fast", "--json", "--model", model)]
    assert [row["silent"] for row in rows] == [False, False, False, False, False, True]
    assert rows[-1]["emotion"] is None
    last = lines(capsys, "--from-file", call, "--fast", "--model", model)[-1]
    assert last.split() == ["5.0", "-", "8.0", "s", "no", "voice"]


def test_a_log_gets_a_plain_line_per_window(capsys: pytest.CaptureFixture[str], model: Path, call: Path) -> None:
    found = lines(capsys, "--from-file", call, "--fast", "--duration-s", 4.5, "--model", model)
    assert len(found) == 2
    assert all(re.fullmatch(r" +\d\.0 - \d\.0 s  \w+  \d+\.\d %", line) for line in found)


def test_a_terminal_gets_bars_drawn_over_each_other(model: Path, call: Path) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ser_batch", "listen", "--from-file", call, "--fast", "--model", model],
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # what Linux says at the end of a pseudo-terminal
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.stderr is not None
    message = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0, message
    text = shown.decode()
    # Six windows of a head and six bars, the last without bars; each but the first goes up over the one before.
    assert text.count("\x1b[7A") == 5
    assert text.count("\x1b[K") == 5 * 7 + 1
    assert text.endswith("no voice\x1b[K\x1b[J\r\n")


def test_a_file_is_heard_as_fast_as_it_sounds(capsys: pytest.CaptureFixture[str], model: Path, call: Path) -> None:
    begin_s = time.monotonic()
    lines(capsys, "--from-file", call, "--duration-s", 1.5, "--model", model)
    assert time.monotonic() - begin_s >= 1.4


def test_without_sounddevice_the_extra_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    for arguments in (["listen"], ["listen", "--list-devices"]):
        assert main(arguments) == ExitCode.USAGE
        assert 'pip install "ser-batch[listen]"' in capsys.readouterr().err


def test_without_portaudio_the_library_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    assert main(["listen"]) == ExitCode.USAGE
    assert "apt install libportaudio2" in capsys.readouterr().err


def test_a_microphone_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        import sounddevice  # noqa: F401, PLC0415 - an optional extra
    except (ImportError, OSError) as error:
        pytest.skip(f"sounddevice is not usable here: {error}")
    assert main(["listen", "--input", "no microphone has this name"]) == ExitCode.INPUT
    assert "'no microphone has this name' cannot be opened" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--from-file", "gone.wav", "--fast"], ExitCode.INPUT, "gone.wav cannot be heard: "),
        (["--fast"], ExitCode.USAGE, "--fast needs --from-file"),
        (["--duration-s", "0"], ExitCode.USAGE, "0.0 is not in the range x>0"),
    ],
)
def test_a_mistake_costs_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, message: str
) -> None:
    assert main(["listen", *arguments]) == code
    assert message in capsys.readouterr().err
