"""``ser-batch label``: label a run anew, without audio."""

from __future__ import annotations

from typing import Any

import click

from ser_batch.cli.options import (
    labels_option,
    model_option,
    no_report_option,
    plugin_option,
    quiet_option,
    recipe_of,
    run_argument,
)
from ser_batch.text import printable

__all__ = ["command"]


@click.command("label")
@run_argument
@model_option(default=None, otherwise="that of RUN")
@labels_option
@click.option(
    "-o", "--output", "target", required=True, metavar="RUN2", type=click.Path(), help="Folder of the new run."
)
@plugin_option
@no_report_option
@quiet_option
def command(run_dir: str, target: str, model: str | None, labels: tuple[str, ...], **options: Any) -> int:
    """Label RUN anew from what its network heard, without audio: by another model, or among other labels.

    RUN2 is what a scan with that model would have written. The model must differ from that of RUN in its last layer
    alone, as those of `ser-batch adapt` do: another network has to hear the audio. RUN stays as it is.

    Exit codes: 0 done, 1 some files of RUN are failed (their rows say why), 6 no such model or label, 7 RUN has no
    embeddings or those of another network, or RUN2 cannot be used, 130 interrupted.
    """
    from ser_batch.cli.progress import interruptible, make_progress  # noqa: PLC0415 - for a call, not for --help
    from ser_batch.cli.summary import told  # noqa: PLC0415
    from ser_batch.labelling import label  # noqa: PLC0415

    with interruptible(f"{printable(run_dir)} is as it was; the same command makes {printable(target)} again."):
        summary = label(
            run_dir,
            target,
            model=model or "",
            labels=labels,
            plugins=recipe_of(options),
            progress=make_progress(options["quiet"]),
            report=not options["no_report"],
        )
    return told(summary, options["quiet"])
