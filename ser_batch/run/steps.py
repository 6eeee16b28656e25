"""Named moments of a run at which its promises are tested: a test stands in as the observer and kills, or raises."""

from __future__ import annotations

from collections.abc import Callable

from ser_batch.run.layout import TABLES

__all__ = ["COMPLETE_STEPS", "NODE_STEPS", "STEPS", "observe", "reached"]

#: In the order of one shard, after those that come once.
STEPS = (
    "locked",
    "recovered",
    "planned",
    "manifest-written",
    "shard-extracted",
    "shard-predicted",
    *(f"{table}-staged" for table in TABLES),
    "journal-appended",
    *(f"{table}-renamed" for table in TABLES),
    "shard-committed",
    "run-completed",
)

#: Those of a node at work, and those of whoever takes in what nodes have published.
NODE_STEPS = ("shard-extracted", "shard-predicted", *(f"{table}-staged" for table in TABLES), "part-published")
COMPLETE_STEPS = (
    "collecting",
    "manifest-written",
    "journal-appended",
    *(f"{table}-renamed" for table in TABLES),
    "shard-committed",
    "swept",
    "run-completed",
)

_observer: Callable[[str], None] | None = None


def observe(observer: Callable[[str], None] | None) -> None:
    """Have `observer` called with the name of each step; None for nobody."""
    global _observer  # noqa: PLW0603 - one observer per process
    _observer = observer


def reached(step: str) -> None:
    """Say that a step is done."""
    if _observer is not None:
        _observer(step)
