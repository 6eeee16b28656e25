"""Reads a table that a user brings, as Excel, LibreOffice, pandas, R or PowerShell saved it."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, time
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch.errors import DataError, InputError
from ser_batch.text import message_of, shown

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TABLE_SUFFIXES", "Table", "decoded", "plain", "read_table", "with_rows"]

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".xlsx")

_DELIMITERS = ",;\t"
#: Records that decide about the delimiter.
_N_SNIFFED = 200

#: Such as pandas calls the numbers of rows.
_NAMELESS = re.compile(r"\s*|__index_level_\d+__")
_MISSING = frozenset({"", "NA", "N/A", "#N/A", "NaN", "nan", "NULL", "null", "None"})
# A number that begins with a needless zero is a name: 007.
_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")
# More digits than a float holds are a name, too.
_REAL = re.compile(r"-?((0|[1-9]\d{0,14})([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?")


@dataclass(eq=False)
class Table:
    """A table, column by column; all columns have a name, and no two the same."""

    path: Path
    #: Name as written -> values as text without blanks around them, ``""`` for a missing one.
    columns: dict[str, list[str]]
    #: Where each row ends in the file, for messages.
    lines: Sequence[int]
    #: What was taken for granted while reading, one line each.
    notes: tuple[str, ...] = ()
    #: Of a table that is text: how it is written, else ``""``.
    encoding: str = ""
    delimiter: str = ""
    #: Names of all its columns, ``""`` for those that are left out.
    header: tuple[str, ...] = ()
    #: What the file itself says of the types, where it does.
    arrow: pa.Table | None = None

    def __len__(self) -> int:
        return len(self.lines)

    @cached_property
    def _by_fold(self) -> dict[str, str]:
        return {_folded(name): name for name in self.columns}

    def find(self, names: Iterable[str]) -> str | None:
        """Return the column that goes by the first of `names` that there is, whatever the case, or None."""
        return next((self._by_fold[name] for name in map(_folded, names) if name in self._by_fold), None)

    def typed(self, name: str) -> pa.Array | pa.ChunkedArray:
        """Return a column as what all its values are: whole numbers, numbers, truth values, dates, else text."""
        return self.arrow.column(name) if self.arrow is not None else _typed(self.columns[name], self.delimiter)


def with_rows(table: Table, rows: Iterable[Mapping[str, str]]) -> bytes:
    """Return the content of a table of text with rows (column -> value) added, written like those that are there.

    Raises
    ------
    InputError
        It is no table of text.
    """
    if not table.delimiter:
        raise InputError(f"Rows cannot be added to {table.path}: save it as {table.path.with_suffix('.csv')}.")
    text = table.path.read_bytes().decode(table.encoding)
    added = io.StringIO(newline="")
    writer = csv.writer(added, delimiter=table.delimiter, lineterminator="\r\n" if "\r\n" in text else "\n")
    writer.writerows([row.get(name, "") for name in table.header] for row in rows)
    if text and not text.endswith(("\n", "\r")):
        text += "\n"
    text += added.getvalue()
    try:
        return text.encode(table.encoding)
    except UnicodeEncodeError:  # a name that the old encoding does not know
        return text.encode("utf-8-sig")


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def read_table(path: Path) -> Table:
    """Read a table: ``.csv``, ``.tsv`` or ``.txt`` in any usual dialect and encoding, ``.parquet`` or ``.xlsx``.

    Columns are parted by commas, semicolons or tabs. Text is UTF-8 or UTF-16, else it is taken for Windows-1252, and
    the notes of the table say so. Columns without a name, like the row numbers that pandas and R write, are left out.

    Raises
    ------
    InputError
        The file is missing or cannot be read, or its suffix is none of these.
    DataError
        There are no rows, two columns of one name, or a row of more or fewer cells than there are columns.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"Table {path} must end in {', '.join(TABLE_SUFFIXES)}, so that it is known how to read it.")
    try:
        if suffix == ".parquet":
            return _checked(_from_parquet(path))
        if suffix == ".xlsx":
            return _checked(_from_rows(path, *_excel_rows(path)))
        return _checked(_from_text(path, path.read_bytes()))
    except OSError as error:
        raise InputError(f"Table {path} cannot be read: {error.strerror or error}.") from error


