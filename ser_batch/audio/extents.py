"""Where a recording ends in formats that FFmpeg reads: it reads the first one alone, whatever lies behind."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from ser_batch.audio.source import Source

__all__ = ["BEGINNING", "LONGEST_BEGINNING", "Extent", "extent_of"]

_MATROSKA = rb"\x1aE\xdf\xa3.{1,40}(?:webm|matroska)"
_ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
_AMR = rb"#!AMR(?:-WB)?\n"
#: How these formats begin.
BEGINNING = re.compile(rb"....ftyp|" + b"|".join((_MATROSKA, re.escape(_ASF), _AMR)), re.DOTALL)
LONGEST_BEGINNING = 52
_BOX = struct.Struct(">I4s")
_BOX_NAME = re.compile(rb"[A-Za-z0-9\xa9][A-Za-z0-9 _-]{3}")
_SEGMENT = 0x18538067
#: EBML header, segment, void, and what live streams have beside each other: cues, tags, clusters.
_ELEMENTS = (0x1A45DFA3, _SEGMENT, 0xEC, 0x1C53BB6B, 0x1254C367, 0x1F43B675)


@dataclass(frozen=True, slots=True)
class Extent:
    """The bytes of one recording.

    Attributes
    ----------
    end : int
    n_missing : int
        Bytes that it declares beyond the end of the file.
    is_unfinished : bool
        It lacks the index without which nothing in it can be found.
    """

    end: int
    n_missing: int = 0
    is_unfinished: bool = False


def extent_of(source: Source, start: int) -> Extent:
    """Return how far a recording goes that begins at a place; to the end of the file where its format does not say."""
    head = source.at(start, LONGEST_BEGINNING)
    if _BOX_NAME.fullmatch(head[4:8]):
        return _of_boxes(source, start)
    if head[:16] == _ASF:
        return _of_objects(source, start)
    if re.match(_MATROSKA, head, re.DOTALL):
        return _of_elements(source, start)
    if re.match(_AMR, head):
        return Extent(next(source.search(re.compile(_AMR), start + 6, source.size_bytes, 9), source.size_bytes))
    return Extent(source.size_bytes)


def _of_boxes(source: Source, start: int) -> Extent:
    """Go through the outermost boxes of MP4 and QuickTime."""
    place, names = start, set[bytes]()
    while len(data := source.at(place, 16)) >= _BOX.size:
        n_bytes, name = _BOX.unpack_from(data)
        if n_bytes == 1:
            n_bytes = int.from_bytes(data[8:16], "big")
        elif n_bytes == 0:
            n_bytes = source.size_bytes - place
        if n_bytes < _BOX.size or not _BOX_NAME.fullmatch(name) or (name == b"ftyp" and names):
            break
        names.add(name)
        place += n_bytes
    if not names & {b"ftyp", b"moov", b"mdat"}:
        return Extent(source.size_bytes)  # something else, whose bytes look like a name
    return _extent(source, place, is_unfinished="moov" not in names)


def _of_objects(source: Source, start: int) -> Extent:
    """Go through the outermost objects of ASF."""
    place = start
    while len(data := source.at(place, 24)) == 24 and (place == start or data[:16] != _ASF):
        n_bytes = int.from_bytes(data[16:], "little")
        if n_bytes < 24:
            return Extent(source.size_bytes)  # live: it goes on
        place += n_bytes
    return _extent(source, place)


def _of_elements(source: Source, start: int) -> Extent:
    """Go through the outermost elements of Matroska and WebM."""
    place = start
    while len(data := source.at(place, 12)) == 12:
        n_name = 9 - data[0].bit_length()
        name = int.from_bytes(data[:n_name], "big")
        if name not in _ELEMENTS or (place > start and name == _ELEMENTS[0]):
            break
        n_size = 9 - data[n_name].bit_length()
        n_bytes = int.from_bytes(data[n_name : n_name + n_size], "big") & (1 << 7 * n_size) - 1
        place += n_name + n_size
        if n_bytes == (1 << 7 * n_size) - 1:  # not known, as a browser leaves it
            again = re.compile(_MATROSKA, re.DOTALL)
            return Extent(next(source.search(again, place, source.size_bytes, LONGEST_BEGINNING), source.size_bytes))
        place += n_bytes
    return _extent(source, place)


def _extent(source: Source, place: int, is_unfinished: bool = False) -> Extent:
    return Extent(min(place, source.size_bytes), max(place - source.size_bytes, 0), is_unfinished)
