"""Containers whose header says where the audio is, and how many bytes: WAV and its kin, AIFF, AU, CAF, VOC, SPHERE.

Recorders that crash, pipes and sizes beyond 4 GB make headers that lie. A parser here says what the header declares and
what the file holds; where libsndfile would believe the lie, it gets to see a header that is right.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ser_batch.audio import mpeg
from ser_batch.audio.errors import DecodeError
from ser_batch.audio.sound import Block, Sound
from ser_batch.audio.source import Account, Joined, Source
from ser_batch.audio.tags import tag_end

__all__ = ["MAGICS", "Layout", "decode", "layout_of"]

#: Writers that cannot seek back leave a size near 2**31 or 2**32; it promises nothing.
_OPEN_END_BYTES = 0x7FFF_0000
#: Nor does a size that is written before there is any audio.
_TINY_BYTES = 64
_WRAP_BYTES = 1 << 32
#: Less than this is not worth a word: some writers count the header into the size of the audio.
_SLACK_S = 0.01
_CHUNK_NAME = re.compile(rb"[A-Za-z0-9_(][A-Za-z0-9_ -]{2}[A-Za-z0-9_ )-]")
_LONGEST_FMT = 4_096
_MPEG_TAGS = (0x50, 0x55)
_W64_DATA = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"
#: The last bytes of the names of chunks in W64, which are GUIDs.
_W64_NAME_ENDS = (b"\x00\xc0\x4f\x8e\xdb\x8a", b"\x28\xdb\x04\xc1\x00\x00")
_W64_FMT = b"fmt \xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a"


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where the audio of a container is.

    Attributes
    ----------
    stretches : sequence of (start, end)
        The audio, in order.
    declared_bytes : int
        Bytes of audio by the header; 0 where it promises nothing.
    end : int
        Where the container ends.
    header : bytes
        What stands before the stretches so that libsndfile reads all of them; empty where the file is right as it is.
    frame_bytes : int
        Bytes of a sample over all channels; 0 where the audio is compressed.
    is_mpeg : bool
        The audio is MPEG frames.
    """

    stretches: Sequence[tuple[int, int]]
    declared_bytes: int
    end: int
    header: bytes = b""
    frame_bytes: int = 0
    is_mpeg: bool = False

    @property
    def n_bytes(self) -> int:
        return sum(end - start for start, end in self.stretches)


def layout_of(source: Source, start: int, head: bytes) -> Layout | None:
    """Return the layout of the container that begins at `start` with `head`; None where it is none of these."""
    for magic, parse in _PARSERS:
        if magic.match(head):
            return parse(source, start)
    return None


def decode(source: Source, start: int, layout: Layout, account: Account) -> Iterator[Block]:
    """Decode the audio of a container that begins at `start`.

    Raises
    ------
    DeclinedError
        libsndfile does not know how the audio is encoded.
    DecodeError
        There is none where the header promises some.
    """
    if layout.declared_bytes and not layout.n_bytes:
        raise DecodeError(f"the header promises {layout.declared_bytes:,} bytes of audio, the file ends before them")
    if layout.header and layout.n_bytes > layout.declared_bytes:
        account.note(
            f"the header gives {layout.declared_bytes:,} bytes of audio, {layout.n_bytes:,} were there and were read"
        )
    if layout.header and len(layout.stretches) > 1:
        account.note(f"the audio is in {len(layout.stretches)} chunks: all were read")
    if layout.is_mpeg:
        for first, last in layout.stretches:
            yield from mpeg.decode(source, first, last, account)
        if layout.declared_bytes > layout.n_bytes:
            account.unread.append(
                f"truncated: the header promises {layout.declared_bytes:,} bytes of audio, "
                f"the file ends after {layout.n_bytes:,}"
            )
        return
    if layout.header:
        sound = Sound(Joined(source, [layout.header, *layout.stretches]))
    else:
        is_whole = start == 0 and layout.end == source.size_bytes
        sound = Sound(source if is_whole else Joined(source, [(start, layout.end)]))
    yield from sound.blocks()
    read_s = sound.n_frames / sound.rate_hz
    if sound.broken:
        account.unread.append(f"broken after {read_s:.2f} s: {sound.broken}")
        return
    promised_s = read_s * layout.declared_bytes / max(layout.n_bytes, 1)
    if promised_s - read_s > _SLACK_S:
        account.unread.append(f"truncated: the header promises {promised_s:.2f} s, the file ends after {read_s:.2f} s")
    n_left = layout.n_bytes - sound.n_frames * layout.frame_bytes
    if layout.frame_bytes and n_left > _SLACK_S * sound.rate_hz * layout.frame_bytes:
        account.unread.append(f"{n_left:,} of {layout.n_bytes:,} bytes of audio were not read")


