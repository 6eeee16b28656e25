"""Runs nodes and `complete` in child processes that may be killed; started by `machines.Machines`.

It is driven by lines of JSON.

Everything heavy is imported once and then inherited by fork.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

import pandas  # noqa: F401 - loaded once for all children

from ser_batch.errors import SerBatchError
from ser_batch.nodes.complete import complete
from ser_batch.nodes.work import work
from ser_batch.run import steps


def kill_at(name: str, number: int) -> None:
    """Die like by a power cut, when a step is reached for the n-th time."""
    left = number

    def observer(step: str) -> None:
        nonlocal left
        left -= step == name
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    steps.observe(observer)


def run(order: dict) -> int:
    os.environ.update(order.get("environment", {}))
    if "kill_at" in order:
        kill_at(*order["kill_at"])
    try:
        if order["do"] == "complete":
            return int(complete(order["run"], report=False).exit_code)
        work(order["run"], tuple(order.get("part_of", (0, 0))), trust_plugins=True, scratch=order.get("scratch"))
    except KeyboardInterrupt:
        return 130
    except SerBatchError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os._exit(run(order))
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
