"""What was found keeps its order and its rules when it goes to disk, and its memory does not grow with the archive."""

from __future__ import annotations

import errno
import os
import random
import tempfile
from pathlib import Path

import pytest

from benchmarks.planning import peak_of
from ser_batch.errors import InputError
from ser_batch.stages import found
from ser_batch.stages.discover import FileList, discover, read_file_list
from ser_batch.stages.found import FoundFiles, Gathering, Row


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything goes to disk, in many runs, blocks and chunks."""
    for name, value in (("_CHUNK_ROWS", 5), ("_RUN_ROWS", 7), ("_BLOCK_ROWS", 2), ("_MEMORY_BYTES", 1)):
        monkeypatch.setattr(found, name, value)


def rows_of(files: FoundFiles) -> list[Row]:
    return [files.row(place) for place in range(len(files))]


def test_rows_come_in_order_each_file_once_whatever_went_to_disk(on_disk: None) -> None:
    rows = [Row(f"{n % 40:02d}.wav", "", n % 40, n % 40, (n % 40, ("x",)) if n % 8 == 0 else ()) for n in range(90)]
    rows += [Row(f"{n:02d}é.wav", "", n, n, etag="e") for n in range(9)]
    random.Random(3).shuffle(rows)
    gathering = Gathering()
    for row in rows:
        gathering.add(row)
    files = gathering.sorted()
    assert rows_of(files) == sorted(set(rows))
    assert rows_of(FoundFiles(iter(sorted(set(rows))))) == sorted(set(rows))


def test_names_that_are_one_once_escaped_are_numbered_the_same_on_disk(on_disk: None) -> None:
    odd = os.fsdecode(b"\xe9.wav")
    escaped = r"\xe9.wav"
    rows = [
        Row(escaped, odd, 1, 1),
        Row(escaped, "", 2, 2),
        Row(f"{escaped}~2", "", 3, 3),
        Row(escaped, odd, 1, 1),
        *(Row(f"{n}.wav", "", n, n) for n in range(20)),
    ]
    gathering = Gathering()
    for row in rows:
        gathering.add(row)
    found_rows = [row for row in rows_of(gathering.sorted()) if row.clip_id.startswith("\\")]
    told = [(row.clip_id, row.relative or row.clip_id, row.n_bytes) for row in found_rows]
    # The first one found keeps its name; each file has one row, and each row another id.
    assert told == [
        (escaped, odd, 1),
        (f"{escaped}~2", escaped, 2),
        (f"{escaped}~2~2", f"{escaped}~2", 3),
    ]


def test_a_walk_and_a_list_find_the_same_on_disk_as_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{folder}/{n}.wav" for folder in ("b", "a", "a-b") for n in range(9)]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a/3.TextGrid").write_text("x")

    def look(inputs: object) -> list[object]:
        seen = discover(inputs, with_segments=True)
        return [seen.ref(place) for place in range(len(seen))]

    listed = tmp_path / "list"
    listed.write_bytes(b"\r\n".join(os.fsencode(tmp_path / name) for name in names) + b"\r\n\r\n")
    monkeypatch.chdir(tmp_path)
    before = look([tmp_path]), look(read_file_list(listed))
    assert [ref.clip_id for ref in before[0]] == sorted(names) and before[0] == before[1]
    assert sum(ref.segments is not None for ref in before[0]) == 1
    for name, value in (("_CHUNK_ROWS", 5), ("_RUN_ROWS", 7), ("_BLOCK_ROWS", 2), ("_MEMORY_BYTES", 1)):
        monkeypatch.setattr(found, name, value)
    assert (look([tmp_path]), look(read_file_list(listed))) == before


@pytest.mark.parametrize("separator", [b"\n", b"\r\n", b"\r", b"\0"])
def test_a_list_is_read_whole_wherever_its_blocks_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: bytes
) -> None:
    names = [f"{'x' * (n % 5)}{n}.wav" for n in range(40)]
    (tmp_path / "list").write_bytes(separator.join(map(str.encode, names)) + separator)
    for size in (1, 2, 3, 7, 2**20):
        monkeypatch.setattr("ser_batch.stages.discover._BLOCK_BYTES", size)
        assert list(read_file_list(tmp_path / "list").paths) == names


def test_a_full_disk_for_what_was_found_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Full(tempfile.SpooledTemporaryFile):  # type: ignore[type-arg]
        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Full)
    with pytest.raises(InputError, match=r"No space left on device\. Free some space there, or name .* TMPDIR"):
        discover(FileList((str(tmp_path / "a.wav"),), "-"))


@pytest.mark.parametrize("what", ["new", "again"])
def test_memory_does_not_grow_with_the_archive(what: str) -> None:
    """Ten times the files, in processes of their own; a row that is kept as an object would take 200 bytes and more."""
    few, many = (peak_of(what, n_files) for n_files in (12_000, 120_000))
    assert many - few < 108_000 * 60 / 2**20, (few, many)
