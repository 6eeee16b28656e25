"""By what a run's files are grouped: folders, and columns of the user's metadata."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from ser_batch.run.read import Run

__all__ = ["Grouping", "plan_groupings"]

FOLDER = "folder"
_TOP = "(top folder)"

#: Columns of metadata that make groups, besides folders.
_MOST_COLUMNS = 4
#: A column with more values than this names things rather than kinds of things.
_MOST_VALUES = 1_000

_SPEAKER_NAMES = ("speaker", "speaker_id", "speaker_name", "participant", "contributor", "actor", "subject")
_DATE_NAMES = re.compile(r"date|year|month|recorded|time", re.IGNORECASE)
_DATE = re.compile(r"^(1[5-9]|20)\d\d(-[01]\d(-[0-3]\d([T ].*)?)?)?$")

#: Length of an ISO date that names a period, the longest first: day, month, year, decade.
_PERIODS = (("day", 10), ("month", 7), ("year", 4), ("decade", 3))
_MOST_PERIODS = 60


@dataclass
class Grouping:
    """Which groups are formed and how."""

    #: "folder" and names of metadata columns.
    titles: list[str] = field(default_factory=list)
    #: Column that names speakers, so that intervals can be drawn by speaker; "" where there is none.
    cluster_column: str = ""
    date_column: str = ""
    #: Characters of the ISO date that name the period.
    date_length: int = 0
    period: str = ""
    #: Length of the folder prefix that all files share.
    prefix_length: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def metadata_columns(self) -> list[str]:
        """Columns of the metadata that are needed."""
        return sorted({*self.shown, self.cluster_column, self.date_column} - {""})

    @property
    def shown(self) -> list[str]:
        """Columns of the metadata that the table of files shows."""
        return [title for title in self.titles if title != FOLDER]

    def names(self, rows: pa.Table) -> Iterator[pa.ChunkedArray]:
        """Yield the group of each row, for each of `titles`."""
        for title in self.titles:
            yield self._folders(rows.column("clip_id")) if title == FOLDER else rows.column(title)

    def _folders(self, clip_ids: pa.ChunkedArray) -> pa.ChunkedArray:
        rest = pc.utf8_slice_codeunits(clip_ids, self.prefix_length)
        first = pc.struct_field(pc.extract_regex(rest, r"(?s)^(?P<folder>[^/]+)/"), "folder")
        return pc.fill_null(first, _TOP)

    def periods(self, rows: pa.Table) -> pa.ChunkedArray:
        """Return the period of each row, such as ``1987-05``; null where the date is unknown."""
        return _period_names(rows.column(self.date_column), self.date_length)


def plan_groupings(run: Run) -> Grouping:
    """Decide how the files of a run are grouped."""
    grouping = Grouping(prefix_length=_common_folder(run))
    grouping.titles.append(FOLDER)
    metadata = run.metadata
    if metadata is None:
        return grouping
    for name in metadata.column_names[1:]:
        values = metadata.column(name)
        if not grouping.date_column and _is_date(name, values):
            grouping.date_column = name
            grouping.period, grouping.date_length = _period(values)
            continue
        if not grouping.cluster_column and name.lower() in _SPEAKER_NAMES:
            grouping.cluster_column = name
        if pa.types.is_floating(values.type) or pa.types.is_nested(values.type):
            grouping.notes.append(f"Metadata column {name!r} is not shown as groups: it holds {values.type} values.")
            continue
        n_values = len(values.unique())
        if n_values > min(_MOST_VALUES, max(len(values) // 2, 1)):
            grouping.notes.append(f"Metadata column {name!r} is not shown as groups: it has {n_values:,} values.")
        elif len(grouping.titles) > _MOST_COLUMNS:
            grouping.notes.append(
                f"Metadata column {name!r} is not shown as groups: only the first {_MOST_COLUMNS} are."
            )
        else:
            grouping.titles.append(name)
    return grouping


def _common_folder(run: Run) -> int:
    """Return the length, up to and with the slash, of the deepest folder that holds all files."""
    low, high = run.clip_id_range()
    # What the first and the last name in sorted order share, all names share.
    common = posixpath.commonpath([posixpath.dirname(low), posixpath.dirname(high)])
    return len(common) + 1 if common else 0


def _is_date(name: str, values: pa.ChunkedArray) -> bool:
    if pa.types.is_temporal(values.type):
        return True
    if not _DATE_NAMES.search(name):
        return False
    texts = pc.drop_null(values.cast(pa.string()))
    texts = texts.filter(pc.not_equal(texts, ""))
    return len(texts) > 0 and bool(pc.all(pc.match_substring_regex(texts, _DATE.pattern)).as_py())


def _period(values: pa.ChunkedArray) -> tuple[str, int]:
    """Choose the shortest period that gives few enough of them."""
    for period, length in _PERIODS:
        n_periods = pc.count_distinct(pc.drop_null(_period_names(values, length))).as_py()
        lengths = pc.utf8_length(pc.drop_null(values.cast(pa.string())))
        if n_periods <= _MOST_PERIODS and (pc.min(lengths).as_py() or 0) >= length:
            return period, length
    return _PERIODS[-1]


def _period_names(values: pa.ChunkedArray, length: int) -> pa.ChunkedArray:
    names = pc.utf8_slice_codeunits(values.cast(pa.string()), 0, length)
    names = pc.if_else(pc.equal(names, ""), None, names)
    return pc.binary_join_element_wise(names, "0s", "") if length == _PERIODS[-1][1] else names
