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
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ser_batch.errors import ConfigError, RunError
from ser_batch.nodes import errand
from ser_batch.nodes.complete import Completed, complete
from ser_batch.run.planned import PlanFile, plan_of
from ser_batch.run.published import done_parts, refuse_if_worked_on
from ser_batch.run.store import RunStore
from ser_batch.stages.progress import Progress
from ser_batch.text import printable

__all__ = ["Cluster", "check_address"]

#: Tasks of each worker at a time: the next one is there when one is done.
_PER_WORKER = 2
_CONNECT_S = 15.0
_POLL_S = 0.1
#: How often one looks which workers there are, and commits what they have published.
_LOOK_S, _COMMIT_S = 1.0, 10.0
#: A bundle that others have in hand, or that was lost, is asked for again after so long.
_AGAIN_S = 2.0
#: How long a scheduler may be silent, and nodes of an earlier driver may take to end.
_SILENCE_S, _ENDING_S = 30.0, 60.0


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
        """End what an earlier driver of a run has left at work.

        Raises
        ------
        RunError
            Nodes work on it that are not of this cluster.
        """
        deadline = time.monotonic() + _ENDING_S
        while True:
            try:
                return refuse_if_worked_on(run_dir)
            except RunError:
                if time.monotonic() > deadline:
                    raise
            self._close_nodes(run_dir)
            time.sleep(_POLL_S)

    def _close_nodes(self, run_dir: Path) -> None:
        with suppress(Exception):  # a worker may be gone, or have nothing of ours
            self._client.run(errand.close_nodes, str(run_dir.absolute()), on_error="ignore")

    def do(self, run_dir: Path, options: Mapping[str, Any], **for_complete: Any) -> Completed:
        """Have the plan of a run done, and take in what is done; return what it has come to.

        Parameters
        ----------
        run_dir : Path
            With a plan, on a disk that all workers share.
        options : mapping
            Arguments of `ser_batch.nodes.node.Node`, for all nodes.
        **for_complete
            As for `ser_batch.nodes.complete.complete`.

        Raises
        ------
        RunError
            No worker can do it, and the message says why; or the scheduler is gone.
        """
        plan = plan_of(run_dir)
        work = _Work(self._client, plan, {"run_dir": str(run_dir.absolute()), "plan_id": plan.plan_id, **options})
        committed_s = silent_s = time.monotonic()
        says_waiting = True
        self._progress.begin(plan.n_files, plan.n_files)
        try:
            while work.is_left:
                if self._client.status == "running":
                    silent_s = time.monotonic()
                elif time.monotonic() - silent_s > _SILENCE_S:
                    complete(run_dir, report=False)
                    raise RunError(
                        f"The Dask scheduler at {printable(self._address)} does not answer any more. What was done is "
                        f"taken in; once it is back, the same command goes on."
                    )
                for told in work.look():
                    self._progress.say(told)
                if work.refusals and not work.workers:
                    complete(run_dir, report=False)
                    raise RunError(f"No worker of the cluster can do it. {next(iter(work.refusals.values()))}")
                if not work.workers and says_waiting:
                    self._progress.say(f"The scheduler at {self._address} has no workers now; waiting for some.")
                    says_waiting = False
                if work.n_new and time.monotonic() - committed_s > _COMMIT_S:
                    complete(run_dir, report=False)
                    committed_s, work.n_new = time.monotonic(), 0
                self._progress.step("bundles", len(plan.bundles) - work.n_left, len(plan.bundles))
                time.sleep(_POLL_S)
        finally:
            self._progress.end()
            work.cancel()
            self._close_nodes(run_dir)
        return complete(run_dir, progress=self._progress, **for_complete)


class _Work:
    """Which bundles are left, and which worker has which of them as a task."""

    def __init__(self, client: Any, plan: PlanFile, options: dict[str, Any]) -> None:
        self._client, self._plan, self._options = client, plan, options
        store = RunStore(plan.run_dir)
        store.look()
        done = done_parts(plan, store.entries)
        bundles = [number for number, places in enumerate(plan.bundles) if not done.issuperset(range(*places))]
        self._waiting = deque(bundles)
        #: Bundle -> when it may be asked for again.
        self._later: dict[int, float] = {}
        #: Task -> its bundle and its worker.
        self._tasks: dict[Any, tuple[int, str]] = {}
        self._looked_s = 0.0
        #: Workers that may be given tasks, and why others may not.
        self.workers: list[str] = []
        self.refusals: dict[str, str] = {}
        #: Bundles done since somebody set it to 0; and tasks that came to nothing, since a worker or a node had died.
        self.n_new = self.n_lost = 0

    @property
    def n_left(self) -> int:
        return len(self._waiting) + len(self._later) + len(self._tasks)

    @property
    def is_left(self) -> bool:
        return self.n_left > 0

    def look(self) -> list[str]:
        """Take in what has happened, and hand out what there is to do; return what people should know."""
        now_s, said = time.monotonic(), []
        if now_s - self._looked_s > _LOOK_S:
            self._looked_s = now_s
            self._look_for_workers()
        for task, (bundle, worker) in list(self._tasks.items()):
            if task.status == "pending" and (worker in self.workers or worker in self.refusals):
                continue
            del self._tasks[task]
            answer = task.result() if task.status == "finished" else {"is_lost": True}
            if task.status == "error":
                answer = {"refused": f"{type(task.exception()).__name__}: {task.exception()}"}
            else:
                task.cancel()
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
        for bundle in [bundle for bundle, at_s in self._later.items() if at_s < now_s]:
            del self._later[bundle]
            self._waiting.append(bundle)
        self._hand_out()
        return said

    def _look_for_workers(self) -> None:
        with suppress(OSError, TimeoutError, RuntimeError):
            there = self._client.scheduler_info(n_workers=-1)["workers"]
            self.workers = [address for address in there if address not in self.refusals]

    def _refused(self, worker: str, why: str) -> list[str]:
        is_first = worker not in self.refusals
        self.refusals[worker] = why
        self.workers = [address for address in self.workers if address != worker]
        return [f"The worker at {worker} does nothing here: {why}"] if is_first else []

    def _hand_out(self) -> None:
        from distributed import CancelledError  # noqa: PLC0415 - an extra

        busy = [worker for _, worker in self._tasks.values()]
        for turn in range(_PER_WORKER):
            for worker in self.workers:
                if not self._waiting:
                    return
                if busy.count(worker) > turn:
                    continue
                bundle = self._waiting.popleft()
                places = self._plan.bundles[bundle]
                ends = (self._plan.parts[place].part for place in (places[0], places[1] - 1))
                try:
                    task = self._client.submit(
                        errand.run_bundle,
                        self._options,
                        *ends,
                        # With a key of its own: one that failed is not to be had again by asking again.
                        key=f"ser-batch-{uuid.uuid4().hex}",
                        pure=False,
                        workers=[worker],
                        allow_other_workers=False,
                        retries=0,
                    )
                except (CancelledError, OSError, ValueError, RuntimeError):
                    self._waiting.appendleft(bundle)
                    return
                self._tasks[task] = bundle, worker
                busy.append(worker)

    def cancel(self) -> None:
        """Give up what is asked for; what is published stays."""
        with suppress(Exception):  # the scheduler may be gone
            self._client.cancel(list(self._tasks), force=True)
        self._tasks.clear()
