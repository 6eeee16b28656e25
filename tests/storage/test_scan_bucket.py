"""A scan of a bucket gives the table that a scan of the same files on a disk gives, whatever the store does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import soundfile
from s3_server import ACCESS_KEY, SECRET_KEY, Store

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.engine import RunSummary, scan
from ser_batch.errors import InputError
from ser_batch.run.load import RunWarning
from ser_batch.run.schema import TIMING_COLUMNS
from ser_batch.run.verify import check_run
from ser_batch.stages.discover import FileList

RATE_HZ = 16_000
RTTM = "SPEAKER {} 1 {:.2f} {:.2f} <NA> <NA> {} <NA> <NA>\n"
#: What no two scans, or no two places, have in common.
APART = ["modified", "etag", "segments_key", *TIMING_COLUMNS]
CONFIG = Config().with_values({"predict": {"model": ""}, "extract": {"extractors": ["quality"], "jobs": 1}})


def voice(folder: Path, name: str, f0_hz: float) -> bytes:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / name, synthetic_voice(1.5, RATE_HZ, f0_hz), RATE_HZ)
    return (folder / name).read_bytes()


def run(where: str | FileList, run_dir: Path, mode: str = "resume") -> RunSummary:
    return scan(where, run_dir, config=CONFIG, mode=mode, report=False)


def rows(run_dir: Path, table: str = "files") -> pd.DataFrame:
    frame = load_results(run_dir, table)
    return frame.drop(columns=[name for name in APART if name in frame])


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive") / "tapes"
    for number, name in enumerate(("a/one.wav", "a/two.flac", "b/thrée.wav")):
        voice(folder, name, 120 + 30 * number)
    (folder / "a/one.rttm").write_text(RTTM.format("one", 0, 1.2, "ann"))
    (folder / "b/broken.wav").write_bytes(b"RIFF and nothing else")
    (folder / "b/empty.wav").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def tapes(new_store: Callable[[], Store], archive: Path) -> Store:
    store = new_store()
    store.put_folder(archive, "tapes")
    return store


@pytest.fixture(scope="module")
def scanned(tapes: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    busy = iter([503, 500] * 3)
    tapes.front.answer = lambda method, path: next(busy, None) if path.endswith((".wav", ".flac")) else None
    command = ["scan", f"{tapes.url}/tapes", "-o", str(folder), "--config", _config(folder.parent), "--jobs", "1"]
    assert main(command) == 1
    tapes.front.answer = lambda method, path: None
    assert next(busy, None) is None
    return folder


def _config(folder: Path) -> str:
    (folder / "config.toml").write_text('[predict]\nmodel = ""\n[extract]\nextractors = ["quality"]\n')
    return str(folder / "config.toml")


def test_a_bucket_gives_the_table_of_a_disk_though_the_store_is_busy(
    scanned: Path, archive: Path, tmp_path: Path
) -> None:
    run(str(archive), tmp_path / "run")
    for table in ("files", "windows", "segments"):
        pd.testing.assert_frame_equal(rows(scanned, table), rows(tmp_path / "run", table))
    assert len(rows(scanned, "segments")) == 1
    assert load_results(scanned)["etag"].str.startswith('"').all()
    assert not check_run(scanned)


def test_a_node_that_works_on_a_plan_reads_the_bucket(scanned: Path, tapes: Store, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    command = ["scan", f"{tapes.url}/tapes", "-o", folder, "--config", _config(tmp_path), "--plan-only"]
    assert main(command) == 0
    assert main(["work", folder, "--jobs", "1", "--scratch", str(tmp_path)]) == 0
    assert main(["complete", folder, "--no-report"]) == 1
    for table in ("files", "windows", "segments"):
        pd.testing.assert_frame_equal(rows(Path(folder), table), rows(scanned, table))
    assert load_results(folder)["etag"].equals(load_results(scanned)["etag"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml", "run"]


def test_a_run_keeps_the_address_and_no_secret_and_no_copy(scanned: Path, tapes: Store) -> None:
    info = json.loads((scanned / "run.json").read_text())
    assert info["inputs"] == [info["root"]] == [f"{tapes.url}/tapes"]
    for path in scanned.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert SECRET_KEY.encode() not in data and ACCESS_KEY.encode() not in data, path
    assert "from where a page cannot play them" in (scanned / "report.html").read_text()
    assert not [path for path in scanned.iterdir() if path.name.startswith(".scratch")]


def test_verify_looks_at_every_part_of_a_run_that_was_copied_to_a_bucket(
    scanned: Path, new_store: Callable[[], Store], capsys: pytest.CaptureFixture[str]
) -> None:
    store = new_store()
    store.put_folder(scanned, "run")
    assert main(["verify", f"{store.url}/run"]) == 0
    assert capsys.readouterr().out.startswith(f"{store.url}/run is whole and sound.")
    part = "windows/part-00000.parquet"
    store.put(f"run/{part}", (scanned / part).read_bytes() + b"more")
    assert main(["verify", f"{store.url}/run"]) == 7
    assert f"{part} is not what was written (checksum)" in capsys.readouterr().out
    store.delete(f"run/{part}")
    assert main(["verify", f"{store.url}/run"]) == 7
    assert f"{part} is missing" in capsys.readouterr().out


def test_again_only_what_has_another_version_is_read(
    scanned: Path, tapes: Store, archive: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(scanned, folder)
    tapes.front.seen.clear()
    assert run(f"{tapes.url}/tapes", folder).n_processed == 0
    assert {method for method, path in tapes.front.seen if "list-type" not in path} == set()

    before = rows(folder).set_index("clip_id")
    same = (archive / "a/one.wav").read_bytes()
    other = bytearray(same)
    other[2_000:6_000] = bytes(4_000)
    tapes.put("tapes/a/one.wav", same)  # another time, the same version
    tapes.put("tapes/b/thrée.wav", bytes(other)[: len((archive / "b/thrée.wav").read_bytes())])
    tapes.delete("tapes/a/two.flac")
    tapes.front.seen.clear()
    assert run(f"{tapes.url}/tapes/", folder).n_processed == 1
    tapes.put("tapes/a/two.flac", (archive / "a/two.flac").read_bytes())
    tapes.put("tapes/b/thrée.wav", (archive / "b/thrée.wav").read_bytes())
    after = rows(folder).set_index("clip_id")
    assert after["vanished"].to_dict() == {name: name == "a/two.flac" for name in before.index}
    assert after.loc["b/thrée.wav", "status"] == "ok"
    assert after.loc["b/thrée.wav", "quality__level_dbfs"] != before.loc["b/thrée.wav", "quality__level_dbfs"]


def test_an_object_that_is_replaced_meanwhile_is_not_taken_for_the_one_that_was_listed(
    new_store: Callable[[], Store], archive: Path, tmp_path: Path
) -> None:
    store, folder = new_store(), tmp_path / "run"
    old, new = (archive / "a/one.wav").read_bytes(), (archive / "b/thrée.wav").read_bytes()
    for key in ("one.wav", "two.wav"):
        store.put(key, old)

    def replaced(method: str, path: str) -> None:
        if method == "GET" and path.endswith("two.wav"):
            store.front.answer = lambda method, path: None
            store.put("two.wav", new)

    store.front.answer = replaced
    run(store.url, folder)
    row = load_results(folder).set_index("clip_id").loc["two.wav"]
    assert (row["status"], row["stage"], row["error_type"]) == ("failed", "decode", "OSError")
    assert row["error_message"] == "the object was replaced after it was listed; the next scan reads it"
    assert run(store.url, folder).counts["ok"] == 2

    # What is known of it stays, though it is another now, until that one can be read.
    store.put("two.wav", old)
    store.front.answer = lambda method, path: 403 if method == "GET" and path.endswith("two.wav") else None
    before = load_results(folder)
    summary = run(store.url, folder)
    with pytest.warns(RunWarning, match="is incomplete: the same scan command finishes it"):
        pd.testing.assert_frame_equal(load_results(folder), before)
    assert summary.counts["ok"] == 2
    store.front.answer = lambda method, path: None
    assert run(store.url, folder).n_processed == 1


def test_a_list_of_objects_and_one_that_is_missing(tapes: Store, tmp_path: Path) -> None:
    names = ("a/one.wav", "b/gone.wav")
    listed = FileList(tuple(f"{tapes.url}/tapes/{name}" for name in names), "-")
    run(listed, tmp_path / "run")
    found = load_results(tmp_path / "run").set_index("clip_id")
    assert found["status"].to_dict() == {"a/one.wav": "ok", "b/gone.wav": "failed"}
    assert found.loc["b/gone.wav", "error_type"] == "FileNotFoundError"
    assert found.loc["b/gone.wav", "error_message"] == "there is no such object, or no longer"


@pytest.mark.reliability  # a store is given time to come back
def test_a_store_that_goes_away_ends_the_scan_and_costs_nothing(
    new_store: Callable[[], Store], archive: Path, tmp_path: Path
) -> None:
    store, folder = new_store(), tmp_path / "run"
    for number in range(4):
        store.put(f"{number}.wav", (archive / "a/one.wav").read_bytes())
    store.front.answer = lambda method, path: 501 if method != "GET" or path.endswith(".wav") else None
    with pytest.raises(InputError, match=r"can no longer be read: .* the store answers 501, also when asked again"):
        run(store.url, folder)
    assert not list((folder / "files").glob("part-*"))
    store.front.answer = lambda method, path: None
    assert run(store.url, folder).counts["ok"] == 4
