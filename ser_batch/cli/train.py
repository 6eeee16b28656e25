"""``ser-batch train``: from labelled audio to a model file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ser_batch.cli.options import corpus_option, recipe_of, recipe_options, training_options
from ser_batch.errors import ConfigError

__all__ = ["command"]


@click.command("train")
@click.option("--data", multiple=True, type=click.Path(path_type=Path), help="Folder: data/raw/<emotion>/ or a corpus.")
@corpus_option
@recipe_options
@click.option("--from", "start", default="", metavar="MODEL", help="Go on from the weights of this model.")
@click.option("--output", type=click.Path(path_type=Path), help="Model file; models/NAME.safetensors by default.")
@click.option(
    "--scores", "scores_path", type=click.Path(path_type=Path), help="What evaluate --cross-validate --json wrote."
)
@click.option(
    "--strangers",
    "strangers_path",
    type=click.Path(path_type=Path),
    help="What evaluate --leave-corpus-out --json wrote: temperatures come from there.",
)
@click.option("--name", help="Name of the model; by default the stem of --output, else 'own'.")
@click.option("--report", "report_dir", type=click.Path(path_type=Path), help="Folder; reports/train-NAME by default.")
@training_options
@click.option(
    "--resume/--no-resume", default=True, show_default=True, help="Go on from the last epoch of a killed training."
)
def command(**given: Any) -> None:
    """Train a model on labelled audio, split by speaker.

    The clips come from folders: data/raw/<emotion>/ with an emotion or a label of your own, a folder with labels.csv, a
    corpus as downloaded, or several of these together. Every file found is accounted for.

    With --from, training goes on from a model instead of chance: to fit it to your own recordings, where there are some
    hundreds. For fewer, `ser-batch adapt` learns the last layer alone.
    """
    from ser_batch.cli.learning import announced_device, label_sets, read_config, read_data, warn_of  # noqa: PLC0415
    from ser_batch.cli.progress import working  # noqa: PLC0415 - commands load what they need
    from ser_batch.training.metrics import chance_told  # noqa: PLC0415
    from ser_batch.training.report import write_report  # noqa: PLC0415
    from ser_batch.training.train import TrainOptions, for_strangers, train_model  # noqa: PLC0415

    config = read_config(given["config_name"], given["changes"], given["labels"])
    scores = _read_scores(given["scores_path"]) if given["scores_path"] else None
    if given["strangers_path"]:
        if scores is None:
            raise ConfigError("--strangers needs --scores, too: the scores of known corpora.")
        scores = for_strangers(scores, _read_scores(given["strangers_path"]))
    output: Path | None = given["output"]
    name = given["name"] or (output.stem if output else "own")
    recipe = recipe_of(given)
    with working() as progress:
        clips, corpora = read_data(given["data"], given["named"], recipe, progress)
        options = TrainOptions(
            name=name,
            output=output or Path("models") / f"{name}.safetensors",
            report_dir=given["report_dir"] or Path("reports") / f"train-{name}",
            cache_dir=given["cache"],
            seed=given["seed"],
            device=announced_device(given["device"], progress),
            jobs=given["jobs"] or 0,
            resume=given["resume"],
            recipe=recipe,
            also=label_sets(given["also"]),
            teacher=given["teacher"],
            start=given["start"],
            scores=scores,
        )
        report = train_model(clips, corpora, config, options, progress)
    write_report(report, options.report_dir)
    side = next(side for side in ("test", "cross_validation", "validation") if side in report)
    overall = report[side]["overall"]
    low, high = overall["uar_interval"]
    interval = f"95 % by speaker: {low:.3f}-{high:.3f}; " if low is not None else ""
    click.echo(
        f"UAR on {overall['n_speakers']} {side.replace('_', '-')} speakers: {overall['uar']:.3f} "
        f"({interval}{chance_told(overall['chance'])})"
    )
    warn_of(overall)
    click.echo(f"Model:  {options.output}\nReport: {options.report_dir}")


def _read_scores(path: Path) -> Any:
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
