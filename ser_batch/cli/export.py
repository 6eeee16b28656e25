"""``ser-batch export``: a run for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ser_batch.cli.options import OneOf, run_argument
from ser_batch.errors import ConfigError, ExitCode
from ser_batch.run.layout import TABLES
from ser_batch.text import printable

__all__ = ["command"]

_TABLES = ("csv", "jsonl")
_TRACKS = ("audacity", "elan", "textgrid", "rttm", "srt", "vtt")


@click.command("export")
@run_argument
@click.option("--to", "file_format", required=True, type=OneOf([*_TABLES, *_TRACKS]), help="Format.")
@click.option(
    "-o", "--output", required=True, metavar="DEST", type=click.Path(allow_dash=True),
    help="File to write (- for standard output); for label tracks the folder.",
)  # fmt: skip
@click.option(
    "--table", type=OneOf(list(reversed(TABLES))),
    help="Table for csv and jsonl, by default files; for label tracks windows or segments, by default segments where "
    "there are any.",
)  # fmt: skip
@click.option(
    "--where", multiple=True, metavar="CONDITION",
    help='Rows to keep, such as "confidence >= 0.8" or "emotion in fear,anger" (also not in, ==, !=, <, <=, >); repeat '
    "it for conditions that all must hold.",
)  # fmt: skip
@click.option("--bom", is_flag=True, help="Begin a csv file with the mark by which Excel knows UTF-8.")
def command(run_dir: str, file_format: str, output: str, table: str | None, where: tuple[str, ...], bom: bool) -> int:
    """Export RUN: csv and jsonl write one table to one file, the others one label track per recording.

    In csv, text that a spreadsheet would take for a formula (it begins with = + - @, a tab or a carriage return) gets
    an apostrophe before it; jsonl holds it as it is.

    Tracks keep the tree and the full names of the recordings (tape/one.wav becomes tape/one.wav.TextGrid); names that
    are too long, or differ in case or accents alone, end in a mark. Labels are segments, with speakers and words, or
    windows, of which neighbours of one emotion are merged; times end where the recording ends.
    """
    from ser_batch.export.tables import export_table  # noqa: PLC0415
    from ser_batch.export.tracks import export_tracks  # noqa: PLC0415
    from ser_batch.run.read import open_run  # noqa: PLC0415
    from ser_batch.run.where import parse_conditions  # noqa: PLC0415 - loads pyarrow, not for --help

    if bom and file_format != "csv":
        raise ConfigError(f"--bom is for --to csv, not for {file_format}.")
    opened = open_run(run_dir)
    name: Any = (table or "files") if file_format in _TABLES else "files"
    conditions = parse_conditions(where, opened, name)
    if file_format in _TABLES:
        n_rows = export_table(opened, name, file_format, output, conditions, bom)
        told = f"{n_rows:,} rows"
    elif output == "-":
        raise ConfigError(f"--to {file_format} writes one file per recording: give a folder with -o.")
    else:
        of: Any = table or ("segments" if opened.has_table("segments") and opened.n_rows("segments") else "windows")
        if of not in ("windows", "segments"):
            raise ConfigError(f"--to {file_format} makes label tracks of windows or of segments, not of {of}.")
        n_written, n_without = export_tracks(opened, file_format, Path(output), conditions, of)
        told = f"{n_written:,} tracks" + (" of segments" if of == "segments" else "")
        if n_without:
            told += f"; {n_without:,} files have none, because " + (
                "they have no segments" if of == "segments" else "nothing of them was analysed"
            )
    for notice in opened.notices:
        click.echo(f"Note: {printable(notice)}", err=True)
    if output != "-":
        click.echo(f"{told}: {printable(output)}")
    return ExitCode.OK
