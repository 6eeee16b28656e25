"""R4: a file or a plugin that crashes, hangs or eats memory costs that file alone, and its row says what happened."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from harness import CONFIG, LONG, PLUGIN, assert_same, assert_sound, results

from ser_batch.cli.main import main

LIMITS = CONFIG | {"extract": CONFIG["extract"] | {"timeout_s": 2.5, "memory_limit_mb": 500}}

#: Part of a file's name that tells the plugin what to do -> error_type, and what error_message holds.
FAULTS = {
    "segfault": (
        "WorkerKilled",
        "worker killed by signal 11 (Segmentation fault) in extract, at ctypes/__init__.py:",
        "called at reliability/faulty_plugin.py:",
    ),
    "exit": ("WorkerKilled", "worker exited with code 3 in extract"),
    "loop": ("WorkerTimedOut", "timed out after 2.5 s in extract"),
    "allocate": ("WorkerOutOfMemory", "exceeded 500 MB in extract"),
    "base": ("PluginError", "SystemExit: a plugin wants out"),
    "interrupt": ("PluginError", "KeyboardInterrupt: KeyboardInterrupt"),
    "raise": ("PluginError", "ValueError: no \x1b[31mway\x1b[0m"),
    "unspeakable": ("PluginError", "Unspeakable: Unspeakable"),
}


def with_faults(corpus: Path, folder: Path, faults: list[str]) -> Path:
    shutil.copytree(corpus, folder)
    for index, fault in enumerate(faults):
        shutil.copy(corpus / "speaker0" / "take000.wav", folder / f"speaker{index % 3}" / f"{fault}.wav")
    return folder


def check(run: Path, reference: Path, faults: list[str]) -> None:
    files = results(run).set_index("clip_id")
    hurt = files[[any(fault in clip_id for fault in faults) for clip_id in files.index]]
    assert len(hurt) == len(faults)
    for clip_id, row in hurt.iterrows():
        error_type, *parts = FAULTS[Path(clip_id).stem]
        assert (row.status, row.stage, row.error_type) == ("failed", "extract", error_type), row.error_message
        assert all(part in row.error_message for part in parts), row.error_message
    others = files.drop(hurt.index).reset_index()
    pd.testing.assert_frame_equal(others, results(reference))
    assert_sound(run)


def test_every_kind_of_fault_costs_its_own_file_alone(scanner, corpus, reference, tmp_path):
    faults = list(FAULTS)
    run = tmp_path / "run"
    answer = scanner.scan(with_faults(corpus, tmp_path / "audio", faults), run, config=LIMITS)
    assert answer["code"] == 1, answer
    check(run, reference, faults)


def test_a_fault_in_a_segment_costs_its_file_or_its_segments_and_no_other(scanner, corpus, reference, tmp_path):
    audio, run = tmp_path / "audio", tmp_path / "run"
    shutil.copytree(corpus, audio)
    for name in ("spoken_segfault", "spoken_raise"):
        for suffix in (".wav", ".rttm"):
            shutil.copy(corpus / f"speaker0/take000{suffix}", audio / f"{name}{suffix}")
    answer = scanner.scan(audio, run, config=LIMITS)
    assert answer["code"] == 1, answer
    files = results(run).set_index("clip_id")
    killed, raised = files.loc["spoken_segfault.wav"], files.loc["spoken_raise.wav"]
    assert (killed.status, killed.error_type) == ("failed", "WorkerKilled")
    assert "in extract" in killed.error_message
    assert (raised.status, raised.n_segments) == ("ok", 0)
    assert raised.error_message.startswith("no segments: ") and "no \x1b[31mway" in raised.error_message
    assert raised.emotion == files.emotion["speaker0/take000.wav"]
    pd.testing.assert_frame_equal(files.drop([killed.name, raised.name]).reset_index(), results(reference))
    pd.testing.assert_frame_equal(results(run, "segments"), results(reference, "segments"))
    assert_sound(run)


@pytest.mark.reliability
@pytest.mark.parametrize("fault", FAULTS)
def test_long_one_worker_survives_each_fault_too(scanner, corpus, reference, tmp_path, fault):
    run = tmp_path / "run"
    config = LIMITS | {"extract": LIMITS["extract"] | {"jobs": 1}}
    answer = scanner.scan(with_faults(corpus, tmp_path / "audio", [fault]), run, config=config)
    assert answer["code"] == 1, answer
    check(run, reference, [fault])


def test_a_plugin_that_the_workers_cannot_load_ends_the_scan_with_its_name(scanner, corpus, tmp_path):
    plugin = tmp_path / "not_in_workers.py"
    plugin.write_text(
        "import os\n"
        "if os.environ.get('OMP_NUM_THREADS') == '1':  # as workers have it\n"
        "    raise ImportError('no licence here')\n"
    )
    answer = scanner.scan(corpus, tmp_path / "run", plugins=[str(PLUGIN), str(plugin)])
    assert answer["code"] == 5, answer
    assert "not_in_workers.py" in answer["error"] and "no licence here" in answer["error"]


#: What a plugin may do otherwise in a worker -> what the scan says.
OTHERWISE = {
    "Loudness.spec = ser_batch.FeatureSpec('loudness', 2, Loudness.spec.scalars)": "extractor loudness: 1 -> 2",
    "Loudness.spec = ser_batch.FeatureSpec('loudness', 1, (('peak', ''), ('rms', '')))": "columns of loudness",
    "Guess.sha256 = '1' * 64": "model weights: 000000000000… -> 111111111111…",
    "Guess.labels = ('angry', 'calm')": 'labels: ["calm", "angry"] -> ["angry", "calm"]',
    "READER_VERSION = 8": "reader faulty.py: 7 -> 8",
}


@pytest.mark.parametrize(
    "change", [pytest.param(change, marks=LONG if "Loudness" in change else ()) for change in OTHERWISE]
)
def test_a_worker_that_is_made_of_something_else_is_refused(scanner, corpus, tmp_path, change):
    plugin = tmp_path / "faulty.py"
    in_workers = "if os.environ.get('OMP_NUM_THREADS') == '1':"
    plugin.write_text(f"{PLUGIN.read_text()}\nREADER_VERSION = 7\n{in_workers}\n    {change}\n")
    answer = scanner.scan(corpus, tmp_path / "run", plugins=[str(plugin)])
    assert answer["code"] == 5, answer
    assert OTHERWISE[change] in answer["error"]
    assert not list((tmp_path / "run" / "files").glob("*.parquet"))


#: What a model may do with all files -> what the scan says.
USELESS = {
    "predict = lambda self, blocks: (np.full((2, 2), np.nan), np.ones(2))": "predict: probabilities must be finite",
    "pool = lambda self, *_: 'angry'": "pool must return a Prediction, not str",
}


@pytest.mark.parametrize("method", USELESS)
def test_a_model_that_labels_nothing_is_refused_before_it_fails_every_file(scanner, corpus, tmp_path, method):
    plugin = tmp_path / "faulty.py"
    plugin.write_text(f"{PLUGIN.read_text()}\nGuess.{method}\n")
    answer = scanner.scan(corpus, tmp_path / "run", plugins=[str(plugin)])
    assert answer["code"] == 5, answer
    assert "'faulty.py': model 'guess'" in answer["error"] and USELESS[method] in answer["error"]


#: Hook -> exit code of a scan whose plugin calls sys.exit(0) in it, and what it says.
WAYS_OUT = {
    "": (5, "'leaver.py' could not be loaded: SystemExit: 0"),
    "register_extractors": (5, "'leaver.py' failed in register_extractors: SystemExit: 0"),
    "load_classifier": (5, "'leaver.py' failed in load_classifier: SystemExit: 0"),
    "validate_config": (5, "'leaver.py' failed in validate_config: SystemExit: 0"),
    "read_clip": (1, "'leaver.py' failed in read_clip: SystemExit: 0"),
    "clip_finished": (1, ""),
}


@pytest.mark.parametrize("hook", WAYS_OUT)
def test_a_plugin_cannot_end_a_scan_as_if_all_were_well(scanner, corpus, reference, tmp_path, hook):
    code, said = WAYS_OUT[hook]
    plugin, run = tmp_path / "leaver.py", tmp_path / "run"
    body = f"@ser_batch.hookimpl\ndef {hook}():\n    sys.exit(0)\n" if hook else "sys.exit(0)\n"
    plugin.write_text(f"import sys\nimport ser_batch\n\n{body}")
    answer = scanner.scan(corpus, run, plugins=[str(PLUGIN), str(plugin)])
    assert answer["code"] == code, answer
    if code == 5:
        assert said in answer["error"]
    elif said:
        files = results(run)
        assert (files.status == "failed").all()
        assert files.error_message.str.contains(said, regex=False).all()
    else:
        assert_same(run, reference)


def test_what_a_plugin_has_committed_before_it_ends_the_whole_process_is_kept(scanner, corpus, reference, tmp_path):
    """Nothing can be said any more, and the exit code is the plugin's; the run knows that it is not complete."""
    plugin, run = tmp_path / "leaver.py", tmp_path / "run"
    plugin.write_text(
        "import os\nimport ser_batch\n\n@ser_batch.hookimpl\ndef clip_finished(outcome):\n    os._exit(0)\n"
    )
    assert scanner.scan(corpus, run, plugins=[str(PLUGIN), str(plugin)])["code"] == 0
    assert main(["status", str(run)]) == 7
    assert len(results(run)) == 4
    assert scanner.scan(corpus, run)["code"] == 1
    assert_same(run, reference)
    assert_sound(run)
