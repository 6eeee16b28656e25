"""``ser-batch train``: from labelled audio to a model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import (
    also_option,
    cache_option,
    changes_option,
    config_option,
    corpus_option,
    device_option,
    jobs_option,
    learnt_labels_option,
    plugin_option,
    seed_option,
)

if TYPE_CHECKING:
    from ser_batch.plugins import PluginRecipe
    from ser_batch.records import Corpus, LabelledClip
    from ser_batch.stages.progress import Progress
    from ser_batch.training.train_config import TrainConfig

__all__ = ["announced_device", "command", "label_sets", "read_config", "read_data"]


@click.command("train")
@click.option("--data", multiple=True, type=click.Path(path_type=Path), help="Folder: data/raw/<emotion>/ or a corpus.")
@corpus_option
@learnt_labels_option
@config_option
@changes_option
@click.option("--output", type=click.Path(path_type=Path), help="Model file; models/NAME.safetensors by default.")
@also_option
@click.option(
    "--scores", "scores_path", type=click.Path(path_type=Path), help="What evaluate --cross-validate --json wrote."
)
@click.option("--name", help="Name of the model; by default the stem of --output, else 'own'.")
@click.option("--report", "report_dir", type=click.Path(path_type=Path), help="Folder; reports/train-NAME by default.")
@cache_option
@seed_option
@device_option()
@jobs_option
@click.option(
    "--resume/--no-resume", default=True, show_default=True, help="Go on from the last epoch of a killed training."
)
@plugin_option
def command(  # noqa: PLR0913, PLR0917 - one argument per option
    data: tuple[Path, ...],
    named: tuple[str, ...],
    labels: tuple[str, ...],
    config_name: str | None,
    changes: tuple[str, ...],
    output: Path | None,
    also: tuple[str, ...],
    scores_path: Path | None,
    name: str | None,
    report_dir: Path | None,
    cache: Path,
    seed: int,
    device: str,
    jobs: int | None,
    resume: bool,
    plugins: tuple[str, ...],
) -> None:
    """Train a model on labelled audio, split by speaker.

    The clips come from folders: data/raw/<emotion>/ with an emotion or a label of your own, a folder with labels.csv, a
    corpus as downloaded, or several of these together. Every file found is accounted for.
    """
    from ser_batch.cli.progress import working  # noqa: PLC0415 - see above: commands load what they need
    from ser_batch.doubts import doubts_of_scores  # noqa: PLC0415
    from ser_batch.plugins import PluginRecipe  # noqa: PLC0415
    from ser_batch.training.report import write_report  # noqa: PLC0415
    from ser_batch.training.train import TrainOptions, train_model  # noqa: PLC0415

    config = read_config(config_name, changes, labels)
    name = name or (output.stem if output else "own")
    recipe = PluginRecipe(files=plugins)
    with working() as progress:
        clips, corpora = read_data(data, named, recipe, progress)
        options = TrainOptions(
            name=name,
            output=output or Path("models") / f"{name}.safetensors",
            report_dir=report_dir or Path("reports") / f"train-{name}",
            cache_dir=cache,
            seed=seed,
            device=announced_device(device, progress),
            jobs=jobs or 0,
            resume=resume,
            recipe=recipe,
            also=label_sets(also),
            scores=_read_scores(scores_path) if scores_path else None,
        )
        report = train_model(clips, corpora, config, options, progress)
    write_report(report, options.report_dir)
    side = next(side for side in ("test", "cross_validation", "validation") if side in report)
    overall = report[side]["overall"]
    low, high = overall["uar_interval"]
    interval = f"95 % by speaker: {low:.3f}-{high:.3f}; " if low is not None else ""
    click.echo(
        f"UAR on {overall['n_speakers']} {side.replace('_', '-')} speakers: {overall['uar']:.3f} "
        f"({interval}chance: {overall['chance']:.3f})"
    )
    for doubt in doubts_of_scores(overall):
        click.echo(f"WARNING: {doubt}", err=True)
    click.echo(f"Model:  {options.output}\nReport: {options.report_dir}")


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


def _read_scores(path: Path) -> Any:
    from ser_batch.errors import ConfigError  # noqa: PLC0415
    from ser_batch.kinds import problem_with, read_json  # noqa: PLC0415
    from ser_batch.training.evaluate import SCORE_TABLE  # noqa: PLC0415

    try:
        scores = read_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"Cannot read the scores in {path}: {error}") from error
    also = scores.get("also", {}) if isinstance(scores, dict) else {}
    for table in (scores, *(also.values() if isinstance(also, dict) else (also,))):
        problem = problem_with(table, SCORE_TABLE, SCORE_TABLE) if isinstance(table, dict) else "it must be an object"
        if problem:
            raise ConfigError(
                f"{path} holds no scores ({problem}); it must be what `evaluate --cross-validate --json` wrote."
            )
    return scores


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
