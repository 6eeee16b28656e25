"""The bytes of a file: read at any place, put together anew for a decoder, and accounted for."""

from __future__ import annotations

import io
import os
import re
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["Account", "Bytes", "Joined", "Source", "View"]

#: Bytes searched, or fetched for a decoder, at a time.
_CHUNK_BYTES = 2**20
_FETCH_BYTES = 2**16
#: More than the highest bit rate of MPEG audio over the lowest.
_STRETCH = 64
_NOT_ZERO = re.compile(rb"[^\0]")


class Bytes(ABC):
    """Bytes that can be read at any place."""

    size_bytes: int

    @abstractmethod
    def at(self, place: int, n_bytes: int) -> bytes:
        """Return `n_bytes` from a place on; fewer where the end is nearer."""

    def search(self, pattern: re.Pattern[bytes], start: int, end: int, longest: int = 1) -> Iterator[int]:
        """Yield where something matches between two places; no match may be longer than `longest`."""
        while start < end:
            data = self.at(start, min(_CHUNK_BYTES + longest - 1, end - start))
            if not data:
                return  # the file has become shorter
            for match in pattern.finditer(data):
                if match.start() < _CHUNK_BYTES:
                    yield start + match.start()
            start += _CHUNK_BYTES

    def is_zero(self, start: int, end: int) -> bool:
        """Whether all bytes between two places are zero."""
        return next(self.search(_NOT_ZERO, start, end), None) is None


class Source(Bytes):
    """An open file."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size_bytes = os.fstat(descriptor).st_size

    def at(self, place: int, n_bytes: int) -> bytes:
        if place >= self.size_bytes:
            return b""  # a damaged header may point beyond what the system can count to
        data = os.pread(self.descriptor, n_bytes, place)
        # A file system may give less than it is asked for.
        while 0 < len(data) < n_bytes and (more := os.pread(self.descriptor, n_bytes - len(data), place + len(data))):
            data += more
        return data


class Joined(Bytes):
    """Stretches of other bytes, (start, end), and literal bytes, in a row."""

    def __init__(self, other: Bytes, pieces: Sequence[bytes | tuple[int, int]]) -> None:
        self._other, self._pieces = other, pieces
        lengths = [len(piece) if isinstance(piece, bytes) else piece[1] - piece[0] for piece in pieces]
        self._starts = list(accumulate(lengths, initial=0))
        self.size_bytes = self._starts.pop()

    def at(self, place: int, n_bytes: int) -> bytes:
        found = b""
        index = bisect_right(self._starts, place) - 1
        while len(found) < n_bytes and index < len(self._pieces):
            piece, within = self._pieces[index], place + len(found) - self._starts[index]
            n_wanted = n_bytes - len(found)
            if isinstance(piece, bytes):
                found += piece[within : within + n_wanted]
            else:
                start, end = piece
                found += self._other.at(start + within, min(n_wanted, end - start - within))
            index += 1
        return found


class View(io.RawIOBase):
    """Bytes as a file, for a decoder.

    Parameters
    ----------
    data : Bytes
    is_stretched : bool
        Claim a length far beyond the end. libsndfile guesses the length of MPEG audio from that of the file, and stops
        where it guessed; so it reads to the end.

    Attributes
    ----------
    failed : OSError or None
        What the system said; raised through a decoder's C code it would be lost.
    """

    failed: OSError | None = None

    def __init__(self, data: Bytes, is_stretched: bool = False) -> None:
        super().__init__()
        self._data = data
        self._claimed_bytes = data.size_bytes * _STRETCH if is_stretched else data.size_bytes
        self._place = 0
        self._fetched, self._fetched_at = b"", 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(offset + (0, self._place, self._claimed_bytes)[whence], 0)
        return self._place

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer).cast("B")
        data = self._next(len(target))
        target[: len(data)] = data
        self._place += len(data)
        return len(data)

    def _next(self, n_bytes: int) -> bytes:
        if self._data.size_bytes < self._claimed_bytes - 128 <= self._place:
            return bytes(n_bytes)  # where a tag may be looked for: none
        here = self._place - self._fetched_at
        if not 0 <= here <= len(self._fetched) - n_bytes:
            try:
                self._fetched = self._data.at(self._place, max(n_bytes, _FETCH_BYTES))
            except OSError as error:
                self._fetched, self.failed = b"", error
            self._fetched_at, here = self._place, 0
        return self._fetched[here : here + n_bytes]


@dataclass(eq=False)
class Account:
    """What became of the bytes of a file, and what read them."""

    #: With its version.
    reader: str = ""

    #: Skipped or mended: for the row of a file that is ``ok`` all the same.
    notes: list[str] = field(default_factory=list)
    #: Not read: the file is ``partial``.
    unread: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def note_once(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)
