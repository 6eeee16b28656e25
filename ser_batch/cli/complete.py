"""``ser-batch complete``: take in what nodes have done of a run."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import no_report_option, plugin_option, quiet_option, recipe_of, run_argument
from ser_batch.cli.streams import OutputLostError
from ser_batch.errors import ExitCode
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.nodes.complete import Completed

__all__ = ["command"]


@click.command("complete")
@run_argument
@plugin_option
@no_report_option
@quiet_option
def command(run_dir: str, **options: Any) -> int:
    """Take in what nodes have done of RUN, say what is left, and build the report once nothing is.

    It may be called at any time, also while nodes work, and as often as one likes; killed, the same command goes on.
    What nodes that died have left is swept; a node that was not heard of for 120 s is taken for dead, one of this
    machine as soon as it is gone. Plugin files may add sections to the report.

    Exit codes: 0 the run is complete and all files are labelled, 1 complete and some failed, 7 parts are left, or RUN
    has no plan or cannot be used, 130 interrupted.
    """
    from ser_batch.cli.progress import make_progress  # noqa: PLC0415 - imports for a call, not for --help
    from ser_batch.nodes.complete import complete  # noqa: PLC0415

    try:
        done = complete(
            Path(run_dir),
            plugins=recipe_of(options),
            report=not options["no_report"],
            progress=make_progress(options["quiet"]),
        )
    except KeyboardInterrupt:
        click.echo("\nInterrupted. What is committed stays; the same command goes on from there.", err=True)
        return ExitCode.INTERRUPTED
    if not options["quiet"]:
        with suppress(OutputLostError):
            _print(done, run_dir)
    return done.exit_code


def _print(done: Completed, run_dir: str) -> None:
    from ser_batch.cli.summary import told  # noqa: PLC0415 - imports for a call, not for --help

    second = f" {done.n_second:,} were done twice; the first counts." if done.n_second else ""
    click.echo(
        f"{done.n_parts - done.n_left:,} of {done.n_parts:,} parts are done, {done.n_committed:,} of them new.{second}"
    )
    if len(done.processors) > 1:
        click.echo(f"{len(done.processors)} classes of processors did them: between these, numbers differ by rounding.")
    if done.is_whole:
        told(done.summary, quiet=False)
        return
    if not done.n_left:
        click.echo("Some files could not be looked at: the scan itself, once more, tries them again.")
        return
    if done.hosts:
        click.echo(f"{len(done.hosts)} nodes are at work: {', '.join(map(printable, done.hosts[:10]))}.")
    click.echo(f"{done.n_left:,} parts are left: `ser-batch work {printable(run_dir)}` on any node does them.")
