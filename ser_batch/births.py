"""When processes began, which tells one from another that was given its number later."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["BIRTH_TOLERANCE_S", "born_s"]

#: Two readings of when a process began differ by less.
BIRTH_TOLERANCE_S = 2.0


def born_s(pid: int) -> float:
    """Return when a process began, in s from a moment that is the same for all who ask on a machine.

    On Linux that is when the machine was started, so that a clock that is set changes nothing.

    Raises
    ------
    psutil.Error
        There is none.
    """
    try:
        # The name of the program may hold anything, and ends with the last parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        import psutil  # noqa: PLC0415 - elsewhere, or to say that it is gone

        return psutil.Process(pid).create_time()
