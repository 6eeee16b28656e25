"""``ser-batch diff``: compare the labels of two runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import RunInPlace
from ser_batch.cli.streams import as_far_as_read
from ser_batch.errors import ExitCode
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.run.compare import Comparison, SegmentChanges

__all__ = ["command"]


@click.command("diff")
@click.argument("run_a", metavar="RUN_A", type=RunInPlace())
@click.argument("run_b", metavar="RUN_B", type=RunInPlace())
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="D",
    default=1e-4,
    show_default=True,
    help="Difference of a number that is none.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    metavar="N",
    default=20,
    show_default=True,
    help="Files to list of each kind; 0 lists all.",
)
def command(run_a: str, run_b: str, tolerance: float, limit: int) -> int:
    """Say which files and segments have another label in RUN_B than in RUN_A, by how much, and what else differs.

    Processing times and vanished files are not compared. Exit codes: 0 no difference, 1 some, 7 one of them is no run.
    """
    from ser_batch.run.compare import compare_runs  # noqa: PLC0415 - loads pyarrow, not for --help

    found = compare_runs(run_a, run_b, tolerance=tolerance)
    with as_far_as_read():
        for line in [f"No difference in {found.n_common:,} files."] if found.is_equal else _lines(found, limit):
            click.echo(line)
    return ExitCode.OK if found.is_equal else ExitCode.SOME_FILES_FAILED


def _lines(found: Comparison, limit: int) -> Iterator[str]:
    n_shown = limit or None
    yield f"{found.n_common:,} files in both runs, {len(found.changed):,} with another label."
    for title, clip_ids in zip(("Only in RUN_A", "Only in RUN_B"), found.only, strict=True):
        if clip_ids:
            yield f"\n{title}: {len(clip_ids):,} files"
            yield from (f"  {printable(clip_id)}" for clip_id in clip_ids[:n_shown])
    yield from _labels(found.changed.to_pylist(), "Files", n_shown)
    if found.missing_columns:
        yield f"\nColumns of one run alone: {', '.join(map(printable, found.missing_columns))}"
    if found.missing_tables:
        yield f"\nTables of one run alone: {', '.join(found.missing_tables)}"
    yield from _columns(found.columns, "files")
    if found.segments is not None and not found.segments.is_equal:
        yield from _segment_lines(found.segments, n_shown)


def _segment_lines(found: SegmentChanges, n_shown: int | None) -> Iterator[str]:
    yield f"\n{found.n_common:,} segments in both runs, {len(found.changed):,} with another label."
    for title, n_segments in zip(("RUN_A", "RUN_B"), found.n_only, strict=True):
        if n_segments:
            yield f"Only in {title}: {n_segments:,} segments"
    yield from _labels(found.changed.to_pylist(), "Segments", n_shown)
    yield from _columns(found.columns, "segments")


def _labels(changed: list[dict[str, Any]], what: str, n_shown: int | None) -> Iterator[str]:
    # A change whose size is unknown, like that from a label to a failure, comes last.
    changes = sorted(changed, key=lambda row: (math.isnan(row["by"]), -row["by"]))
    if not changes:
        return
    yield "\nLabels, RUN_A -> RUN_B:"
    for (old, new), n_rows in Counter((row["before"], row["after"]) for row in changes).most_common():
        yield f"  {n_rows:>9,}  {printable(old)} -> {printable(new)}"
    yield f"\n{what}, the largest change of a probability first:"
    for row in changes[:n_shown]:
        told = "{before} -> {after}  {clip_id}"
        if "start_s" in row:
            told += " from {start_s:.3f} s to {end_s:.3f} s"
            told += ", {speaker}" if row["speaker"] else ""
        yield f"  {row['by']:6.3f}  {printable(told.format(**row))}"


def _columns(columns: dict[str, tuple[int, float]], what: str) -> Iterator[str]:
    if columns:
        yield f"\nColumns that differ, with the {what} and the largest difference:"
        for name, (n_rows, by) in columns.items():
            yield f"  {printable(name):<40} {n_rows:>9,}  {'' if math.isnan(by) else f'{by:.3g}'}"
