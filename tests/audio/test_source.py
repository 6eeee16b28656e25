"""Bytes put together anew are what they are said to be, and an error of the system is not lost in C."""

from __future__ import annotations

import io
import os
import re

import numpy as np
import pytest
from odd_recordings import encoded, voice

from ser_batch.audio.sound import Sound
from ser_batch.audio.source import Bytes, Joined, Source, View


@pytest.fixture
def source(tmp_path):
    (tmp_path / "x").write_bytes(np.random.default_rng(0).bytes(3_000_000))
    descriptor = os.open(tmp_path / "x", os.O_RDONLY)
    yield Source(descriptor)
    os.close(descriptor)


def test_stretches_and_literal_bytes_read_as_one_file(source):
    joined = Joined(source, [b"head", (1_000, 200_000), b"", b"middle", (0, 10), (2_999_000, 3_000_000)])
    whole = source.at(0, source.size_bytes)
    expected = b"head" + whole[1_000:200_000] + b"middle" + whole[:10] + whole[2_999_000:]
    view = io.BufferedReader(View(joined))
    assert view.read() == expected and joined.size_bytes == len(expected)
    for place, n_bytes in ((0, 5), (3, 200_000), (199_003, 12), (len(expected) - 1, 9), (len(expected), 4)):
        view.seek(place)
        assert view.read(n_bytes) == joined.at(place, n_bytes) == expected[place : place + n_bytes]


def test_a_search_finds_what_lies_across_its_chunks(source):
    whole = source.at(0, source.size_bytes)
    for place in (2**20 - 3, 2**20 - 1, 2**20, 2_999_992):
        word = re.compile(re.escape(whole[place : place + 8]))
        assert list(source.search(word, 0, source.size_bytes, 8)) == [place]
        assert list(source.search(word, place + 1, source.size_bytes, 8)) == []


def test_places_beyond_the_end_hold_nothing(source):
    assert source.at(2**70, 10) == b"" and source.at(source.size_bytes - 3, 10) == source.at(source.size_bytes - 3, 3)
    assert source.is_zero(5, 5) and not source.is_zero(0, 100)


class Failing(Bytes):
    """A disk that gives up midway."""

    def __init__(self, data: bytes) -> None:
        self._data, self.size_bytes = data, len(data)

    def at(self, place: int, n_bytes: int) -> bytes:
        if place > self.size_bytes // 2:
            raise OSError(5, "Input/output error")
        return self._data[place : place + n_bytes]


def test_an_error_of_the_system_is_raised_and_not_the_end_of_the_file():
    sound = Sound(Failing(encoded(voice(20.0), 44_100, "WAV", "PCM_16")))
    with pytest.raises(OSError, match="Input/output error"):
        for _ in sound.blocks():
            pass
    assert 0 < sound.n_frames < 20 * 44_100
