"""What `train` and `evaluate` share: how they are told what to learn from, and on what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ser_batch.plugins import PluginRecipe
    from ser_batch.records import Corpus, LabelledClip
    from ser_batch.stages.progress import Progress
    from ser_batch.training.train_config import TrainConfig

__all__ = ["announced_device", "label_sets", "read_config", "read_data", "warn_of"]


def announced_device(wanted: str, progress: Progress) -> str:
    """Return the device that `wanted` means here, and say which."""
    from ser_batch.classifier.device import choose_device  # noqa: PLC0415

    chosen = choose_device(wanted)
    progress.say(f"Device: {chosen.device}. {chosen.note}".strip())
    return chosen.device


def label_sets(also: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Read options NAME=LABEL,LABEL…

    Raises
    ------
    ConfigError
        A name is given twice, or none.
    """
    from ser_batch.errors import ConfigError  # noqa: PLC0415

    found: dict[str, tuple[str, ...]] = {}
    for item in also:
        name, _, labels = item.partition("=")
        if not name or not labels or name in found:
            why = "is given twice" if name in found else "must be NAME=LABEL,LABEL…"
            raise ConfigError(f"--also {item!r} {why}.")
        found[name] = tuple(labels.split(","))
    return found


def read_config(name: str | None, changes: tuple[str, ...], labels: tuple[str, ...] = ()) -> TrainConfig:
    """Return the configuration called `name`, or the defaults, with each of `changes`, "section.key=value", laid over.

    `labels` is what the option of that name says.

    Raises
    ------
    ConfigError
        No such configuration, no such key, or a value that is none for it.
    """
    import tomllib  # noqa: PLC0415

    from ser_batch.errors import ConfigError  # noqa: PLC0415
    from ser_batch.resources import config_path  # noqa: PLC0415
    from ser_batch.training.train_config import TrainConfig, load_train_config  # noqa: PLC0415

    config = load_train_config(config_path(name, TrainConfig().as_dict()) if name else None)
    values: dict[str, dict[str, Any]] = {}
    for item in changes:
        key, separator, text = item.partition("=")
        section, _, name_in_section = key.strip().partition(".")
        if not (separator and name_in_section):
            raise ConfigError(f"--set {item!r} must be SECTION.KEY=VALUE, for example fit.epochs=40.")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (ValueError, RecursionError):
            # A shell takes the quotes off a word.
            value = text.strip()
        values.setdefault(section, {})[name_in_section] = value
    # Together, since one may only be possible with another.
    config = config.with_values(values, source=" ".join(f"--set {item}" for item in changes))
    return config.with_values({"data": {"labels": list(labels)}}, source="--labels") if labels else config


def read_data(
    data: tuple[Path, ...], named: tuple[str, ...], recipe: PluginRecipe, progress: Progress
) -> tuple[list[LabelledClip], list[Corpus]]:
    """Return the clips of all folders that were given, and all corpora that are known; say what became of each file.

    Raises
    ------
    ConfigError
        Nothing was given, or NAME=PATH without a name.
    """
    from ser_batch import hooks  # noqa: PLC0415
    from ser_batch.corpora.reading import read_corpora  # noqa: PLC0415
    from ser_batch.errors import ConfigError  # noqa: PLC0415

    corpora = hooks.register_corpora(recipe.build())
    sources: list[tuple[Path, str | None]] = [(folder, None) for folder in data]
    for item in named:
        corpus, separator, path = item.partition("=")
        if not separator:
            raise ConfigError(f"--corpus {item!r} must be NAME=PATH, for example ravdess=downloads/ravdess.")
        sources.append((Path(path), corpus))
    if not sources:
        raise ConfigError("Nothing to read: give a folder of labelled audio, or a corpus with --corpus NAME=PATH.")
    reading = read_corpora(sources, corpora)
    for line in reading.lines():
        progress.say(line)
    return reading.clips, corpora


def warn_of(block: dict[str, Any]) -> None:
    """Say aloud what speaks against a model or a recipe of these scores."""
    from ser_batch.doubts import doubts_of_scores  # noqa: PLC0415

    for doubt in doubts_of_scores(block):
        click.echo(f"WARNING: {doubt}", err=True)
