"""Options and arguments that several commands share, each declared once, and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ser_batch.config import DEVICES, Config, load_config
from ser_batch.text import did_you_mean

if TYPE_CHECKING:
    from ser_batch.plugins import PluginRecipe

__all__ = [
    "OneOf",
    "RunInPlace",
    "analysis_options",
    "audio_option",
    "config_of",
    "config_option",
    "corpus_option",
    "device_option",
    "input_options",
    "jobs_option",
    "json_option",
    "labels_option",
    "limit_options",
    "model_option",
    "no_report_option",
    "plugin_option",
    "quiet_option",
    "readable_run_argument",
    "recipe_of",
    "recipe_options",
    "run_argument",
    "run_options",
    "training_options",
    "trust_option",
]

Command = TypeVar("Command", bound=Callable[..., Any])


class OneOf(click.Choice):
    """One of some words; what was mistyped gets the nearest of them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            raise click.BadParameter(error.message + did_you_mean(str(value), self.choices), ctx, param) from None


def _together(*decorators: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """Return several options as one decorator; ``--help`` shows them in this order."""

    def apply(command: Command) -> Command:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


class RunInPlace(click.Path):
    """The folder of a run; of one in a bucket, what to do."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from ser_batch.storage.address import run_on_disk  # noqa: PLC0415 - imports for a call, not for --help

        return super().convert(str(run_on_disk(value)) if isinstance(value, str) else value, param, ctx)


run_argument = click.argument("run_dir", metavar="RUN", type=RunInPlace())
#: Of commands that only read: a folder, or an address.
readable_run_argument = click.argument("run_dir", metavar="RUN", type=click.Path())
plugin_option = click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE", help="Also load this Python file; may be repeated."
)
trust_option = click.option(
    "--trust-plugins",
    is_flag=True,
    help="Execute the plugin files that RUN names. Only if you trust its maker.",
)
jobs_option = click.option(
    "--jobs", type=click.IntRange(min=0), metavar="N", help="Worker processes; 0, the default, is one per core."
)
audio_option = click.option(
    "--audio",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False),
    help="Where the recordings are now, if they were moved since the scan.",
)
no_report_option = click.option("--no-report", is_flag=True, help="Do not build report.html.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress and no summary.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
config_option = click.option("--config", "config_name", metavar="NAME|FILE", help="Shipped configuration or TOML file.")


def device_option(default: str | None = "auto") -> Callable[[Command], Command]:
    """Where the network computes; a default of None leaves it to the configuration."""
    text = "Where the network computes."
    return click.option("--device", type=OneOf(DEVICES), default=default, show_default=True, help=text)


class _Labels(click.ParamType):
    """Words separated by commas."""

    name = "labels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(word for part in value.split(",") if (word := part.strip()))


def labels_option_for(text: str) -> Callable[[Command], Command]:
    """Some labels; `text` says what for."""
    return click.option("--labels", type=_Labels(), default=(), metavar="LABEL,LABEL…", help=text)


labels_option = labels_option_for("Answer among these labels of the model only; by default all.")


def model_option(default: str | None = "ser6", otherwise: str = "ser6") -> Callable[[Command], Command]:
    """The model that labels; a default of None leaves it to somebody else, who takes `otherwise`."""
    text = "Shipped model or a .safetensors file" + ("." if default else f"; default {otherwise}.")
    return click.option("--model", default=default, show_default=True, metavar="NAME|FILE", help=text)


#: What a file may cost.
limit_options = _together(
    jobs_option,
    click.option(
        "--timeout-s",
        type=click.FloatRange(min=0),
        metavar="S",
        help="Limit per file and started 10 minutes of audio; 0 = none.",
    ),
    click.option(
        "--memory-limit-mb", type=click.IntRange(min=0), metavar="MB", help="Limit of one worker's memory; 0 = none."
    ),
)

#: What is analysed.
input_options = _together(
    click.argument("inputs", nargs=-1, metavar="[INPUT]...", type=click.Path()),
    click.option("--files-from", metavar="LIST", help="Take paths from this file, one a line; - reads standard input."),
    click.option("--include", multiple=True, metavar="GLOB", help="Only files that match; may be repeated."),
    click.option("--exclude", multiple=True, metavar="GLOB", help="No files that match; may be repeated."),
    click.option(
        "--segments",
        metavar="auto|voice|none|TABLE",
        help="Analyse segments, too: those of files beside the recordings (auto, the default), or else stretches of "
        "voice (voice); none; or those of a table of all.",
    ),
)

#: How it is analysed.
analysis_options = _together(
    config_option,
    click.option(
        "--channels",
        type=OneOf(["mix", "split"]),
        help="Mix the channels of a recording (the default), or analyse each by itself.",
    ),
    click.option("--extractor", "extractors", multiple=True, metavar="NAME", help="Run this extractor too."),
    plugin_option,
    limit_options,
)

#: Where it goes, and what to do with what is there.
run_options = _together(
    click.option(
        "-o",
        "--output",
        "run_dir",
        required=True,
        metavar="RUN",
        type=click.Path(),
        help="Folder of the run, or its address in a bucket.",
    ),
    click.option(
        "--dry-run",
        is_flag=True,
        help="Check all, and show what would be done and for how long; write nothing.",
    ),
    click.option("--resume", "mode", flag_value="resume", default="resume", help="Go on with the run (the default)."),
    click.option("--restart", "mode", flag_value="restart", help="Delete the run's results and begin again."),
    click.option("--recompute", type=OneOf(["changed"]), help="Process again what other settings or versions made."),
    click.option("--new-run", metavar="DIR", type=click.Path(), help="Leave RUN as it is, and write to DIR."),
    click.option(
        "--metadata",
        metavar="TABLE",
        type=click.Path(),
        help="Table about the files (CSV, Parquet, Excel), joined to the results.",
    ),
    no_report_option,
    quiet_option,
)

# Of trainings and scores of recipes.
corpus_option = click.option(
    "--corpus", "named", multiple=True, metavar="NAME=PATH", help="A corpus as downloaded, by name."
)
_learnt_labels_option = labels_option_for(
    "Learn these alone, or with `evaluate MODEL` answer among these; by default all."
)
_changes_option = click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change one key: --set fit.epochs=40."
)
_also_option = click.option(
    "--also",
    multiple=True,
    metavar="NAME=LABEL,LABEL…",
    help="The same among these labels alone, too, under this name; may be repeated.",
)
_teacher_option = click.option(
    "--teacher",
    metavar="MODEL",
    default="",
    help="A model that tells what it hears, for example ser6-large; its sure and unsure answers are learnt, too.",
)
_cache_option = click.option(
    "--cache",
    type=click.Path(path_type=Path),
    default=Path("data/cache"),
    show_default=True,
    help="Folder where features are kept for the next time.",
)
_seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of everything that is drawn."
)

#: What is learnt, and how.
recipe_options = _together(_learnt_labels_option, config_option, _changes_option, _also_option, _teacher_option)

#: On what a training or a score is computed.
training_options = _together(_cache_option, _seed_option, device_option(), jobs_option, plugin_option)

#: Option -> (section, key) of the configuration that it overrides.
_OVERRIDES = {
    "include": ("run", "include"),
    "exclude": ("run", "exclude"),
    "segments": ("segments", "source"),
    "channels": ("extract", "channels"),
    "model": ("predict", "model"),
    "labels": ("predict", "labels"),
    "device": ("predict", "device"),
    "batch_size": ("predict", "batch_size"),
    "abstain": ("predict", "abstain"),
    "embeddings": ("predict", "embeddings"),
    "jobs": ("extract", "jobs"),
    "timeout_s": ("extract", "timeout_s"),
    "memory_limit_mb": ("extract", "memory_limit_mb"),
}


def config_of(options: dict[str, Any], **fixed: Any) -> Config:
    """Return the configuration: defaults, then a file, then options of the command line, then `fixed`.

    The defaults of the section [audio] are those that the model was trained with.
    """
    from ser_batch.classifier.loader import trained_audio  # noqa: PLC0415
    from ser_batch.resources import config_path  # noqa: PLC0415

    name = options.get("config_name")
    path = config_path(name, Config().as_dict()) if name else None
    config = load_config(path)
    given = {option: value for option in _OVERRIDES if (value := options.get(option)) not in (None, ())} | fixed
    if audio := trained_audio(given.get("model", config.predict.model)):
        config = load_config(path, Config().with_values({"audio": audio}))
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
