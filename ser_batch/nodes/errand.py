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
from pathlib import Path
from typing import Any

__all__ = ["close_nodes", "run_bundle"]

#: Longest that a node takes to end in order.
_END_S = 20.0

_one_at_a_time = threading.Lock()
#: The node of this process, and what it was begun with.
_kept: list[tuple[dict[str, Any], subprocess.Popen[bytes]]] = []
#: Nodes that were asked to end, until they have.
_ending: list[subprocess.Popen[bytes]] = []
#: Plans whose driver wants no more of them.
_given_up: set[str] = set()
#: Exit codes of the nodes that ended before they began, one after the other; after so many this machine is not asked.
_stillborn_codes: list[int | None] = []
_MAX_STILLBORN = 3


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
        the node has died; or ``is_over``, where the plan is no more, or is given up.
    """
    with _one_at_a_time:
        for _ in range(2):
            node = _node(options)
            answer = _asked(node, {"first": first, "last": last}) if isinstance(node, subprocess.Popen) else node
            if answer is not None:
                return {"host": platform.node(), **answer}
            # It had ended for want of work, or died; whose fault that was is counted by the run.
        return {"host": platform.node(), "is_lost": True}


def close_nodes(plans: list[str]) -> int:
    """Ask the node of this process to end, if it works on one of some plans, of which nothing is done any more.

    It is not waited for: this may be called where nothing may take long.

    Returns
    -------
    n_left : int
        Nodes that were asked to end and have not yet, whether they had begun to work or not.
    """
    _given_up.update(plans)
    for kept in [item for item in _kept if item[0]["plan_id"] in plans]:
        _kept.remove(kept)
        _ending.append(kept[1])
        threading.Thread(target=_close, args=(kept[1],), daemon=True).start()
    _ending[:] = [process for process in _ending if process.poll() is None]
    return len(_ending)


def _node(options: dict[str, Any]) -> subprocess.Popen[bytes] | dict[str, Any]:
    """Return the node that was begun with these options, or what it says instead."""
    if options["plan_id"] in _given_up:
        return {"is_over": True}
    for known, process in list(_kept):
        if known == options and process.poll() is None:
            return process
        _close(process)
    # Imports nothing from the folder in which the worker was started, which may be one of the archive.
    home = str(Path(__file__).resolve().parents[2])
    code = f"import sys; sys.path.append({home!r}); from ser_batch.nodes.serve import main; main()"
    process = subprocess.Popen([sys.executable, "-P", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    _kept.append((options, process))
    if options["plan_id"] in _given_up:  # meanwhile
        _close(process)
        return {"is_over": True}
    answer = _asked(process, options)
    if answer is None:
        return _stillborn(options, process)
    _stillborn_codes.clear()
    if "node" not in answer:
        _close(process)
        return answer
    return process


def _stillborn(options: dict[str, Any], process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Say what became of a node that ended before it began."""
    with suppress(subprocess.TimeoutExpired):
        process.wait(_END_S)
    code = process.returncode
    _close(process)
    if options["plan_id"] in _given_up:
        return {"is_over": True}
    _stillborn_codes.append(code)
    if code is not None and code < 0 and len(_stillborn_codes) < _MAX_STILLBORN:
        return {"is_lost": True}
    how = f"was ended by signal {-code}" if code is not None and code < 0 else "ended"
    return {"refused": f"The node on {platform.node()} {how} before it began; its standard error says why."}


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
