"""Runs scans in child processes that may be killed; started by `harness.Scanner`, driven by lines of JSON.

Everything heavy is imported once and then inherited by fork, so that a scan takes about a second.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import sys
import time
import traceback

import joblib.externals.loky  # noqa: F401 - loaded once for all children
import psutil

import ser_batch.run.open  # noqa: F401
from ser_batch.config import Config
from ser_batch.engine import scan
from ser_batch.errors import SerBatchError
from ser_batch.plugins import PluginRecipe
from ser_batch.run import steps
from ser_batch.run.journal import Filesystem
from ser_batch.stages.discover import read_file_list
from ser_batch.stages.progress import Progress

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))
from dying import kill_at

PR_SET_CHILD_SUBREAPER = 36


def move_at(name: str, number: int, source: str, target: str, left: str) -> None:
    """Take a folder away when a step is reached for the n-th time, and leave an empty one, or nothing."""
    seen = 0

    def observer(step: str) -> None:
        nonlocal seen
        seen += step == name
        if step == name and seen == number:
            pathlib.Path(source).rename(target)
            if left:
                pathlib.Path(left).mkdir()

    steps.observe(observer)


def break_disk(operation: str, number: int, code: str, after: bool) -> None:
    """Fail the n-th write, rename or flush, before it is done or after it went through."""
    original = getattr(Filesystem, operation)
    left = number

    def faulty(self, *arguments):
        nonlocal left
        left -= 1
        if left == 0 and not after:
            if operation == "write":  # what a full disk leaves behind
                original(self, arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        original(self, *arguments)
        if left == 0:
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    setattr(Filesystem, operation, faulty)


class Heard(Progress):
    """Remembers what was said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def run(order: dict) -> dict:
    os.environ.update(order.get("environment", {}))
    for name, limit in order.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (limit, limit))
    heard = Heard()
    return scanned(order, heard) | {"said": heard.said}


def scanned(order: dict, heard: Heard) -> dict:
    if "kill_at" in order:
        kill_at(*order["kill_at"])
    if "move_at" in order:
        move_at(*order["move_at"])
    if "break_disk" in order:
        break_disk(**order["break_disk"])
    config = Config().with_values(order["config"])
    recipe = PluginRecipe(files=tuple(order["plugins"]), entry_points=(), built_in=("ser_batch.audio",))
    try:
        summary = scan(
            read_file_list(pathlib.Path(order["files_from"])) if "files_from" in order else order["inputs"],
            order["run"],
            config=config,
            plugins=recipe,
            mode=order["mode"],
            metadata=order.get("metadata"),
            progress=heard,
            report=False,
        )
    except SerBatchError as error:
        return {"code": int(error.exit_code), "error": str(error)}
    except KeyboardInterrupt:
        return {"code": 130, "error": "interrupted"}
    except BaseException:
        return {"code": 99, "error": traceback.format_exc()}
    return {
        "code": int(summary.exit_code),
        "counts": dict(summary.counts),
        "n_processed": summary.n_processed,
        "n_workers_started": psutil.Process().cpu_times().children_user > 0,
    }


def hurt(pid: int, run: str, order: dict, begin: float) -> None:
    """Send the signal that was ordered, to the scan or to one of its workers, when its time has come."""
    deadline = time.monotonic() + 30
    while "parts" in order and time.monotonic() < deadline:
        if len(list(pathlib.Path(run, "files").glob("part-*.parquet"))) >= order["parts"]:
            break
        time.sleep(0.005)
    delay = order.get("after_s", 0.0) - (time.monotonic() - begin)
    if delay > 0:
        time.sleep(delay)
    while "exists" in order and not pathlib.Path(order["exists"]).exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    if "remove" in order:
        for folder in pathlib.Path(run).glob(order["remove"]):
            shutil.rmtree(folder, ignore_errors=True)
        return
    target = pid
    if order.get("who") == "worker":
        workers = [child for child in psutil.Process(pid).children() if "loky" in " ".join(child.cmdline())]
        workers = [child for child in workers if "resource_tracker" not in " ".join(child.cmdline())]
        if not workers:
            return
        target = random.choice(workers).pid
    for number in order.get("signals") or [order["signal"]]:
        (os.killpg if order.get("who") == "group" else os.kill)(target, number)


def main() -> None:
    # As under `systemd --user`: orphans are given to this process, not to number 1.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        begin = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            os.setpgid(0, 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            answer = run(order)
            os.write(writer, json.dumps(answer).encode())
            os._exit(0)
        os.close(writer)
        for blow in order.get("blows", ()):
            try:
                hurt(pid, order["run"], blow, begin)
            except (psutil.Error, ProcessLookupError):
                break
        with os.fdopen(reader, "rb") as answers:
            data = answers.read()
        _, status = os.waitpid(pid, 0)
        answer = json.loads(data) if data else {"code": -os.WTERMSIG(status)}
        answer |= {"pid": pid}
        answer["seconds"] = time.monotonic() - begin
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    # The tests may run under nohup, or in the background of a script: what was ignored there is heeded here.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    main()
