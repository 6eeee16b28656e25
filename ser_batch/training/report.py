"""Pictures of a training or an evaluation; drawn where matplotlib is installed (the extra ``train``)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ser_batch.atomic import open_atomic, write_atomic
from ser_batch.training.metrics import chance_told

__all__ = ["write_report"]


def write_report(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``scores.json`` and, with matplotlib, one PNG and one SVG per picture; return what was written.

    Parameters
    ----------
    report : dict
        As `train_model` or `score_table` give it: blocks under ``test``, ``cross_validation`` or
        ``validation``, ``history`` if trained.
    folder : Path
        Made where missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scores = folder / "scores.json"
    write_atomic(scores, json.dumps(report, indent=1))
    try:
        import matplotlib  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        write_atomic(folder / "pictures.txt", "Pictures need matplotlib: pip install 'ser-batch[train]'\n")
        return [scores]
    matplotlib.use("Agg")
    table = next((report[side] for side in ("test", "cross_validation", "validation") if side in report), report)
    pictures = {
        "confusion": lambda axes: _confusion(axes, table),
        "reliability": lambda axes: _reliability(axes, table["overall"]),
        "recall": lambda axes: _recall(axes, table),
        "risk_coverage": lambda axes: _risk_coverage(axes, table["overall"]),
    }
    if report.get("history"):
        pictures["learning_curves"] = lambda axes: _learning_curves(axes, report["history"])
    from matplotlib.figure import Figure  # noqa: PLC0415 - without pyplot: no state, no window

    written = [scores]
    for name, draw in pictures.items():
        figure = Figure(figsize=(6, 4.5), layout="constrained")
        draw(figure.subplots())
        for suffix in ("png", "svg"):
            path = folder / f"{name}.{suffix}"
            with open_atomic(path) as file:
                figure.savefig(file, format=suffix, dpi=120)
            written.append(path)
    return written


def _confusion(axes: Any, table: dict[str, Any]) -> None:
    labels = table["labels"]
    counts = np.array(table["overall"]["confusion"], float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        axes.text(column, row, f"{share:.2f}", ha="center", va="center", color="white" if share > 0.5 else "black")
    axes.set_xticks(range(len(labels)), labels, rotation=45)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(
        xlabel="predicted",
        ylabel="true",
        title=f"UAR {table['overall']['uar']:.3f} ({chance_told(table['overall']['chance'])})",
    )


def _reliability(axes: Any, block: dict[str, Any]) -> None:
    bins = block["reliability"]
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", label="calibrated")
    centres = [(item["low"] + item["high"]) / 2 for item in bins]
    axes.bar(centres, [item["accuracy"] for item in bins], width=1 / 16, alpha=0.6, label="accuracy")
    axes.plot([item["confidence"] for item in bins], [item["accuracy"] for item in bins], "o-", markersize=3)
    axes.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1), title=f"ECE {block['ece']:.3f}")
    axes.legend()


def _recall(axes: Any, table: dict[str, Any]) -> None:
    classes = table["overall"]["classes"]
    places = np.arange(len(classes))
    for offset, name in enumerate(("recall", "precision", "f1")):
        values = [item[name] or 0.0 for item in classes.values()]
        axes.bar(places + (offset - 1) * 0.27, values, width=0.25, label=name)
    axes.set_xticks(places, list(classes), rotation=45)
    axes.set(ylim=(0, 1), title="Per class")
    axes.legend()


def _risk_coverage(axes: Any, block: dict[str, Any]) -> None:
    curve = block["risk_coverage"]
    axes.plot(curve["coverage"], curve["accuracy"], "o-", markersize=3)
    gain = 100 * curve["gain_at_60"]
    axes.set(xlabel="share of clips kept", ylabel="accuracy among them", title=f"{gain:+.1f} points at 60 %")


def _learning_curves(axes: Any, history: list[dict[str, float]]) -> None:
    epochs = [item["epoch"] for item in history]
    axes.plot(epochs, [item["loss"] for item in history], color="tab:blue")
    axes.set_xlabel("epoch")
    axes.set_ylabel("training loss", color="tab:blue")
    if "validation_uar" in history[0]:
        right = axes.twinx()
        right.plot(epochs, [item["validation_uar"] for item in history], color="tab:orange")
        right.set_ylabel("validation UAR", color="tab:orange")
