"""Recordings as archives hold them, made by encoding a voice and then damaging, joining or cutting the bytes."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from ser_batch.audio import DecodeError, read_clip
from ser_batch.records import ClipRef

RATE_HZ = 22_050


@dataclass
class Reading:
    """What the reader gave: samples at 22,050 Hz, the note of the last piece, the error that ended it, what read it."""

    samples: np.ndarray
    note: str
    error: str
    reader: str

    @property
    def duration_s(self) -> float:
        return len(self.samples) / RATE_HZ


def read(path: Path) -> Reading:
    pieces, note, error, reader = [np.zeros(0, np.float32)], "", "", ""
    try:
        for clip in read_clip(ref=ClipRef("x", str(path), 0, 0), sample_rate_hz=RATE_HZ, piece_s=60.0, overlap_s=0.0):
            pieces.append(clip.samples)
            note, reader = clip.note or note, clip.reader
    except DecodeError as caught:
        error = str(caught)
    return Reading(np.concatenate(pieces), note, error, reader)


def read_bytes(folder: Path, data: bytes, name: str = "x.wav") -> Reading:
    (folder / name).write_bytes(data)
    return read(folder / name)


def voice(seconds: float, rate_hz: int = 44_100, loudness: float = 0.3) -> np.ndarray:
    """A harmonic sound with noise, whose pitch moves: nothing that a codec stores in a few bytes."""
    rng = np.random.default_rng(round(seconds * 1_000))
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    phase = 2 * np.pi * np.cumsum(150 + 40 * np.sin(2 * np.pi * 0.7 * times)) / rate_hz
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    return (loudness * (tone / 3 + 0.1 * rng.standard_normal(len(times)))).astype(np.float32)


def encoded(samples: np.ndarray, rate_hz: int, container: str, subtype: str | None = None, **more) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate_hz, format=container, subtype=subtype, **more)
    return stream.getvalue()


def mp3(samples: np.ndarray, rate_hz: int = 44_100, is_constant: bool = False) -> bytes:
    """MP3 with an Info header, of variable or constant bit rate."""
    mode = "CONSTANT" if is_constant else "VARIABLE"
    return encoded(samples, rate_hz, "MP3", bitrate_mode=mode, compression_level=0.6)


def without_info(data: bytes) -> bytes:
    """MP3 without its first frame, which holds the number of the others."""
    return data[frame_starts(data)[1] :]


def frame_starts(data: bytes) -> list[int]:
    """Where the frames of clean MPEG 1 or 2 layer III are."""
    starts, place = [], 0
    while place + 4 <= len(data):
        is_1 = data[place + 1] & 0x18 == 0x18
        kbps = (
            (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
            if is_1
            else (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
        )[data[place + 2] >> 4]
        rate_hz = ((44_100, 48_000, 32_000) if is_1 else (22_050, 24_000, 16_000))[data[place + 2] >> 2 & 3]
        starts.append(place)
        place += (144_000 if is_1 else 72_000) * kbps // rate_hz + (data[place + 2] >> 1 & 1)
    return starts


def id3v2(n_bytes: int) -> bytes:
    """A tag as players write it, with a picture of random bytes in it: some of them look like frames."""
    body = np.random.default_rng(n_bytes).bytes(n_bytes - 10)
    size = n_bytes - 10
    return b"ID3\x03\x00\x00" + bytes(size >> shift & 127 for shift in (21, 14, 7, 0)) + body


ID3V1 = b"TAG" + b"\0" * 125


def chunk(name: bytes, data: bytes, size: int | None = None) -> bytes:
    n_bytes = len(data) if size is None else size
    return name + struct.pack("<I", n_bytes & 0xFFFFFFFF) + data + b"\0" * (len(data) % 2)


def fmt(n_channels: int = 1, rate_hz: int = 44_100, tag: int = 1, n_bits: int = 16) -> bytes:
    align = n_channels * n_bits // 8
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, n_channels, rate_hz, rate_hz * align, align, n_bits))


def wav(*chunks: bytes, riff_bytes: int | None = None, form: bytes = b"RIFF") -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return form + struct.pack("<I", len(body) if riff_bytes is None else riff_bytes & 0xFFFFFFFF) + body


def pcm(samples: np.ndarray) -> bytes:
    return (samples * 32_767).astype("<i2").tobytes()


def ogg_flac(native: bytes, serial: int) -> bytes:
    """FLAC in Ogg, by the mapping of xiph.org; pages are filled without regard to frames."""
    streaminfo, rest = native[4:42], native[42:]
    packets = [b"\x7fFLAC\x01\x00\x00\x01fLaC" + streaminfo]
    packets += [rest[at : at + 60_000] for at in range(0, len(rest), 60_000)]
    pages = []
    for number, packet in enumerate(packets):
        lacing = bytes([255] * (len(packet) // 255) + [len(packet) % 255])
        flags = 2 * (number == 0) | 4 * (number == len(packets) - 1)
        head = b"OggS\x00" + struct.pack("<BQIIIB", flags, 0, serial, number, 0, len(lacing)) + lacing
        pages.append(_with_crc(head + packet))
    return b"".join(pages)


def _with_crc(page: bytes) -> bytes:
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
    return page[:22] + struct.pack("<I", crc) + page[26:]
