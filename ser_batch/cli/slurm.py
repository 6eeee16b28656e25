"""``ser-batch slurm``: a script that has SLURM work on the plan of a run."""

from __future__ import annotations

from pathlib import Path

import click

from ser_batch.cli.options import run_argument, trust_option
from ser_batch.errors import ConfigError, ExitCode

__all__ = ["command"]


@click.command("slurm")
@run_argument
@click.option("--nodes", type=click.IntRange(min=1), required=True, metavar="N", help="Tasks of the array.")
@click.option("--cpus", type=click.IntRange(min=1), default=16, show_default=True, metavar="N", help="CPUs of each.")
@click.option("--time", "limit", default="04:00:00", show_default=True, metavar="T", help="Time limit of each.")
@click.option("--sbatch", "more", multiple=True, metavar="OPTION", help="Also give this to sbatch; may be repeated.")
@trust_option
def command(run_dir: str, nodes: int, cpus: int, limit: str, more: tuple[str, ...], trust_plugins: bool) -> int:
    """Print a script that submits an array of `ser-batch work`, and `ser-batch complete` behind it.

    RUN must have a plan: `ser-batch scan INPUT -o RUN --plan-only`. Look at the script, then run it: `ser-batch slurm
    RUN --nodes 20 > job.sh; sh job.sh`. What a task could not do, since it was cancelled or its node died, the others
    do; run the script again if `complete` says that parts are left.

    Exit codes: 0 printed, 2 RUN was planned with plugin files and --trust-plugins is not given, 7 RUN has no plan, or
    a name that no script can hold.
    """
    from ser_batch.nodes.slurm import job_script  # noqa: PLC0415
    from ser_batch.run.planned import plan_of  # noqa: PLC0415 - imports for a call, not for --help

    plan = plan_of(Path(run_dir))
    if plan.plugin_files and not trust_plugins:
        raise ConfigError(
            "The plan was made with plugin files, which every node would execute. If they are yours, give "
            "--trust-plugins."
        )
    click.echo(job_script(Path(run_dir), nodes, cpus, limit, more, trust_plugins), nl=False)
    return ExitCode.OK
