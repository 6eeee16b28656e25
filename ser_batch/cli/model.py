"""``ser-batch model``: what a model is, and what it was made of; the way out to ONNX."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import OneOf, json_option
from ser_batch.cli.streams import as_far_as_read
from ser_batch.errors import ConfigError, ExitCode, ModelError
from ser_batch.resources import model_path, shipped_models
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.classifier.checkpoint import Checkpoint

__all__ = ["command"]

#: Metadata that have a line of their own; all others are shown as they are stored.
_KNOWN = {"format_version", "name", "labels", "audio", "extractors", "columns", "features", "temperature", "pooling"}


@click.group("model")
def command() -> None:
    """Describe a model: parameters, features, scores, licences; export it to ONNX."""


@command.command("list")
@json_option
def list_models(as_json: bool) -> int:
    """List the shipped models."""
    rows = [_summary(name) for name in shipped_models()]
    if not rows and not as_json:
        click.echo("No model is shipped with this installation; `ser-batch train` makes one.", err=True)
    with as_far_as_read():
        for line in [json.dumps(rows, indent=2)] if as_json else map(_told, rows):
            click.echo(line)
    return ExitCode.MODEL if any(row["error"] for row in rows) else ExitCode.OK


@command.command("info")
@click.argument("model", default="ser6", metavar="[NAME|FILE]")
@json_option
def info(model: str, as_json: bool) -> int:
    """Describe a model: parameters, labels, features, audio settings, training data and their licences, scores.

    MODEL is a shipped name or a .safetensors file; by default ser6.
    """
    from ser_batch.classifier.checkpoint import load  # noqa: PLC0415 - numpy is not for --help

    checkpoint = load(model_path(model))
    if as_json:
        click.echo(json.dumps(_as_dict(checkpoint), indent=2))
    else:
        click.echo("\n".join(_lines(checkpoint)))
    return ExitCode.OK


@command.command("export")
@click.argument("model", metavar="NAME|FILE")
@click.option("--to", "form", type=OneOf(["onnx"]), default="onnx", show_default=True, help="Format of the file.")
@click.option("-o", "--output", required=True, metavar="FILE", type=click.Path(), help="File to write.")
@click.option("--force", is_flag=True, help="Replace the file where it exists.")
def export(model: str, form: str, output: str, force: bool) -> int:
    """Write a model for other programs.

    The ONNX graph takes `mel`, float32 (n, bands, frames) in dB, (n, 128, 130) for the shipped models, and `features`,
    float32 (n, 13) with NaN for undefined, and gives calibrated `probabilities` (n, labels). Labels and all other
    metadata are in its metadata under `ser_batch`. The written file is run by onnxruntime and held against torch.
    """
    from ser_batch.classifier.checkpoint import load  # noqa: PLC0415 - numpy is not for --help
    from ser_batch.classifier.onnx_export import export_onnx  # noqa: PLC0415

    path = Path(output)
    if path.suffix != f".{form}":
        raise ConfigError(f"--output {printable(path)}: the name must end in .{form}.")
    if path.exists() and not force:
        raise ConfigError(f"--output {printable(path)} exists; give another name, or --force to replace it.")
    checkpoint = load(model_path(model))
    difference = export_onnx(checkpoint, path)
    click.echo(f"Wrote {printable(path)} ({_size(path.stat().st_size)}).")
    click.echo(f"Largest difference to torch in a probability: {difference:.1e}.")
    return ExitCode.OK


def _summary(name: str) -> dict[str, Any]:
    from ser_batch.classifier.checkpoint import load  # noqa: PLC0415 - numpy is not for --help
    from ser_batch.classifier.checks import n_parameters  # noqa: PLC0415

    path = model_path(name)
    try:
        checkpoint = load(path)
    except ModelError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
        "labels": ", ".join(checkpoint.labels),
        "n_parameters": sum(n_parameters(checkpoint.network).values()),
        "size_bytes": path.stat().st_size,
        "error": "",
    }


def _told(row: dict[str, Any]) -> str:
    about = row["error"] or f"{row['n_parameters']:,} parameters, {_size(row['size_bytes'])}; {row['labels']}"
    return printable(f"{row['name']}: {about}")


def _as_dict(checkpoint: Checkpoint) -> dict[str, Any]:
    from ser_batch.classifier.checks import n_parameters  # noqa: PLC0415

    counts = n_parameters(checkpoint.network)
    return {
        "path": checkpoint.path,
        "sha256": checkpoint.sha256,
        "size_bytes": Path(checkpoint.path).stat().st_size,
        "n_parameters": {"total": sum(counts.values()), **counts},
        **checkpoint.meta,
    }


def _lines(checkpoint: Checkpoint) -> Iterator[str]:
    from ser_batch.classifier.checks import n_parameters  # noqa: PLC0415

    meta, path = checkpoint.meta, Path(checkpoint.path)
    counts = n_parameters(checkpoint.network)
    audio, pooling = meta["audio"], meta["pooling"]
    yield f"{printable(checkpoint.name)}  {printable(path)}"
    branches = ", ".join(f"{branch} {count:,}" for branch, count in counts.items())
    rows = {
        "file": f"{_size(path.stat().st_size)}, SHA-256 {checkpoint.sha256}",
        "labels": ", ".join(checkpoint.labels),
        "parameters": f"{sum(counts.values()):,} ({branches})",
        "audio": f"{audio['sample_rate_hz']:,} Hz, {audio['window_s']:g} s windows every {audio['window_hop_s']:g} s",
        "extractors": ", ".join(f"{name} version {version}" for name, version in checkpoint.needs),
        "pooling": f"{pooling['rule']} by {pooling['weight_column']}",
        "temperature": f"{checkpoint.temperature:.4g}",
        "features": f"{len(checkpoint.features)}, in this order:",
    }
    for key, text in rows.items():
        yield f"  {key:<12} {printable(text)}"
    yield from (f"    {printable(column)}" for column in checkpoint.features)
    # Cards of earlier versions do not state what chance is.
    shown = {**meta, "scores": {"chance": 1 / len(checkpoint.labels), **(meta.get("scores") or {})}}
    for key in sorted(set(meta) - _KNOWN):
        yield from _nested(key, shown[key], 2)


def _nested(key: str, value: Any, indent: int) -> Iterator[str]:
    """Show stored JSON for a person: an object as a block, a list of plain values on one line."""
    head = " " * indent + printable(key)
    if isinstance(value, Mapping):
        yield head
        for inner, item in value.items():
            yield from _nested(str(inner), item, indent + 2)
    elif isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        yield head
        for number, item in enumerate(value, start=1):
            yield from _nested(f"{number}.", item, indent + 2)
    else:
        text = f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
        yield f"{head}: {printable(text)}"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"
