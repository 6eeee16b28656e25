"""``ser-batch audit``: how right the labels of a run are, by the answers of those who listened to a sample of it."""

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
    from ser_batch.reviews.audit import Audit
    from ser_batch.reviews.estimates import Estimate

__all__ = ["command"]


@click.command("audit")
@run_argument
@click.option(
    "--right", "target", metavar="P", type=click.FloatRange(0, 100, min_open=True, max_open=True), default=90.0,
    show_default=True, help="Percent of labels that shall be right above a confidence: which one is it?",
)  # fmt: skip
@click.option(
    "--answers", metavar="RUN_A", type=click.Path(exists=True, file_okay=False),
    help="Take the answers of RUN_A, another run over the same audio, such as by another model.",
)  # fmt: skip
@json_option
def command(run_dir: str, target: float, answers: str | None, as_json: bool) -> int:
    """Say how right the labels of RUN are, by the answers that `ser-batch review` collected.

    Only answers to clips that were drawn at random count. Each figure stands for the whole run, with its 95 % interval.
    """
    from ser_batch.reviews.audit import audit_run  # noqa: PLC0415 - loads pyarrow, not for --help
    from ser_batch.run.read import open_run  # noqa: PLC0415

    run = open_run(run_dir)
    audit = audit_run(run, Path(answers) if answers else None, target / 100)
    if as_json:
        click.echo(json.dumps({"run": run_dir, **audit.as_dict()}, indent=2))
    else:
        for line in _lines(audit, run_dir):
            click.echo(line)
    return ExitCode.OK


def _lines(audit: Audit, run_dir: str) -> Iterator[str]:
    from ser_batch.reviews.words import agreement_text, points_text, progress_text, threshold_text  # noqa: PLC0415

    heard = printable(", ".join(audit.reviewers))
    yield f"{printable(run_dir)}: {audit.n_answers:,} of {audit.n_units:,} labelled {audit.unit} were heard, by {heard}"
    yield from (f"Note: {printable(notice)}" for notice in audit.notices)
    yield ""
    yield f"  Labels that are right   {_told(audit.accuracy)}"
    yield f"  Mean recall (UAR)       {_told(audit.uar)}"
    yield f"  Confidence less that    {points_text(audit.overconfidence)}"
    yield ""
    width = max(len(printable(item.answer)) for item in audit.shares)
    yield f"  {'Emotion':<{width}}  {'its labels are right':<26}{'what is so is found':<26}"
    for score in audit.scores:
        yield f"  {printable(score.label):<{width}}  {_told(score.precision):<26}{_told(score.recall):<26}".rstrip()
    yield ""
    yield f"  {f'Share of {audit.unit}':<{width}}  {'labelled so':<14}by listeners"
    for item in audit.shares:
        labelled = f"{100 * item.predicted:.1f} %" if item.answer in audit.labels else ""
        yield f"  {printable(item.answer):<{width}}  {labelled:<14}{_told(item.share)}"
    if audit.groups:
        yield ""
        yield "  Labels that are right, by group"
        for group in audit.groups:
            yield f"  {printable(f'{group.title} {group.name}'):<32}  {_told(group.accuracy)}"
    yield ""
    yield threshold_text(audit)
    yield progress_text(audit)
    if audit.agreement is not None:
        yield printable(agreement_text(audit.agreement))
    yield f"`ser-batch report {printable(run_dir)}` shows this at the top of the report."


def _told(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "no answers"
    return f"{100 * estimate.value:.1f} % ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
