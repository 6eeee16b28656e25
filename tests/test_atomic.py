"""What is written by `ser_batch.atomic` is there whole, or what was there before still is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ser_batch.atomic import open_atomic, write_atomic


def test_the_new_content_takes_the_place_of_the_old(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_atomic(path, b"old")
    write_atomic(path, "neu: ü \udcff")
    assert path.read_text(encoding="utf-8") == "neu: ü \\udcff"
    assert [item.name for item in tmp_path.iterdir()] == ["table.csv"]


def test_an_exception_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomic(path, b"old")
    with pytest.raises(ZeroDivisionError), open_atomic(path) as stream:
        stream.write(b"half of the new")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["run.json"]


def test_a_link_under_the_hidden_name_is_not_followed(tmp_path: Path) -> None:
    foreign = tmp_path / "precious.txt"
    foreign.write_bytes(b"precious")
    target = tmp_path / "run.json"
    (tmp_path / f".run.json.{os.getpid()}.tmp").symlink_to(foreign)
    write_atomic(target, b"new")
    assert foreign.read_bytes() == b"precious"
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("name", ["x" * 255, "\N{LATIN SMALL LETTER O WITH DIAERESIS}" * 127, "\udce9" * 255])
def test_a_name_as_long_as_names_may_be_is_written(tmp_path: Path, name: str) -> None:
    write_atomic(tmp_path / name, "whole", flush=False)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "whole")]
