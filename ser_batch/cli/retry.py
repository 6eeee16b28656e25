"""``ser-batch retry``: process the failed files of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ser_batch.errors import ExitCode

__all__ = ["command"]


@click.command("retry")
@click.argument("run_dir", metavar="RUN", type=click.Path())
@click.option("--plugin", "plugins", multiple=True, metavar="FILE", help="Also load this Python file.")
@click.option("--jobs", type=int, metavar="N", help="Worker processes; 0, the default, is one per core.")
@click.option("--timeout-s", type=float, metavar="S", help="Limit per file and started 10 minutes of audio; 0 = none.")
@click.option("--memory-limit-mb", type=int, metavar="MB", help="Limit of one worker's memory; 0 = none.")
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
def command(run_dir: str, **options: Any) -> int:
    """Process the failed files of RUN again, with the settings of the run and nothing else of it.

    Exit codes: 0 no file is failed any more, 1 some still are, 7 RUN cannot be used.
    """
    from ser_batch.cli.progress import make_progress  # noqa: PLC0415 - imports for a call, not for --help
    from ser_batch.cli.summary import print_summary  # noqa: PLC0415
    from ser_batch.engine import scan  # noqa: PLC0415
    from ser_batch.plugins import PluginRecipe  # noqa: PLC0415
    from ser_batch.run.manifest import config_of_run, inputs_of_run, read_manifest  # noqa: PLC0415

    manifest = read_manifest(Path(run_dir))
    limits = {name: options[name] for name in ("jobs", "timeout_s", "memory_limit_mb") if options[name] is not None}
    files = tuple(dict.fromkeys([*manifest.get("plugin_files", ()), *options["plugins"]]))
    try:
        summary = scan(
            inputs_of_run(manifest),
            run_dir,
            config=config_of_run(manifest).with_values({"extract": limits}, source="command line"),
            plugins=PluginRecipe(files=files),
            mode="retry",
            progress=make_progress(options["quiet"]),
        )
    except KeyboardInterrupt:
        click.echo(f"\nInterrupted. What is committed stays in {run_dir}.", err=True)
        return ExitCode.INTERRUPTED
    if not options["quiet"]:
        print_summary(summary)
    return summary.exit_code
