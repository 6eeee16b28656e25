"""Finds the file that each row of a table means, however its path is written."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ser_batch.errors import DataError
from ser_batch.storage.address import is_url
from ser_batch.tables.table import Table
from ser_batch.text import printable, shown

__all__ = ["FILE_COLUMNS", "Matching", "match_rows"]

#: Names by which the column of files may go, in this order.
FILE_COLUMNS = ("clip_id", "path", "file", "filename", "file_id", "file_path")

_NONE, _SEVERAL = -1, -2


@dataclass(eq=False)
class Matching:
    """Which row says something about which file."""

    table: Table
    #: The column of paths.
    key: str
    n_files: int
    #: Position of a file -> row.
    row_of: dict[int, int] = field(default_factory=dict)
    #: Path relative to the root -> row, for rows that mean none of the files.
    unknown: dict[str, int] = field(default_factory=dict)
    #: Rows that say again what another row says.
    n_repeated: int = 0
    #: Position of the file of each row; -1 for rows that mean none of the files.
    places: list[int] = field(default_factory=list)

    @property
    def n_without(self) -> int:
        """Files that no row is about."""
        return self.n_files - len(self.row_of)

    def summary(self) -> str:
        """Say in one line what matches."""
        n_rows = len(self.table)
        text = f"{self.table.path}: {n_rows - len(self.unknown):,} of {n_rows:,} rows match, "
        text += f"{self.n_without:,} files have no row."
        if self.n_repeated:
            text += f" {self.n_repeated:,} rows repeat another."
        if self.unknown:
            name, row = next(iter(self.unknown.items()))
            text += f" Line {self.table.lines[row]} names {shown(name)}, which is not there."
        return text


def match_rows(
    table: Table,
    root: str | os.PathLike[str],
    names: Sequence[str],
    *,
    key: str | None = None,
    columns: Iterable[str] | None = None,
) -> Matching:
    """Match the rows of a table with files.

    A row means the file whose name it gives: relative to `root` or to the folder of the table, or absolute; with
    ``/`` or ``\\``, in the case of the file or not, its accents composed or not; and where only one file fits, without
    its suffix or without its folder.

    Parameters
    ----------
    table : Table
    root : path
        Folder that `names` are relative to.
    names : sequence of str
        Files, as POSIX paths; each once.
    key : str, optional
        The column of paths; by default the first of `FILE_COLUMNS` that there is, else the first column.
    columns : iterable of str, optional
        Columns that matter: two rows about one file must not differ in them. All by default.

    Raises
    ------
    DataError
        No row means a file, one may mean several, or two about one file differ.
    """
    key = key or table.find(FILE_COLUMNS) or next(iter(table.columns))
    matching = Matching(table, key, len(names))
    others = [name for name in (table.columns if columns is None else columns) if name != key]
    index = _Index(root, table.path, names)
    for row, text in enumerate(table.columns[key]):
        place = index.find(text)
        if place == _SEVERAL:
            raise DataError(
                f"Table {table.path}, line {table.lines[row]}: {shown(text)} may be "
                f"{' or '.join(index.candidates(text))}. Write more of the path."
            )
        matching.places.append(place)
        if place == _NONE:
            first = matching.unknown.setdefault(index.relative(text), row)
        else:
            first = matching.row_of.setdefault(place, row)
        if first == row:
            continue
        differs = next((name for name in others if table.columns[name][first] != table.columns[name][row]), None)
        if differs is not None:
            raise DataError(
                f"Table {table.path}: lines {table.lines[first]} and {table.lines[row]} are about the same file "
                f"{shown(text)}, but {shown(differs)} is {shown(table.columns[differs][first])} in one and "
                f"{shown(table.columns[differs][row])} in the other. Remove one."
            )
        matching.n_repeated += 1
    if not matching.row_of:
        example = f"; the first file is {printable(min(names))!r}" if names else ""
        raise DataError(
            f"Table {table.path}: none of its {len(table):,} rows names a file below {root}. Its column {shown(key)} "
            f"begins with {shown(table.columns[key][0])}{example}. Name the column of paths one of "
            f"{', '.join(FILE_COLUMNS)}, with paths relative to {root}."
        )
    return matching


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name.replace("\\", "/"))


def _folded(name: str) -> str:
    return _plain(name).casefold()


def _stem(name: str) -> str:
    return posixpath.splitext(_folded(name))[0]


#: How a file may be named, from the exact to the careless: of the file's name, and whether the folder is left out.
_FORMS: tuple[tuple[Callable[[str], str], bool], ...] = (
    (str, False),
    (_plain, False),
    (_folded, False),
    (_stem, False),
    (_folded, True),
    (_stem, True),
)


class _Index:
    """Files by all that they may be called."""

    def __init__(self, root: str | os.PathLike[str], table: Path, names: Sequence[str]) -> None:
        self._names = names
        # Tables name a link or what it leads to.
        roots = {posixpath.normpath(root)} if is_url(root) else {os.path.abspath(root), os.path.realpath(root)}  # noqa: PTH100
        self._roots = [f"{root.rstrip('/')}/" for root in roots]
        self._beside = os.path.abspath(table.parent)  # noqa: PTH100
        self._by_form: list[dict[str, int]] = []

    def find(self, text: str) -> int:
        """Return the position of the file that `text` means, `_NONE` or `_SEVERAL`."""
        if not text:
            return _NONE
        place = self._look_up(0, text)
        if place != _NONE:
            return place
        relative = self.relative(text)
        for level in range(len(_FORMS)):
            place = self._look_up(level, relative)
            if place != _NONE:
                return place
        beside = self._below_root(posixpath.normpath(posixpath.join(self._beside, relative)))
        return self._look_up(2, beside) if beside else _NONE

    def relative(self, text: str) -> str:
        """Return a path relative to the root, as far as it can be told."""
        path = posixpath.normpath(text.replace("\\", "/"))
        return self._below_root(path) or path

    def _below_root(self, path: str) -> str:
        return next((path[len(root) :] for root in self._roots if path.startswith(root)), "")

    def candidates(self, text: str) -> list[str]:
        """Return two files that `text` may be."""
        wanted = self.relative(text)
        for form, is_base in _FORMS:
            key = _key(form, wanted)
            fits = [name for name in self._names if form(posixpath.basename(name) if is_base else name) == key]
            if len(fits) > 1:
                return [repr(printable(name)) for name in fits[:2]]
        return []

    def _look_up(self, level: int, text: str) -> int:
        form, is_base = _FORMS[level]
        if is_base and "/" in text:
            return _NONE
        # Each careless way is looked up only once the strict ones have failed for a row.
        while len(self._by_form) <= level:
            self._by_form.append(self._indexed(*_FORMS[len(self._by_form)]))
        return self._by_form[level].get(_key(form, text), _NONE)

    def _indexed(self, form: Callable[[str], str], is_base: bool) -> dict[str, int]:
        found: dict[str, int] = {}
        for position, name in enumerate(self._names):
            key = form(posixpath.basename(name) if is_base else name)
            found[key] = _SEVERAL if key in found else position
        return found


def _key(form: Callable[[str], str], text: str) -> str:
    # Only files have suffixes that a row may leave out.
    return _folded(text) if form is _stem else form(text)
