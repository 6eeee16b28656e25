"""Addresses are taken as they stand, and what must be kept secret is refused before it gets anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from ser_batch.errors import InputError, RunError
from ser_batch.storage.address import Address, is_url, local_or_url, on_disk, without_secrets


@pytest.mark.parametrize(
    ("url", "key", "shown"),
    [
        ("s3://bucket", "", "s3://bucket"),
        ("s3://bucket/", "", "s3://bucket"),
        ("gs://bucket/a%20b/ü?.wav", "a%20b/ü?.wav", "gs://bucket/a%20b/ü?.wav"),
        ("AZ://box/a/b/", "a/b", "az://box/a/b"),
    ],
)
def test_a_key_is_taken_as_it_stands(url: str, key: str, shown: str) -> None:
    assert is_url(url)
    assert Address.of(local_or_url(url)).key == key
    assert local_or_url(url) == shown


def test_file_addresses_are_paths() -> None:
    assert local_or_url("file:///data/a%20b") == "/data/a b"
    assert local_or_url("file://localhost/data") == "/data"
    assert on_disk("file:///data/run") == Path("/data/run")
    assert local_or_url("tapes/a:b.wav") == "tapes/a:b.wav"
    assert not is_url(Path("s3://bucket/x"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://AKIA:hunter2@bucket/tapes", "s3://bucket/tapes was given with a password"),
        ("az://box/tapes?sv=2024&sig=hunter2", "az://box/tapes was given with a password"),
        ("https://host/tapes", "addresses begin with s3, gs, az or file"),
        ("file://server/tapes", "no file of this machine"),
        ("s3:///tapes", "names no bucket"),
    ],
)
def test_what_cannot_be_an_input_is_one_line_without_secrets(url: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        local_or_url(url)
    assert "hunter2" not in str(caught.value)


def test_messages_of_libraries_lose_their_secrets() -> None:
    text = "GET https://me:hunter2@host/box/a.wav?sv=1&sig=hunter2 in 3 ms, and s3://bucket/what?.wav"
    assert without_secrets(text) == "GET https://host/box/a.wav in 3 ms, and s3://bucket/what?.wav"


def test_only_a_plain_scan_writes_a_run_into_a_bucket() -> None:
    with pytest.raises(RunError, match=r"s3://bucket/run: into a bucket a run is written by a plain scan .*sync"):
        on_disk("s3://bucket/run/")
