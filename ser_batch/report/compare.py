"""What changed between two runs over the same recordings."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ser_batch.errors import RunError
from ser_batch.report import charts
from ser_batch.report.context import Page
from ser_batch.report.filetable import find_audio
from ser_batch.report.formats import count, percent
from ser_batch.run.compare import Comparison, compare_runs
from ser_batch.run.read import Run, open_run

__all__ = ["comparison_page"]

_MOST_ROWS = 10_000
_MOST_NAMES = 5


def comparison_page(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    report_folder: Path,
    audio: str | os.PathLike[str] | None,
) -> Page:
    """Return the page that compares two runs."""
    runs = open_run(first), open_run(second)
    for run in runs:
        if not run.labels:
            raise RunError(f"{run.folder} was scanned without a model, so it has no labels to compare.")
    result = compare_runs(*runs)
    changed = _surest_first(result.changed)
    n_changed, changed = len(changed), changed.slice(0, _MOST_ROWS)
    place = find_audio(runs[1], report_folder, Path(audio) if audio else None, changed if n_changed else None)
    labels = tuple(dict.fromkeys([*result.labels[0], *result.labels[1]]))
    rows = [
        [row["clip_id"], *(cell for side in ("before", "after") for cell in _cells(row, side, labels))]
        for row in changed.to_pylist()
    ]
    payload = {
        "kind": "comparison",
        "labels": list(labels),
        "flags": [],
        "metadata": [],
        "fields": ["clip_id", "before", "confidence_before", "after", "confidence_after"],
        "audio": place.url,
        "rows": rows,
    }
    context = {
        "labels": labels,
        "names": _names(runs),
        "notices": [*runs[0].notices, *runs[1].notices, *([place.notice] if place.notice and rows else [])],
        "c": result,
        "n_changed": n_changed,
        "only": [_some(names) for names in result.only],
        "summary": _summary(result, n_changed),
        "shares": _shares(result, labels),
        "statuses": sorted(result.statuses.items(), key=lambda item: -item[1]),
        "differences": _differences(runs),
        "transitions": _transitions(result),
        "n_shown": len(rows),
        "sections": [
            ("overview", "Overview"),
            *([("labels", "Labels")] if result.n_labelled else []),
            *([("changed", "Files that changed")] if rows else []),
            ("about", "What differs"),
        ],
    }
    return Page("compare.html.j2", labels, payload, context)


def _surest_first(changed: pa.Table) -> pa.Table:
    """Return files that have another label; two sure and different answers are the most worth a look."""
    changed = changed.filter(changed.column("labelled"))
    confidence = [changed.column(f"confidence_{side}").to_numpy() for side in ("before", "after")]
    return changed.take(pa.array(np.argsort(-np.fmin(*confidence), kind="stable")))


def _some(names: list[str]) -> list[str]:
    more = [f"and {count(len(names) - _MOST_NAMES)} more"] if len(names) > _MOST_NAMES else []
    return names[:_MOST_NAMES] + more


def _cells(row: dict[str, Any], side: str, labels: tuple[str, ...]) -> tuple[int, float | None]:
    confidence = row[f"confidence_{side}"]
    return labels.index(row[side]), None if confidence is None else round(confidence, 3)


def _names(runs: tuple[Run, Run]) -> tuple[str, str]:
    first, second = (run.folder.resolve().name for run in runs)
    if first != second:
        return first, second
    return str(runs[0].folder), str(runs[1].folder)


def _summary(result: Comparison, n_changed: int) -> str:
    n = result.n_labelled
    if not n:
        return "No file has a label in both runs, so there is nothing to compare."
    if not n_changed:
        return f"No label changed: all {count(n)} files that are labelled in both runs have the same emotion in both."
    share = percent(n_changed / n)
    changed = f"The label of {count(n_changed)} of {count(n)} files changed ({share})."
    return f"{changed} On average, confidence moved by {result.confidence_shift:.3f}."


def _shares(result: Comparison, labels: tuple[str, ...]) -> list[list[str]]:
    before: Counter[str] = Counter()
    after: Counter[str] = Counter()
    for (left, right), n in result.transitions.items():
        before[left] += n
        after[right] += n
    n_before, n_after = (max(sum(c[label] for label in labels), 1) for c in (before, after))
    rows = []
    for label in labels:
        shares = before[label] / n_before, after[label] / n_after
        change = f"{100 * (shares[1] - shares[0]):+.1f} points"
        rows.append([label, count(before[label]), percent(shares[0]), count(after[label]), percent(shares[1]), change])
    return rows


def _transitions(result: Comparison) -> dict[str, Any] | None:
    if not result.n_labelled:
        return None
    before, after = result.labels
    counts = [[result.transitions[(a, b)] for b in after] for a in before]
    return {
        "chart": charts.transitions_chart(before, after, counts),
        "header": ["first run", *after],
        "rows": [[a, *(count(n) for n in row)] for a, row in zip(before, counts, strict=True)],
    }


def _differences(runs: tuple[Run, Run]) -> list[tuple[str, str, str]]:
    """Name what the two runs were made of and where that differs."""
    sides = [_flat(run.info) for run in runs]
    names = sorted({*sides[0], *sides[1]})
    return [
        (name, sides[0].get(name, "absent"), sides[1].get(name, "absent"))
        for name in names
        if sides[0].get(name) != sides[1].get(name)
    ]


def _flat(info: dict[str, Any]) -> dict[str, str]:
    flat: dict[str, str] = {}
    for key in ("tool_version", "root", "labels", "inputs", "created"):
        if key in info:
            flat[key] = str(info[key])
    for section, values in (info.get("config") or {}).items():
        flat |= {f"{section}.{key}": str(value) for key, value in values.items()}
    model = info.get("model") or {}
    flat |= {f"model.{key}": str(model[key]) for key in ("name", "sha256", "version") if key in model}
    device = info.get("device") or {}
    flat |= {f"device.{key}": str(device[key]) for key in ("chosen",) if key in device}
    return flat
