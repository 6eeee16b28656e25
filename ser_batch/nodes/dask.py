"""A scan on a cluster that has a Dask scheduler: bundles of the plan are its tasks, parts go by the shared disk.

Dask decides nothing and stores nothing. A task names a run, and a first and a last part; its answer is some counts.
What a worker has done is what it has published in the run, so that neither a worker, nor the scheduler, nor this
driver can lose it by dying.
"""

from __future__ import annotations

import ipaddress
import logging
import time
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ser_batch.errors import ConfigError, RunError
from ser_batch.nodes import errand
from ser_batch.run.layout import ATTEMPTS
from ser_batch.run.lock import refuse_if_written
from ser_batch.run.planned import PlanFile
from ser_batch.run.published import Collected, Collector, refuse_if_worked_on
from ser_batch.run.summary import RunSummary
from ser_batch.stages.progress import Progress
from ser_batch.text import message_of, printable

__all__ = ["Cluster", "check_address"]

#: Tasks of each worker at a time: the next one is there when one is done.
_PER_WORKER = 2
_CONNECT_S = 15.0
_POLL_S = 0.1
#: How often one looks which workers there are, and commits what they have published.
_LOOK_S, _COMMIT_S = 1.0, 10.0
#: How often one says how far the nodes are.
_TELL_S = 60.0
_MOST_HOSTS = 10
#: A bundle that others have in hand, or that was lost, is asked for again after so long.
_AGAIN_S = 2.0
#: How long a scheduler may take to answer, and be silent; and how long nodes may take to end.
_ANSWER_S, _SILENCE_S, _ENDING_S = 5.0, 30.0, 30.0
#: Under which workers say what has become of tasks.
_TOPIC = "ser-batch"
#: How often all may be done in vain.
_VAIN = 3


