"""A table reads alike whatever saved it, and one that cannot be used is one line with the cure."""

from __future__ import annotations

import csv
import datetime
import io
import string
from pathlib import Path

import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_batch.errors import DataError, InputError
from ser_batch.tables.table import Table, read_table

HEADER = ["Datei", "Speaker ID", "Alter", "F0", "Note"]
ROWS = [
    ["a/Übung 1.wav", "007", "31", "118.5", "said, quietly"],
    ["b/zwei.wav", "012", "", "220.25", 'a "quoted" word'],
    ["c/drei.wav", "013", "54", "", "größer; schöner"],
]


def german_excel(path: Path) -> None:
    """Semicolons, decimal commas, Windows-1252, CRLF, and cells left behind."""
    rows = [[cell.replace(".", ",") if index == 3 else cell for index, cell in enumerate(row)] for row in ROWS]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=";", lineterminator="\r\n").writerows([[*HEADER, ""], *([*row, ""] for row in rows)])
    path.write_bytes((text.getvalue() + ";;;;;\r\n").encode("cp1252"))


def excel_utf8(path: Path) -> None:
    """As "CSV UTF-8": a mark at the beginning."""
    german_excel(path)
    path.write_bytes(path.read_bytes().decode("cp1252").encode("utf-8-sig"))


