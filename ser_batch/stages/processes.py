"""Workers of one pool as processes: started by loky, joblib's own pool, watched, ended, and asked how they died."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch.errors import RunError
from ser_batch.records import ClipOutcome, ClipRef
from ser_batch.stages.blame import Cause, cause_of, innermost_lines, last_words
from ser_batch.stages.ingredients import Setup
from ser_batch.stages.limits import starting
from ser_batch.stages.watch import Watchdog, beats, end_left_behind
from ser_batch.stages.worker import Answer, Beat, read_spool, run_chunk, start_ahead, start_worker

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor

    from ser_batch.config import Config
    from ser_batch.plugins import PluginRecipe

__all__ = ["WORKER_ENVIRONMENT", "Ahead", "WorkerProcesses", "is_broken", "worker_count"]

#: One thread per worker, whatever library computes. glibc: keep freed blocks instead of returning them to the system
#: and faulting the pages in again for the next clip; see docs/performance.md for what it brings.
WORKER_ENVIRONMENT = {
    **dict.fromkeys(
        (
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "MKL_NUM_THREADS",
            "BLIS_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS",
            "NUMBA_NUM_THREADS",
            "NUMEXPR_NUM_THREADS",
        ),
        "1",
    ),
    # A worker begins in the working directory, which may be a folder of the archive with a `psutil.py` in it.
    "PYTHONSAFEPATH": "1",
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_ARENA_MAX": "1",
}


def worker_count(n_jobs: int, n_files: int) -> int:
    """Return how many workers to start: `n_jobs`, or one per core that this process may use where it is 0.

    Never more than there are files: a worker takes a second of a core to start.
    """
    with _quietly():
        from joblib import cpu_count  # noqa: PLC0415 - a fifth of a second, not for `predict`
    return max(1, min(n_jobs or cpu_count(), n_files))


class WorkerProcesses:
    """Workers of one generation, with a folder of their own and a watchdog."""

    def __init__(
        self, setup: Setup, n_workers: int, folder: Path, environment: Mapping[str, str], ahead: Ahead | None = None
    ) -> None:
        self._n_workers, self._folder = n_workers, folder
        self._watchdog = Watchdog(folder, setup.config.extract.memory_limit_mb)
        #: Exit codes of the workers that had died before loky killed all others; None while it sees none dead.
        self._deaths: dict[int, int] | None = None
        #: Why loky gave up, where no worker had died.
        self._complaint = ""
        self._is_ending = False
        #: loky's, which minds the workers; known once they are being ended.
        self._thread: threading.Thread | None = None
        self._looking = threading.Lock()
        try:
            folder.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise RunError(f"Workers need a folder, and {folder} cannot be made: {error.strerror}.") from error
        with starting(n_workers), _quietly():
            from joblib.externals.loky.backend import reduction  # noqa: PLC0415 - as in `worker_count`

            #: Pickled once and not for each task, by what loky would pickle it with.
            self._setup: bytes = bytes(reduction.dumps(setup))
            self._executor: ProcessPoolExecutor | None = ahead.take(n_workers, environment) if ahead else None
            if self._executor is None:
                self._executor = _executor(n_workers, environment, start_worker, folder, os.getpid())
            self._watchdog.start()
        # loky exchanges workers that have grown by 300 MB, which is nothing to tell people.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", module=r"joblib\.externals\.loky")
        #: loky's own: the workers that are alive, as far as it knows.
        self._processes: Mapping[int, Any] = self._executor._processes

    @property
    def has_died(self) -> bool:
        return self._deaths is not None

    def submit(self, number: int, refs: Sequence[ClipRef]) -> Future[Answer] | None:
        """Queue a chunk; None where the pool has died meanwhile."""
        from joblib.externals.loky import BrokenProcessPool  # noqa: PLC0415 - already loaded with the pool

        assert self._executor is not None
        future: Future[Answer]
        try:
            with starting(self._n_workers):
                future = self._executor.submit(run_chunk, self._setup, self._folder, number, refs)
        except BrokenProcessPool as error:
            self.note_deaths(error)
            return None
        future.add_done_callback(lambda done: self.note_deaths(None if done.cancelled() else done.exception()))
        return future

    def collect(self, number: int, refs: Sequence[ClipRef]) -> list[ClipOutcome]:
        return read_spool(self._folder, number, refs)

    def suspects(self) -> set[tuple[int, int]]:
        """(chunk, position) of each file that may have killed a worker: those that the dead had in hand.

        Where nobody knows who died first, those that any worker had in hand.
        """
        if not self.has_died or self._complaint:
            return set()
        in_hand = [beat for beat in beats(self._folder) if beat.stage not in ("start", "idle")]
        return {(beat.chunk, beat.position) for beat in in_hand if self._is_dead(beat)}

    def verdict(self) -> tuple[str, Cause]:
        """Stage and cause of the first death; the stage is "" where that worker had not begun anything."""
        if self._complaint:
            return "", Cause("Killed", self._complaint)
        beat = self._first_dead()
        if beat is None:
            return "", cause_of(next(iter((self._deaths or {}).values()), None))
        return beat.stage, self._watchdog.killed.get(beat.pid) or cause_of((self._deaths or {}).get(beat.pid))

    def where(self) -> str:
        """Return in which lines of Python the first to die crashed, as the end of a sentence."""
        beat = self._first_dead()
        lines = innermost_lines(self._folder, beat.pid) if beat else ""
        return f", at {lines}" if lines else ""

    def last_words(self) -> str:
        return last_words(self._folder, self._deaths or ())

    def _first_dead(self) -> Beat | None:
        return next(filter(self._is_dead, beats(self._folder)), None)

    def _is_dead(self, beat: Beat) -> bool:
        """Whether a worker had died before loky killed all; True for all where nobody knows."""
        dead = {*(self._deaths or ()), *self._watchdog.killed}
        return beat.pid in dead or not dead

    def note_deaths(self, error: BaseException | None) -> None:
        """Look who is dead, if `error` says that somebody is.

        loky says so to all who wait, one after the other, and only then kills the workers that are alive. Whoever is
        first to hear it looks; the lock keeps loky, which hears it too, from going on meanwhile.
        """
        if not is_broken(error):
            return
        with self._looking:
            if self._deaths is not None or self._is_ending:
                return
            codes = {pid: process.exitcode for pid, process in list(self._processes.items())}
            self._deaths = {pid: code for pid, code in codes.items() if code is not None}
            if error is not None and error.__cause__ is not None:  # a task or an answer that could not be unpickled
                self._complaint = str(error.__cause__).strip('" \n').rpartition("\n")[2]

    def end(self) -> None:
        """Stop the workers, at once: whatever they have in hand can be done again."""
        self._watchdog.stop()
        self._is_ending = True
        if self._executor is not None:
            self._thread = self._executor._executor_manager_thread
            _kill(self._executor, self._processes)
            self._executor = None
            end_left_behind(self._folder)

    def was_minded_by(self, thread: threading.Thread | None) -> bool:
        """Whether these workers were ended from here, and a thread of loky with them.

        It trips over tasks that it had not handed out yet.
        """
        return self._is_ending and self._thread is thread

    def forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class Ahead:
    """Workers that begin while the parent still plans, for whichever pool is the first; use as a context manager.

    A second of a core is loaded and built in each: nobody need wait for it once it is known what is to be done.
    """

    def __init__(self) -> None:
        self._executor: ProcessPoolExecutor | None = None
        self._n_workers = 0
        self._processes: Mapping[int, Any] = {}
        #: Whether workers were started.
        self.has_begun = False
        #: Whether a thread of loky has ended, without which no task would ever be done.
        self._is_broken = False

    def __enter__(self) -> Ahead:
        self._old_hook, threading.excepthook = threading.excepthook, self._note_thread
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
        threading.excepthook = self._old_hook

    def _end(self) -> None:
        if self._executor is not None:
            _kill(self._executor, self._processes)
            self._executor = None

    def _note_thread(self, args: threading.ExceptHookArgs) -> None:
        if type(args.thread).__module__.startswith("joblib."):
            self._is_broken = True
        else:
            self._old_hook(args)

    @property
    def pids(self) -> list[int]:
        """The processes that were started."""
        return list(self._processes)

    def start(self, n_workers: int, recipe: PluginRecipe, config: Config) -> None:
        """Start workers, if the machine lets us: if not, whoever wants them then will say so."""
        self.has_begun, ingredients = True, pickle.dumps((recipe, config))
        try:
            with starting(n_workers):
                self._executor = _executor(n_workers, WORKER_ENVIRONMENT, start_ahead, os.getpid(), ingredients)
                self._n_workers, self._processes = n_workers, self._executor._processes
                self._executor.submit(int)  # the first task starts them
        except (RunError, RuntimeError):
            self._end()

    def take(self, n_workers: int, environment: Mapping[str, str]) -> ProcessPoolExecutor | None:
        """Give them away, if there are any, and they are as they are wanted."""
        if self._is_broken or n_workers != self._n_workers or environment != WORKER_ENVIRONMENT:
            self._end()
            return None
        taken, self._executor = self._executor, None
        return taken


def _executor(
    n_workers: int, environment: Mapping[str, str], initializer: Callable[..., None], *arguments: Any
) -> ProcessPoolExecutor:
    with _quietly():
        from joblib.externals.loky import ProcessPoolExecutor  # noqa: PLC0415 - as in `worker_count`

        _start_trackers()
        return ProcessPoolExecutor(n_workers, initializer=initializer, initargs=arguments, env=environment)


def _kill(executor: ProcessPoolExecutor, processes: Mapping[int, Any]) -> None:
    # loky leaves this to a thread of its own, which may not have been started.
    for process in list(processes.values()):
        if process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
    with suppress(RuntimeError):
        executor.shutdown(wait=True, kill_workers=True)


def is_broken(error: BaseException | None) -> bool:
    """Whether a task ended because a worker did."""
    from joblib.externals.loky import BrokenProcessPool  # noqa: PLC0415 - already loaded with the pool

    return isinstance(error, BrokenProcessPool)


def _start_trackers() -> None:
    """Start the processes that remove semaphores when all others are gone, such that they do outlive these.

    A terminal that goes away would end them first; and they must not import what lies in the working directory, which
    may be a folder of the archive.
    """
    multiprocessing.get_context("fork").Lock()  # raises where there are no semaphores; the trackers would print it
    from joblib.externals.loky.backend import resource_tracker as loky_tracker  # noqa: PLC0415

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        resource_tracker.ensure_running()
        loky_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextmanager
def _quietly() -> Iterator[None]:
    """Import joblib without its warning of a machine that has no semaphores: that is an error here, with a cure."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*serial mode")
        yield