def _audio_end(source: Source, start: int, n_bytes: int, follows: Callable[[int], bool], form_end: int) -> int:
    """Return where the audio ends that begins at `start` and has `n_bytes` by its header.

    `follows` says whether the container goes on at a place; `form_end` is where the container ends by its own header.
    """
    end, stated = source.size_bytes, start + n_bytes
    if stated >= end or (n_bytes >= _OPEN_END_BYTES and end - start < _WRAP_BYTES):
        return end
    for behind in {stated, stated + n_bytes % 2}:
        if behind == end or follows(behind) or tag_end(source, behind, end):
            return stated
    if n_bytes < _TINY_BYTES:
        return end
    wrapped = stated + (end - stated) // _WRAP_BYTES * _WRAP_BYTES
    if wrapped > stated and (end - wrapped <= 1 or follows(wrapped + n_bytes % 2)):
        return wrapped
    is_consistent = abs(form_end - stated) <= 1
    return stated if is_consistent or source.is_zero(stated, end) else end


def _promise(n_bytes: int, is_64: bool = False) -> int:
    """Return what a declared size promises: nothing, where it stands for "to the end"."""
    return n_bytes if is_64 or n_bytes < _OPEN_END_BYTES else 0


# WAV, its 64-bit forms RF64 and BW64, RIFX (big-endian), and W64.


def _wav_header(fmt: bytes, n_bytes: int, order: str = "<") -> bytes:
    """Return the header of a WAV whose audio has `n_bytes`."""
    chunk = struct.Struct(f"{order}4sI")
    fmt_chunk = chunk.pack(b"fmt ", len(fmt)) + fmt + b"\0" * (len(fmt) % 2)
    if n_bytes < _OPEN_END_BYTES:
        form = b"RIFX" if order == ">" else b"RIFF"
        return chunk.pack(form, 12 + len(fmt_chunk) + n_bytes) + b"WAVE" + fmt_chunk + chunk.pack(b"data", n_bytes)
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 48 + len(fmt_chunk) + n_bytes, n_bytes, 0, 0)
    wide = chunk.pack(b"RF64", _WRAP_BYTES - 1) + b"WAVE" + sizes
    return wide + fmt_chunk + chunk.pack(b"data", _WRAP_BYTES - 1)


