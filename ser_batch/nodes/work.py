"""Work on the plan of a run, on this machine, until nothing of it is left that others do not have in hand."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ser_batch.errors import ConfigError, RunError
from ser_batch.interrupt import Interruptions
from ser_batch.nodes.node import Message, Node, disks_named
from ser_batch.nodes.schedule import Careful, Schedule
from ser_batch.records import ClipOutcome, Status
from ser_batch.run.attempts import DEAD_S
from ser_batch.run.planned import PlanFile, plan_of
from ser_batch.run.published import done_parts
from ser_batch.run.store import RunStore

__all__ = ["Worked", "work", "work_carefully"]

#: How long a node without work waits for what others have in hand, in case that they are lost.
_PATIENCE_S = DEAD_S + 60.0
_POLL_S = 1.0


class Worked(NamedTuple):
    """What a node has done."""

    message: Message
    #: Parts of the plan that nobody has published.
    n_left: int


def work(run_dir: str | Path, part_of: tuple[int, int] = (0, 0), **options: Any) -> Worked:
    """Make and publish parts of a plan.

    Parameters
    ----------
    run_dir : path
        A run with a plan, on a disk that all nodes share.
    part_of : (int, int)
        Slice of the plan that is this node's own, from 1, and how many there are; (0, 0) for none. It is done first.
    **options
        As for `ser_batch.nodes.node.Node`.

    Returns
    -------
    worked : Worked

    Raises
    ------
    ConfigError
        There is no such slice.
    SerBatchError
        As for `Node`.
    KeyboardInterrupt
        Ctrl-C or SIGTERM. What was published stays.
    """
    number, n_slices = part_of
    if part_of != (0, 0) and not 1 <= number <= n_slices:
        raise ConfigError(f"There is no slice {number} of {n_slices}. Slices are numbered from 1, such as 3/100.")
    run_dir = Path(run_dir)
    plan = plan_of(run_dir)
    if _is_done(run_dir, plan):
        return Worked(Message("", ""), 0)
    told = Message("", "")
    try:
        with (
            disks_named(),
            Interruptions() as interruptions,
            Node(run_dir, interruptions=interruptions, **options) as node,
        ):
            told.node, told.host = node.node_id, node.host
            schedule = Schedule(plan, node.attempts, node.node_id, part_of, node.done())
            node.progress.begin(plan.n_files, plan.n_files)
            try:
                _work(node, schedule, told)
            finally:
                schedule.release()
                node.progress.end()
            return Worked(told, schedule.n_left())
    except RunError:
        # Taken for dead, or late: others have done the rest, and it is taken in.
        if _is_done(run_dir, plan):
            return Worked(told, 0)
        raise


def _is_done(run_dir: Path, plan: PlanFile) -> bool:
    store = RunStore(run_dir)
    store.look()
    return len(done_parts(plan, store.entries)) == len(plan.parts)


def _work(node: Node, schedule: Schedule, told: Message) -> None:
    idle_since_s = time.monotonic()
    while True:
        for place in node.run(schedule.whole(), told):
            schedule.finished(place)
            idle_since_s = time.monotonic()
        if careful := schedule.careful():
            work_carefully(node, careful, told)
            idle_since_s = time.monotonic()
        elif not schedule.n_left() or time.monotonic() - idle_since_s > _PATIENCE_S:
            return
        else:
            time.sleep(_POLL_S)


def work_carefully(node: Node, careful: Careful, told: Message) -> None:
    """Do a part piece by piece, with one of them in hand at a time."""
    begin_s, plan = time.monotonic(), node.plan
    shard, first = plan.shard(careful.place), plan.parts[careful.place].first
    outcomes: list[ClipOutcome] = []
    for span, is_lost in careful.pieces:
        refs = shard.refs[span[0] - first : span[1] - first]
        if is_lost:
            text = "two nodes were lost, each with this file alone in hand"
            outcomes += [ClipOutcome(ref, Status.FAILED, "extract", "NodeLost", text) for ref in refs]
            continue
        path = node.attempts.begin_try(span, node.node_id, is_alone=True)
        if path is None:
            return  # another node does the part just now
        try:
            outcomes += node.outcomes(refs)
        finally:
            with suppress(OSError):
                path.unlink()
    node.publish(careful.place, shard, outcomes, time.monotonic() - begin_s, told)
