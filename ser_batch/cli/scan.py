"""``ser-batch scan``: label every audio file below a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ser_batch.errors import ConfigError, ExitCode

if TYPE_CHECKING:
    from ser_batch.config import Config
    from ser_batch.plugins import PluginRecipe
    from ser_batch.stages.discover import FileList

__all__ = [
    "analysis_options",
    "command",
    "config_of",
    "input_options",
    "inputs_of",
    "recipe_of",
    "run_options",
    "run_scan",
]

Command = TypeVar("Command", bound=Callable[..., Any])

#: Option -> (section, key) of the configuration that it overrides.
_OVERRIDES = {
    "include": ("run", "include"),
    "exclude": ("run", "exclude"),
    "model": ("predict", "model"),
    "device": ("predict", "device"),
    "batch_size": ("predict", "batch_size"),
    "abstain": ("predict", "abstain"),
    "jobs": ("extract", "jobs"),
    "timeout_s": ("extract", "timeout_s"),
    "memory_limit_mb": ("extract", "memory_limit_mb"),
}


def _decorate(*decorators: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


#: What is analysed.
input_options = _decorate(
    click.argument("inputs", nargs=-1, metavar="[INPUT]...", type=click.Path()),
    click.option("--files-from", metavar="LIST", help="Take paths from this file, one a line; - reads standard input."),
    click.option("--include", multiple=True, metavar="GLOB", help="Only files that match; may be repeated."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="No files that match; may be repeated."),
)

#: How it is analysed.
analysis_options = _decorate(
    click.option("--config", "config_name", metavar="NAME|FILE", help="Shipped configuration or a TOML file."),
    click.option("--extractor", "extractors", multiple=True, metavar="NAME", help="Run this extractor too."),
    click.option("--plugin", "plugins", multiple=True, metavar="FILE", help="Also load this Python file."),
    click.option("--jobs", type=int, metavar="N", help="Worker processes; 0, the default, is one per core."),
    click.option(
        "--timeout-s", type=float, metavar="S", help="Limit per file and started 10 minutes of audio; 0 = none."
    ),
    click.option("--memory-limit-mb", type=int, metavar="MB", help="Limit of one worker's memory; 0 = none."),
)

#: Where it goes, and what to do with what is there.
run_options = _decorate(
    click.option(
        "-o", "--output", "run_dir", required=True, metavar="RUN", type=click.Path(), help="Folder of the run."
    ),
    click.option("--dry-run", is_flag=True, help="Show what would be done, with an estimate of the time."),
    click.option("--resume", "mode", flag_value="resume", default="resume", help="Go on with the run (the default)."),
    click.option("--restart", "mode", flag_value="restart", help="Delete the run's results and begin again."),
    click.option(
        "--recompute", type=click.Choice(["changed"]), help="Process again what other settings or versions made."
    ),
    click.option("--new-run", metavar="DIR", type=click.Path(), help="Leave RUN as it is, and write to DIR."),
    click.option(
        "--metadata", metavar="TABLE", type=click.Path(), help="Table about the files, joined to the results."
    ),
    click.option("--no-report", is_flag=True, help="Do not build report.html."),
    click.option("--quiet", is_flag=True, help="No progress and no summary."),
)


@click.command("scan")
@input_options
@run_options
@click.option("--model", metavar="NAME|FILE", help="Shipped model or a .safetensors file; default ser6.")
@click.option("--device", type=click.Choice(["auto", "mps", "cuda", "cpu"]), help="Where the network computes.")
@click.option("--batch-size", type=int, metavar="N", help="Windows per batch on a GPU.")
@click.option("--abstain", type=float, metavar="P", help="Mark files with less confidence than this as uncertain.")
@analysis_options
def command(**options: Any) -> int:
    """Label every audio file below the INPUTs: directories, or single files.

    Results go to the folder RUN: one row per file in RUN/files, one per window in RUN/windows (Parquet), and
    RUN/report.html. The same command again goes on where it ended, whatever ended it, and does only what is new.

    Exit codes: 0 all files are labelled, 1 some failed (their rows say why), 4 no audio files were found, 7 the run
    folder cannot be used, 130 interrupted.
    """
    return run_scan(options)


def run_scan(options: dict[str, Any], **fixed: Any) -> int:
    """Scan as options of the command line say; `fixed` overrides the configuration."""
    inputs, config, recipe = inputs_of(options), config_of(options, **fixed), recipe_of(options)
    run_dir, mode = _target(options)
    if options["dry_run"]:
        from ser_batch.cli.dry_run import show_plan  # noqa: PLC0415 - loads more than --help needs

        return show_plan(inputs, run_dir, config, recipe)
    from ser_batch.cli.progress import make_progress  # noqa: PLC0415
    from ser_batch.engine import scan  # noqa: PLC0415

    try:
        summary = scan(
            inputs,
            run_dir,
            config=config,
            plugins=recipe,
            mode=mode,
            metadata=options["metadata"],
            progress=make_progress(options["quiet"]),
            report=not options["no_report"],
        )
    except KeyboardInterrupt:
        click.echo(
            f"\nInterrupted. What is committed stays in {run_dir}; the same command goes on from there.", err=True
        )
        return ExitCode.INTERRUPTED
    if not options["quiet"]:
        from ser_batch.cli.summary import print_summary  # noqa: PLC0415

        print_summary(summary)
    return summary.exit_code


def _target(options: dict[str, Any]) -> tuple[Path, str]:
    """Return the run folder and what to do with a run that is there."""
    mode: str = options["mode"]
    if options["recompute"]:
        if mode == "restart":
            raise ConfigError(
                "--restart and --recompute exclude each other: one deletes results, the other keeps some."
            )
        mode = "recompute"
    if not options["new_run"]:
        return Path(options["run_dir"]), mode
    folder = Path(options["new_run"])
    if (folder / "run.json").exists():
        raise ConfigError(f"--new-run {folder}: there is a run already. Name a new folder, or give it as -o.")
    return folder, mode


def inputs_of(options: dict[str, Any]) -> tuple[str, ...] | FileList:
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


def config_of(options: dict[str, Any], **fixed: Any) -> Config:
    """Return the configuration: defaults, then a file, then options of the command line, then `fixed`."""
    from ser_batch.config import load_config  # noqa: PLC0415
    from ser_batch.resources import config_path  # noqa: PLC0415

    name = options.get("config_name")
    config = load_config(config_path(name) if name else None)
    given = {option: value for option in _OVERRIDES if (value := options.get(option)) not in (None, ())} | fixed
    values: dict[str, dict[str, Any]] = {}
    for option, value in given.items():
        section, key = _OVERRIDES[option]
        values.setdefault(section, {})[key] = value
    if options.get("extractors"):
        more = [name for name in options["extractors"] if name not in config.extract.extractors]
        values.setdefault("extract", {})["extractors"] = (*config.extract.extractors, *more)
    return config.with_values(values, source="command line")


def recipe_of(options: dict[str, Any]) -> PluginRecipe:
    """Return the plugins to load."""
    from ser_batch.plugins import PluginRecipe  # noqa: PLC0415

    return PluginRecipe(files=tuple(options["plugins"]))
