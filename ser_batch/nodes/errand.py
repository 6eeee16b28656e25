"""What a worker of another system does for a driver: it asks a node on its machine to do a bundle, one at a time.

This runs in the process of that system. The node is a child of it, and kept for the next bundle.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

__all__ = ["close_nodes", "run_bundle"]

#: Longest that a node takes to end in order.
_END_S = 20.0

_one_at_a_time = threading.Lock()
#: The node of this process, and what it was begun with.
_kept: list[tuple[dict[str, Any], subprocess.Popen[bytes]]] = []


def run_bundle(options: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """Do the parts from `first` to `last` of a plan; return what the node says of it.

    Parameters
    ----------
    options : dict
        run_dir, plan_id, and arguments of `ser_batch.nodes.node.Node`.
    first, last : int
        Numbers of parts.

    Returns
    -------
    answer : dict
        As of `ser_batch.nodes.serve.do_bundle`; or ``refused``, why this machine cannot do it; or ``is_lost``, where
        the node has died; or ``is_over``, where the plan is no more.
    """
    with _one_at_a_time:
        for _ in range(2):
            node = _node(options)
            answer = _asked(node, {"first": first, "last": last}) if isinstance(node, subprocess.Popen) else node
            if answer is not None:
                return {"host": platform.node(), **answer}
            # It had ended for want of work, or died; whose fault that was is counted by the run.
        return {"host": platform.node(), "is_lost": True}


def close_nodes(run_dir: str) -> None:
    """End the node of this process, if it works on a run."""
    for options, process in list(_kept):
        if options["run_dir"] == run_dir:
            _close(process)


def _node(options: dict[str, Any]) -> subprocess.Popen[bytes] | dict[str, Any]:
    """Return the node that was begun with these options, or what it says instead."""
    for known, process in list(_kept):
        if known == options and process.poll() is None:
            return process
        _close(process)
    command = [sys.executable, "-m", "ser_batch.nodes.serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    _kept.append((options, process))
    answer = _asked(process, options)
    if answer is None or "node" not in answer:
        _close(process)
        return answer or {
            "refused": f"The node on {platform.node()} ended before it began; its standard error says why."
        }
    return process


def _asked(process: subprocess.Popen[bytes], question: dict[str, Any]) -> dict[str, Any] | None:
    assert process.stdin and process.stdout
    try:
        process.stdin.write(json.dumps(question).encode() + b"\n")
        process.stdin.flush()
        line = process.stdout.readline()
        answer: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
    except (OSError, ValueError):
        return None
    return answer


def _close(process: subprocess.Popen[bytes]) -> None:
    _kept[:] = [item for item in _kept if item[1] is not process]
    with suppress(OSError):
        process.terminate()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()
