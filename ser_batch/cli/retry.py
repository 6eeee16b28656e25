"""``ser-batch retry``: process the failed files of a run again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ser_batch.cli.options import limit_options, plugin_option, quiet_option, run_argument
from ser_batch.errors import ExitCode

__all__ = ["command"]


@click.command("retry")
@run_argument
@plugin_option
@limit_options
@quiet_option
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
