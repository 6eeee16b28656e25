"""Signal analyses: arrays in, arrays out, no files.

Importing this package loads nothing; its modules load numba. Kernels are compiled on first use and cached on disk.
"""

from __future__ import annotations

__all__ = ["warm_up"]


def warm_up() -> None:
    """Compile every kernel, or load it from the cache on disk, by analysing a third of a second of synthetic voice.

    Call it once in the parent before workers start: a cold cache costs tens of seconds, and so many times as there are
    processes that find it cold at the same moment. A warm one costs well under half a second.
    """
    from ser_batch.dsp.rehearsal import rehearse  # noqa: PLC0415 - the package itself stays light

    rehearse()
