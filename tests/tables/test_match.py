"""A row finds its file however the path is written; what cannot be told apart, or contradicts itself, is refused."""

from __future__ import annotations

import string
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ser_batch.errors import DataError
from ser_batch.tables.match import Matching, match_rows
from ser_batch.tables.table import Table

NAMES = ["a/001.wav", "b/001.wav", "b/Take Two.flac", "c/Übung.mp3", "d/x.wav", "d/x.mp3", "e/odd\\name.wav"]


def table_of(folder: Path, **columns: list[str]) -> Table:
    return Table(folder / "about.csv", columns, range(2, 2 + len(next(iter(columns.values())))))


def matched(root: Path, *paths: str, **more: list[str]) -> Matching:
    return match_rows(table_of(root, file=list(paths), **more), root, NAMES)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a/001.wav", "a/001.wav"),
        ("./a/001.wav", "a/001.wav"),
        (".//a/./001.wav", "a/001.wav"),
        ("a\\001.wav", "a/001.wav"),
        (".\\b\\001.wav", "b/001.wav"),
        ("{root}/b/001.wav", "b/001.wav"),
        ("{link}/b/001.wav", "b/001.wav"),
        ("../archive/b/001.wav", "b/001.wav"),
        ("B/take two.FLAC", "b/Take Two.flac"),
        ("b/Take Two", "b/Take Two.flac"),
        ("Take Two.flac", "b/Take Two.flac"),
        ("take two", "b/Take Two.flac"),
        (unicodedata.normalize("NFD", "c/Übung.mp3"), "c/Übung.mp3"),
        ("Übung", "c/Übung.mp3"),
        ("x.mp3", "d/x.mp3"),
        ("e/odd\\name.wav", "e/odd\\name.wav"),
    ],
)
def test_a_path_means_its_file_however_it_is_written(tmp_path: Path, text: str, name: str) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    path = text.format(root=root, link=tmp_path / "link")
    # Whether the scan or the table goes by the link makes no difference.
    for used in (root, tmp_path / "link"):
        found = match_rows(table_of(root, file=[path]), used, NAMES) if "{link}" not in text or used != root else None
        if found is not None:
            assert found.row_of == {NAMES.index(name): 0}


@pytest.mark.parametrize(
    ("text", "files"),
    [("001.wav", ("a/001.wav", "b/001.wav")), ("d/x", ("d/x.wav", "d/x.mp3")), ("001", ("a/001.wav", "b/001.wav"))],
)
def test_what_may_be_two_files_is_refused(tmp_path: Path, text: str, files: tuple[str, str]) -> None:
    with pytest.raises(DataError) as caught:
        matched(tmp_path, "a/001.wav", text)
    assert all(word in str(caught.value) for word in ("line 3", text, *files, "Write more of the path"))


def test_what_matches_is_said_with_numbers(tmp_path: Path) -> None:
    found = matched(tmp_path, "a/001.wav", "gone.wav", "b/001.wav", "b/001.wav", "a/000.wav", "")
    assert found.summary() == (
        f"{tmp_path}/about.csv: 3 of 6 rows match, 5 files have no row. 1 rows repeat another. "
        f"Line 3 names 'gone.wav', which is not there."
    )


def test_rows_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for paths in (("a/001.wav", ".\\a\\001.wav"), ("gone.wav", "./gone.wav")):
        with pytest.raises(DataError) as caught:
            match_rows(table_of(tmp_path, file=["b/001.wav", *paths], speaker=["x", "ann", "bob"]), tmp_path, NAMES)
        message = str(caught.value)
        assert all(word in message for word in ("lines 3 and 4", "'speaker'", "'ann'", "'bob'", "Remove one"))
    # Columns that do not matter may differ.
    table = table_of(tmp_path, file=["a/001.wav"] * 2, rater=["x", "y"], emotion=["fear", "fear"])
    assert match_rows(table, tmp_path, NAMES, columns=["emotion"]).n_repeated == 1


def test_no_match_at_all_says_what_was_compared(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        match_rows(table_of(tmp_path, recording=["D:\\tapes\\1.wav"], speaker=["ann"]), tmp_path, NAMES)
    message = str(caught.value)
    assert all(word in message for word in ("none of its 1 rows", "'recording'", "D:\\", "'a/001.wav'", "clip_id"))


def test_the_column_of_paths_goes_by_its_name_else_it_is_the_first(tmp_path: Path) -> None:
    assert match_rows(table_of(tmp_path, note=["q"], FileName=["a/001.wav"]), tmp_path, NAMES).key == "FileName"
    assert match_rows(table_of(tmp_path, wav=["a/001.wav"], note=["q"]), tmp_path, NAMES).key == "wav"


SEGMENT = st.text(string.ascii_letters + string.digits + "äß. ", min_size=1, max_size=5).filter(
    lambda text: text.strip(". ") and text == text.strip()
)
PATHS = st.lists(st.tuples(SEGMENT, SEGMENT).map(lambda pair: f"{pair[0]}/{pair[1]}.wav"), min_size=1, max_size=8)


@settings(max_examples=200, deadline=None)
@given(PATHS, st.lists(SEGMENT, max_size=3), st.data())
def test_rows_and_files_always_balance(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], strays: list[str], data: st.DataObject
) -> None:
    """Whatever is matched, every row and every file is counted once."""
    names = list(dict.fromkeys(names))
    root = tmp_path_factory.getbasetemp() / "archive"
    ways = [
        lambda name: name,
        lambda name: f"./{name}",
        lambda name: name.replace("/", "\\"),
        lambda name: f"{root}/{name}",
        lambda name: name.upper(),
        lambda name: unicodedata.normalize("NFD", name),
    ]
    written = [data.draw(st.sampled_from(ways))(name) for name in names]
    folded = {unicodedata.normalize("NFC", name).casefold() for name in names}
    assume(len(folded) == len(names))
    rows = data.draw(st.permutations([*written, *(f"elsewhere/{stray}.ogg" for stray in strays)]))
    found = match_rows(table_of(root, file=rows), root, names)
    assert found.row_of.keys() == set(range(len(names)))
    assert all(rows[row] in written for row in found.row_of.values())
    assert len(found.row_of) + len(found.unknown) + found.n_repeated == len(rows)
    assert found.n_without == 0
