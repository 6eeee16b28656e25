"""``ser-batch adapt``: fit the model of a run to its archive, by answers of those who listened."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import (
    audio_option,
    device_option,
    jobs_option,
    json_option,
    plugin_option,
    recipe_of,
    run_argument,
)
from ser_batch.errors import ExitCode
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.heads.adapt import Adaptation
    from ser_batch.heads.deep import DeepOptions
    from ser_batch.heads.scored import Compared
    from ser_batch.stages.progress import Progress

__all__ = ["command"]


@click.command("adapt")
@run_argument
@click.option("-o", "--output", required=True, metavar="MODEL", type=click.Path(), help="Model file to write.")
@click.option(
    "--labels", "table", metavar="TABLE", type=click.Path(),
    help="Learn from this table (CSV, Parquet, Excel) instead of answers: clip_id, emotion and, if you like, start_s, "
    "end_s, speaker.",
)  # fmt: skip
@click.option(
    "--group", metavar="NAME", default="",
    help="What is held out together: speaker, folder, or a column of the metadata. Guessed, and said, unless given.",
)  # fmt: skip
@click.option("--deep", is_flag=True, help="Go on with the whole network, on the audio: for hundreds of answers.")
@audio_option
@device_option()
@jobs_option
@plugin_option
@json_option
def command(run_dir: str, output: str, table: str | None, group: str, as_json: bool, **options: Any) -> int:
    """Learn the last layer of the model of RUN from the answers that `ser-batch review` collected.

    The network and what it hears stay as they are, so that `ser-batch label RUN --model MODEL -o RUN2` needs no audio;
    MODEL is a model file like any other. Scores before and after are those on answers that were not learnt from. Where
    the new layer does not make the answers more probable beyond chance, MODEL keeps the old one.

    With --deep the whole network goes on from the weights that were there, on the audio of 100 answers or more. It
    hears otherwise from then on, so that the archive is scanned again. --audio, --device, --jobs and --plugin are of
    it.

    Exit codes: 0 done, 3 the recordings are gone, 6 the model cannot be adapted or written, 7 RUN has no embeddings, 8
    the answers cannot be used.
    """
    from ser_batch.cli.progress import working  # noqa: PLC0415
    from ser_batch.errors import ConfigError  # noqa: PLC0415
    from ser_batch.heads.adapt import adapt_model, parent_of  # noqa: PLC0415 - loads pyarrow
    from ser_batch.run.read import open_run  # noqa: PLC0415

    if options["audio"] and not options["deep"]:
        raise ConfigError("--audio goes with --deep: the last layer alone is learnt without audio.")
    run = open_run(run_dir)
    run.schema("embeddings")
    parent = parent_of(run)
    target, labels = Path(output), Path(table) if table else None
    if options["deep"]:
        with working("Nothing is written.") as progress:
            found = adapt_model(run, parent, target, labels, group, _deep(options, progress))
    else:
        found = adapt_model(run, parent, target, labels, group)
    if as_json:
        click.echo(json.dumps({"run": run_dir, "model": output, **found.as_dict()}, indent=2))
    else:
        root = options["audio"] or str(run.info.get("root", "ARCHIVE"))
        for line in _lines(found, run_dir, output, parent.name, root):
            click.echo(line)
    return ExitCode.OK


def _deep(options: dict[str, Any], progress: Progress) -> DeepOptions:
    from ser_batch.heads.deep import DeepOptions  # noqa: PLC0415 - loads torch

    return DeepOptions(options["audio"] or "", options["device"], options["jobs"] or 0, recipe_of(options), progress)


def _lines(found: Adaptation, run_dir: str, output: str, parent: str, root: str) -> Iterator[str]:
    scores, alone, what = found.scores, found.layer_alone, "network" if found.layer_alone else "layer"
    yield f"{found.n_answers:,} answers. {printable(found.groups)}"
    yield from (f"Note: {printable(notice)}" for notice in found.notices)
    yield ""
    yield f"On answers that were not learnt from {'before':>12} {'after':>7}   difference, 95 %"
    yield _row("log-probability of the answer", scores.log_score)
    yield _row("mean recall (UAR)", scores.uar)
    yield _row("labels that are right", scores.accuracy)
    for label, pair in scores.recalls.items():
        old, new = ("-" if math.isnan(value) else f"{value:.3f}" for value in pair)
        yield f"  {'recall of ' + printable(label):<34} {old:>12} {new:>7}"
    yield ""
    if alone:
        yield (
            f"The last layer alone, learnt without --deep: log-probability {alone.log_score.after:.3f}, mean recall "
            f"{alone.uar.after:.3f}."
        )
    if found.is_new:
        yield f"Wrote {printable(output)}: labels {printable(', '.join(found.labels))}."
        if alone:
            yield f"Next:  ser-batch scan {printable(root)} --model {printable(output)} -o RUN2"
        else:
            yield f"Next:  ser-batch label {printable(run_dir)} --model {printable(output)} -o RUN2"
    else:
        yield f"The new {what} is not better beyond chance: {printable(output)} keeps that of {printable(parent)}."
        yield "More answers, about more speakers, may change that."


def _row(name: str, score: Compared) -> str:
    low, high = score.interval
    return f"  {name:<34} {score.before:>12.3f} {score.after:>7.3f}   {score.gain:+.3f} ({low:+.3f} to {high:+.3f})"
