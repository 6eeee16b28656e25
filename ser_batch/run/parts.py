"""The part files of one table, as somebody who reads it needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ser_batch.run.parquet import ends_of
from ser_batch.run.where import Condition, may_hold

__all__ = ["PARQUET", "Parts"]

#: How parts are read: a bit that has flipped is an error.
PARQUET = ds.ParquetFileFormat(
    default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
)


@dataclass(eq=False)
class Parts:
    """The sound part files of one table."""

    paths: list[str] = field(default_factory=list)
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    #: Rows of each part.
    n_rows: list[int] = field(default_factory=list)
    #: First and last clip_id of each part, by the statistics of its row groups; None where these are missing.
    clip_ids: list[tuple[str, str] | None] = field(default_factory=list)

    def add(self, path: str, footer: pq.FileMetaData) -> None:
        self.paths.append(path)
        self.n_rows.append(footer.num_rows)
        self.clip_ids.append(ends_of(footer))

    def some(self, places: Sequence[int]) -> Parts:
        """Return some of the parts."""
        return Parts(
            [self.paths[place] for place in places],
            self.schema,
            [self.n_rows[place] for place in places],
            [self.clip_ids[place] for place in places],
        )

    def within(self, clauses: list[list[Condition]]) -> list[str]:
        """Return the parts that may hold rows that fit one of `clauses`, as far as conditions on clip_id tell."""
        if not clauses:
            return self.paths
        kept = []
        for path, ends in zip(self.paths, self.clip_ids, strict=True):
            if ends is None or any(all(may_hold(condition, *ends) for condition in clause) for clause in clauses):
                kept.append(path)
        return kept
