"""``ser-batch scan`` from the outside: what it does, what it refuses, and how it says so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from random_model import store_random_model

from ser_batch.cli.main import main
from ser_batch.dsp.voice import synthetic_voice


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audio")
    soundfile.write(folder / "short.wav", synthetic_voice(1.5), 22_050)
    soundfile.write(folder / "two_windows.flac", synthetic_voice(4.0, f0_hz=200.0), 22_050)
    (folder / "deep").mkdir()
    soundfile.write(folder / "deep" / "silent.wav", np.zeros(16_000), 16_000)
    (folder / "deep" / "notes.txt").write_text("no audio")
    (folder / "deep" / "text.wav").write_text("no audio either")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return store_random_model(tmp_path_factory.mktemp("model") / "random.safetensors")


@pytest.fixture(scope="module")
def run(audio: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan by the real command line with the real extractors and network (random weights)."""
    run = tmp_path_factory.mktemp("scan") / "run"
    command = [sys.executable, "-m", "ser_batch", "scan", str(audio), "-o", str(run), "--model", str(model)]
    command += ["--device", "cpu", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done.stderr
    assert "4 files found: 2 ok, 1 skipped, 1 failed." in done.stdout
    assert "decode: DecodeError" in done.stdout
    assert "Device: cpu." in done.stderr
    return run


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Run a command that is to fail: one clear message, no traceback."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.err


def test_every_file_found_is_a_row_and_probabilities_add_up(run):
    files = pd.read_parquet(run / "files")
    assert list(files["clip_id"]) == ["deep/silent.wav", "deep/text.wav", "short.wav", "two_windows.flac"]
    assert list(files["status"]) == ["skipped", "failed", "ok", "ok"]
    assert list(files.loc[0, ["stage", "error_type", "error_message"]]) == ["predict", "NoVoice", "no voice"]
    probabilities = files.filter(regex="^p_")
    assert probabilities.shape[1] == 6
    np.testing.assert_allclose(probabilities[files["status"] == "ok"].sum(axis=1), 1, atol=1e-5)
    assert probabilities[files["status"] != "ok"].isna().all(axis=None)
    assert list(files["n_windows"]) == [0, 0, 1, 2]
    assert files.loc[1, "error_message"]
    assert len(pd.read_parquet(run / "windows")) == 3


def test_the_run_says_what_it_is_made_of(run, audio, model):
    manifest = json.loads((run / "run.json").read_text())
    assert manifest["state"] == "complete"
    assert manifest["root"] == str(audio)
    assert manifest["model"]["sha256"] and len(manifest["labels"]) == 6
    assert manifest["device"]["chosen"] == "cpu"
    counts = manifest["counts"]
    assert (counts["found"], counts["ok"], counts["failed"], counts["unmatched"]) == (4, 2, 1, 1)
    assert {plugin["name"] for plugin in manifest["plugins"]} >= {"ser_batch.audio", "ser_batch.mel"}


def test_a_finished_scan_again_loads_no_runtime_and_computes_nothing(run, audio, model):
    code = (
        "import sys; from ser_batch.cli.main import main; "
        f"code = main(['scan', {str(audio)!r}, '-o', {str(run)!r}, '--model', {str(model)!r}]); "
        "heavy = sorted({'torch', 'onnx', 'onnxruntime', 'numba', 'joblib', 'librosa', 'pandas'} & set(sys.modules)); "
        "print(code, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "Nothing new: 4 files found" in done.stdout
    assert done.stdout.splitlines()[-1] == "1 []"


def test_a_scan_of_few_files_loads_no_pandas_and_no_runtime(audio, model, tmp_path):
    """That would take longer than the files."""
    command = ["scan", str(audio / "two_windows.flac"), "-o", str(tmp_path), "--model", str(model), "--no-report"]
    code = (
        f"import sys; from ser_batch.cli.main import main; main({command!r}); "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'numba', 'librosa', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_one_short_file_gives_the_numbers_of_the_predictor(run, audio, model):
    from ser_batch import EmotionPredictor  # noqa: PLC0415

    files = pd.read_parquet(run / "files").set_index("clip_id")
    emotion, probabilities = EmotionPredictor(str(model), device="cpu").predict(audio / "two_windows.flac")
    row = files.loc["two_windows.flac"]
    assert emotion == row["emotion"]
    for label, probability in probabilities.items():
        assert row[f"p_{label}"] == pytest.approx(probability, abs=1e-6)


def test_a_scan_among_some_labels_has_their_columns_alone_and_is_another_run(audio, model, run, tmp_path, capsys):
    arguments = ["scan", str(audio), "--model", str(model), "--device", "cpu", "--jobs", "1", "--labels", "joy, anger"]
    assert main([*arguments, "-o", str(tmp_path / "run"), "--no-report"]) == 1
    capsys.readouterr()
    files = pd.read_parquet(tmp_path / "run/files")
    assert list(files.filter(regex="^p_")) == ["p_anger", "p_joy"]
    ok = files[files["status"] == "ok"]
    np.testing.assert_allclose(ok["p_anger"] + ok["p_joy"], 1, atol=1e-5)
    assert set(ok["emotion"].astype(str)) <= {"anger", "joy"}
    assert json.loads((tmp_path / "run/run.json").read_text())["labels"] == ["anger", "joy"]
    assert main(["verify", str(tmp_path / "run")]) == 0
    code, told = refused(capsys, *arguments, "-o", run)
    assert code == 7
    assert "labels: [" in told


def test_status_verify_and_diff_agree_that_it_is_sound(run, capsys):
    assert main(["verify", str(run)]) == 0
    assert "is whole and sound" in capsys.readouterr().out
    assert main(["status", str(run)]) == 1
    shown = capsys.readouterr().out
    assert "is complete" in shown and "4 files found: 2 ok, 1 skipped, 1 failed." in shown and "0 left" in shown
    assert main(["diff", str(run), str(run)]) == 0
    assert "No difference in 4 files" in capsys.readouterr().out


def test_verify_finds_what_is_wrong(run, tmp_path, capsys):
    import shutil  # noqa: PLC0415

    broken = shutil.copytree(run, tmp_path / "broken")
    part = broken / "files" / "part-00000.parquet"
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    (broken / "windows" / "part-00009.parquet").write_bytes(b"stray")
    assert main(["verify", str(broken)]) == 7
    shown = capsys.readouterr().out
    assert "files/part-00000.parquet is not what was written (checksum)" in shown
    assert "windows/part-00009.parquet belongs to no commit" in shown


def test_diff_says_which_labels_changed_and_by_how_much(run, tmp_path, capsys):
    import shutil  # noqa: PLC0415

    other = shutil.copytree(run, tmp_path / "other")
    part = other / "files" / "part-00000.parquet"
    files = pd.read_parquet(part)
    before = files.loc[2, "emotion"]
    labels = [name.removeprefix("p_") for name in files.columns if name.startswith("p_")]
    after = next(label for label in labels if label != before)
    files["emotion"] = files["emotion"].astype(object)
    files.loc[2, "emotion"] = after
    files.loc[2, f"p_{after}"] += 0.5
    kept = files[files["clip_id"] != "deep/silent.wav"]
    pq.write_table(pa.Table.from_pandas(kept, pq.read_schema(part), preserve_index=False), part)
    journal = other / "journal.jsonl"
    [commit] = journal.read_text().splitlines()
    # As if written by hand: without the checksum by which a footer is known.
    values = {key: value for key, value in json.loads(commit).items() if key != "files_footer_crc32"}
    journal.write_text(f"{json.dumps(values)}\n")
    assert main(["diff", str(run), str(other)]) == 1
    shown = capsys.readouterr().out
    assert "Only in RUN_A: 1 files" in shown and "deep/silent.wav" in shown
    assert f"{before} -> {after}  short.wav" in shown and "0.500" in shown


def test_an_extra_extractor_adds_its_columns(audio, tmp_path):
    plugin = tmp_path / "my_extractor.py"
    plugin.write_text(
        """
import numpy as np
import ser_batch


class Crest:
    spec = ser_batch.FeatureSpec("crest", 1, (("factor", "db"),))

    def extract(self, clip, windows_s):
        rows = [[self.crest(clip.window(*window))] for window in windows_s]
        return ser_batch.FeatureBlock("crest", np.array(rows, np.float32), np.float32([self.crest(clip.samples)]))

    def crest(self, samples):
        return 20 * np.log10(np.abs(samples).max() / samples.std()) if samples.any() else np.nan


@ser_batch.hookimpl
def register_extractors(config):
    return [Crest()]
"""
    )
    arguments = ["features", str(audio / "short.wav"), "-o", str(tmp_path / "run"), "--plugin", str(plugin)]
    assert main([*arguments, "--extractor", "crest", "--no-report", "--quiet", "--jobs", "1"]) == 0
    assert pd.read_parquet(tmp_path / "run" / "windows")["crest__factor_db"].notna().all()
    assert not [name for name in pd.read_parquet(tmp_path / "run" / "files").columns if name.startswith("p_")]


@pytest.mark.parametrize("name", ["empty", "other"])
def test_nothing_to_analyse_says_where_and_what_was_looked_for(tmp_path, capsys, name):
    (tmp_path / name).mkdir()
    if name == "other":
        (tmp_path / name / "song.mid").write_bytes(b"")
    code, message = refused(capsys, "features", tmp_path / name, "-o", tmp_path / "run")
    assert code == 4
    assert f"No audio files found in {tmp_path / name}" in message and ".wav" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{audio}/missing", "-o", "{tmp}/run"], 3, "does not exist"),
        (["{audio}", "-o", "{tmp}/file"], 7, "is a file"),
        (["{audio}", "-o", "{tmp}/folder"], 7, "is not a run of ser-batch"),
        (["-o", "{tmp}/run"], 2, "Give either"),
        (["{audio}", "--files-from", "{tmp}/list", "-o", "{tmp}/run"], 2, "Give either"),
        (["--files-from", "{tmp}/nolist", "-o", "{tmp}/run"], 3, "cannot be read"),
        (["{audio}", "-o", "{tmp}/run", "--jobs", "-1"], 2, "'--jobs': -1"),
        (["{audio}", "-o", "{tmp}/run", "--jobs", "many"], 2, "--jobs"),
        (["{audio}", "-o", "{tmp}/run", "--timeout-s", "-3"], 2, "'--timeout-s': -3.0"),
        (["{audio}", "-o", "{tmp}/run", "--config", "nowhere"], 2, "No configuration 'nowhere'"),
        (["{audio}", "-o", "{tmp}/run", "--config", "{tmp}/bad.toml"], 2, "Did you mean 'window_s'"),
        (["{audio}", "-o", "{tmp}/run", "--plugin", "{tmp}/gone.py"], 5, "does not exist"),
        (["{audio}", "-o", "{tmp}/run", "--plugin", "{tmp}/broken.py"], 5, "ZeroDivisionError"),
        (["{audio}", "-o", "{tmp}/run", "--extractor", "pitchy"], 5, "No plugin offers an extractor 'pitchy'"),
        (["{audio}", "-o", "{tmp}/run", "--restart", "--recompute", "changed"], 2, "exclude each other"),
        (["{audio}", "-o", "{tmp}/run", "--metadata", "{tmp}/gone.csv"], 3, "cannot be read"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else None,
)
def test_what_is_wrong_is_said_in_one_clear_message(audio, tmp_path, capsys, arguments, code, words):
    (tmp_path / "file").write_text("a letter")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("years of work")
    (tmp_path / "list").write_text("a.wav")
    (tmp_path / "bad.toml").write_text("[audio]\nwindow = 2\n")
    (tmp_path / "broken.py").write_text("1 / 0")
    places = {"audio": audio, "tmp": tmp_path}
    # What would be ready for the scan is not started.
    few = ("--jobs", "1", "--no-report")
    found, message = refused(capsys, "features", *few, *(argument.format(**places) for argument in arguments))
    assert words in message
    assert found == code
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "years of work"


def test_what_a_plugin_says_is_escaped_on_its_way_to_the_terminal(audio, tmp_path, capsys):
    (tmp_path / "loud.py").write_text("raise RuntimeError('\\x1b[2J gone')")
    code, message = refused(capsys, "features", audio, "-o", tmp_path / "run", "--plugin", tmp_path / "loud.py")
    assert code == 5 and r"\x1b[2J gone" in message and "\x1b" not in message


def test_an_unknown_model_is_named(audio, tmp_path, capsys):
    code, message = refused(capsys, "scan", audio, "-o", tmp_path / "run", "--model", "nosuch", "--no-report")
    assert code == 6 and "No model 'nosuch'" in message


def test_settings_of_another_run_are_refused_with_the_cures_and_new_run_keeps_both(audio, run, model, tmp_path, capsys):
    (tmp_path / "short.toml").write_text("[audio]\nwindow_hop_s = 0.5\n")
    arguments = ["scan", audio, "-o", run, "--model", model, "--config", tmp_path / "short.toml"]
    code, message = refused(capsys, *arguments)
    assert code == 7 and "audio.window_hop_s: 3.0 -> 0.5" in message and "--new-run" in message
    arguments = [str(argument) for argument in (*arguments, "--no-report", "--jobs", "1")]
    assert main([*arguments, "--new-run", str(tmp_path / "new"), "--quiet"]) == 1
    assert len(pd.read_parquet(tmp_path / "new" / "windows")) == 3
    code, message = refused(capsys, *arguments, "--new-run", tmp_path / "new")
    assert code == 2 and "there is a run already" in message


def test_files_without_permission_and_lists_with_missing_files_become_rows(audio, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"{audio}/short.wav\n{audio}/gone.wav\n{audio}/locked.wav\n")
    locked = audio / "locked.wav"
    locked.write_bytes((audio / "short.wav").read_bytes())
    locked.chmod(0)
    try:
        arguments = ["features", "--files-from", str(listed), "-o", str(tmp_path / "run"), "--jobs", "1", "--quiet"]
        assert main([*arguments, "--no-report"]) == 1
    finally:
        locked.unlink()
    files = pd.read_parquet(tmp_path / "run" / "files").set_index("clip_id")
    assert files.loc["gone.wav", "error_type"] == "FileNotFoundError"
    if os.geteuid() != 0:
        assert files.loc["locked.wav", "error_type"] == "PermissionError"
    assert files.loc["short.wav", "status"] == "ok"


def test_bench_prints_speeds_and_the_time_of_each_stage(audio, capsys):
    assert main(["bench", str(audio), "--no-model", "--files", "4", "--jobs", "1"]) == 0
    shown = capsys.readouterr().out
    assert "files per second" in shown and "hours of audio per hour" in shown
    assert all(stage in shown for stage in ("decode", "extract", "predict"))
    assert "1 files failed: decode: DecodeError" in shown


def test_retry_takes_settings_and_inputs_from_the_run_wherever_it_is_called(model, tmp_path, monkeypatch):
    folder = tmp_path / "audio"
    monkeypatch.chdir(model.parent)
    folder.mkdir()
    (folder / "a.wav").write_text("not yet")
    run = tmp_path / "run"
    (tmp_path / "half.toml").write_text("[audio]\nwindow_hop_s = 1.5\n")
    arguments = ["scan", str(folder), "-o", str(run), "--config", str(tmp_path / "half.toml"), "--model", model.name]
    assert main([*arguments, "--device", "cpu", "--jobs", "1", "--quiet", "--no-report"]) == 1
    monkeypatch.chdir(tmp_path)
    soundfile.write(folder / "a.wav", synthetic_voice(4.0), 22_050)
    assert main(["retry", str(run), "--jobs", "1", "--quiet"]) == 0
    assert len(pd.read_parquet(run / "windows")) == 2
    assert json.loads((run / "run.json").read_text())["config"]["audio"]["window_hop_s"] == 1.5


def test_a_table_about_the_files_is_joined_to_the_results(audio, tmp_path):
    from ser_batch import load_results  # noqa: PLC0415

    table = tmp_path / "speakers.csv"
    table.write_text("clip_id,speaker\nshort.wav,Ada\n")
    arguments = ["features", str(audio / "short.wav"), "-o", str(tmp_path / "run"), "--metadata", str(table)]
    assert main([*arguments, "--jobs", "1", "--quiet", "--no-report"]) == 0
    table.unlink()
    assert list(load_results(tmp_path / "run")["speaker"]) == ["Ada"]


def test_an_excel_table_is_joined_and_what_matches_is_said(audio, tmp_path, capsys):
    from ser_batch import load_results  # noqa: PLC0415

    table = tmp_path / "über.csv"
    table.write_bytes("Datei;Sprecher;Größe\r\n.\\SHORT;007;1,5\r\ngone.wav;008;2\r\n".encode("cp1252"))
    arguments = ["features", str(audio / "short.wav"), "-o", str(tmp_path / "run"), "--metadata", str(table)]
    assert main([*arguments, "--dry-run"]) == 0
    assert "1 of 2 rows match, 0 files have no row. Line 3 names 'gone.wav'" in capsys.readouterr().out
    assert main([*arguments, "--jobs", "1", "--no-report"]) == 0
    assert "1 of 2 rows match" in capsys.readouterr().err
    row = load_results(tmp_path / "run").iloc[0]
    assert (row["Sprecher"], row["Größe"]) == ("007", 1.5)
    assert main(["show", str(tmp_path / "run")]) == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is empty"),
        ("clip_id,speaker\n", "has a header and no rows"),
        ("clip_id;speaker\nshort.wav;ann;x\n", "line 2: 3 cells below a header of 2"),
        ("clip_id,speaker,speaker\nshort.wav,a,b\n", "two columns 'speaker'"),
        ("clip_id,speaker\nother.wav,ann\n", "none of its 1 rows names a file"),
        ("clip_id,speaker\nshort.wav,ann\n./short.wav,bob\n", "lines 2 and 3 are about the same file"),
    ],
)
def test_a_bad_table_is_refused_before_the_scan_begins(audio, tmp_path, capsys, content, words):
    table = tmp_path / "about.csv"
    table.write_text(content)
    for mode in ([], ["--dry-run"]):
        arguments = ["features", str(audio / "short.wav"), "-o", str(tmp_path / "run"), "--metadata", str(table)]
        assert main([*arguments, *mode, "--no-report"]) == 8
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"Error: Table {table}") and words in line
        assert not (tmp_path / "run").exists()
