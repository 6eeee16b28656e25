"""``ser-batch report``: the HTML report of a run, or of what differs between two."""

from __future__ import annotations

import click

from ser_batch.cli.options import audio_option, plugin_option, readable_run_argument
from ser_batch.errors import ConfigError, ExitCode
from ser_batch.storage.address import is_url
from ser_batch.text import printable

__all__ = ["command"]


@click.command("report")
@readable_run_argument
@click.argument("other", metavar="[RUN_B]", required=False, type=click.Path())
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(),
    help="File to write; by default report.html in RUN, or comparison.html in RUN_B.",
)  # fmt: skip
@audio_option
@click.option("--no-table", is_flag=True, help="Leave the table of files out: a small file, for a mail or a page.")
@plugin_option
def command(
    run_dir: str, other: str | None, output: str | None, audio: str | None, no_table: bool, plugins: tuple[str, ...]
) -> int:
    """Build the HTML report of RUN from its Parquet tables, or compare RUN with RUN_B. Runs may be in a bucket.

    The report is one file that opens without a network. It plays recordings by links relative to itself.
    """
    if other and (no_table or plugins):
        raise ConfigError("--no-table and --plugin are for the report of one run; a comparison has neither.")
    if is_url(other or run_dir) and not output:
        raise ConfigError("A report is not written into a bucket: give -o FILE.")
    from contextlib import ExitStack  # noqa: PLC0415 - not for --help

    from ser_batch.interrupt import Interruptions  # noqa: PLC0415
    from ser_batch.plugins import PluginRecipe  # noqa: PLC0415
    from ser_batch.report.apart import ReportProcess  # noqa: PLC0415
    from ser_batch.run.copy import readable  # noqa: PLC0415

    recipe = PluginRecipe(files=plugins, built_in=())
    with Interruptions(), ReportProcess(insist=True) as process, ExitStack() as runs:
        first, *more = (
            runs.enter_context(readable(run, ["segments"])).folder for run in filter(None, (run_dir, other))
        )
        path = process.build(
            first, recipe, other=more[0] if more else None, output=output, audio=audio, table=not no_table
        )
    click.echo(f"Report: {printable(path)} ({path.stat().st_size / 1e6:.1f} MB)")
    return ExitCode.OK
