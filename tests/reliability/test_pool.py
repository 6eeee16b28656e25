"""R4: what workers and the machine do to each other costs no file but the one to blame, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from harness import CONFIG, LONG, PLUGIN, assert_same, results

from ser_batch.config import Config
from ser_batch.plugins import PluginRecipe
from ser_batch.stages.discover import discover
from ser_batch.stages.ingredients import Setup, gather
from ser_batch.stages.pool import Extraction
from ser_batch.stages.processes import Ahead, worker_count
from ser_batch.stages.progress import Progress
from ser_batch.stages.watch import Watchdog, beats


@pytest.fixture
def made(tmp_path, corpus):
    """Make a folder with copies of one recording under some names."""

    def make(*names: str) -> Path:
        (tmp_path / "audio").mkdir()
        for name in names:
            shutil.copy(corpus / "speaker0" / "take000.wav", tmp_path / "audio" / f"{name}.wav")
        return tmp_path / "audio"

    return make


def begun(folder: Path, name: str) -> list[str]:
    """Who began a file, each time that somebody did."""
    return (folder / f"{name}.wav").read_text().split()


def scan_noted(scanner, audio: Path, tmp_path: Path, n_jobs: int = 2, timeout_s: float = 4.0, **order):
    """Scan one shard, with notes on who begins which file."""
    notes = tmp_path / "notes"
    notes.mkdir()
    extract = CONFIG["extract"] | {"jobs": n_jobs, "timeout_s": timeout_s}
    config = CONFIG | {"extract": extract, "run": {"shard_size": 100}}
    order = {"config": config, "environment": {"SER_BATCH_TEST_FOLDER": str(notes)}, **order}
    return scanner.scan(audio, tmp_path / "run", **order), notes


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """Where it is written down who begins which file."""
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv("SER_BATCH_TEST_FOLDER", str(notes))
    return notes


class Counted(Extraction):
    """Remembers how many workers each of its pools had."""

    def __init__(self, *args):
        super().__init__(*args)
        self.pools: list[int] = []

    def _new_pool(self, n_workers):
        self.pools.append(n_workers)
        return super()._new_pool(n_workers)


def analysed(audio: Path, work: Path, n_jobs: int = 1, **more):
    """What workers make of some recordings, and how many workers each pool had."""
    found = discover([audio], (), ())
    recipe = PluginRecipe(files=(str(PLUGIN),), entry_points=(), built_in=("ser_batch.audio",))
    setup = Setup(recipe, Config(), ("loudness",), model="", predict=True, **more)
    with Counted(setup, n_jobs, work, Progress()) as extraction:
        outcomes = extraction.finish(extraction.start([found.ref(index) for index in range(len(found))]))
    return outcomes, extraction.pools


@LONG
def test_only_the_worker_that_died_first_is_blamed(made, tmp_path, noted):
    """Files that others had in hand, whom loky killed with it, go on as any other file, not each in its own worker."""
    outcomes, pools = analysed(made("held1", "held2", "last"), tmp_path / "work", n_jobs=3)
    assert [str(outcome.status) for outcome in outcomes] == ["ok", "ok", "failed"]
    assert outcomes[-1].error_message.startswith("worker exited with code 3 in extract")
    assert pools == [3, 3, 1], "the workers that all began with, those that went on, and the one for the culprit"
    assert len(begun(noted, "last")) == len(begun(noted, "held1")) == 2


def test_who_died_is_seen_before_anybody_is_killed_from_here(made, tmp_path, noted, monkeypatch):
    """loky wakes whoever waits before it calls back; under load much later."""
    from joblib.externals.loky._base import Future  # noqa: PLC0415

    call_back = Future._invoke_callbacks
    monkeypatch.setattr(Future, "_invoke_callbacks", lambda self: (time.sleep(0.5), call_back(self)))
    outcomes, pools = analysed(made("held1", "held2", "last"), tmp_path / "work", n_jobs=3)
    assert [str(outcome.status) for outcome in outcomes] == ["ok", "ok", "failed"]
    assert pools == [3, 3, 1]
    assert len(begun(noted, "last")) == len(begun(noted, "held1")) == 2


def test_tasks_that_loky_had_not_handed_out_end_with_their_pool_and_not_with_the_scan(made, tmp_path, monkeypatch):
    """Its thread trips over them where a worker has just taken a task, so that there was room for another one."""
    from joblib.externals.loky.process_executor import _ExecutorManagerThread  # noqa: PLC0415

    shut_down = _ExecutorManagerThread.flag_executor_shutting_down

    def with_room(thread):
        shut_down(thread)
        monkeypatch.setattr(thread.call_queue, "full", lambda: False)

    monkeypatch.setattr(_ExecutorManagerThread, "flag_executor_shutting_down", with_room)
    found = discover([made("a")], (), ())
    recipe = PluginRecipe(files=(str(PLUGIN),), entry_points=(), built_in=("ser_batch.audio",))
    setup = Setup(recipe, Config(), ("loudness",), model="", predict=True)
    with Extraction(setup, 1, tmp_path / "work", Progress()) as extraction:
        jobs = [extraction.start([found.ref(0)]) for _ in range(9)]
        extraction._replace(extraction._pool)
        assert [str(extraction.finish(job)[0].status) for job in jobs] == ["ok"] * 9


def test_two_suspects_are_tried_side_by_side(scanner, made, tmp_path):
    """One kills another worker and itself; then both live, but only if both are in hand at the same time."""
    answer, notes = scan_noted(scanner, made("murderer", "victim"), tmp_path)
    assert answer["code"] == 0, answer
    assert len(begun(notes, "murderer")) == len(begun(notes, "victim")) == 2


@pytest.mark.parametrize(("name", "error_type"), [("family", "WorkerKilled"), ("stubborn", "WorkerTimedOut")])
def test_programs_that_a_plugin_started_end_with_their_worker(scanner, made, tmp_path, name, error_type):
    answer, notes = scan_noted(scanner, made(name), tmp_path, n_jobs=1, timeout_s=1.0)
    assert answer["code"] == 1, answer
    (row,) = results(tmp_path / "run").itertuples()
    assert row.error_type == error_type
    assert not is_alive(int((notes / "program").read_text()))


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_plugin_that_leaves_files_open_costs_nobody_anything(scanner, made, tmp_path):
    """Workers that can open no more are exchanged; those of a machine without such a limit never are."""
    names = [f"{'leak' if index % 3 else 'good'}{index}" for index in range(18)]
    answer, notes = scan_noted(scanner, made(*names), tmp_path, n_jobs=1, limits={"RLIMIT_NOFILE": 200})
    assert answer["code"] == 0, answer
    assert len({pid for name in names for pid in begun(notes, name)}) > 1
    (said,) = (text for text in answer["said"] if "files open" in text)
    assert "faulty_plugin.py" in said, "what is left open points to the plugin"


def test_what_a_plugin_does_to_the_name_of_a_file_or_to_the_working_directory_is_undone(scanner, made, tmp_path):
    answer, _ = scan_noted(scanner, made("renamed", "chdir", "good"), tmp_path, n_jobs=1)
    assert answer["code"] == 0, answer
    assert set(results(tmp_path / "run")["clip_id"]) == {"renamed.wav", "chdir.wav", "good.wav"}


class Unsendable(str):
    """Text that cannot be pickled."""

    __slots__ = ()

    def __reduce__(self):
        raise TypeError("cannot be sent")


@dataclass(frozen=True)
class Noted:
    """Gives some recordings a note that cannot leave the worker."""

    def __call__(self, ref):
        return (lambda clip: replace(clip, note=Unsendable("x"))) if "bad" in ref.clip_id else (lambda clip: clip)


def test_an_outcome_that_cannot_be_sent_costs_its_file_alone(made, tmp_path):
    outcomes, _ = analysed(made("good", "bad", "plain"), tmp_path / "work", change=Noted())
    assert [outcome.ref.clip_id for outcome in outcomes] == ["bad.wav", "good.wav", "plain.wav"]
    assert [str(outcome.status) for outcome in outcomes] == ["failed", "ok", "ok"]
    assert outcomes[0].error_message == "cannot be sent"


def test_workers_that_have_grown_are_exchanged_without_a_word(made, tmp_path, noted):
    """loky does it, with a warning, which is an error in tests."""
    names = [f"grow{index:02d}" for index in range(24)]
    outcomes, _ = analysed(made(*names), tmp_path / "work")
    assert {str(outcome.status) for outcome in outcomes} == {"ok"}
    assert len({pid for name in names for pid in begun(noted, name)}) > 1


def test_a_plugin_may_change_the_working_directory_of_the_scan(scanner, corpus, reference, tmp_path):
    elsewhere = tmp_path.joinpath(*"abcdefghijklmnop")
    elsewhere.mkdir(parents=True)
    plugin = tmp_path / "restless.py"
    plugin.write_text(
        "import os, ser_batch\n"
        f"@ser_batch.hookimpl\ndef validate_config(config):\n    os.chdir({str(elsewhere)!r})\n"
        f"@ser_batch.hookimpl\ndef clip_finished(outcome):\n    os.chdir({str(elsewhere.parent)!r})\n"
    )
    audio, run = (os.path.relpath(path) for path in (corpus, tmp_path / "run"))
    answer = scanner.scan(audio, run, plugins=[str(PLUGIN), str(plugin)])
    assert answer["code"] == 1, answer
    assert_same(tmp_path / "run", reference)


def test_a_plugin_that_ends_its_worker_politely_ends_the_scan_with_its_name(scanner, corpus, tmp_path):
    answer = scanner.scan(corpus, tmp_path / "run", plugins=[str(PLUGIN), in_workers(tmp_path, "raise SystemExit(0)")])
    assert answer["code"] == 5, answer
    assert "in_workers.py" in answer["error"]


def test_the_last_words_of_workers_that_cannot_start_are_quoted(scanner, corpus, tmp_path):
    plugin = in_workers(tmp_path, "print('no licence server', flush=True)\n    os._exit(7)")
    answer = scanner.scan(corpus, tmp_path / "run", plugins=[str(PLUGIN), plugin])
    assert answer["code"] == 7, answer
    assert "worker exited with code 7" in answer["error"] and "no licence server" in answer["error"]
    assert "\n" not in answer["error"]


def in_workers(tmp_path: Path, deed: str) -> str:
    """A plugin that does something where it is loaded in a worker."""
    plugin = tmp_path / "in_workers.py"
    plugin.write_text(f"import os\nif os.environ.get('OMP_NUM_THREADS') == '1':  # as workers have it\n    {deed}\n")
    return str(plugin)


def test_what_workers_print_is_forgotten_before_it_fills_the_disk(tmp_path):
    from ser_batch.stages import worker  # noqa: PLC0415

    watchdog = Watchdog(tmp_path, 0)
    log = os.open(tmp_path / f"{worker.LOG_PREFIX}{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    worker._Heart(tmp_path).beat(0, 0, "idle", 0.0, 0.0)
    watchdog.start()
    try:
        for _ in range(5):
            os.write(log, b"chatter\n" * 2**18)
            deadline = time.monotonic() + 20
            while os.fstat(log).st_size > 2**20 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert os.fstat(log).st_size <= 2**20
    finally:
        watchdog.stop()
        os.close(log)


def test_no_more_workers_are_started_than_there_are_files():
    assert worker_count(8, 3) == 3
    assert worker_count(2, 3) == 2
    assert worker_count(8, 0) == 1
    assert 1 <= worker_count(0, 10_000) <= (os.cpu_count() or 1)


def built_in(audio: Path, work: Path, ahead: Ahead, n_jobs: int = 2):
    """What workers make of some recordings with what is built in, and which processes these were."""
    found = discover([audio], (), ())
    setup = gather(BUILT_IN.build(), BUILT_IN, MEASURING).setup(predict=True)
    with Extraction(setup, n_jobs, work, Progress(), ahead) as extraction:
        outcomes = extraction.finish(extraction.start([found.ref(index) for index in range(len(found))]))
        assert [str(outcome.status) for outcome in outcomes] == ["ok"] * len(found), outcomes
        return {beat.pid for beat in beats(work)}


BUILT_IN = PluginRecipe(entry_points=())
MEASURING = Config().with_values({"predict": {"model": ""}, "extract": {"extractors": ["quality"]}})


def test_workers_that_began_ahead_are_those_of_the_scan(voices, tmp_path):
    with Ahead() as ahead:
        ahead.start(2, BUILT_IN, MEASURING)
        began = set(ahead.pids)
        assert len(began) == 2
        assert built_in(voices, tmp_path / "work", ahead) <= began
    assert not [pid for pid in began if psutil.pid_exists(pid)]


def test_workers_that_began_ahead_and_are_not_wanted_or_dead_cost_nothing(voices, tmp_path):
    with Ahead() as ahead:
        ahead.start(1, BUILT_IN, MEASURING)
        (spare,) = ahead.pids
        assert spare not in built_in(voices, tmp_path / "more", ahead)
    assert not psutil.pid_exists(spare)
    with Ahead() as ahead:
        ahead.start(2, BUILT_IN, MEASURING)
        victim, *_ = ahead.pids
        psutil.Process(victim).kill()
        assert victim not in built_in(voices, tmp_path / "work", ahead)