def _checked(table: Table) -> Table:
    folds: dict[str, str] = {}
    for name in table.columns:
        other = folds.setdefault(_folded(name), name)
        if other is not name:
            raise DataError(
                f"Table {table.path} has two columns {shown(other)} and {shown(name)}. Rename or remove one."
            )
    if not table.columns or not len(table):
        what = "has a header and no rows" if table.columns else "is empty"
        raise DataError(f"Table {table.path} {what}. Save it again with a header and a row per file.")
    return table


def _from_text(path: Path, data: bytes) -> Table:
    text, encoding = decoded(path, data)
    # A line for Excel, and one that PowerShell writes.
    named = re.match(r"\s*sep=(.)\r?\n", text)
    n_skipped = 1 if named or text.startswith("#TYPE ") else 0
    if n_skipped:
        text = text.partition("\n")[2]
    delimiter = named[1] if named else _sniffed(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        for row in reader:
            rows.append(row)
            lines.append(reader.line_num + n_skipped)
    except csv.Error as error:
        raise DataError(
            f"Table {path}, line {reader.line_num + n_skipped}: {error}. Is a quotation mark never closed? Save the "
            f"table again as UTF-8 CSV."
        ) from error
    table = _from_rows(path, rows, lines)
    table.encoding, table.delimiter = encoding, delimiter
    if encoding == "cp1252":
        table.notes = (f"{path} is not UTF-8 and was read as Windows-1252; save it as UTF-8 if letters look wrong.",)
    return table


def decoded(path: Path, data: bytes) -> tuple[str, str]:
    """Return the text of a file and its encoding: UTF-8, UTF-16, or what is neither as Windows-1252.

    Raises
    ------
    DataError
        It is no text.
    """
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    encoding = next((name for mark, name in marks.items() if data.startswith(mark)), "")
    if not encoding and 0 in data[:2]:
        # UTF-16 without its mark: one byte of each ASCII letter is 0.
        encoding = "utf-16-le" if data[:1] != b"\0" else "utf-16-be"
    for name in (encoding,) if encoding else ("utf-8", "cp1252"):
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            break
        return text, name
    raise DataError(f"Table {path} is no text that can be read. Save it as UTF-8 CSV.")


def _sniffed(text: str) -> str:
    """Return the delimiter that makes most columns of the header, and of as many rows as many."""

    def columns(delimiter: str) -> tuple[int, int]:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        widths: list[int] = []
        with suppress(csv.Error):
            for row in islice(reader, _N_SNIFFED):
                widths += [len(row)] if row else []
        return (widths[0], widths.count(widths[0])) if widths else (0, 0)

    return max(_DELIMITERS, key=columns)


def _excel_rows(path: Path) -> tuple[list[list[str]], list[int]]:
    try:
        import openpyxl  # noqa: PLC0415 - an extra
    except ImportError:
        raise InputError(
            f"Table {path} needs openpyxl to be read: pip install 'ser-batch[excel]', or save it as CSV."
        ) from None
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        rows = [[_cell(value) for value in row] for row in book.worksheets[0].iter_rows(values_only=True)]
        book.close()
    except OSError:
        raise
    except Exception as error:  # a damaged workbook raises anything from zipfile to KeyError
        raise DataError(f"Table {path} cannot be read ({message_of(error)}). Save it again, or as CSV.") from error
    return rows, list(range(1, len(rows) + 1))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime) and value.time() == time.min:
        return value.date().isoformat()
    # Excel holds whole numbers as others.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _from_rows(path: Path, rows: list[list[str]], lines: list[int]) -> Table:
    """Make columns of rows, the first of which is the header; rows without any text do not count."""
    kept = [(row, line) for row, line in zip(rows, lines, strict=True) if any(cell.strip() for cell in row)]
    if not kept:
        return Table(path, {}, [])
    header = [name.strip() for name in kept[0][0]]
    for row, line in kept[1:]:
        # Spreadsheets leave empty cells behind.
        if len(row) < len(header) or any(cell.strip() for cell in row[len(header) :]):
            raise DataError(
                f"Table {path}, line {line}: {len(row)} cells below a header of {len(header)}. Put cells that hold a "
                f"delimiter in quotation marks, or save the table again."
            )
    columns: dict[str, list[str]] = {}
    for index, name in enumerate(header):
        if name in columns:
            raise DataError(f"Table {path} has two columns {shown(name)}. Rename or remove one.")
        if name:
            columns[name] = [row[index].strip() for row, _ in kept[1:]]
    return Table(path, columns, [line for _, line in kept[1:]], header=tuple(header))


