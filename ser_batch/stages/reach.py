"""Tells a bad file from one that cannot be looked at, and a file from an archive that is gone.

An archive may be unmounted in the middle of a scan, its server may go away, a worker may run out of memory or of open
files. What the system says then (no such file, stale handle, input/output error, forbidden, not connected) says nothing
about audio, and must not take the place of what is known of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import InputError
from ser_batch.records import ClipOutcome, Status
from ser_batch.stages.discover import NOT_SEEN_NS, Found
from ser_batch.storage.places import storage_of
from ser_batch.text import printable

__all__ = ["Archive", "can_be_read", "is_out_of_reach", "out_of_reach", "probes_of"]


def _names_of(kind: type[BaseException]) -> Iterator[str]:
    yield kind.__name__
    for other in kind.__subclasses__():
        if other.__module__ == "builtins":
            yield from _names_of(other)


#: What the system raises, by the name that a row has for it.
_ERRORS = frozenset(_names_of(OSError))
_BROKEN = frozenset((str(Status.FAILED), str(Status.PARTIAL)))
#: Memory ends wherever it is asked for.
_ANYWHERE = "MemoryError"
#: So many files in a row that the system refuses are no accident. Those that are merely forbidden do not count: there
#: may be any number of them.
_MOST_IN_A_ROW = 100
#: Files looked at to see whether an archive is there.
_N_PROBES = 20


def out_of_reach(status: NDArray[np.str_], stage: NDArray[np.str_], error_type: NDArray[np.str_]) -> NDArray[np.bool_]:
    """Tell which rows say that a file could not be looked at, by these columns of the table ``files``."""
    by_system = np.isin(error_type, sorted(_ERRORS)) & (stage == "decode")
    return np.isin(status, sorted(_BROKEN)) & (by_system | (error_type == _ANYWHERE))


def is_out_of_reach(outcome: ClipOutcome) -> bool:
    """Tell the same of an outcome."""
    by_system = outcome.error_type in _ERRORS and outcome.stage == "decode"
    return outcome.status in _BROKEN and (by_system or outcome.error_type == _ANYWHERE)


def can_be_read(path: str) -> bool:
    """Tell whether the first byte of a file can be read now."""
    return storage_of(path).can_be_read(path)


class Archive:
    """Watches, outcome by outcome, whether what is being scanned is still there.

    Parameters
    ----------
    root : str
        Its folder.
    probes : sequence of str
        Paths of some files that could be looked at when the scan began: see `probes_of`.
    """

    def __init__(self, root: str, probes: Sequence[str]) -> None:
        self._root, self._probes = root, probes
        self._storage = storage_of(root)
        self._identity = self._storage.identity(root)
        self._n_in_a_row = 0

    def check(self, outcomes: Sequence[ClipOutcome]) -> None:
        """Take in what became of some files, before any of it is stored.

        Raises
        ------
        InputError
            The archive is gone.
        """
        last: ClipOutcome | None = None
        for outcome in outcomes:
            if not is_out_of_reach(outcome):
                self._n_in_a_row = 0
            elif outcome.ref.mtime_ns != NOT_SEEN_NS:
                last = outcome
                self._n_in_a_row += outcome.error_type != PermissionError.__name__
        if last is not None and (why := self._why_gone()):
            raise InputError(
                f"{printable(self._root)} can no longer be read: {why} (the last: "
                f"{printable(last.ref.clip_id)}: {printable(last.error_message)}). What was committed is whole, and "
                f"nothing of this is written. Once the archive is back, the same command goes on."
            )

    def _why_gone(self) -> str:
        if self._identity is None or self._storage.identity(self._root) != self._identity:
            return "its folder is gone, or is another one now"
        if not any(map(self._storage.is_there, self._probes)):
            return "none of its files can be looked at"
        if self._n_in_a_row >= _MOST_IN_A_ROW:
            return f"{self._n_in_a_row:,} files in a row failed so"
        return ""


def probes_of(found: Found) -> list[str]:
    """Return the paths of some files that could be looked at when a scan began, from all over the archive."""
    n_seen = sum(time_ns != NOT_SEEN_NS for time_ns in found.mtimes_ns)
    seen = (place for place, time_ns in enumerate(found.mtimes_ns) if time_ns != NOT_SEEN_NS)
    return [found.ref(place).path for place in islice(seen, 0, None, max(1, n_seen // _N_PROBES))]
