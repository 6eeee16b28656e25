"""A node as a process of its own that is told which bundles to do: a line of JSON for each, and a line as answer.

``python -m ser_batch.nodes.serve`` keeps its workers alive over bundles. It ends once its standard input does, as it
does when its parent dies, also in the middle of a bundle; and when nobody has asked for anything for a while.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from io import RawIOBase
from typing import Any, BinaryIO

from ser_batch.errors import SerBatchError
from ser_batch.interrupt import Interruptions
from ser_batch.nodes.node import Message, Node, disks_named
from ser_batch.nodes.schedule import Schedule
from ser_batch.nodes.work import work_carefully

__all__ = ["do_bundle", "main"]

#: How long it waits to be asked: a driver that lives has the next bundle ready.
_PATIENCE_S = 20.0


def do_bundle(node: Node, first: int, last: int) -> dict[str, Any]:
    """Make and publish the parts from `first` to `last`, by number; say what was done. Raises as `Node.process`.

    What other nodes have in hand is left to them. Losses count: a bundle with which nodes were lost is done in pieces.
    """
    plan, told = node.plan, Message(node.node_id, node.host)
    places = range(plan.place_of[first], plan.place_of[last] + 1)
    # What the journal has of the plan has a manifest, too: nobody has to read it for each bundle.
    schedule = Schedule(plan, node.attempts, node.node_id, (0, 0), set(), [plan.bundle_of(places[0])])
    try:
        for place in node.run(schedule.whole(), told):
            schedule.finished(place)
        while careful := schedule.careful():
            before = told.n_published + told.n_second
            work_carefully(node, careful, told)
            if told.n_published + told.n_second == before:
                break  # in the hands of another node
    finally:
        schedule.release()
    n_left = sum(not node.attempts.is_published(plan.parts[place].part) for place in places)
    return {"node": told.node, "host": told.host, "n_files": told.n_files, "n_second": told.n_second, "n_left": n_left}


def main() -> None:
    """Serve until standard input ends."""
    orders: queue.Queue[dict[str, Any] | None] = queue.Queue()
    # Without a buffer, whose lock a thread that waits would hold as the interpreter ends.
    stream = os.fdopen(os.dup(0), "rb", buffering=0)
    threading.Thread(target=_read, args=(stream, orders), daemon=True).start()
    with suppress(KeyboardInterrupt), Interruptions() as interruptions, _only_answers() as answers:
        options = orders.get()
        if options is None:
            return
        plan_id = options.pop("plan_id")
        try:
            with disks_named(), Node(interruptions=interruptions, **options) as node:
                if node.plan.plan_id != plan_id:
                    _answer(answers, {"is_over": True})
                    return
                _answer(answers, {"node": node.node_id})
                for order in _asked(orders):
                    _answer(answers, do_bundle(node, order["first"], order["last"]))
        except SerBatchError as error:
            with suppress(OSError):  # nobody listens
                _answer(answers, {"refused": str(error)})


def _asked(orders: queue.Queue[dict[str, Any] | None]) -> Iterator[dict[str, Any]]:
    with suppress(queue.Empty):
        while (order := orders.get(timeout=_PATIENCE_S)) is not None:
            yield order


def _read(stream: RawIOBase, orders: queue.Queue[dict[str, Any] | None]) -> None:
    for line in stream:
        orders.put(json.loads(line))
    orders.put(None)
    # In the middle of a bundle nobody looks: what asked for it is gone.
    os.kill(os.getpid(), signal.SIGTERM)


def _only_answers() -> BinaryIO:
    """Return standard output for answers alone: what plugins print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    return answers


def _answer(stream: BinaryIO, answer: dict[str, Any]) -> None:
    stream.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
