"""Ogg: all streams that follow one another in a file, also FLAC, which libsndfile does not take out of Ogg."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from ser_batch.audio import flac
from ser_batch.audio.errors import DeclinedError
from ser_batch.audio.sound import UNKNOWN_FRAMES, Block, Sound
from ser_batch.audio.source import Account, Joined, Source

__all__ = ["decode"]

_PAGE = re.compile(rb"OggS\x00")
#: A page that begins a stream.
_FIRST_PAGE = re.compile(rb"OggS\x00[\x02\x03\x06\x07]")
_HEADER_BYTES = 27
_LONGEST_PAGE_BYTES = 65_307
_SLACK_S = 0.01


@dataclass(frozen=True, slots=True)
class _Page:
    serial: bytes
    #: In its stream, from 0.
    number: int
    is_first: bool
    is_last: bool
    body: int
    end: int


def decode(source: Source, start: int, account: Account) -> Generator[Block, None, int]:
    """Decode all streams from a place on, one after another; return where the last page ends.

    Raises
    ------
    DeclinedError
        libsndfile does not know what is in the first one.
    """
    links = list(_links(source, start))
    if len(links) > 1:
        account.note(f"{len(links)} Ogg streams are joined in the file")
    last_page = _last_page(source, links[-1][0])
    if last_page and not last_page.is_last:
        account.note("no page is marked as the last: the recording was cut off, or went on")
    for first, last in links:
        if source.at(first, _HEADER_BYTES + 6)[-5:] == b"\x7fFLAC":
            yield from flac.decode(Joined(source, _bodies(source, first, last, account)), 0, account)
            continue
        try:
            sound = Sound(source if (first, last) == (0, source.size_bytes) else Joined(source, [(first, last)]))
        except DeclinedError as error:
            if first == start:
                raise
            account.unread.append(f"{last - first:,} bytes of a joined stream were not read: {error}")
            continue
        yield from sound.blocks()
        read_s, promised_s = sound.n_frames / sound.rate_hz, sound.n_promised / sound.rate_hz
        if sound.broken:
            account.unread.append(f"broken after {read_s:.2f} s: {sound.broken}")
        elif sound.n_promised < UNKNOWN_FRAMES and promised_s - read_s > _SLACK_S:
            account.unread.append(f"{promised_s - read_s:.2f} of {promised_s:.2f} s are in broken or missing pages")
    if last_page and last_page.end > source.size_bytes:
        account.unread.append(f"truncated: the last page has {last_page.end - source.size_bytes:,} bytes too few")
    return min(last_page.end, source.size_bytes) if last_page else source.size_bytes


def _last_page(source: Source, start: int) -> _Page | None:
    end = source.size_bytes
    last = None
    for place in source.search(_PAGE, max(end - 2 * _LONGEST_PAGE_BYTES, start), end, 5):
        page = _page(source, place)
        last = page or last
    return last


def _links(source: Source, start: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of streams that follow one another; streams that are interleaved begin together."""
    begin, behind = start, start
    for place in source.search(_FIRST_PAGE, start, source.size_bytes, 6):
        page = _page(source, place)
        if page is None:
            continue
        if place > behind:
            yield begin, place
            begin = place
        behind = page.end
    yield begin, source.size_bytes


def _bodies(source: Source, start: int, end: int, account: Account) -> list[bytes | tuple[int, int]]:
    """Return what is inside the pages of the first stream, which is FLAC, without the words that Ogg puts before it."""
    stretches: list[bytes | tuple[int, int]] = []
    serial, place, n_seen, last_number = b"", start, 0, -1
    while place < end:
        page = _page(source, place)
        if page is None:
            place = next(source.search(_PAGE, place + 1, end, 5), end)
            continue
        serial = serial or page.serial
        if page.serial == serial:
            n_seen, last_number = n_seen + 1, max(last_number, page.number)
            stretches.append((page.body + (0 if stretches else 9), min(page.end, end)))
        place = page.end
    if last_number >= n_seen:
        account.unread.append(f"{last_number + 1 - n_seen:,} of {last_number + 1:,} Ogg pages are missing")
    return stretches


def _page(source: Source, place: int) -> _Page | None:
    head = source.at(place, _HEADER_BYTES + 255)
    if len(head) < _HEADER_BYTES or not _PAGE.match(head):
        return None
    body = _HEADER_BYTES + head[26]
    return _Page(
        head[14:18],
        int.from_bytes(head[18:22], "little"),
        bool(head[5] & 2),
        bool(head[5] & 4),
        place + body,
        place + body + sum(head[_HEADER_BYTES:body]),
    )
