"""``ser-batch adapt``: fit the model of a run to its archive, by answers of those who listened."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ser_batch.cli.options import json_option, run_argument
from ser_batch.errors import ExitCode
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.heads.adapt import Adaptation, Compared

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
@json_option
def command(run_dir: str, output: str, table: str | None, group: str, as_json: bool) -> int:
    """Learn the last layer of the model of RUN from the answers that `ser-batch review` collected.

    The network and what it hears stay as they are, so that `ser-batch label RUN --model MODEL -o RUN2` needs no audio;
    MODEL is a model file like any other. Scores before and after are those on answers that were not learnt from. Where
    the new layer does not make the answers more probable beyond chance, MODEL keeps the old one.

    Exit codes: 0 done, 6 the model cannot be adapted or written, 7 RUN has no embeddings, 8 the answers cannot be used.
    """
    from ser_batch.classifier.checkpoint import load  # noqa: PLC0415 - loads numpy, not for --help
    from ser_batch.heads.adapt import adapt_model  # noqa: PLC0415 - loads pyarrow
    from ser_batch.resources import model_path  # noqa: PLC0415
    from ser_batch.run.read import open_run  # noqa: PLC0415

    run = open_run(run_dir)
    run.schema("embeddings")
    parent = load(model_path(run.info.get("config", {}).get("predict", {}).get("model", "")))
    found = adapt_model(run, parent, Path(output), Path(table) if table else None, group)
    if as_json:
        click.echo(json.dumps({"run": run_dir, "model": output, **found.as_dict()}, indent=2))
    else:
        for line in _lines(found, run_dir, output, parent.name):
            click.echo(line)
    return ExitCode.OK


def _lines(found: Adaptation, run_dir: str, output: str, parent: str) -> Iterator[str]:
    yield f"{found.n_answers:,} answers. {printable(found.groups)}"
    yield from (f"Note: {printable(notice)}" for notice in found.notices)
    yield ""
    yield f"On answers that were not learnt from {'before':>12} {'after':>7}   difference, 95 %"
    yield _row("log-probability of the answer", found.log_score)
    yield _row("mean recall (UAR)", found.uar)
    yield _row("labels that are right", found.accuracy)
    for label, pair in found.recalls.items():
        old, new = ("-" if math.isnan(value) else f"{value:.3f}" for value in pair)
        yield f"  {'recall of ' + printable(label):<34} {old:>12} {new:>7}"
    yield ""
    if found.is_new:
        yield f"Wrote {printable(output)}: labels {printable(', '.join(found.labels))}."
        yield f"Next:  ser-batch label {printable(run_dir)} --model {printable(output)} -o RUN2"
    else:
        yield f"The new layer is not better beyond chance: {printable(output)} keeps that of {printable(parent)}."
        yield "More answers, about more speakers, may change that."


def _row(name: str, score: Compared) -> str:
    low, high = score.interval
    return f"  {name:<34} {score.before:>12.3f} {score.after:>7.3f}   {score.gain:+.3f} ({low:+.3f} to {high:+.3f})"
