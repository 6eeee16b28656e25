"""A run that lies in a bucket is read from there as from a disk, and nothing is written into a copy of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from s3_server import Store
from synthetic_run import RunPlan, make_run

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.errors import RunError
from ser_batch.run.load import RunWarning

N_FILES = 60


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "letters", N_FILES, RunPlan(shard_size=25))


@pytest.fixture(scope="module")
def copied(run: Path, new_store: Callable[[], Store]) -> Store:
    store = new_store()
    store.put_folder(run, "runs/letters")
    store.put("runs/letters/.lock", b"process 1 on another machine")
    store.put("runs/letters/report.html", b"a page")
    return store


@pytest.fixture
def url(copied: Store) -> Iterator[str]:
    yield f"{copied.url}/runs/letters"
    copied.front.answer = lambda method, path: None


@pytest.fixture(autouse=True)
def no_copy_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield
    assert not list((tmp_path / "temporary").iterdir())


def test_the_tables_are_those_of_the_folder(run: Path, url: str) -> None:
    for table in ("files", "windows"):
        pd.testing.assert_frame_equal(load_results(f"{url}/", table), load_results(run, table))
    where = [("status", "==", "failed")]
    pd.testing.assert_frame_equal(
        load_results(url, columns=["clip_id"], where=where), load_results(run, columns=["clip_id"], where=where)
    )


def test_only_what_is_needed_is_fetched(url: str, copied: Store) -> None:
    copied.put("runs/letters/embeddings/part-00000.parquet", b"large")
    copied.front.seen.clear()
    load_results(url)
    fetched = {path.partition("letters/")[2] for method, path in copied.front.seen if "list-type" not in path}
    copied.delete("runs/letters/embeddings/part-00000.parquet")
    parts = (f"{table}/part-{part:05d}.parquet" for table in ("files", "windows") for part in range(3))
    assert fetched == {"run.json", "journal.jsonl", *parts}


def test_show_says_the_same_under_the_name_of_the_bucket(
    run: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--json"]):
        assert main(["show", str(run), *more]) == 0
        expected = capsys.readouterr().out.replace(str(run), url)
        assert main(["show", url, *more]) == 0
        assert capsys.readouterr().out == expected


def test_a_report_goes_to_a_disk(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", url]) == 2
    assert capsys.readouterr().err == "Error: A report is not written into a bucket: give -o FILE.\n"
    assert main(["report", url, "-o", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "letters" in page and str(tmp_path / "temporary") not in page


def test_a_run_that_is_not_finished_is_read_and_said(new_store: Callable[[], Store], run: Path) -> None:
    store = new_store()
    store.put_folder(run, "run")
    info = json.loads((run / "run.json").read_text())
    store.put("run/run.json", json.dumps(info | {"state": "running"}).encode())
    with pytest.warns(RunWarning, match=f"^{store.url}/run is being written or was cut off"):
        assert len(load_results(f"{store.url}/run")) == N_FILES


def test_what_is_no_run_is_one_line_that_names_the_address(url: str, copied: Store) -> None:
    with pytest.raises(RunError, match=rf"^There is no run {copied.url}/runs/none: "):
        load_results(f"{copied.url}/runs/none")
    with pytest.raises(RunError, match=rf"^{copied.url}/runs is not a run: it has no run\.json"):
        load_results(f"{copied.url}/runs")
    with pytest.raises(RunError, match=rf"^{url} has no embeddings"):
        load_results(url, "embeddings")
    copied.front.answer = lambda method, path: 403 if path.endswith("run.json") else None
    with pytest.raises(RunError, match=rf"^{url} cannot be read: access is denied \(403\)"):
        load_results(url)


@pytest.mark.parametrize("command", ["work", "complete", "slurm", "review", "audit", "export", "diff"])
def test_what_needs_the_run_in_place_says_so(
    url: str, command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"export": ["--to", "csv", "-o", str(tmp_path / "x.csv")], "diff": [url]}.get(command, [])
    assert main([command, url, *more]) == 7
    assert capsys.readouterr().err.startswith(f"Error: {url} is in a bucket, where scan, retry, status, show")
