"""``ser-batch work``: work on the plan of a run, on any machine that sees it."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import jobs_option, plugin_option, quiet_option, run_argument, trust_option
from ser_batch.cli.streams import OutputLostError
from ser_batch.errors import ExitCode
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.nodes.node import Message

__all__ = ["command"]


class _Slice(click.ParamType):
    """A slice such as 3/100, numbered from 1."""

    name = "slice"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", value)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(f"{value!r} is no slice. Give its number, from 1, and how many there are, such as 3/100.")
        return int(found[1]), int(found[2])


@click.command("work")
@run_argument
@click.option(
    "--slice", "part_of", type=_Slice(), default=(0, 0), metavar="I/N", help="What this node does first: 3/100."
)
@click.option("--scratch", metavar="DIR", type=click.Path(), help="Folder on a disk of this node; default $TMPDIR.")
@jobs_option
@plugin_option
@trust_option
@quiet_option
def command(run_dir: str, **options: Any) -> int:
    """Do files of RUN that `ser-batch scan --plan-only` has planned, on this machine.

    Any number of nodes may work on a run at the same time, and each may be killed at any moment. None holds the run:
    `ser-batch complete RUN` takes in what they have published. A node does its own slice first, then what is left of
    others, and ends when the rest is in the hands of others. SIGTERM ends it in order; what was published stays.

    Exit codes: 0 nothing is left for this node, 2 a plugin file is neither given nor trusted, 3 the archive cannot be
    seen from here, 5 and 6 plugins or the model are not those of the plan, 7 there is no plan, this machine has other
    versions than it was made with, or cannot work, 130 interrupted.
    """
    from ser_batch.cli.progress import make_progress  # noqa: PLC0415 - imports for a call, not for --help
    from ser_batch.nodes.work import work  # noqa: PLC0415

    try:
        told, n_left = work(
            Path(run_dir),
            options["part_of"],
            plugin_files=options["plugins"],
            trust_plugins=options["trust_plugins"],
            scratch=options["scratch"],
            jobs=options["jobs"] or 0,
            progress=make_progress(options["quiet"]),
        )
    except KeyboardInterrupt:
        click.echo("\nInterrupted. What was published stays; other nodes do the rest.", err=True)
        return ExitCode.INTERRUPTED
    if not options["quiet"]:
        with suppress(OutputLostError):
            _print(told, n_left, run_dir)
    return ExitCode.OK


def _print(told: Message, n_left: int, run_dir: str) -> None:
    second = f", {told.n_second:,} that another node had done before" if told.n_second else ""
    click.echo(f"This node did {told.n_published:,} parts with {told.n_files:,} files{second}.")
    rest = f"{n_left:,} parts are in the hands of other nodes." if n_left else "Nothing is left to do."
    click.echo(f"{rest} `ser-batch complete {printable(run_dir)}` takes in what was done.")
