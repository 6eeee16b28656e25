"""Which files are audio by their suffix, and which formats need PyAV."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache

__all__ = ["AUDIO_SUFFIXES", "FILM_SUFFIXES", "MEDIA_SUFFIXES", "PYAV", "media_format", "pyav_reader"]

#: Suffixes of the formats that libsndfile recognises by content. RAW has no header, so it cannot be among them.
_SOUND_SUFFIXES = frozenset(
    (
        *(".wav", ".wave", ".bwf", ".bw64", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf"),
        *(".mp1", ".mp2", ".mp3", ".mpa", ".mpga", ".flac", ".ogg", ".oga", ".opus"),
        *(".voc", ".nist", ".sph", ".ircam", ".sf", ".avr", ".paf", ".svx", ".8svx", ".iff", ".pvf", ".htk"),
        *(".mat", ".sds", ".xi", ".wve", ".mpc"),
    )
)
#: Suffixes of films. ``.ts`` is left out: it is more often a program.
FILM_SUFFIXES = frozenset(
    (
        *(".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".wmv", ".asf", ".flv", ".f4v"),
        *(".mpg", ".mpeg", ".vob", ".m2ts", ".mts", ".ogv", ".rm", ".rmvb", ".mxf", ".dv"),
    )
)
#: Suffixes of formats that FFmpeg reads, films and sound alone.
MEDIA_SUFFIXES = FILM_SUFFIXES | frozenset(
    (
        *(".m4a", ".m4b", ".m4r", ".aac", ".amr", ".awb", ".3ga", ".wma", ".ac3", ".ec3", ".eac3", ".dts", ".spx"),
        *(".wv", ".tta", ".ape", ".tak", ".mka", ".weba", ".ra", ".mp+", ".mpp", ".oma", ".qcp", ".dsf", ".dff"),
    )
)
#: All files that a scan takes.
AUDIO_SUFFIXES = _SOUND_SUFFIXES | MEDIA_SUFFIXES

#: The reader of what libsndfile does not read; with a version behind it where it is installed.
PYAV = "PyAV"

#: Codecs in WAV that libsndfile knows; 0 is none at all.
_WAV_CODECS = (0x0, 0x1, 0x2, 0x3, 0x6, 0x7, 0x11, 0x31, 0x38, 0x40, 0x50, 0x55, 0xFFFE)
_MAGICS = (
    (re.compile(rb"....ftyp", re.DOTALL), "MP4"),
    (re.compile(rb"....(?:moov|mdat|wide|free|skip|pnot)", re.DOTALL), "QuickTime"),
    (re.compile(rb"\x1aE\xdf\xa3"), "Matroska or WebM"),
    (re.compile(rb"RIFF....AVI ", re.DOTALL), "AVI"),
    (re.compile(rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11"), "ASF"),
    (re.compile(rb"#!AMR"), "AMR"),
    (re.compile(rb"\xff[\xf0\xf1\xf8\xf9]"), "AAC"),
    (re.compile(rb"\x0b\x77"), "AC-3"),
    (re.compile(rb"\x7f\xfe\x80\x01"), "DTS"),
    (re.compile(rb"wvpk"), "WavPack"),
    (re.compile(rb"TTA[12]"), "True Audio"),
    (re.compile(rb"MAC "), "Monkey's Audio"),
    (re.compile(rb"tBaK"), "TAK"),
    (re.compile(rb"MPCK|MP\+"), "Musepack"),
    (re.compile(rb"FLV\x01"), "Flash Video"),
    (re.compile(rb"\x00\x00\x01\xba"), "MPEG program stream"),
    (re.compile(rb"\.RMF"), "RealMedia"),
    (re.compile(rb"OggS.{22}.+Speex   ", re.DOTALL), "Speex"),
    (re.compile(rb"OggS.{22}.+\x80theora", re.DOTALL), "Ogg Theora"),
    (re.compile(rb"caff.{4}desc.{16}(?:alac|aac |ima4|ilbc|\.mp3|qdm2)", re.DOTALL), "compressed CAF"),
)
_FMT_CHUNK = re.compile(rb"(?:RIFF|RF64|BW64)....WAVE.*?fmt ....(..)", re.DOTALL)


@cache
def pyav_reader() -> str:
    """Return `PYAV` with its version, as rows name it; empty where it is not installed."""
    try:
        return f"{PYAV} {importlib.metadata.version('av')}"
    except importlib.metadata.PackageNotFoundError:
        return ""


def media_format(head: bytes, suffix: str) -> str:
    """Return the name of a format that FFmpeg reads and libsndfile does not; empty for any other.

    Parameters
    ----------
    head : bytes
        The first bytes of a file that libsndfile does not read, 4 KiB for example.
    suffix : str
        Of its name, in lower case; believed where the bytes say nothing.
    """
    for magic, name in _MAGICS:
        if magic.match(head):
            return name
    found = _FMT_CHUNK.match(head)
    if found:
        codec = int.from_bytes(found[1], "little")
        return "" if codec in _WAV_CODECS else f"WAV with codec 0x{codec:04x}"
    return suffix.removeprefix(".").upper() if suffix in MEDIA_SUFFIXES else ""