def check_address(on: str, is_trusted: bool) -> str:
    """Return the address of the scheduler that `on`, such as ``dask:tls://head:8786``, means.

    Raises
    ------
    ConfigError
        It is none; or anybody in between could send code of their own, and `is_trusted` is not said.
    """
    system, _, address = on.partition(":")
    parts = urlsplit(address)
    try:
        host, is_whole = parts.hostname, parts.port is not None
    except ValueError:
        host, is_whole = None, False
    if system != "dask" or parts.scheme not in ("tcp", "tls") or not host or not is_whole:
        raise ConfigError(
            f"`scan --on {printable(on)}` is no address of a scheduler. Give one such as dask:tls://HOST:8786."
        )
    if parts.scheme == "tls" or is_trusted or _is_loopback(host):
        return address
    raise ConfigError(
        f"`scan --on {printable(on)}`: without TLS, whoever reaches this scheduler runs what they like on its workers. "
        f"Use tls://, or say --trust-cluster if only people whom you trust can reach it."
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Cluster:
    """A connection to a scheduler; use as a context manager.

    Parameters
    ----------
    address : str
        As `check_address` gives it.
    progress : Progress

    Raises
    ------
    ConfigError
        The extra `dask` is not installed.
    RunError
        Nobody answers at the address, or something else than a scheduler.
    """

    def __init__(self, address: str, progress: Progress) -> None:
        try:
            import distributed  # noqa: PLC0415 - an extra
        except ImportError:
            raise ConfigError(
                '`scan --on dask:ADDRESS` needs Dask: pip install "ser-batch[dask]", here and on all nodes.'
            ) from None
        self._address, self._progress = address, progress
        logging.getLogger("distributed").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", category=distributed.versions.VersionMismatchWarning)
        try:
            self._client: Any = distributed.Client(address, timeout=_CONNECT_S, set_as_default=False, name="ser-batch")
        except (OSError, TimeoutError, ValueError, TypeError, RuntimeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise RunError(
                f"No Dask scheduler answers at {printable(address)} ({printable(reason)}). Is it running there, and "
                f"does it speak {address.partition(':')[0]}?"
            ) from None

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(Exception):
            self._client.close(timeout=5)

    def let_go(self, run_dir: Path) -> None:
        """End what a driver of a run that was killed has left at work.

        Raises
        ------
        RunError
            A driver holds the run; or nodes work on it that are not of this cluster.
        """
        # In this order: nodes of a driver that begins just now work on a later plan.
        plans = [folder.name for folder in (run_dir / ATTEMPTS).glob("*")]
        refuse_if_written(run_dir)
        if not plans:
            return
        deadline = time.monotonic() + _ENDING_S
        while True:
            # One that has just begun says only some time later that it is at work.
            n_left = self._close_nodes(plans)
            try:
                refuse_if_worked_on(run_dir)
            except RunError:
                if time.monotonic() > deadline:
                    raise
            else:
                if not n_left or time.monotonic() > deadline:
                    return
            time.sleep(_LOOK_S)

    def _close_nodes(self, plans: list[str]) -> int:
        """Ask all nodes that work on some plans to end; return how many workers have some that have not yet."""
        if self._client.status == "running":
            with suppress(Exception):  # a worker may be gone, or have nothing of ours
                return sum(map(bool, self._client.run(errand.close_nodes, plans, on_error="ignore").values()))
        return 0

    def do(self, collector: Collector, options: Mapping[str, Any]) -> RunSummary:
        """Have the plan of a run done, and commit what is done; return what the run has come to.

        Parameters
        ----------
        collector : Collector
            Of a plan whose run lies on a disk that all workers share.
        options : mapping
            Arguments of `ser_batch.nodes.node.Node`, for all nodes.

        Raises
        ------
        RunError
            No worker can do it, and the message says why; or the scheduler is gone. What was done is committed.
        """
        plan, taken = collector.plan, _Taken(collector, self._progress)
        about = {"run_dir": str(plan.run_dir.absolute()), "plan_id": plan.plan_id, **options}
        work = _Work(self._client, plan, about, collector.finished)
        self._progress.begin(plan.n_files, plan.n_files)
        try:
            self._drive(work, taken)
        except RunError:
            with suppress(RunError):
                taken.finish()
            raise
        finally:
            self._progress.end()
            work.give_up()
            self._close_nodes([plan.plan_id])
        deadline = time.monotonic() + _ENDING_S
        while taken.take().living and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return taken.finish()

    def _drive(self, work: _Work, taken: _Taken) -> None:
        told_s = committed_s = time.monotonic()
        n_bundles, n_vain, says_waiting = work.n_left, 0, True
        while True:
            for told in work.look():
                self._progress.say(told)
            if work.is_lost:
                raise RunError(
                    f"The Dask scheduler at {printable(self._address)} does not answer any more. What was done is "
                    f"taken in; once it is back, the same command goes on."
                )
            if work.refusals and not work.workers:
                raise RunError(f"No worker of the cluster can do it. {next(iter(work.refusals.values()))}")
            if not work.workers and says_waiting:
                self._progress.say(f"The scheduler at {self._address} has no workers now; waiting for some.")
                says_waiting = False
            if not work.n_left or (work.n_new and time.monotonic() - committed_s > _COMMIT_S):
                done = taken.take()
                if done.n_done == done.n_parts:
                    return
                committed_s, work.n_new = time.monotonic(), 0
                if not work.n_left:
                    # What was said to be published is not there, or not whole.
                    n_vain = 0 if done.n_committed or done.n_unread else n_vain + 1
                    if n_vain > _VAIN:
                        raise RunError(
                            f"{done.n_parts - done.n_done:,} parts were not what they should be, each time that they "
                            f"were done. Do all nodes see the same folder at {taken.run_dir}?"
                        )
                    work.ask_again()
            self._progress.step("bundles", n_bundles - work.n_left, n_bundles)
            if time.monotonic() - told_s > _TELL_S:
                told_s = time.monotonic()
                self._progress.say(work.told(n_bundles))
            time.sleep(_POLL_S)


def do_bundle(task: str, options: dict[str, Any], first: int, last: int) -> None:
    """Do a bundle on a worker, and say what has become of it; other arguments are those of `errand.run_bundle`.

    The answer goes ahead of the word that the task has ended, so that nobody has to fetch it from each worker.
    """
    from distributed import get_worker  # noqa: PLC0415 - an extra

    get_worker().log_event(_TOPIC, (task, errand.run_bundle(options, first, last)))


class _Taken:
    """What is committed, and what it comes to."""

    def __init__(self, collector: Collector, progress: Progress) -> None:
        self._collector, self._progress = collector, progress
        self.run_dir = collector.plan.run_dir
        self._n_files, self._n_second, self._wall_s = 0, 0, 0.0

    def take(self) -> Collected:
        """Commit what is new."""
        done = self._collector.take()
        for notice in done.notices:
            self._progress.say(notice)
        self._n_files += done.n_files
        self._n_second = max(self._n_second, done.n_second)
        self._wall_s += done.wall_s
        return done

    def finish(self) -> RunSummary:
        """Commit what is new, and write down what the run has come to."""
        self.take()
        writer = self._collector.writer
        if writer.is_written:
            writer.finish(self._collector.plan.census, self._wall_s)
        if writer.n_kept:
            self._progress.say(f"{writer.n_kept:,} files could not be looked at: what the run has of them stays as it "
                               f"was. The next scan tries again.")  # fmt: skip
        if self._n_second:
            self._progress.say(f"{self._n_second:,} parts were done twice; the first counts.")
        return writer.summary(self._n_files)


class _Work:
    """Which bundles are left, and which worker has which of them as a task.

    Parameters
    ----------
    client : distributed.Client
    plan : PlanFile
    options : dict
        As `ser_batch.nodes.errand.run_bundle` takes them.
    finished : set of int
        Places of parts of which nothing is left to do; it grows.
    """

    def __init__(self, client: Any, plan: PlanFile, options: dict[str, Any], finished: set[int]) -> None:
        self._client, self._plan, self._options, self._finished = client, plan, options, finished
        self._waiting: deque[int] = deque()
        #: Bundle -> when it may be asked for again.
        self._later: dict[int, float] = {}
        #: Task -> its bundle and its worker.
        self._tasks: dict[Any, tuple[int, str]] = {}
        #: Begins the names of its tasks; and what workers have said of them.
        self._prefix, self._answers = f"ser-batch-{uuid.uuid4().hex}-", dict[str, dict[str, Any]]()
        self._n_asked = 0
        self._looked_s, self._heard_s = 0.0, time.monotonic()
        #: Workers that may be given tasks, and why others may not.
        self.workers: set[str] = set()
        self.refusals: dict[str, str] = {}
        #: Bundles done since somebody set it to 0; and tasks that came to nothing, since a worker or a node had died.
        self.n_new = self.n_lost = 0
        #: Host -> bundles that it has done.
        self.by_host: Counter[str] = Counter()
        self.ask_again()

    @property
    def n_left(self) -> int:
        return len(self._waiting) + len(self._later) + len(self._tasks)

    @property
    def is_lost(self) -> bool:
        """Whether the scheduler is gone."""
        return self._client.status in ("closing", "closed") or time.monotonic() - self._heard_s > _SILENCE_S

    def ask_again(self) -> None:
        """Ask for all that is left to do."""
        places = enumerate(self._plan.bundles)
        self._waiting.extend(bundle for bundle, ends in places if not self._finished.issuperset(range(*ends)))

    def look(self) -> list[str]:
        """Take in what has happened, and hand out what there is to do; return what people should know."""
        now_s, said = time.monotonic(), []
        if now_s - self._looked_s > _LOOK_S:
            self._look_for_workers()
            self._looked_s = time.monotonic()
        if self._client.status != "running":
            return []  # it tries to connect again
        for task, (bundle, worker) in list(self._tasks.items()):
            if task.status == "pending" and self._finished.issuperset(range(*self._plan.bundles[bundle])):
                self._forget(task)  # a worker that is cut off has published all the same
                continue
            if task.status == "pending" and worker in self.workers:
                continue
            del self._tasks[task]
            answer = self._answer_of(task, worker)
            if "refused" in answer:
                said += self._refused(worker, str(answer["refused"]))
            if answer.get("is_over"):
                raise RunError(f"The plan of {self._plan.run_dir} is gone: it is done, or was replaced by another one.")
            if answer.get("is_lost"):
                self.n_lost += 1
                said.append(f"A worker at {worker} was lost with a bundle; it is done again.")
            if answer.get("n_left", 1):
                self._later[bundle] = now_s + _AGAIN_S
            else:
                self.n_new += 1
                self.by_host[str(answer.get("host", "?"))] += 1
        for bundle in [bundle for bundle, at_s in self._later.items() if at_s < now_s]:
            del self._later[bundle]
            self._waiting.append(bundle)
        self._hand_out()
        return said

    def _answer_of(self, task: Any, worker: str) -> dict[str, Any]:
        """Return what has become of a task that has ended, or whose worker is gone or does nothing."""
        from distributed import KilledWorker  # noqa: PLC0415 - an extra

        if task.status == "finished":
            task.release()
            return self._answers.pop(task.key, {"is_lost": True})
        error = task.exception() if task.status == "error" else None
        if error is not None and not isinstance(error, KilledWorker):
            return {"refused": f"{type(error).__name__}: {message_of(error).splitlines()[0]}"}
        # One that is cancelled was forgotten by a scheduler that was lost for a while.
        is_lost = task.status != "cancelled" and worker not in self.refusals
        self._forget(task)
        return {"is_lost": is_lost}

    def _forget(self, task: Any) -> None:
        self._tasks.pop(task, None)
        self._answers.pop(task.key, None)
        with suppress(Exception):  # the scheduler may be lost this moment
            task.cancel()

    def told(self, n_bundles: int) -> str:
        """Say how far it is, and who has done how much."""
        most = [f"{host} {n_done:,}" for host, n_done in self.by_host.most_common(_MOST_HOSTS)]
        rest = len(self.by_host) - len(most)
        by = ", ".join([*most, *([f"{rest:,} others"] if rest else [])])
        lost = f"; {self.n_lost:,} were lost and are done again" if self.n_lost else ""
        n_done = n_bundles - self.n_left
        return f"{n_done:,} of {n_bundles:,} bundles by {len(self.workers):,} workers ({by or 'none yet'}){lost}."

    def _look_for_workers(self) -> None:
        with suppress(Exception):  # whatever it is, nobody has answered
            # Again and again: a scheduler that was begun anew knows of nothing.
            self._client.subscribe_topic(_TOPIC, self._hear)
            there = self._client.sync(self._client.scheduler.ncores, callback_timeout=_ANSWER_S)
            self.workers = set(there) - self.refusals.keys()
            self._heard_s = time.monotonic()

    def _hear(self, event: tuple[float, tuple[str, dict[str, Any]]]) -> None:
        task, answer = event[1]
        if task.startswith(self._prefix):  # other drivers may use the scheduler, too
            self._answers[task] = answer

    def _refused(self, worker: str, why: str) -> list[str]:
        is_first = worker not in self.refusals
        self.refusals[worker] = why
        self.workers.discard(worker)
        return [f"The worker at {worker} does nothing here: {why}"] if is_first else []

    def _hand_out(self) -> None:
        busy = Counter(worker for _, worker in self._tasks.values())
        for turn in range(_PER_WORKER):
            for worker in self.workers:
                if not self._waiting:
                    return
                if busy[worker] > turn:
                    continue
                bundle = self._waiting.popleft()
                places = self._plan.bundles[bundle]
                ends = (self._plan.parts[place].part for place in (places[0], places[1] - 1))
                self._n_asked += 1
                # A name of its own: one that failed is not to be had again by asking again.
                name = f"{self._prefix}{self._n_asked}"
                try:
                    task = self._client.submit(
                        do_bundle,
                        name,
                        self._options,
                        *ends,
                        key=name,
                        pure=False,
                        workers=[worker],
                        allow_other_workers=False,
                        retries=0,
                    )
                except Exception:  # the connection is lost this moment
                    self._waiting.appendleft(bundle)
                    return
                self._tasks[task] = bundle, worker
                busy[worker] += 1

    def give_up(self) -> None:
        """Take back what is asked for; what is published stays."""
        if self._tasks and self._client.status == "running":
            with suppress(Exception):  # the scheduler may be gone
                self._client.cancel(list(self._tasks), force=True)
        self._tasks.clear()
