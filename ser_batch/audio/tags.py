"""Tags that stand before, between and behind audio of any format."""

from __future__ import annotations

import struct

from ser_batch.audio.source import Source

__all__ = ["TAG_STARTS", "tag_end"]

#: Begins of tags, as a regular expression.
TAG_STARTS = rb"ID3|TAG|APETAGEX|LYRICSBEGIN"
_APE = struct.Struct("<8sIIII8x")
_APE_HAS_HEADER, _APE_IS_HEADER = 1 << 31, 1 << 29
#: Longest text of Lyrics3 that is looked through.
_LYRICS_BYTES = 2**17


def tag_end(source: Source, place: int, end: int) -> int | None:
    """Return where the tag that begins at a place ends (at most at `end`), None where none begins."""
    head = source.at(place, min(_APE.size, max(end - place, 0)))
    n_bytes = 0
    if head[:3] == b"ID3" and len(head) >= 10 and all(byte < 128 for byte in head[6:10]) and head[3] < 255:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        n_bytes = 10 + size + (10 if head[5] & 0x10 else 0)
    elif head[:4] == b"TAG+":
        n_bytes = 227
    elif head[:3] == b"TAG":
        n_bytes = 128
    elif head[:8] == b"APETAGEX" and len(head) == _APE.size:
        _, _, size, _, flags = _APE.unpack(head)
        n_bytes = _APE.size + (size if flags & _APE_IS_HEADER or not flags & _APE_HAS_HEADER else 0)
        n_bytes = max(n_bytes, _APE.size)
    elif head[:11] == b"LYRICSBEGIN":
        text = source.at(place, min(_LYRICS_BYTES, end - place))
        closing = max(text.find(b"LYRICS200"), text.find(b"LYRICSEND"))
        n_bytes = closing + 9 if closing > 0 else 0
    return min(place + n_bytes, end) if n_bytes else None
