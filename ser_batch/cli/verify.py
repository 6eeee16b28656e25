"""``ser-batch verify``: check that a run is whole and sound."""

from __future__ import annotations

from pathlib import Path

import click

from ser_batch.cli.options import run_argument
from ser_batch.errors import ExitCode
from ser_batch.text import printable

__all__ = ["command"]


@click.command("verify")
@run_argument
def command(run_dir: str) -> int:
    """Check that RUN is whole and sound.

    Looks at checksums of all parts, parts that belong to no commit, schemas, rows that are doubled, windows that are
    missing, probabilities, and whether the counts of run.json are those of the tables. Exit code 7 if anything is off.
    """
    from ser_batch.run.manifest import read_manifest  # noqa: PLC0415 - loads pyarrow, not for --help
    from ser_batch.run.summary import gaps_of  # noqa: PLC0415
    from ser_batch.run.verify import check_run  # noqa: PLC0415

    problems = check_run(Path(run_dir))
    for problem in problems:
        click.echo(f"Problem: {printable(problem)}")
    if problems:
        return ExitCode.RUN
    click.echo(f"{printable(run_dir)} is whole and sound.")
    for gap in gaps_of(read_manifest(Path(run_dir))):
        click.echo(printable(gap))
    return ExitCode.OK
