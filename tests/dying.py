"""Has the process that it is called in die at a named step of a run."""

from __future__ import annotations

import os
import signal

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
