"""``ser-batch predict``: the emotion of single files, with a bar per emotion."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import device_option, labels_option, model_option, plugin_option
from ser_batch.errors import ExitCode
from ser_batch.plugins import PluginRecipe
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.predictor import EmotionResult

__all__ = ["command", "result_as_dict"]


@click.command("predict")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per file and line.")
@click.option("--windows", is_flag=True, help="Show each window of 3 s too.")
@model_option()
@labels_option
@device_option()
@plugin_option
def command(
    files: tuple[str, ...],
    as_json: bool,
    windows: bool,
    model: str,
    labels: tuple[str, ...],
    device: str,
    plugins: tuple[str, ...],
) -> int:
    """Show the emotion of single files, with a bar per emotion, the most probable first.

    A file that cannot be analysed costs a line on standard error and exit code 1; the others are shown all the same.

    With --json each line holds path, emotion, probabilities, confidence, entropy, margin, duration_s, status and error,
    and with --windows a list of windows, each with start_s, end_s and probabilities. What is undefined is null.
    """
    # Imported here: this module is loaded for --help too.
    from ser_batch.predictor import EmotionPredictor  # noqa: PLC0415

    predictor = EmotionPredictor(model, device, PluginRecipe(files=plugins), labels=labels)
    n_failed = 0
    for number, path in enumerate(files):
        [result] = predictor.predict_batch([path])
        if as_json:
            click.echo(json.dumps(result_as_dict(result, predictor.labels, windows)))
        elif result.emotion is not None:
            if number > n_failed:
                click.echo()
            click.echo("\n".join(_text(result, predictor.labels, windows)))
        if result.emotion is None:
            n_failed += 1
        if result.error:
            name = printable(path)
            click.echo(f"{'Error' if result.emotion is None else 'Note'}: {name}: {printable(result.error)}", err=True)
    return ExitCode.SOME_FILES_FAILED if n_failed else ExitCode.OK


def result_as_dict(result: EmotionResult, labels: tuple[str, ...], windows: bool = False) -> dict[str, Any]:
    """Return a result as JSON holds it; numbers that are undefined are None."""
    # Bytes of a name that are not UTF-8 appear as \xNN: JSON cannot hold them.
    values: dict[str, Any] = {
        "path": os.fsencode(result.path).decode("utf-8", "backslashreplace"),
        "emotion": result.emotion,
        "probabilities": {label: round(share, 6) for label, share in result.probabilities.items()},
        **{
            key: None if math.isnan(getattr(result, key)) else round(getattr(result, key), 6)
            for key in ("confidence", "entropy", "margin", "duration_s")
        },
        "status": str(result.status),
        "error": result.error,
    }
    if windows:
        values["windows"] = [
            {
                "start_s": float(start_s),
                "end_s": float(end_s),
                "probabilities": {label: round(float(share), 6) for label, share in zip(labels, shares, strict=True)},
            }
            for (start_s, end_s), shares in zip(result.windows_s, result.window_probabilities, strict=True)
        ]
    return values


def _text(result: EmotionResult, labels: tuple[str, ...], windows: bool) -> list[str]:
    from ser_batch.cli.bars import bar_lines, n_cells, padded  # noqa: PLC0415

    assert result.emotion is not None
    n_windows = len(result.windows_s)
    lines = [
        f"{printable(result.path)}: {click.style(printable(result.emotion), bold=True)} "
        f"({100 * result.confidence:.1f} %), {result.duration_s:.1f} s, {n_windows} window{'s' * (n_windows > 1)}",
        *bar_lines(result.probabilities),
    ]
    if windows:
        texts = [printable(label) for label in labels]
        cells = max(map(n_cells, texts))
        width = len(f"{result.duration_s:.1f}")
        for (start_s, end_s), shares in zip(result.windows_s, result.window_probabilities, strict=True):
            best = int(shares.argmax())
            # The last window is padded beyond the end of the audio.
            times = f"{start_s:{width}.1f} - {min(end_s, result.duration_s):{width}.1f} s"
            lines.append(f"  {times}  {padded(texts[best], cells)}  {100 * shares[best]:5.1f} %")
    return lines
