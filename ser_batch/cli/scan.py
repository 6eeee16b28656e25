"""``ser-batch scan``: label every audio file below a directory."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import (
    analysis_options,
    config_of,
    device_option,
    input_options,
    labels_option,
    model_option,
    recipe_of,
    run_options,
)
from ser_batch.cli.streams import OutputLostError
from ser_batch.errors import ConfigError, ExitCode
from ser_batch.text import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from ser_batch.engine import Planned
    from ser_batch.run.summary import RunSummary
    from ser_batch.stages.discover import FileList

__all__ = ["command", "run_scan"]


@click.command("scan")
@input_options
@run_options
@model_option(default=None)
@labels_option
@click.option(
    "--plan-only",
    is_flag=True,
    help="Check and plan all, and leave the work to nodes: `ser-batch work RUN` on any of them.",
)
@click.option(
    "--on",
    metavar="dask:ADDRESS",
    help="Do the work on the cluster of this Dask scheduler, such as dask:tls://head:8786; needs the extra dask.",
)
@click.option(
    "--trust-cluster",
    is_flag=True,
    help="Use a scheduler without TLS on another machine: whoever reaches it runs what they like on its workers.",
)
@device_option(default=None)
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Windows per batch on a GPU.")
@click.option(
    "--abstain",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="P",
    help="Mark files with less confidence than this as uncertain.",
)
@click.option(
    "--embeddings/--no-embeddings",
    default=None,
    help="Store what the network heard in each window, so that labels can be made anew without audio; the default.",
)
@analysis_options
def command(**options: Any) -> int:
    """Label every audio file below the INPUTs: directories, single files, or addresses such as s3://bucket/prefix.

    Results go to the folder RUN, or to a bucket (s3://bucket/run): one row per file in RUN/files, one per window in
    RUN/windows and RUN/embeddings (Parquet), and RUN/report.html. The same command again goes on where it ended,
    whatever ended it, and does only what is new.

    Exit codes: 0 all files are labelled, 1 some failed (their rows say why), 4 no audio files were found, 7 the run
    folder cannot be used or the cluster cannot do it, 130 interrupted.
    """
    return run_scan(options)


def run_scan(options: dict[str, Any], **fixed: Any) -> int:
    """Scan as options of the command line say; `fixed` overrides the configuration."""
    inputs, config, recipe = _inputs_of(options), config_of(options, **fixed), recipe_of(options)
    run_dir, mode = _target(options)
    if options["dry_run"]:
        from ser_batch.cli.dry_run import show_plan  # noqa: PLC0415 - loads more than --help needs

        return show_plan(inputs, run_dir, mode, config, recipe, options["metadata"])
    if options.get("plan_only") and options.get("on"):
        raise ConfigError("`scan --plan-only` leaves the work to nodes, --on does it on a cluster. Give one of them.")
    if options.get("trust_cluster") and not options.get("on"):
        raise ConfigError("`scan --trust-cluster` is about the scheduler that --on names. Give both, or neither.")
    from ser_batch import engine  # noqa: PLC0415
    from ser_batch.cli.progress import interruptible, make_progress  # noqa: PLC0415
    from ser_batch.cli.summary import told  # noqa: PLC0415

    progress = make_progress(options["quiet"])
    arguments: dict[str, Any] = {"config": config, "plugins": recipe, "mode": mode, "metadata": options["metadata"]}
    with interruptible(f"What is committed stays in {printable(run_dir)}; the same command goes on from there."):
        if options.get("plan_only"):
            planned = engine.plan(inputs, run_dir, progress=progress, **arguments)
            return ExitCode.OK if options["quiet"] else _tell(planned, run_dir)
        scan: Callable[..., RunSummary] = engine.scan
        if options.get("on"):
            from ser_batch.cluster import scan_on  # noqa: PLC0415 - for those who have one
            from ser_batch.nodes.dask import check_address  # noqa: PLC0415

            scan = partial(scan_on, check_address(options["on"], options["trust_cluster"]))
        summary = scan(inputs, run_dir, progress=progress, report=not options["no_report"], **arguments)
    return told(summary, options["quiet"])


def _tell(planned: Planned, run_dir: Path | str) -> int:
    where = printable(run_dir)
    with suppress(OutputLostError):
        click.echo(f"{planned.n_files:,} files found, {planned.n_files - planned.n_done:,} of them to do.")
        if planned.n_parts:
            click.echo(f"Planned as {planned.n_parts:,} parts in {planned.n_bundles:,} bundles.")
            click.echo(f"Next:   ser-batch work {where} on each node, then ser-batch complete {where}")
        else:
            click.echo("Nothing is left to do.")
    return ExitCode.OK


def _target(options: dict[str, Any]) -> tuple[Path | str, str]:
    """Return where the run is, its folder or its address, and what to do with one that is there."""
    mode: str = options["mode"]
    if options["recompute"]:
        if mode == "restart":
            raise ConfigError(
                "--restart and --recompute exclude each other: one deletes results, the other keeps some."
            )
        mode = "recompute"
    from ser_batch.run.place import has_run  # noqa: PLC0415 - imports for a call, not for --help
    from ser_batch.storage.address import is_url, local_or_url  # noqa: PLC0415

    name = local_or_url(options["new_run"] or options["run_dir"])
    if options["new_run"] and has_run(name):
        raise ConfigError(f"--new-run {name}: there is a run already. Name a new folder, or give it as -o.")
    return name if is_url(name) else Path(name), mode


def _inputs_of(options: dict[str, Any]) -> tuple[str, ...] | FileList:
    """Return what to analyse.

    Raises
    ------
    ConfigError
        Neither inputs nor a list of files was given, or both.
    """
    if bool(options["inputs"]) == bool(options["files_from"]):
        raise ConfigError("Give either one INPUT or more (directories or files), or --files-from LIST.")
    if not options["files_from"]:
        inputs: tuple[str, ...] = options["inputs"]
        return inputs
    from ser_batch.stages.discover import read_file_list  # noqa: PLC0415

    return read_file_list(Path(options["files_from"]))
