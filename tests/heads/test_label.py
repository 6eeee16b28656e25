"""A run labelled anew, without audio, is what a scan with that model gives."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from random_model import store_random_model

import ser_batch
from ser_batch import load_results
from ser_batch.classifier.checkpoint import load, save
from ser_batch.cli.main import main
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.engine import scan
from ser_batch.errors import ConfigError, RunError
from ser_batch.heads import relabel as module
from ser_batch.run.layout import TABLES
from ser_batch.run.read import run_info
from ser_batch.run.store import RunStore
from ser_batch.run.verify import check_run

LABELS = ("calm", "anger", "laughter", "fear")


def with_other_head(path: Path, target: Path) -> Path:
    """Store the same network with another last layer, other labels and another temperature."""
    old, rng = load(path), np.random.default_rng(5)
    head = {
        "head.weight": rng.normal(0, 0.02, (len(LABELS), old.network.fusion_units)).astype(np.float32),
        "head.bias": rng.normal(0, 0.3, len(LABELS)).astype(np.float32),
    }
    network = old.meta["network"] | {"n_labels": len(LABELS)}
    meta = dict(old.meta) | {"name": target.stem, "labels": list(LABELS), "temperature": 0.7, "network": network}
    save(target, replace(old, weights=dict(old.weights) | head, meta=meta))
    return target


def config_for(model: Path, **predict: object) -> Config:
    values = {"predict": {"model": str(model), "device": "cpu", "abstain": 0.4, **predict}, "extract": {"jobs": 1}}
    return Config().with_values(values | {"audio": {"piece_s": 30.0}, "run": {"shard_size": 3}})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two models with one network, over one archive of two parts."""
    place = tmp_path_factory.mktemp("label")
    first = store_random_model(place / "first.safetensors")
    second = with_other_head(first, place / "second.safetensors")
    (place / "audio").mkdir()
    for index, seconds in enumerate((1.0, 3.5, 7.0, 40.0)):
        soundfile.write(place / "audio" / f"{index}.wav", synthetic_voice(seconds, seed=index), 22_050)
    (place / "audio" / "broken.wav").write_bytes(b"RIFF")
    # Long ones, one of less than 1 s, and one in which nobody is heard.
    soundfile.write(place / "audio" / "4.wav", np.append(synthetic_voice(4.0), np.zeros(44_100)), 22_050)
    (place / "audio" / "2.csv").write_text("start,end,speaker\n0.5,6.8,anna\n2.0,2.5,ben\n")
    (place / "audio" / "3.csv").write_text("start,end,speaker\n0,1.5,anna\n2,38,ben\n")
    (place / "audio" / "4.csv").write_text("start,end,speaker\n0,3,anna\n4.5,5.9,ben\n")
    (place / "about.csv").write_text("file,town\n0.wav,Aachen\n")
    scan(place / "audio", place / "run", config=config_for(first), report=False, metadata=place / "about.csv")
    scan(place / "audio", place / "scanned", config=config_for(second), report=False)
    ser_batch.label(place / "run", place / "labelled", model=str(second), report=False)
    return place


def assert_alike(first: Path, second: Path) -> None:
    for table in ("files", "windows", "segments"):
        a, b = (pd.read_parquet(run / table).drop(columns=["weights", "embeddings"], errors="ignore")
                for run in (first, second))  # fmt: skip
        assert list(a.columns) == list(b.columns)
        columns = [name for name in a if not name.startswith("time_")]
        numbers = a[columns].select_dtypes("number").columns
        np.testing.assert_allclose(a[numbers], b[numbers], atol=1e-3, rtol=1e-3)
        others = [name for name in columns if name not in numbers]
        pd.testing.assert_frame_equal(a[others].astype(object), b[others].astype(object))


def test_a_run_labelled_anew_is_what_a_scan_with_that_model_gives(place):
    assert_alike(place / "labelled", place / "scanned")
    assert check_run(place / "labelled") == []
    found = load_results(place / "labelled")
    assert pd.read_parquet(place / "labelled" / "windows")["p_fear"].std() > 0.005
    segments = load_results(place / "labelled", "segments")
    assert segments["p_fear"].std() > 0.005
    assert list(segments["emotion"].isna()) == [False] * 5 + [True]
    heard = load_results(place / "labelled", "segments", ["clip_id", "weights", "embeddings"])
    assert [len(item) for item in heard["weights"].dropna()] == [len(item) for item in heard["embeddings"].dropna()]
    assert len(heard["embeddings"][3]) > 10
    assert list(found["town"].dropna()) == ["Aachen"]
    assert load_results(place / "run")["emotion"].cat.categories.isin(load(place / "first.safetensors").labels).all()


def test_it_says_where_it_is_from_and_the_scan_goes_on_with_it(place, tmp_path):
    info, scanned, source = (run_info(place / name) for name in ("labelled", "scanned", "run"))
    assert info["labelled"]["run_id"] == source["run_id"] and info["labelled"]["model"] == "random0"
    for key in ("fingerprint", "settings", "labels", "model", "emotions", "failures", "state", "tables", "audio_s"):
        assert info[key] == scanned[key], key
    shutil.copytree(place / "labelled", tmp_path / "run")
    again = scan(place / "audio", tmp_path / "run", config=config_for(place / "second.safetensors"), report=False)
    assert again.n_processed == 0


