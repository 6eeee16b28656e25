"""Spreads files over worker processes (loky, joblib's own pool) and gets an outcome for every one, whatever dies.

`joblib.Parallel` has no back-pressure, and with one job it runs in the caller's process, where a codec that crashes
takes the run along. So this uses the executor beneath it: few shards are in flight, and one job is one worker too.

When a worker dies, loky ends the whole pool. Then: outcomes already spooled are kept; the files that were in hand are
suspects, and each is run again alone, in a worker of its own; all others go on in a fresh pool. A file that kills its
worker a second time is failed, with what happened.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ser_batch.errors import PluginError, RunError
from ser_batch.records import ClipOutcome, ClipRef, Status
from ser_batch.stages.ingredients import Setup
from ser_batch.stages.progress import Progress
from ser_batch.stages.watch import Watchdog
from ser_batch.stages.worker import BEAT_PREFIX, Beat, read_beat, read_spool, run_chunk, start_worker

if TYPE_CHECKING:
    from joblib.externals.loky import ProcessPoolExecutor

__all__ = ["Extraction", "temporary_extraction", "worker_count"]

T = TypeVar("T")

#: Files per task: enough that a task costs nothing, few enough that little is done twice after a crash.
_CHUNK_FILES = 8
_CHUNK_BYTES = 16 * 2**20
#: After this long without a result people want to know why.
_LONG_START_S = 8.0
#: Pools that die one after the other without a file to blame, before the run gives up.
_MAX_STILLBORN = 3

#: One thread per worker, whatever library computes. glibc: keep freed blocks instead of returning them to the system
#: and faulting the pages in again for the next clip; see docs/performance.md for what it brings.
_WORKER_ENVIRONMENT = {
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
    "MALLOC_TOP_PAD_": str(64 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_ARENA_MAX": "1",
}


def worker_count(n_jobs: int) -> int:
    """Return `n_jobs`, or one per core that this process may use where it is 0."""
    from joblib import cpu_count  # noqa: PLC0415 - a fifth of a second, not for `predict`

    return n_jobs or cpu_count()


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
    refs: Sequence[ClipRef]
    future: Future[str] | None = None


@dataclass(eq=False)
class Job:
    """One shard in flight."""

    refs: Sequence[ClipRef]
    outcomes: dict[str, ClipOutcome] = field(default_factory=dict)
    chunks: dict[int, _Chunk] = field(default_factory=dict)


class Extraction:
    """A pool of workers that turns shards into outcomes; use as a context manager.

    Parameters
    ----------
    setup : Setup
        What each worker builds for itself.
    n_jobs : int
        Worker processes, 1 or more.
    folder : Path
        An empty folder of this run's own, for spools and heartbeats.
    progress : Progress
        Told of finished files as they come in, in no particular order.
    """

    def __init__(self, setup: Setup, n_jobs: int, folder: Path, progress: Progress) -> None:
        self._setup, self._n_jobs, self._folder, self._progress = setup, n_jobs, folder, progress
        self._begin_s = time.monotonic()
        #: Whether nothing has come back yet, and nothing was said about it.
        self._is_starting = True
        self._n_chunks = 0
        self._n_stillborn = 0
        self._open: dict[int, _Chunk] = {}
        self._pool: _Pool | None = None

    def __enter__(self) -> Extraction:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.end()

    def run(self, shards: Iterable[tuple[T, Sequence[ClipRef]]]) -> Iterator[tuple[T, list[ClipOutcome]]]:
        """Yield each shard with its outcomes, in order; while the caller stores one, the next are being worked on."""
        ahead: list[tuple[T, Job]] = []
        for shard, refs in shards:
            ahead.append((shard, self.start(refs)))
            # Two in flight keep the workers busy, unless a shard has less work than there are workers.
            if len(ahead) >= 2 and sum(len(job.chunks) for _, job in ahead) > 2 * self._n_jobs:
                first, job = ahead.pop(0)
                yield first, self.finish(job)
        for shard, job in ahead:
            yield shard, self.finish(job)

    def start(self, refs: Sequence[ClipRef]) -> Job:
        """Hand a shard to the workers."""
        job = Job(refs)
        for part in _chunks(refs, self._n_jobs):
            self._submit(job, part)
        return job

    def finish(self, job: Job) -> list[ClipOutcome]:
        """Wait for a shard; return its outcomes in the order of its files.

        Raises
        ------
        PluginError
            The workers cannot load a plugin or the model.
        RunError
            Workers die again and again before they begin a file, or cannot write what they found.
        """
        while job.chunks:
            futures = [chunk.future for chunk in job.chunks.values() if chunk.future is not None]
            if len(futures) == len(job.chunks):
                # A timeout, so that signals are seen while waiting.
                wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
            if self._is_starting and time.monotonic() - self._begin_s > _LONG_START_S:
                self._is_starting = False
                self._progress.say(
                    "Workers are starting. The first scan on a machine compiles kernels, for a minute or two."
                )
            broken = False
            for chunk in list(job.chunks.values()):
                if chunk.future is None or (chunk.future.done() and _died(chunk.future)):
                    broken = True
                elif chunk.future.done():
                    self._take(chunk)
            if broken:
                self._recover()
        return [job.outcomes[ref.clip_id] for ref in job.refs]

    def _submit(self, job: Job, refs: Sequence[ClipRef]) -> None:
        if self._pool is None:
            self._pool = _Pool(self._setup, self._n_jobs, self._folder / f"pool-{self._n_chunks}")
        chunk = _Chunk(self._n_chunks, job, refs)
        self._n_chunks += 1
        job.chunks[chunk.number] = self._open[chunk.number] = chunk
        chunk.future = self._pool.submit(chunk.number, refs)

    def _take(self, chunk: _Chunk) -> None:
        assert chunk.future is not None
        try:
            refusal = chunk.future.result()
        except OSError as error:
            raise RunError(f"A worker could not write its results below {self._folder}: {error}") from error
        if refusal:
            raise PluginError(f"The workers cannot start: {refusal}")
        self._n_stillborn = 0
        self._close(chunk)

    def _close(self, chunk: _Chunk) -> Sequence[ClipRef]:
        """Collect what a chunk has spooled; return the files it has not come to."""
        assert self._pool is not None
        outcomes = self._pool.collect(chunk.number)
        self._accept(chunk.job, outcomes)
        del chunk.job.chunks[chunk.number], self._open[chunk.number]
        return chunk.refs[len(outcomes) :]

    def _accept(self, job: Job, outcomes: Sequence[ClipOutcome]) -> None:
        job.outcomes.update((outcome.ref.clip_id, outcome) for outcome in outcomes)
        if outcomes:
            self._is_starting = False
            self._progress.advance(outcomes)

    def _recover(self) -> None:
        """Keep what is done, find the suspects, start afresh."""
        pool = self._pool
        assert pool is not None
        pool.end()
        beats = pool.suspects()
        suspects: list[tuple[Job, ClipRef]] = []
        rest: list[tuple[Job, Sequence[ClipRef]]] = []
        for chunk in list(self._open.values()):
            left = self._close(chunk)
            position = len(chunk.refs) - len(left)
            if left and (chunk.number, position) in beats:
                suspects.append((chunk.job, left[0]))
                left = left[1:]
            if left:
                rest.append((chunk.job, left))
        self._pool = None
        pool.forget()
        self._n_stillborn = 0 if suspects else self._n_stillborn + 1
        if self._n_stillborn >= _MAX_STILLBORN:
            why = next(iter(pool.watchdog.killed.values()), pool.death)
            raise RunError(
                f"Worker processes end before they begin a file, {_MAX_STILLBORN} times in a row: {why}. "
                f"Is there enough memory for {self._n_jobs} workers (fewer --jobs need less)? Does every plugin load?"
            )
        for job, refs in rest:
            self._submit(job, refs)
        for number, (job, ref) in enumerate(suspects):
            self._accept(job, [self._alone(ref, number)])

    def _alone(self, ref: ClipRef, number: int) -> ClipOutcome:
        """Run one suspect in a worker of its own; if it kills that one too, say so.

        A worker that dies before it begins the file is not the file's fault, and is tried again.
        """
        for attempt in range(_MAX_STILLBORN):
            pool = _Pool(self._setup, 1, self._folder / f"alone-{self._n_chunks}-{number}-{attempt}")
            try:
                future = pool.submit(0, [ref])
                while future is not None and not future.done():
                    wait([future], timeout=0.5)
                pool.end()
                outcomes = pool.collect(0)
                if outcomes:
                    return outcomes[0]
                stage, reason = pool.verdict()
                if stage != "start":
                    break
            finally:
                pool.end()
                pool.forget()
        kind = "TimedOut" if reason.startswith("timed") else "OutOfMemory" if "exceeded" in reason else "Killed"
        return ClipOutcome(ref, Status.FAILED, stage, f"Worker{kind}", f"{reason} in {stage}")


class _Pool:
    """Workers of one generation, with a folder of their own and a watchdog."""

    def __init__(self, setup: Setup, n_workers: int, folder: Path) -> None:
        from joblib.externals.loky import ProcessPoolExecutor  # noqa: PLC0415 - a fifth of a second, not for `predict`

        self._setup, self._folder = setup, folder
        folder.mkdir(mode=0o700)
        self._executor: ProcessPoolExecutor | None = ProcessPoolExecutor(
            n_workers,
            initializer=start_worker,
            initargs=(folder, os.getpid()),
            env=_WORKER_ENVIRONMENT,
        )
        self.watchdog = Watchdog(folder, setup.config.extract.memory_limit_mb)
        self.watchdog.start()
        #: How a worker ended, once one has.
        self.death = "worker died"

    def submit(self, number: int, refs: Sequence[ClipRef]) -> Future[str] | None:
        """Queue a chunk; None where the pool has died meanwhile."""
        assert self._executor is not None
        future: Future[str]
        try:
            future = self._executor.submit(run_chunk, self._setup, self._folder, number, refs)
        except RuntimeError:
            return None
        future.add_done_callback(self._note_death)
        return future

    def collect(self, number: int) -> list[ClipOutcome]:
        outcomes = read_spool(self._folder, number)
        with suppress(FileNotFoundError):
            (self._folder / f"spool-{number}").unlink()
        return outcomes

    def suspects(self) -> set[tuple[int, int]]:
        """(chunk, position) of each file that may have killed a worker.

        Where the watchdog killed, those it killed for; else every file in hand, since loky ends all workers when one
        dies and does not say which one died first.
        """
        beats = list(self.watchdog.killed) or list(self._beats())
        return {(beat.chunk, beat.position) for beat in beats if beat.stage not in ("start", "idle")}

    def verdict(self) -> tuple[str, str]:
        """Stage and reason of the death of the one worker of this pool."""
        beat = next(iter(self._beats()), None)
        return beat.stage if beat else "start", self.watchdog.reason(beat) or self.death

    def _beats(self) -> Iterator[Beat]:
        for path in self._folder.glob(f"{BEAT_PREFIX}*"):
            if beat := read_beat(path):
                yield beat

    def _note_death(self, future: Future[str]) -> None:
        if not future.cancelled() and _died(future):
            self.death = _how_it_ended(str(future.exception()))

    def end(self) -> None:
        """Stop the workers, at once: whatever they have in hand can be done again."""
        self.watchdog.stop()
        if self._executor is not None:
            self._executor.shutdown(wait=True, kill_workers=True)
            self._executor = None

    def forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _died(future: Future[str]) -> bool:
    """Whether a task ended because a worker did."""
    from joblib.externals.loky import BrokenProcessPool  # noqa: PLC0415 - already loaded with the pool

    return isinstance(future.exception(), BrokenProcessPool)


def _how_it_ended(message: str) -> str:
    """Words for the exit code in loky's message, such as ``{SIGSEGV(-11)}``."""
    codes = [int(code) for code in re.findall(r"\((-?\d+)\)", message)]
    if not codes:
        return "worker died"
    return f"worker killed by signal {-codes[0]}" if codes[0] < 0 else f"worker exited with code {codes[0]}"


def _chunks(refs: Sequence[ClipRef], n_jobs: int) -> Iterator[Sequence[ClipRef]]:
    """Cut a shard into tasks: small for big files, and never fewer tasks than there are workers to take them."""
    n_files = max(1, min(_CHUNK_FILES, len(refs) // n_jobs))
    first, n_bytes = 0, 0
    for index, ref in enumerate(refs):
        if index > first and (index - first >= n_files or n_bytes + ref.size_bytes > _CHUNK_BYTES):
            yield refs[first:index]
            first, n_bytes = index, 0
        n_bytes += ref.size_bytes
    if first < len(refs):
        yield refs[first:]
