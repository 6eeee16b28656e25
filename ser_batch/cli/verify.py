"""``ser-batch verify``: check that a run is whole and sound."""

from __future__ import annotations

import click

from ser_batch.cli.options import readable_run_argument
from ser_batch.cli.streams import as_far_as_read
from ser_batch.errors import ExitCode
from ser_batch.text import printable

__all__ = ["command"]


@click.command("verify")
@readable_run_argument
def command(run_dir: str) -> int:
    """Check that RUN is whole and sound; it may be in a bucket.

    Looks at checksums of all parts, parts that belong to no commit, schemas, rows that are doubled, windows that are
    missing, probabilities, and whether the counts of run.json are those of the tables. Exit code 7 if anything is off.
    """
    from ser_batch.run.copy import readable  # noqa: PLC0415 - imports for a call, not for --help
    from ser_batch.run.manifest import read_manifest  # noqa: PLC0415
    from ser_batch.run.summary import gaps_of  # noqa: PLC0415
    from ser_batch.run.verify import check_run  # noqa: PLC0415

    with readable(run_dir) as run:
        problems = check_run(run.folder)
        gaps = gaps_of(read_manifest(run.folder))
    with as_far_as_read():
        for problem in problems:
            click.echo(f"Problem: {printable(problem)}")
        if not problems:
            click.echo("\n".join(map(printable, [f"{run_dir} is whole and sound.", *gaps])))
    return ExitCode.RUN if problems else ExitCode.OK
