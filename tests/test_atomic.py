"""What is written by `ser_batch.atomic` is there whole, or what was there before still is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ser_batch.atomic import NO_FOLLOW, NOT_A_FILE, make_folder, open_atomic, read_file, write_atomic


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


def test_a_pipe_a_device_and_a_folder_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "file").write_bytes(b"what it holds")
    (tmp_path / "link").symlink_to("file")
    for name in ("pipe", "folder", "device"):
        with pytest.raises(OSError, match=r"it is no file|Is a directory") as caught:
            read_file(tmp_path / name)
        assert caught.value.errno in NOT_A_FILE
    assert read_file(tmp_path / "link") == b"what it holds"
    with pytest.raises(OSError, match="symbolic link"):
        read_file(tmp_path / "link", NO_FOLLOW)


def test_a_folder_is_made_once_and_a_link_is_none(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder(tmp_path / "folder")
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "file").touch()
    for name, why in (("link", "symbolic link"), ("file", "File exists")):
        with pytest.raises(OSError, match=why):
            make_folder(tmp_path / name)