def _from_parquet(path: Path) -> Table:
    import pyarrow as pa  # noqa: PLC0415 - most commands need neither
    import pyarrow.parquet as pq  # noqa: PLC0415

    # By a stream, since to pyarrow `s3:x` is no file but an address.
    try:
        with path.open("rb") as file:
            names = [name for name in pq.read_schema(file).names if not _NAMELESS.fullmatch(name)]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise DataError(f"Table {path} has two columns {shown(twice)}. Rename or remove one.")
            arrow = plain(pq.read_table(file, columns=names))
        columns = {name: _as_text(arrow.column(name)) for name in names}
    except (pa.ArrowException, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"Table {path} cannot be read ({reason}). Write it again.") from error
    return Table(path, columns, range(1, len(arrow) + 1), arrow=arrow)


def plain(table: pa.Table) -> pa.Table:
    """Return the columns that have a name, as what all readers know.

    Durations, times of day, years beyond 9999, lists of times and bytes become text.

    Raises
    ------
    ValueError
        A column is damaged.
    """
    import pyarrow as pa  # noqa: PLC0415

    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if _NAMELESS.fullmatch(name):
            continue
        try:
            column.validate(full=True)
            columns[name] = _plain(column)
        except (pa.ArrowException, ArithmeticError, LookupError, ValueError) as error:
            raise ValueError(f"its column {shown(name)}, of type {column.type}, is damaged") from error
    return pa.table(columns)


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    import pyarrow as pa  # noqa: PLC0415

    if pa.types.is_dictionary(column.type):
        if pa.types.is_string(column.type.value_type):
            return column
        column = column.cast(column.type.value_type)
    kind, types = column.type, pa.types
    if types.is_large_string(kind) or types.is_null(kind) or types.is_float16(kind):
        return column.cast(pa.float32() if types.is_float16(kind) else pa.string())
    if (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    ):
        texts = (value if value is None else value.decode(errors="backslashreplace") for value in column.to_pylist())
        return pa.chunked_array([pa.array(texts, pa.string())])
    is_plain_time = (types.is_date32(kind) or types.is_timestamp(kind)) and _is_of_calendar(column)
    is_time = types.is_temporal(kind) or (types.is_nested(kind) and re.search("time|date|duration|interval", str(kind)))
    if is_plain_time or not is_time:
        return column
    return pa.chunked_array([pa.array([text or None for text in _as_text(column)], pa.string())])


def _is_of_calendar(column: pa.ChunkedArray) -> bool:
    """Tell whether Python knows all times in a column, and their zone."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    try:
        pc.min_max(column).as_py()
    except (pa.ArrowException, ArithmeticError, LookupError, ValueError):
        return False
    return True


def _as_text(column: pa.ChunkedArray) -> list[str]:
    import pyarrow as pa  # noqa: PLC0415

    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return ["" if value is None else str(value) for value in column.to_pylist()]
    return [value.strip() for value in column.cast(pa.string()).fill_null("").to_pylist()]


def _typed(values: list[str], delimiter: str) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.compute as pc  # noqa: PLC0415

    there = {value for value in values if value not in _MISSING}

    def all_are(pattern: re.Pattern[str]) -> bool:
        return bool(there) and all(pattern.fullmatch(value) for value in there)

    texts = pa.array([None if value in _MISSING else value for value in values], pa.string())
    if all_are(_WHOLE):
        return texts.cast(pa.int64())
    # A comma is a decimal point where that is why columns are parted by semicolons.
    if all_are(_REAL) and (delimiter == ";" or not any("," in value for value in there)):
        return pc.replace_substring(texts, ",", ".").cast(pa.float64())
    if there and {value.casefold() for value in there} <= {"true", "false"}:
        return pc.utf8_lower(texts).cast(pa.bool_())
    for pattern, kind in ((_DATE, pa.date32()), (_TIME, pa.timestamp("s"))):
        if all_are(pattern):
            try:
                return texts.cast(kind)
            except pa.ArrowInvalid:  # the 31st of February
                break
    # Of text only an empty cell is missing: NA may be somebody's initials.
    return pa.array([value or None for value in values], pa.string())