def excel_unicode_text(path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t", lineterminator="\r\n").writerows([HEADER, *ROWS])
    path.write_bytes(text.getvalue().encode("utf-16"))


def excel_with_a_line_for_itself(path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=";").writerows([HEADER, *ROWS])
    path.write_text("sep=;\n" + text.getvalue(), encoding="utf-8")


def libreoffice(path: Path) -> None:
    """Commas, every text in quotation marks."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([HEADER, *ROWS])
    path.write_text(text.getvalue(), encoding="utf-8")


def pandas_with_index(path: Path) -> None:
    pd.DataFrame(ROWS, columns=HEADER).to_csv(path)


def r_write_csv(path: Path) -> None:
    """Row names in a column without a name, NA for what is missing, only numbers bare."""
    lines = [",".join(['""', *(f'"{name}"' for name in HEADER)])]
    for number, row in enumerate(ROWS, start=1):
        cells = [
            cell or "NA" if index in {2, 3} else '"' + cell.replace('"', '""') + '"' for index, cell in enumerate(row)
        ]
        lines.append(",".join([f'"{number}"', *cells]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def powershell(path: Path) -> None:
    """Export-Csv of Windows PowerShell, sent through Out-File: UTF-16, a line about the type."""
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows([HEADER, *ROWS])
    path.write_bytes(("#TYPE System.Management.Automation.PSCustomObject\r\n" + text.getvalue()).encode("utf-16"))


def tabs_without_a_mark(path: Path) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter="\t").writerows([HEADER, *ROWS])
    path.write_bytes(text.getvalue().encode("utf-16-le"))


def workbook(path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.append(HEADER)
    for file, speaker, age, f0, note in ROWS:
        book.active.append([file, speaker, int(age) if age else None, float(f0) if f0 else None, note])
    book.save(path)


def parquet(path: Path) -> None:
    frame = pd.DataFrame(ROWS, columns=HEADER)
    frame["Alter"] = pd.to_numeric(frame["Alter"]).astype("Int64")
    frame["F0"] = pd.to_numeric(frame["F0"])
    frame.to_parquet(path)


WRITERS = [
    (german_excel, ".csv"),
    (excel_utf8, ".csv"),
    (excel_unicode_text, ".txt"),
    (excel_with_a_line_for_itself, ".csv"),
    (libreoffice, ".csv"),
    (pandas_with_index, ".csv"),
    (r_write_csv, ".csv"),
    (powershell, ".csv"),
    (tabs_without_a_mark, ".tsv"),
    (workbook, ".xlsx"),
    (parquet, ".parquet"),
]


@pytest.mark.parametrize(("write", "suffix"), WRITERS, ids=[write.__name__ for write, _ in WRITERS])
def test_a_table_is_read_alike_whatever_saved_it(tmp_path: Path, write: object, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    write(path)  # type: ignore[operator]
    table = read_table(path)
    assert list(table.columns) == HEADER
    for name, expected in zip(HEADER, zip(*ROWS, strict=True), strict=True):
        if name not in ("Alter", "F0"):
            assert tuple(table.columns[name]) == expected
    assert table.find(["speaker", "speaker_id"]) == "Speaker ID"
    assert table.typed("Alter").to_pylist() == [31, None, 54]
    assert table.typed("F0").to_pylist()[:2] == [118.5, 220.25]
    # A number that begins with a needless zero is a name.
    assert table.typed("Speaker ID").to_pylist() == ["007", "012", "013"]


def test_what_was_taken_for_granted_is_said(tmp_path: Path) -> None:
    german_excel(tmp_path / "table.csv")
    libreoffice(tmp_path / "plain.csv")
    assert "read as Windows-1252; save it as UTF-8" in read_table(tmp_path / "table.csv").notes[0]
    assert read_table(tmp_path / "plain.csv").notes == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "-2", ""], [1, -2, None]),
        (["1", "2.5", "NA"], [1.0, 2.5, None]),
        (["01", "2"], ["01", "2"]),
        (["1234567890123456789012", "1"], ["1234567890123456789012", "1"]),
        (["True", "false", ""], [True, False, None]),
        (["1987-02-28", ""], [datetime.date(1987, 2, 28), None]),
        (["1987-02-31", ""], ["1987-02-31", None]),
        (["1987-02-28 13:05:00"], [datetime.datetime(1987, 2, 28, 13, 5)]),
        (["NA", "ann"], ["NA", "ann"]),
        (["", ""], [None, None]),
        (["+49301234"], ["+49301234"]),
        (["1,5"], ["1,5"]),
    ],
)
def test_columns_are_what_all_their_values_are(tmp_path: Path, values: list[str], expected: list[object]) -> None:
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "x"], *([f"{i}.wav", value] for i, value in enumerate(values))])
    assert read_table(tmp_path / "t.csv").typed("x").to_pylist() == expected


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (b"", DataError, ("is empty", "Save it again")),
        (b"file,speaker\n", DataError, ("has a header and no rows",)),
        (b"file,speaker\n\n,\n", DataError, ("has a header and no rows",)),
        (b"file,Speaker,speaker\na,b,c\n", DataError, ("two columns 'Speaker' and 'speaker'", "Rename or remove")),
        (b"file,x,x\na,b,c\n", DataError, ("two columns 'x'", "Rename or remove")),
        (b"file,speaker\na.wav,ann\n\nb.wav,bob,x\n", DataError, ("line 4", "3 cells below a header of 2")),
        (b"file,speaker\na.wav\n", DataError, ("line 2", "1 cells below a header of 2")),
        (b'file,speaker\n"a.wav,ann\nb.wav,bob\n', DataError, ("line 3", "never closed")),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", DataError, ("no text that can be read", "UTF-8")),
        (b"file,x\na,\x81\xff\n", DataError, ("no text that can be read", "UTF-8")),
    ],
)
def test_what_is_no_table_is_one_line_with_the_cure(
    tmp_path: Path, content: bytes, error: type[Exception], words: tuple[str, ...]
) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises(error) as caught:
        read_table(path)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in (str(path), *words)), caught.value


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
@pytest.mark.parametrize("content", [b"", b"file,speaker\na,b\n", b"PK\3\4 half a workbook", b"PAR1"])
def test_a_damaged_binary_table_is_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"t{suffix}"
    path.write_bytes(content)
    with pytest.raises((DataError, InputError), match="cannot be read") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_a_missing_table_and_an_unknown_suffix_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.csv cannot be read: No such file"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(InputError, match=r"must end in \.csv, \.tsv, "):
        read_table(tmp_path / "table.ods")


def test_without_openpyxl_a_workbook_is_one_line_with_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workbook(tmp_path / "t.xlsx")
    monkeypatch.setitem(__import__("sys").modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"pip install 'ser-batch\[excel\]', or save it as CSV"):
        read_table(tmp_path / "t.xlsx")


def test_parquet_keeps_its_types_and_loses_the_index_of_pandas(tmp_path: Path) -> None:
    frame = pd.DataFrame({"file": ["a", "b"], "room": pd.Series(["x", "y"], dtype="category")}, index=[4, 7])
    frame.to_parquet(tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet")
    assert list(table.columns) == ["file", "room"]
    assert pa.types.is_dictionary(table.typed("room").type)
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], names=["file", "file"]), tmp_path / "two.parquet")
    with pytest.raises(DataError, match="two columns 'file'"):
        read_table(tmp_path / "two.parquet")


LETTERS = string.ascii_letters + string.digits + " _-.,;'\"äößéЖ日"
CELLS = st.text(LETTERS, max_size=8).map(str.strip)


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[str], list[list[str]]]:
    names = st.text(string.ascii_letters, min_size=1, max_size=6)
    header = draw(st.lists(names, min_size=2, max_size=5, unique_by=str.casefold))
    first = st.text(string.ascii_letters + "/.", min_size=1, max_size=8)
    row = st.tuples(first, *[CELLS] * (len(header) - 1)).map(list)
    return header, draw(st.lists(row, min_size=1, max_size=6))


@settings(max_examples=150, deadline=None)
@given(
    tables(),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_every_dialect_gives_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    content: tuple[list[str], list[list[str]]],
    delimiter: str,
    encoding: str,
    line_end: str,
    quoting: int,
) -> None:
    header, rows = content
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting).writerows([header, *rows])
    path = tmp_path_factory.mktemp("any") / "t.csv"
    path.write_bytes(text.getvalue().encode(encoding))
    table = read_table(path)
    assert list(table.columns) == header
    assert [list(row) for row in zip(*table.columns.values(), strict=True)] == rows


def test_a_large_column_of_numbers_stays_exact(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-(10**17), 10**17, 500)
    (tmp_path / "t.csv").write_text("file,x\n" + "".join(f"{i}.wav,{value}\n" for i, value in enumerate(values)))
    table: Table = read_table(tmp_path / "t.csv")
    assert table.typed("x").to_pylist() == values.tolist()
