"""``ser-batch predict``: bars for people, JSON lines for programs, a line on standard error for each bad file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from random_model import LABELS, store_random_model

from ser_batch import EmotionPredictor
from ser_batch.cli.bars import bar_lines, n_cells, padded
from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import ExitCode
from ser_batch.plugins import PluginRecipe


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_random_model(tmp_path_factory.mktemp("models") / "random.safetensors", seed=4)


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("calls")
    paths = [folder / "one.wav", folder / "two.flac"]
    soundfile.write(paths[0], synthetic_voice(2.0), 22_050)
    soundfile.write(paths[1], synthetic_voice(6.5, 16_000, f0_hz=240), 16_000)
    return paths


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["predict", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_bars_are_sorted_aligned_and_of_the_probabilities(
    capsys: pytest.CaptureFixture[str], model: Path, calls: list[Path]
) -> None:
    code, out, err = run(capsys, calls[0], "--model", model)
    expected = EmotionPredictor(str(model), "cpu", PluginRecipe()).predict(calls[0])
    head, *bars = out.splitlines()
    assert (code, err) == (ExitCode.OK, "")
    assert head == f"{calls[0]}: {expected.emotion} ({100 * expected.confidence:.1f} %), 2.0 s, 1 window"
    shown = {bar.split()[0]: float(bar.split()[-2]) for bar in bars}
    assert shown == {label: round(100 * share, 1) for label, share in expected.probabilities.items()}
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    assert len({len(bar) for bar in bars}) == 1


def test_json_is_one_object_per_line_and_file(
    capsys: pytest.CaptureFixture[str], model: Path, calls: list[Path]
) -> None:
    code, out, _ = run(capsys, *calls, "--json", "--model", model)
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == ExitCode.OK
    assert [row["path"] for row in rows] == [str(path) for path in calls]
    assert set(rows[0]) == {
        *("path", "emotion", "probabilities", "confidence", "entropy", "margin", "duration_s", "status", "error")
    }
    assert sum(rows[1]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert rows[1]["duration_s"] == pytest.approx(6.5)


def test_windows_are_shown_with_their_times(capsys: pytest.CaptureFixture[str], model: Path, calls: list[Path]) -> None:
    _, out, _ = run(capsys, calls[1], "--windows", "--model", model)
    assert [line.split("  ")[1] for line in out.splitlines()[-3:]] == ["0.0 - 2.8 s", "2.8 - 5.7 s", "5.8 - 6.5 s"]
    _, out, _ = run(capsys, calls[1], "--windows", "--json", "--model", model)
    windows = json.loads(out)["windows"]
    assert [window["start_s"] for window in windows] == pytest.approx([0, 2.76, 5.76], abs=0.02)
    assert all(sum(window["probabilities"].values()) == pytest.approx(1, abs=1e-5) for window in windows)


def test_a_bad_file_costs_a_line_and_exit_code_1_and_the_others_are_shown(
    capsys: pytest.CaptureFixture[str], model: Path, calls: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    code, out, err = run(capsys, bad, calls[0], tmp_path / "none.wav", calls[1], "--model", model)
    assert code == ExitCode.SOME_FILES_FAILED
    assert [line.split(": ")[0] for line in out.splitlines() if not line.startswith(" ") and line] == [
        str(calls[0]),
        str(calls[1]),
    ]
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"Error: {bad}: failed in decode: ")
    assert lines[1] == f"Error: {tmp_path / 'none.wav'}: cannot be read: No such file or directory"


def test_a_bad_file_is_a_json_line_too(capsys: pytest.CaptureFixture[str], model: Path, tmp_path: Path) -> None:
    code, out, _ = run(capsys, tmp_path / "none.wav", "--json", "--model", model)
    row = json.loads(out)
    assert code == ExitCode.SOME_FILES_FAILED
    assert (row["emotion"], row["probabilities"], row["confidence"], row["status"]) == (None, {}, None, "failed")
    assert row["error"] == "cannot be read: No such file or directory"


def test_names_reach_the_terminal_escaped(
    capsys: pytest.CaptureFixture[str], model: Path, calls: list[Path], tmp_path: Path
) -> None:
    good = tmp_path / "red\x1b[31m\n\u202egnp.wav"
    good.write_bytes(calls[0].read_bytes())
    _, out, err = run(capsys, good, tmp_path / "gone\x1b]0;title\x07.wav", "--model", model)
    for character in "\x1b\x07\u202e":
        assert character not in out
        assert character not in err
    assert r"red\x1b[31m\n\u202egnp.wav: " in out.splitlines()[0]
    assert r"gone\x1b]0;title\x07.wav" in err


def test_a_name_that_is_not_utf8_is_shown_and_kept(
    capsys: pytest.CaptureFixture[str], model: Path, calls: list[Path], tmp_path: Path
) -> None:
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.wav")
    try:
        Path(odd).write_bytes(calls[0].read_bytes())
    except OSError:
        pytest.skip("this file system takes no such names")
    code, out, _ = run(capsys, odd, "--model", model)
    assert (code, r"\xff.wav: " in out) == (ExitCode.OK, True)
    _, out, _ = run(capsys, odd, "--json", "--model", model)
    assert json.loads(out)["path"].endswith(r"/\xff.wav")


def test_a_file_that_breaks_midway_is_noted(
    capsys: pytest.CaptureFixture[str], model: Path, calls: list[Path], tmp_path: Path
) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes(calls[0].read_bytes()[:44_000])
    code, out, err = run(capsys, cut, "--model", model)
    assert code == ExitCode.OK
    assert out.startswith(f"{cut}: ")
    assert err.startswith(f"Note: {cut}: partial in decode: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), ExitCode.USAGE, "Missing argument 'FILE...'"),
        (("a.wav", "--device", "tpu"), ExitCode.USAGE, "'tpu' is not one of 'auto', 'cuda', 'mps', 'cpu'"),
        (("a.wav", "--model", "unheard_of"), ExitCode.MODEL, "No model 'unheard_of'"),
        (("a.wav", "--plugin", "gone.py"), ExitCode.PLUGIN, "Plugin file gone.py does not exist"),
    ],
)
def test_a_mistake_is_told_with_its_own_exit_code(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, message: str
) -> None:
    found, out, err = run(capsys, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


def test_a_plugin_can_read_another_format(
    capsys: pytest.CaptureFixture[str], model: Path, calls: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "reader.py").write_text(
        "import ser_batch, ser_batch.audio\n"
        "from dataclasses import replace\n"
        "from pathlib import Path\n"
        "@ser_batch.hookimpl\n"
        "def read_clip(ref, sample_rate_hz, piece_s, overlap_s):\n"
        "    if ref.path.endswith('.link'):\n"
        "        real = replace(ref, path=Path(ref.path).read_text())\n"
        "        return ser_batch.audio.read_clip(real, sample_rate_hz, piece_s, overlap_s)\n"
    )
    link = tmp_path / "one.link"
    link.write_text(str(calls[0]))
    code, out, err = run(capsys, link, "--model", model, "--plugin", tmp_path / "reader.py")
    assert (code, err) == (ExitCode.OK, "")
    _, direct, _ = run(capsys, calls[0], "--model", model)
    assert out.split(": ", 1)[1] == direct.split(": ", 1)[1]


def test_the_real_process_is_plain_in_a_pipe_and_loads_no_torch(model: Path, calls: list[Path]) -> None:
    code = (
        "import sys; from ser_batch.cli.main import main\n"
        f"code = main(['predict', {str(calls[0])!r}, '--model', {str(model)!r}])\n"
        "print([name for name in ('torch', 'librosa', 'pandas', 'pyarrow', 'joblib') if name in sys.modules])\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_terminal_without_blocks_gets_ascii(model: Path, calls: list[Path]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ser_batch", "predict", str(calls[0]), "--model", str(model)],
        capture_output=True,
        encoding="ascii",
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
        timeout=120,
    )
    assert re.search(r"^  \w+ +#+ +\d+\.\d %$", done.stdout, re.MULTILINE)


def test_bars_are_as_long_as_the_probabilities() -> None:
    lines = bar_lines({"a": 0.5, "b": 0.25, "c": 0.0}, columns=100)
    lengths = [line.count("█") for line in lines]
    assert lengths == [20, 10, 0]


@pytest.mark.parametrize("columns", [1, 20, 40, 80, 300])
def test_bars_fit_the_terminal_as_far_as_labels_allow(columns: int) -> None:
    shares = dict(zip(LABELS, np.linspace(1, 0, 6), strict=True))
    width = max(n_cells(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in bar_lines(shares, columns))
    assert width <= max(columns, 2 + 8 + 2 + 4 + 2 + 7)


def test_labels_in_any_script_are_aligned() -> None:
    lines = bar_lines({"怒り": 0.1, "joie": 0.6, "tristesse": 0.2, "pen\u0303a": 0.1}, columns=80)
    plain = [line.replace("\x1b[1m", "").replace("\x1b[0m", "") for line in lines]
    assert len({n_cells(line) for line in plain}) == 1
    assert n_cells("怒り") == 4
    assert n_cells("pen\u0303a") == 4
    assert padded("怒り", 6) == "怒り  "


def test_colour_is_left_out_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert bar_lines({"a": 1.0})[0].startswith("\x1b[1m")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in bar_lines({"a": 1.0})[0]
