"""Spreads files over worker processes and gets an outcome for every one, whatever dies.

`joblib.Parallel` has no back-pressure, and with one job it runs in the caller's process, where a codec that crashes
takes the run along. So this uses the executor beneath it: few shards are in flight, and one job is one worker too.

When a worker dies, loky ends the whole pool. Then: outcomes already spooled are kept; the files that those workers had
in hand which died by themselves are suspects, and each is run again in a worker of its own, several side by side; all
others go on in a fresh pool. A file that kills its worker a second time is failed, with what happened.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn, TypeVar

from ser_batch import errors
from ser_batch.dsp import kernel_cache
from ser_batch.errors import RunError
from ser_batch.records import ClipOutcome, ClipRef, Status
from ser_batch.stages.ingredients import Setup
from ser_batch.stages.limits import refused
from ser_batch.stages.processes import WORKER_ENVIRONMENT, Ahead, WorkerProcesses, is_broken
from ser_batch.stages.progress import Progress
from ser_batch.stages.worker import Answer
from ser_batch.text import message_of, shortened

__all__ = ["Extraction", "Job", "temporary_extraction"]

T = TypeVar("T")

#: Files per task: enough that a task costs nothing, few enough that little is done twice after a crash.
_CHUNK_FILES = 8
#: Twice as many where each worker still gets as many tasks: the parent's work is by the task.
_MANY_TASKS = 8
_CHUNK_BYTES = 16 * 2**20
#: After this long without a result people want to know why.
_LONG_START_S = 8.0
#: Pools that die one after the other without a file to blame, before the run gives up.
_MAX_STILLBORN = 3


@dataclass(eq=False)
class Job:
    """One shard in flight."""

    refs: Sequence[ClipRef]
    outcomes: dict[int, ClipOutcome]


@contextmanager
def temporary_extraction(setup: Setup, n_jobs: int, progress: Progress) -> Iterator[Extraction]:
    """An `Extraction` for work that is no run, with a folder of its own among the temporary ones."""
    folder = Path(tempfile.mkdtemp(prefix="ser-batch-"))
    try:
        with Extraction(setup, n_jobs, folder, progress) as extraction:
            yield extraction
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(eq=False)
class _Chunk:
    """A few files of one job, given to a worker as one task."""

    number: int
    job: Job
    #: Where in its job it begins.
    first: int
    refs: Sequence[ClipRef]
    pool: WorkerProcesses
    future: Future[Answer] | None
    #: How many workers of its own a suspect has been given to; 0 for files that nobody suspects.
    attempt: int = 0
    n_done: int = 0

    @property
    def is_done(self) -> bool:
        return self.n_done == len(self.refs)


class _Suspect(NamedTuple):
    """A file that may have killed a worker."""

    job: Job
    place: int
    attempt: int = 1


class Extraction:
    """A pool of workers that turns shards into outcomes; use as a context manager.

    Parameters
    ----------
    setup : Setup
        What each worker builds for itself.
    n_jobs : int
        Worker processes, 1 or more.
    folder : Path
        An empty folder of this work's own, for spools, heartbeats and logs.
    progress : Progress
        Told of finished files as they come in, in no particular order.
    ahead : Ahead, optional
        Workers that have begun.
    """

    def __init__(self, setup: Setup, n_jobs: int, folder: Path, progress: Progress, ahead: Ahead | None = None) -> None:
        # Absolute, since a plugin may change the working directory.
        self._setup, self._n_jobs, self._folder, self._progress = setup, n_jobs, folder.absolute(), progress
        self._ahead = ahead
        self._environment = dict(WORKER_ENVIRONMENT)
        self._begin_s = time.monotonic()
        #: Whether nothing has come back yet, and nothing was said about it.
        self._is_starting = True
        self._has_said_tired = False
        self._n_pools = self._n_chunks = self._n_stillborn = 0
        self._open: dict[int, _Chunk] = {}
        self._suspects: deque[_Suspect] = deque()
        #: All that live: the one for everybody, and one for each suspect.
        self._pools: list[WorkerProcesses] = []
        self._pool: WorkerProcesses | None = None
        self._thread_error: BaseException | None = None
        #: Set whenever a task is done: to wait for all of them by name takes longer the more there are.
        self._news = threading.Event()

    def __enter__(self) -> Extraction:
        self._old_hook, threading.excepthook = threading.excepthook, self._note_thread
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self._pools:
            pool.end()
        threading.excepthook = self._old_hook

    def _note_thread(self, args: threading.ExceptHookArgs) -> None:
        """Remember why a thread of loky has ended, without which no task would ever be done."""
        if type(args.thread).__module__.startswith("joblib."):
            if not any(pool.was_minded_by(args.thread) for pool in self._pools):
                self._thread_error = args.exc_value
        else:
            self._old_hook(args)

    def run(self, shards: Iterable[tuple[T, Sequence[ClipRef]]]) -> Iterator[tuple[T, list[ClipOutcome]]]:
        """Yield each shard with its outcomes, in order; while the caller stores one, the next are being worked on."""
        ahead: list[tuple[T, Job]] = []
        for shard, refs in shards:
            ahead.append((shard, self.start(refs)))
            # Two in flight keep the workers busy, unless a shard has less work than there are workers.
            if len(ahead) >= 2 and len(self._open) > 2 * self._n_jobs:
                first, job = ahead.pop(0)
                yield first, self.finish(job)
        for shard, job in ahead:
            yield shard, self.finish(job)

    def start(self, refs: Sequence[ClipRef]) -> Job:
        """Hand a shard to the workers.

        Raises
        ------
        RunError
            The machine cannot start them.
        """
        job = Job(refs, {})
        for first, last in _chunks(refs, self._n_jobs):
            self._submit(job, first, last)
        return job

    def finish(self, job: Job) -> list[ClipOutcome]:
        """Wait for a shard; return its outcomes in the order of its files.

        Raises
        ------
        PluginError, ModelError
            The workers cannot load a plugin or the model.
        RunError
            Workers die again and again before they begin a file, cannot write what they found, or cannot be started.
        """
        while len(job.outcomes) < len(job.refs):
            self._wait()
            if self._is_starting and time.monotonic() - self._begin_s > _LONG_START_S:
                self._is_starting = False
                self._progress.say("Workers are still starting: loading a plugin, or compiling its code, takes long.")
            self._take()
            self._try_suspects()
        return [job.outcomes[place] for place in range(len(job.refs))]

    def _wait(self) -> None:
        """Wait until a task more is done, for half a second at most, so that signals are seen."""
        self._news.wait(0.5)
        self._news.clear()
        if self._thread_error is not None:
            error = self._thread_error
            raise refused(error, self._n_jobs) or RunError(f"The pool of workers broke: {message_of(error)}") from error

    def _submit(self, job: Job, first: int, last: int) -> None:
        if self._pool is None:
            if self._n_pools == 0:
                self._look_for_kernels()
            self._pool = self._new_pool(self._n_jobs)
        self._give(self._pool, job, first, last)

    def _give(self, pool: WorkerProcesses, job: Job, first: int, last: int, attempt: int = 0) -> None:
        number, refs = self._n_chunks, job.refs[first:last]
        self._n_chunks += 1
        self._open[number] = _Chunk(number, job, first, refs, pool, self._handed(pool, number, refs), attempt)

    def _handed(self, pool: WorkerProcesses, number: int, refs: Sequence[ClipRef]) -> Future[Answer] | None:
        """Queue a chunk; None where the pool has died meanwhile, which is news at once."""
        future = pool.submit(number, refs)
        if future is None:
            self._news.set()
        else:
            future.add_done_callback(lambda _: self._news.set())
        return future

    def _new_pool(self, n_workers: int) -> WorkerProcesses:
        self._n_pools += 1
        folder, ahead, self._ahead = self._folder / f"pool-{self._n_pools}", self._ahead, None
        pool = WorkerProcesses(self._setup, n_workers, folder, self._environment, ahead)
        self._pools.append(pool)
        return pool

    def _end(self, pool: WorkerProcesses) -> None:
        pool.end()
        pool.forget()
        self._pools.remove(pool)
        if pool is self._pool:
            self._pool = None

    def _look_for_kernels(self) -> None:
        """On a machine that has no kernels yet, say that the workers compile them first, and where they are kept."""
        if not kernel_cache.not_warm(self._setup.built_in_extractors):
            return
        said = "Compiling the voice analyses for this machine, which takes some seconds, once."
        if kernel_cache.kernel_folder() is None:
            self._environment["NUMBA_CACHE_DIR"] = str(self._folder / "kernels")
            said = (
                "Compiling the voice analyses, which takes some seconds, for this time only: no folder to keep them in "
                "can be written. Set NUMBA_CACHE_DIR to one that can."
            )
        self._progress.say(said)
        self._is_starting = False

    def _take(self) -> None:
        """Collect what is done, and see to pools that have died or can do no more."""
        ended: dict[WorkerProcesses, None] = {}
        for chunk in list(self._open.values()):
            if chunk.future is not None and not chunk.future.done():
                continue
            error = _error_of(chunk.future) if chunk.future is not None else None
            if chunk.future is None or is_broken(error):
                chunk.pool.note_deaths(error)  # before anybody is killed from here
                ended[chunk.pool] = None
            else:
                answer = self._checked(chunk.future)
                self._collect(chunk)
                if answer.kind == "tired" and not self._has_said_tired:
                    self._has_said_tired = True
                    self._progress.say(
                        f"A plugin leaves files open ({answer.text}). Workers that can open no more are started afresh."
                    )
                if not chunk.is_done:
                    ended[chunk.pool] = None
                elif chunk.pool is not self._pool:
                    self._end(chunk.pool)
        for pool in ended:
            if pool is self._pool:
                self._replace(pool)
            else:
                self._judge(pool)

    def _checked(self, future: Future[Answer]) -> Answer:
        """Return the answer of a worker that is alive, if it could work at all."""
        try:
            answer = future.result()
        except FileNotFoundError:
            return Answer("lost")
        except OSError as error:
            raise refused(error, self._n_jobs) or RunError(
                f"A worker could not write its results below {self._folder}: {error}"
            ) from error
        if answer.kind in ("done", "tired"):
            return answer
        raise getattr(errors, answer.kind)(f"The workers cannot start: {answer.text}")

    def _collect(self, chunk: _Chunk) -> None:
        """Take what a chunk has spooled."""
        outcomes = chunk.pool.collect(chunk.number, chunk.refs[chunk.n_done :])
        for outcome in outcomes:
            chunk.job.outcomes[chunk.first + chunk.n_done] = outcome
            chunk.n_done += 1
        if outcomes:
            self._is_starting, self._n_stillborn = False, 0
            self._progress.advance(outcomes)
        if chunk.is_done:
            del self._open[chunk.number]

    def _replace(self, pool: WorkerProcesses) -> None:
        """End the pool for everybody; keep what it has done, set suspects apart, go on with the rest in a fresh one."""
        pool.end()
        suspects = pool.suspects()
        rest: list[tuple[Job, int, int]] = []
        self._n_stillborn += 1
        for chunk in [chunk for chunk in self._open.values() if chunk.pool is pool]:
            self._collect(chunk)
            self._open.pop(chunk.number, None)
            first, last = chunk.first + chunk.n_done, chunk.first + len(chunk.refs)
            if first < last and (chunk.number, chunk.n_done) in suspects:
                self._suspects.append(_Suspect(chunk.job, first))
                self._n_stillborn = 0
                first += 1
            if first < last:
                rest.append((chunk.job, first, last))
        if self._n_stillborn >= _MAX_STILLBORN:
            self._give_up(pool)
        self._end(pool)
        for job, first, last in rest:
            self._submit(job, first, last)

    def _try_suspects(self) -> None:
        """Run suspects side by side, each in a worker of its own."""
        while self._suspects and sum(chunk.attempt > 0 for chunk in self._open.values()) < self._n_jobs:
            job, place, attempt = self._suspects.popleft()
            self._give(self._new_pool(1), job, place, place + 1, attempt)

    def _judge(self, pool: WorkerProcesses) -> None:
        """See what has become of a suspect whose worker could not finish it.

        A worker that dies before it begins the file is not the file's fault, and another one tries.
        """
        pool.end()
        (chunk,) = (chunk for chunk in self._open.values() if chunk.pool is pool)
        self._collect(chunk)
        if not chunk.is_done:
            del self._open[chunk.number]
            stage, cause = pool.verdict()
            if stage not in ("", "start", "idle"):
                text = shortened(f"{cause.text} in {stage}{pool.where()}")
                outcome = ClipOutcome(chunk.refs[0], Status.FAILED, stage, f"Worker{cause.kind}", text)
                chunk.job.outcomes[chunk.first] = outcome
                self._progress.advance([outcome])
            elif chunk.attempt >= _MAX_STILLBORN:
                self._give_up(pool)
            else:
                self._suspects.append(_Suspect(chunk.job, chunk.first, chunk.attempt + 1))
        self._end(pool)

    def _give_up(self, pool: WorkerProcesses) -> NoReturn:
        if not pool.has_died:
            raise RunError(f"What workers write below {self._folder} disappears. Does something tidy up there?")
        words = pool.last_words()
        raise refused(RuntimeError(words), self._n_jobs) or RunError(
            f"Worker processes end before they begin a file, {_MAX_STILLBORN} times in a row: {pool.verdict()[1].text}"
            + (f' ("{words}")' if words else "")
            + f". Is there enough memory for {self._n_jobs} workers (fewer --jobs need less)? Does every plugin load?"
        )


def _error_of(future: Future[Answer]) -> BaseException | None:
    return future.exception() if future.done() and not future.cancelled() else None


def _chunks(refs: Sequence[ClipRef], n_jobs: int) -> Iterator[tuple[int, int]]:
    """Cut a shard into tasks, each from one place to another: small for big files, and at least one for each worker."""
    each = len(refs) // n_jobs
    n_files = max(1, min(_CHUNK_FILES, each), min(2 * _CHUNK_FILES, each // _MANY_TASKS))
    first, n_bytes = 0, 0
    for index, ref in enumerate(refs):
        if index > first and (index - first >= n_files or n_bytes + ref.size_bytes > _CHUNK_BYTES):
            yield first, index
            first, n_bytes = index, 0
        n_bytes += ref.size_bytes
    if first < len(refs):
        yield first, len(refs)
