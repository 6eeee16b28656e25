"""``ser-batch evaluate``: how well a model, or a recipe, does on labelled audio."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ser_batch.cli.options import corpus_option, recipe_of, recipe_options, training_options
from ser_batch.errors import ConfigError
from ser_batch.text import printable

__all__ = ["command"]


@click.command("evaluate")
@click.argument("model", default="ser6")
@click.argument("data", nargs=-1, type=click.Path(path_type=Path))
@corpus_option
@click.option(
    "--cross-validate",
    metavar="FOLDS",
    help="Score the recipe instead: train one model per fold. FOLDS: given, speaker, or a number.",
)
@click.option("--leave-corpus-out", is_flag=True, help="Score the recipe instead: hold out one corpus at a time.")
@click.option("--fold", "folds", type=int, multiple=True, help="Only this fold, from 1; may be given again.")
@recipe_options
@click.option("--merge", multiple=True, metavar="FROM=TO", help="Count a label as another, for example calm=neutral.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all scores; - for the terminal.")
@click.option("--report", "report_dir", type=click.Path(path_type=Path), help="Folder for pictures and scores.")
@training_options
def command(model: str, data: tuple[Path, ...], **given: Any) -> None:
    """Score MODEL (by default ser6) on the labelled audio in DATA: folders as for `ser-batch train`.

    Refuses when speakers or audio of the training are among the data. With --cross-validate or --leave-corpus-out the
    recipe is scored instead: models are trained on other speakers than they are tested on, and MODEL, which may be left
    out, is not used.
    """
    from ser_batch.atomic import write_atomic  # noqa: PLC0415 - commands load what they need
    from ser_batch.cli.learning import announced_device, label_sets, read_config, read_data  # noqa: PLC0415
    from ser_batch.cli.progress import working  # noqa: PLC0415
    from ser_batch.training.preflight import require_file, require_folder  # noqa: PLC0415
    from ser_batch.training.train import TrainOptions  # noqa: PLC0415

    scheme = "corpus" if given["leave_corpus_out"] else given["cross_validate"]
    if given["leave_corpus_out"] and given["cross_validate"]:
        raise ConfigError("Give either --cross-validate or --leave-corpus-out.")
    if scheme:
        _refuse({"--merge": given["merge"]}, "is for models; a recipe counts labels as others by --set data.merge=…")
    else:
        names = {"config": "config_name", "set": "changes", "also": "also", "fold": "folds", "teacher": "teacher"}
        of_recipes = {f"--{option}": given[name] for option, name in names.items()}
        _refuse(of_recipes, "is for recipes: give --cross-validate or --leave-corpus-out, too.")
    json_path, report_dir = given["json_path"], given["report_dir"]
    if json_path is not None and str(json_path) != "-":
        require_file(json_path, "--json")
    if report_dir is not None:
        require_folder(report_dir, "--report")
    if Path(model).is_dir():
        model, data = "ser6", (Path(model), *data)
    options = TrainOptions(
        name=model,
        output=Path(),
        report_dir=Path(),
        cache_dir=given["cache"],
        seed=given["seed"],
        jobs=given["jobs"] or 0,
        recipe=recipe_of(given),
        also=label_sets(given["also"]),
        teacher=given["teacher"],
    )
    with working() as progress:
        if scheme:
            from ser_batch.training.cross_validate import cross_validate  # noqa: PLC0415

            config = read_config(given["config_name"], given["changes"], given["labels"])
            clips, corpora = read_data(data, given["named"], options.recipe, progress)
            options = replace(options, device=announced_device(given["device"], progress))
            report = cross_validate(clips, corpora, config, options, progress, scheme, given["folds"])
        else:
            from ser_batch.training.score_model import score_model  # noqa: PLC0415

            clips, _ = read_data(data, given["named"], options.recipe, progress)
            report = score_model(model, clips, options, progress, given["merge"], given["labels"])
    if json_path is not None:
        text = json.dumps(report, indent=1)
        if str(json_path) == "-":
            click.echo(text)
            return
        write_atomic(json_path, text)
    if report_dir is not None:
        from ser_batch.training.report import write_report  # noqa: PLC0415

        write_report(report, report_dir)
    _show(report)
    for name, part in report.get("also", {}).items():
        click.echo(f"\n{name}: {printable(', '.join(part['labels']))}")
        _show(part)


def _refuse(given: dict[str, Any], why: str) -> None:
    """Refuse options that would have no say."""
    for option, value in given.items():
        if value:
            raise ConfigError(f"{option} {why}")


def _show(report: dict[str, Any]) -> None:
    from ser_batch.cli.learning import warn_of  # noqa: PLC0415

    click.echo(
        f"{'':24} {'clips':>6} {'spkrs':>5} {'UAR':>6} {'95 % by speaker':>16} {'chance':>6} {'acc.':>6} {'ECE':>6} "
        f"{'at 60 %':>9}"
    )
    _line("all", report["overall"])
    for key in ("corpora", "sexes"):
        for name, block in report[key].items():
            _line(name, block)
    if "contexts" in report:
        block = report["contexts"]
        click.echo(f"{'contexts of bursts':24} {block['n_clips']:6} {'':5} {_uar(block)}")
    for corpus, block in report.get("categories", {}).items():
        name = f"{corpus}, own {len(block['labels'])} labels"
        click.echo(f"{printable(name):24} {block['n_clips']:6} {'':5} {_uar(block)}")
    overall, told = report["overall"], printable(", ".join(report["labels"]))
    warn_of(overall)
    click.echo(f"\nBrier {overall['brier']:.3f}   NLL {overall['nll']:.3f}\n")
    click.echo(f"{'':12} {'recall':>7} {'precis.':>7} {'F1':>7} {'clips':>6}   predicted as {told}")
    for (label, scores), row in zip(overall["classes"].items(), overall["confusion"], strict=True):
        values = " ".join(
            f"{'-' if scores[key] is None else format(scores[key], '.3f'):>7}" for key in ("recall", "precision", "f1")
        )
        click.echo(
            f"{printable(label):12} {values} {scores['n_clips'] or 0:6.0f}   {' '.join(f'{count:5}' for count in row)}"
        )


def _line(name: str, block: dict[str, Any]) -> None:
    gain = 100 * block["risk_coverage"]["gain_at_60"]
    click.echo(
        f"{printable(name):24} {block['n_clips']:6} {block['n_speakers']:5} {_uar(block)} "
        f"{block['accuracy']:6.3f} {block['ece']:6.3f} {gain:+7.1f} p"
    )


def _uar(block: dict[str, Any]) -> str:
    low, high = block["uar_interval"]
    interval = "-" if low is None else f"{low:.3f}-{high:.3f}"
    return f"{block['uar']:6.3f} {interval:>16} {block['chance']:6.3f}"
