"""Runs nodes, `complete`, drivers and Dask's own commands in child processes that may be killed; started by
`machines.Machines`.

It is driven by lines of JSON.

Everything heavy is imported once and then inherited by fork.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path

import joblib.externals.loky  # noqa: F401 - loaded once for all children
import pandas  # noqa: F401
from machines import CONFIG, LIVES, RECIPE

from ser_batch.errors import SerBatchError
from ser_batch.nodes.complete import complete
from ser_batch.nodes.work import work
from ser_batch.stages.progress import Progress

sys.path.append(str(Path(__file__).resolve().parents[1]))
from dying import kill_at


def dask(what: str, *arguments: str) -> int:
    """Be ``dask scheduler`` or ``dask worker``."""
    from distributed.cli import dask_scheduler, dask_worker  # noqa: PLC0415 - loaded before the fork

    logging.disable(logging.CRITICAL)
    command = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[what]
    command.main([*arguments, "--no-dashboard"], standalone_mode=False)
    return 0


class Told(Progress):
    """Says all on standard error."""

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


def drive(order: dict) -> int:
    """Be ``ser-batch scan --on``, impatient."""
    from ser_batch.cluster import scan_on  # noqa: PLC0415 - loaded before the fork
    from ser_batch.nodes import dask  # noqa: PLC0415

    dask._CONNECT_S, dask._COMMIT_S = 4.0, 0.3
    config = CONFIG.with_values({"run": {"shard_size": order["shard_size"]}})
    what = order["address"], order["archive"], order["run"]
    done = scan_on(*what, config=config, plugins=RECIPE, progress=Told(), report=False)
    return int(done.exit_code)


def run(order: dict) -> int:
    os.environ.update(order.get("environment", {}))
    if "kill_at" in order:
        kill_at(*order["kill_at"])
    try:
        if order["do"] == "dask":
            return dask(*order["arguments"])
        if order["do"] == "drive":
            return drive(order)
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


def begin(order: dict) -> None:
    """Be a child; what it prints goes to the log."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if "log" in order:
        os.dup2(os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.dup2(2, 1)
    os._exit(run(order))


def main() -> None:
    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order or "poll" in order:
            pid, status = os.waitpid(order.get("wait", order.get("poll")), os.WNOHANG if "poll" in order else 0)
            children.discard(pid)
            answer = os.waitstatus_to_exitcode(status) if pid else LIVES
        else:
            if order["do"] in ("dask", "drive"):
                import distributed.cli.dask_worker  # noqa: F401, PLC0415 - for those who have it

                import ser_batch.cluster  # noqa: F401, PLC0415
            answer = os.fork()
            if answer == 0:
                begin(order)
            children.add(answer)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
