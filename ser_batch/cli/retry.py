"""``ser-batch retry``: process the failed files of a run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ser_batch.cli.options import limit_options, plugin_option, quiet_option, readable_run_argument, trust_option
from ser_batch.errors import ConfigError
from ser_batch.text import printable

__all__ = ["command"]


@click.command("retry")
@readable_run_argument
@plugin_option
@trust_option
@limit_options
@quiet_option
def command(run_dir: str, **options: Any) -> int:
    """Process the failed files of RUN again, with its settings and nothing else of it; it may be in a bucket.

    A run that was made with --plugin FILE needs the file again. RUN says where it was, but a run folder may come from
    anywhere, and a plugin may do anything: give the file once more, or --trust-plugins.

    Exit codes: 0 no file is failed any more, 1 some still are, 2 a plugin file is neither given nor trusted, 7 RUN
    cannot be used.
    """
    from ser_batch.cli.progress import interruptible, make_progress  # noqa: PLC0415 - for a call, not for --help
    from ser_batch.cli.summary import told  # noqa: PLC0415
    from ser_batch.engine import scan  # noqa: PLC0415
    from ser_batch.plugins import PluginRecipe  # noqa: PLC0415
    from ser_batch.run.copy import manifest_of  # noqa: PLC0415
    from ser_batch.run.manifest import config_of_run, inputs_of_run  # noqa: PLC0415

    manifest = manifest_of(run_dir)
    limits = {name: options[name] for name in ("jobs", "timeout_s", "memory_limit_mb") if options[name] is not None}
    files = _plugin_files(manifest.get("plugin_files", ()), options["plugins"], options["trust_plugins"])
    with interruptible(f"What is committed stays in {printable(run_dir)}."):
        summary = scan(
            inputs_of_run(manifest),
            run_dir,
            config=config_of_run(manifest).with_values({"extract": limits}, source="command line"),
            plugins=PluginRecipe(files=files),
            mode="retry",
            progress=make_progress(options["quiet"]),
        )
    return told(summary, options["quiet"])


def _plugin_files(named: Sequence[str], given: Sequence[str], trusted: bool) -> tuple[str, ...]:
    """Return the plugin files to load: those that were given, and those that the run names, if it is trusted."""
    again = {Path(file).name for file in given}  # perhaps moved since; a plugin is known by the name of its file
    left = [file for file in named if Path(file).name not in again]
    if left and not trusted:
        options = " ".join(f"--plugin {printable(file)}" for file in left)
        raise ConfigError(
            f"The run was made with plugin files, which retry would execute. If they are yours, give them again "
            f"({options}), or give --trust-plugins."
        )
    return (*left, *given)