def test_other_labels_without_a_model_are_those_of_the_model_of_the_run(place, tmp_path):
    some = ("fear", "anger")
    ser_batch.label(place / "run", tmp_path / "labelled", labels=some, report=False)
    model = place / "first.safetensors"
    scan(place / "audio", tmp_path / "scanned", config=config_for(model, labels=some), report=False)
    assert_alike(tmp_path / "labelled", tmp_path / "scanned")
    assert run_info(tmp_path / "labelled")["settings"] == run_info(tmp_path / "scanned")["settings"]


def test_killed_in_the_middle_the_same_command_makes_it_whole(place, tmp_path, monkeypatch):
    model, parts = str(place / "second.safetensors"), []
    made = module._Labelling._part

    def dies(self, group):
        parts.append(group)
        if 1 in group:
            raise KeyboardInterrupt
        return made(self, group)

    monkeypatch.setattr(module, "_WINDOWS_PER_PART", 1)
    monkeypatch.setattr(module._Labelling, "_part", dies)
    with pytest.raises(KeyboardInterrupt):
        ser_batch.label(place / "run", tmp_path / "run", model=model, report=False)
    assert run_info(tmp_path / "run")["state"] == "interrupted"
    assert len(pd.read_parquet(tmp_path / "run" / "files")) == 3
    monkeypatch.undo()
    ser_batch.label(place / "run", tmp_path / "run", model=model, report=False)
    assert_alike(tmp_path / "run", place / "labelled")
    assert check_run(tmp_path / "run") == []


def test_what_cannot_be_labelled_is_one_line_with_the_cure(place, tmp_path, capsys):
    other = store_random_model(tmp_path / "other.safetensors", seed=1)
    run, target = str(place / "run"), str(tmp_path / "target")
    assert main(["label", run, "--model", str(other), "-o", target]) == 7
    message = capsys.readouterr().err
    assert "'random0'" in message and "'random1' listens otherwise" in message and "Scan with it" in message
    assert message.count("\n") == 1 and not Path(target).exists()
    assert main(["label", run, "--labels", "anger,joyy", "-o", target]) == 6
    assert "Did you mean 'joy'?" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="Nothing would change"):
        ser_batch.label(run, target)
    with pytest.raises(RunError, match="is the run itself"):
        ser_batch.label(run, run, labels=("anger", "fear"))
    with pytest.raises(RunError, match="is a run already, and not one that was labelled"):
        ser_batch.label(run, place / "scanned", labels=("anger", "fear"))
    assert check_run(place / "scanned") == []


def test_a_run_that_kept_nothing_of_its_segments_is_refused(place, tmp_path, capsys):
    shutil.copytree(place / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "segments").iterdir():
        pq.write_table(pq.read_table(path).drop(["weights", "embeddings"]), path)
    # With it, the sum of the footer tells.
    (tmp_path / "run" / "journal.jsonl").unlink()
    command = ["label", str(tmp_path / "run"), "--model", str(place / "second.safetensors"), "-o"]
    assert main([*command, str(tmp_path / "new")]) == 7
    assert "has segments/ of which nothing is stored that could be labelled" in capsys.readouterr().err


def test_verify_finds_segments_whose_labels_do_not_fit_what_was_heard(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    store = RunStore(tmp_path / "run")
    store.look("")
    part = next(part for part in store.parts() if len(store.read("segments", part)))
    tables = {name: store.read(name, part) for name in TABLES}
    rows = tables["segments"]
    at = rows.schema.get_field_index("weights")
    tables["segments"] = rows.set_column(at, rows.schema.field(at), pa.nulls(len(rows), rows.schema.field(at).type))
    store.commit(store.stage(part, tables, len(tables["files"])))
    assert check_run(tmp_path / "run") == [
        f"part {part}: segments: one with a label has nothing that was heard, or the other way round",
        f"part {part}: segments: weights and embeddings of one are of different lengths",
    ]


def test_nothing_is_taken_along_through_a_link(place, tmp_path):
    """It would lie in a folder that others may be given."""
    run, secret = Path(shutil.copytree(place / "run", tmp_path / "run")), tmp_path / "secret"
    secret.write_text("secret")
    (run / "files-from.list").symlink_to(secret)
    with pytest.raises(RunError, match=r"files-from\.list cannot be read: .*Mend or delete it"):
        ser_batch.label(run, tmp_path / "target", labels=("anger", "fear"), report=False)
    assert not (tmp_path / "target" / "files-from.list").exists()


def test_a_run_whose_parts_do_not_belong_together_is_refused(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    parts = tmp_path / "run" / "embeddings"
    shutil.copy(parts / "part-00001.parquet", parts / "part-00000.parquet")
    # With it, the sum of the footer tells.
    (tmp_path / "run" / "journal.jsonl").unlink()
    with pytest.raises(RunError, match=r"does not fit the rows of files/\. `ser-batch verify` says more"):
        ser_batch.label(tmp_path / "run", tmp_path / "target", labels=("anger", "fear"), report=False)


def test_the_command_says_what_it_came_to_and_builds_the_report(place, tmp_path, capsys):
    target = tmp_path / "run"
    assert main(["label", str(place / "run"), "--labels", "anger,fear", "-o", str(target), "--quiet"]) == 1
    assert (target / "report.html").exists()
    assert main(["status", str(target)]) == 1
    assert "6 files found: 5 ok, 1 failed. 0 left." in capsys.readouterr().out
    assert main(["export", str(target), "--to", "jsonl", "--table", "embeddings", "-o", "-"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows[0]["embedding"]) == 128 and isinstance(rows[0]["embedding"][0], float)
    assert main(["diff", str(place / "run"), str(target)]) == 1
    assert "Columns of one run alone" in capsys.readouterr().out