def _wav_layout(
    fmt: bytes, stretches: Sequence[tuple[int, int]], declared_bytes: int, end: int, is_right: bool, order: str = "<"
) -> Layout:
    tag, n_channels, _, _, frame_bytes, n_bits = struct.unpack(f"{order}HHIIHH", fmt[:16])
    if tag == 0xFFFE and len(fmt) >= 26:
        tag = struct.unpack(f"{order}H", fmt[24:26])[0]
    is_plain = tag in (1, 3, 6, 7) and frame_bytes == n_channels * ((n_bits + 7) // 8)
    n_bytes = sum(last - first for first, last in stretches)
    return Layout(
        stretches=stretches,
        declared_bytes=declared_bytes,
        end=end,
        header=b"" if is_right else _wav_header(fmt, n_bytes, order),
        frame_bytes=frame_bytes if is_plain else 0,
        is_mpeg=tag in _MPEG_TAGS,
    )


def _riff(source: Source, start: int) -> Layout | None:
    form = source.at(start, 4)
    order, is_64 = ">" if form == b"RIFX" else "<", form in (b"RF64", b"BW64")
    chunk = struct.Struct(f"{order}4sI")
    form_end = start + 8 + chunk.unpack(source.at(start, 8))[1]
    follows = _chunk_follows(source, chunk)
    fmt, wide_bytes, declared_bytes, is_right = b"", 0, 0, form != b"BW64"
    stretches: list[tuple[int, int]] = []
    place = start + 12
    while len(data := source.at(place, 8)) == 8:
        name, n_bytes = chunk.unpack(data)
        body = place + 8
        if not _CHUNK_NAME.fullmatch(name) or (stretches and not follows(place)):
            break
        # Some writers forget the byte that makes a length even.
        is_odd = n_bytes % 2 == 1 and name != b"data"
        is_padded = not is_odd or follows(body + n_bytes + 1) or not follows(body + n_bytes)
        is_right &= is_padded
        place = body + n_bytes + n_bytes % 2 * is_padded
        if name == b"ds64":
            riff_bytes, wide_bytes = struct.unpack("<QQ", source.at(body, 16).ljust(16, b"\0"))
            form_end = start + 8 + riff_bytes
        elif name == b"fmt " and not fmt:
            fmt = source.at(body, min(n_bytes, _LONGEST_FMT))
            is_right &= not stretches
        elif name == b"data":
            n_bytes = wide_bytes if is_64 and n_bytes == _WRAP_BYTES - 1 else n_bytes
            place = _audio_end(source, body, n_bytes, follows, form_end)
            is_right &= not stretches and place <= body + n_bytes
            stretches.append((body, place))
            declared_bytes += _promise(n_bytes, is_64)
            place += place % 2 and (follows(place + 1) or place + 1 == source.size_bytes)
    if not stretches or len(fmt) < 16:
        return None
    return _wav_layout(fmt, stretches, declared_bytes, min(place, source.size_bytes), is_right, order)


#: Names that begin a container, and no chunk within one.
_FORMS = (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM", b"caff")


def _chunks_end(source: Source, place: int, chunk: struct.Struct, alignment: int) -> int:
    """Return where the chunks end that follow one another from a place on."""
    follows = _chunk_follows(source, chunk)
    while follows(place) or follows(place + -place % alignment):
        place += 0 if follows(place) else -place % alignment
        place += chunk.size + int(chunk.unpack(source.at(place, chunk.size))[1])
    return min(place + -place % alignment, source.size_bytes)


def _chunk_follows(source: Source, chunk: struct.Struct) -> Callable[[int], bool]:
    def follows(place: int) -> bool:
        data = source.at(place, chunk.size)
        if len(data) < chunk.size or not _CHUNK_NAME.fullmatch(data[:4]) or data[:4] in _FORMS:
            return False
        return 0 <= int(chunk.unpack(data)[1]) <= source.size_bytes - place - chunk.size

    return follows


def _w64(source: Source, start: int) -> Layout | None:
    form_end = start + struct.unpack("<Q", source.at(start + 16, 8).ljust(8, b"\0"))[0]
    fmt, place = b"", start + 40

    def follows(place: int) -> bool:
        return source.at(place + 10, 6) in _W64_NAME_ENDS and source.at(place, 4) != b"riff"

    while len(data := source.at(place, 24)) == 24:
        n_bytes = max(struct.unpack("<Q", data[16:])[0] - 24, 0)
        body = place + 24
        if data[:16] == _W64_FMT:
            fmt = source.at(body, min(n_bytes, _LONGEST_FMT))
        elif data[:16] == _W64_DATA and len(fmt) >= 16:
            end = _audio_end(source, body, n_bytes, lambda place: follows(place + -place % 8), form_end)
            place = end
            while follows(aligned := place + -place % 8):
                n_chunk = struct.unpack("<Q", source.at(aligned + 16, 8).ljust(8, b"\0"))[0]
                place = aligned + max(n_chunk, 24)
            behind = min(place + -place % 8, source.size_bytes)
            return _wav_layout(fmt, [(body, end)], n_bytes, behind, end <= body + n_bytes)
        elif not follows(place):
            return None
        place = body + n_bytes + -n_bytes % 8
    return None


# Others: what is put before the audio is the file's own header, with the sizes put right.


def _aiff(source: Source, start: int) -> Layout | None:
    chunk = struct.Struct(">4sI")
    form_end = start + 8 + chunk.unpack(source.at(start, 8))[1]
    follows = _chunk_follows(source, chunk)
    common, place = b"", start + 12
    n_frames_at = 0
    while len(data := source.at(place, 8)) == 8:
        name, n_bytes = chunk.unpack(data)
        body = place + 8
        if name == b"COMM":
            common, n_frames_at = source.at(body, 22), body + 2 - start
        elif name in (b"SSND", b"BODY"):
            body += 8 if name == b"SSND" else 0
            n_bytes = max(n_bytes - (body - place - 8), 0)
            end = _audio_end(source, body, n_bytes, follows, form_end)
            behind = _chunks_end(source, end, chunk, 2)
            frame_bytes = 0
            if source.at(start + 8, 4) == b"AIFF" or common[18:] in _AIFC_PLAIN:
                n_channels, n_frames, n_bits = struct.unpack(">HIH", common[:8].ljust(8, b"\0"))
                frame_bytes = n_channels * ((n_bits + 7) // 8)
                n_bytes = min(n_bytes, n_frames * frame_bytes) if frame_bytes else n_bytes
            header = b""
            if frame_bytes and end - body >= n_bytes + frame_bytes and end - body < _OPEN_END_BYTES:
                patched = bytearray(source.at(start, body - start))
                struct.pack_into(">I", patched, 4, end - start - 8)
                struct.pack_into(">I", patched, n_frames_at, (end - body) // frame_bytes)
                struct.pack_into(">I", patched, place + 4 - start, end - body + 8)
                header = bytes(patched)
            return Layout(
                stretches=[(body, end)],
                declared_bytes=_promise(n_bytes),
                end=behind,
                header=header,
                frame_bytes=frame_bytes,
            )
        place = body + n_bytes + n_bytes % 2
    return None


#: Codes of AIFC that stand for samples as they are.
_AIFC_PLAIN = (b"NONE", b"sowt", b"twos")


def _au(source: Source, start: int) -> Layout | None:
    header = bytearray(source.at(start, 24))
    if len(header) < 24:
        return None
    order = ">" if header[:4] == b".snd" else "<"
    offset, n_bytes, encoding, _, n_channels = struct.unpack(f"{order}5I", header[4:])
    body = start + offset
    end = _audio_end(source, body, n_bytes, lambda place: source.at(place, 4) == header[:4], -1)
    is_right = end <= body + n_bytes
    patched = bytearray(source.at(start, min(offset, _LONGEST_FMT)))
    patched[8:12] = b"\xff" * 4
    return Layout(
        stretches=[(min(body, end), end)],
        declared_bytes=_promise(n_bytes),
        end=end,
        header=b"" if is_right or offset > _LONGEST_FMT else bytes(patched),
        frame_bytes=_AU_BYTES.get(encoding, 0) * n_channels,
    )


#: Bytes of a sample by the encodings that are not compressed.
_AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}


def _caf(source: Source, start: int) -> Layout | None:
    chunk = struct.Struct(">4sq")
    frame_bytes, place = 0, start + 8
    while len(data := source.at(place, 12)) == 12:
        name, n_bytes = chunk.unpack(data)
        body = place + 12
        if name == b"desc":
            kind, _, packet_bytes, packet_frames = struct.unpack(">8x4sIII", source.at(body, 24).ljust(24, b"\0"))
            frame_bytes = packet_bytes if packet_frames == 1 and kind in (b"lpcm", b"ulaw", b"alaw") else 0
        elif name == b"data":
            body += 4  # a count of edits
            declared_bytes = max(n_bytes - 4, 0)
            end = _audio_end(source, body, declared_bytes, _chunk_follows(source, chunk), body + declared_bytes)
            # libsndfile refuses a size that is not what is there.
            header = source.at(start, place - start) + struct.pack(">4sqI", b"data", end - body + 4, 0)
            return Layout(
                stretches=[(body, end)],
                declared_bytes=declared_bytes,
                end=_chunks_end(source, end, chunk, 1),
                header=header if end - body != declared_bytes else b"",
                frame_bytes=frame_bytes,
            )
        if n_bytes < 0:
            return None
        place = body + n_bytes
    return None


def _voc(source: Source, start: int) -> Layout | None:
    place = start + struct.unpack("<H", source.at(start + 20, 2).ljust(2, b"\0"))[0]
    stretches: list[tuple[int, int]] = []
    declared_bytes = 0
    while (kind := source.at(place, 1)) and 0 < kind[0] <= _VOC_LAST_KIND:
        body = place + 4
        n_bytes = int.from_bytes(source.at(place + 1, 3), "little")
        place = body + n_bytes
        if kind[0] in _VOC_HEADER_BYTES:
            body += _VOC_HEADER_BYTES[kind[0]]
            declared_bytes += place - body
            stretches.append((min(body, source.size_bytes), min(place, source.size_bytes)))
    end = min(place + 1, source.size_bytes)
    if source.size_bytes - end < _TINY_BYTES:
        end = source.size_bytes  # sox gives a few bytes too few
    return Layout(stretches=stretches, declared_bytes=declared_bytes, end=end)


_VOC_LAST_KIND = 9
#: Bytes before the samples in a block of sound, by the kind of the block.
_VOC_HEADER_BYTES = {1: 2, 2: 0, 9: 12}


def _sphere(source: Source, start: int) -> Layout | None:
    head = source.at(start, 1_024)
    fields = dict(re.findall(rb"^(\w+) -\w+ (\S+)", head, re.MULTILINE))
    try:
        body = start + int(head[8:16])
        n_channels, n_sample_bytes = int(fields[b"channel_count"]), int(fields[b"sample_n_bytes"])
        n_bytes = int(fields.get(b"sample_count", 0)) * n_channels * n_sample_bytes
        rate_hz = int(fields[b"sample_rate"])
    except (ValueError, KeyError):
        return None
    if b"embedded" in head:
        return None  # compressed
    frame_bytes = n_channels * n_sample_bytes
    end = _audio_end(source, body, n_bytes, lambda place: source.at(place, 7) == head[:7], body + n_bytes)
    header = b""
    tag = _SPHERE_TAGS.get(fields.get(b"sample_coding", b"pcm"), 0)
    if end > body + n_bytes and tag and (tag, n_sample_bytes) != (1, 1):
        order = ">" if fields.get(b"sample_byte_format") == b"10" else "<"
        sizes = n_channels, rate_hz, rate_hz * frame_bytes, frame_bytes, 8 * n_sample_bytes
        header = _wav_header(struct.pack(f"{order}HHIIHH", tag, *sizes), end - body, order)
    return Layout(
        stretches=[(min(body, end), end)], declared_bytes=n_bytes, end=end, header=header, frame_bytes=frame_bytes
    )


#: Numbers that WAV has for the encodings of SPHERE.
_SPHERE_TAGS = {b"pcm": 1, b"alaw": 6, b"ulaw": 7}


_PARSERS: Sequence[tuple[re.Pattern[bytes], Callable[[Source, int], Layout | None]]] = (
    (re.compile(rb"(?:RIFF|RIFX|RF64|BW64)....WAVE", re.DOTALL), _riff),
    (re.compile(rb"riff\x2e\x91\xcf\x11"), _w64),
    (re.compile(rb"FORM....(?:AIFF|AIFC|8SVX)", re.DOTALL), _aiff),
    (re.compile(rb"\.snd|dns\."), _au),
    (re.compile(rb"caff"), _caf),
    (re.compile(rb"Creative Voice File"), _voc),
    (re.compile(rb"NIST_1A"), _sphere),
)
#: Any of their beginnings.
MAGICS = re.compile(b"|".join(magic.pattern for magic, _ in _PARSERS), re.DOTALL)
