"""Arrays kept in a file between two calls: whole, or not at all, or computed again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.atomic import open_atomic

__all__ = ["read_arrays", "write_arrays"]


def write_arrays(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write arrays into one file; its folder is made where missing.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    everything: dict[str, Any] = dict(arrays)
    with open_atomic(path) as file:
        np.savez(file, **everything)


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray] | None:
    """Return the arrays of these names in a file; None where it is absent or damaged, in whichever way."""
    try:
        # numpy leaves a file open that it has opened itself and cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in names}
    except Exception:
        return None
