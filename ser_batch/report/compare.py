"""What changed between two runs over the same recordings."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.errors import RunError
from ser_batch.report import charts
from ser_batch.report.filetable import find_audio
from ser_batch.report.formats import count, percent
from ser_batch.run.read import Run, open_run

__all__ = ["Comparison", "compare_runs", "comparison_page"]

_MOST_ROWS = 10_000
_NONE = "none"


@dataclass
class Comparison:
    """Two runs joined by clip_id; vanished files are left out on both sides."""

    #: Labels of the first run and of the second, in their models' orders.
    labels: tuple[tuple[str, ...], tuple[str, ...]]
    n_files: tuple[int, int] = (0, 0)
    n_both: int = 0
    n_labelled_in_both: int = 0
    #: (label in the first run, in the second) -> files; "none" for no label.
    transitions: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: (status in the first run, in the second) -> files, where they differ.
    statuses: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Mean absolute difference of confidence over files that have a label in both.
    confidence_shift: float = float("nan")
    #: clip_id, before, after, confidence_before, confidence_after: the surest changes first.
    changed: pa.Table | None = None
    n_changed: int = 0
    #: First names found in one run alone: (in the first, in the second).
    only: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))


def compare_runs(first: Run, second: Run) -> Comparison:
    """Join two runs by clip_id and compare their labels.

    Raises
    ------
    RunError
        One of the runs has features alone.
    """
    for run in (first, second):
        if not run.labels:
            raise RunError(f"{run.folder} was scanned without a model, so it has no labels to compare.")
    a, b = (_labels_of(run) for run in (first, second))
    place = pc.index_in(a.column("clip_id"), value_set=b.column("clip_id").combine_chunks())
    both = a.filter(pc.is_valid(place))
    other = b.take(pc.drop_null(place))
    names = {"clip_id": both.column("clip_id")}
    for side, rows in (("before", both), ("after", other)):
        names[side] = rows.column("emotion")
        names[f"confidence_{side}"] = rows.column("confidence")
        names[f"status_{side}"] = rows.column("status")
    joined = pa.table(names)
    labelled = joined.filter(
        pc.and_(pc.not_equal(joined.column("before"), _NONE), pc.not_equal(joined.column("after"), _NONE))
    )
    result = Comparison(
        labels=(first.labels, second.labels),
        n_files=(len(a), len(b)),
        n_both=len(joined),
        n_labelled_in_both=len(labelled),
        transitions=_pairs(joined, "before", "after"),
        statuses=_pairs(joined, "status_before", "status_after", different=True),
        only=(_some(a.filter(pc.is_null(place))), _some(_missing(b, a))),
    )
    if len(labelled):
        shift = np.abs(_numbers(labelled, "confidence_before") - _numbers(labelled, "confidence_after"))
        result.confidence_shift = float(np.nanmean(shift))
    changed = labelled.filter(pc.not_equal(labelled.column("before"), labelled.column("after")))
    result.n_changed = len(changed)
    result.changed = _surest_first(changed)
    return result


def _labels_of(run: Run) -> pa.Table:
    parts = list(run.tables("files", ["clip_id", "status", "emotion", "confidence", "vanished"]))
    if not parts:
        return run.schema("files").empty_table().select(["clip_id", "status", "emotion", "confidence"])
    rows = pa.concat_tables(parts).unify_dictionaries()
    rows = rows.filter(pc.invert(rows.column("vanished")))
    columns = {"clip_id": rows.column("clip_id"), "confidence": rows.column("confidence")}
    columns["status"] = rows.column("status").cast(pa.string())
    columns["emotion"] = pc.fill_null(rows.column("emotion").cast(pa.string()), _NONE)
    return pa.table(columns)


def _missing(rows: pa.Table, others: pa.Table) -> pa.Table:
    known = pc.is_in(rows.column("clip_id"), value_set=others.column("clip_id").combine_chunks())
    return rows.filter(pc.invert(known))


def _some(rows: pa.Table) -> list[str]:
    names: list[str] = rows.column("clip_id").slice(0, 5).to_pylist()
    return names + ([f"and {count(len(rows) - len(names))} more"] if len(rows) > len(names) else [])


def _pairs(rows: pa.Table, left: str, right: str, different: bool = False) -> Counter[tuple[str, str]]:
    found = rows.select([left, right]).group_by([left, right]).aggregate([([], "count_all")]).to_pylist()
    pairs = {(row[left], row[right]): row["count_all"] for row in found}
    return Counter({pair: n for pair, n in pairs.items() if not different or pair[0] != pair[1]})


def _numbers(rows: pa.Table, column: str) -> NDArray[np.float64]:
    return np.asarray(pc.fill_null(rows.column(column).cast(pa.float64()), float("nan")).to_numpy())


def _surest_first(changed: pa.Table) -> pa.Table:
    """Order changes by the smaller of both confidences: two sure and different answers are the most worth a look."""
    surest = np.fmin(_numbers(changed, "confidence_before"), _numbers(changed, "confidence_after"))
    order = np.argsort(-surest, kind="stable")[:_MOST_ROWS]
    return changed.take(pa.array(order)).select(["clip_id", "before", "confidence_before", "after", "confidence_after"])


def comparison_page(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    report_folder: Path,
    audio: str | os.PathLike[str] | None,
    render: Callable[..., str],
) -> str:
    """Return the HTML that compares two runs; `render` fills a template."""
    runs = open_run(first), open_run(second)
    result = compare_runs(*runs)
    changed = result.changed
    place = find_audio(runs[1], report_folder, Path(audio) if audio else None, changed if result.n_changed else None)
    labels = tuple(dict.fromkeys([*result.labels[0], *result.labels[1]]))
    rows = [
        [row["clip_id"], *(cell for side in ("before", "after") for cell in _cells(row, side, labels))]
        for row in (changed.to_pylist() if changed is not None else [])
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
        "summary": _summary(result),
        "shares": _shares(result, labels),
        "statuses": sorted(result.statuses.items(), key=lambda item: -item[1]),
        "differences": _differences(runs),
        "transitions": _transitions(result),
        "n_shown": len(rows),
        "sections": [
            ("overview", "Overview"),
            *([("labels", "Labels")] if result.n_labelled_in_both else []),
            *([("changed", "Files that changed")] if rows else []),
            ("about", "What differs"),
        ],
    }
    return render("compare.html.j2", labels, payload, context)


def _cells(row: dict[str, Any], side: str, labels: tuple[str, ...]) -> tuple[int, float | None]:
    confidence = row[f"confidence_{side}"]
    return labels.index(row[side]), None if confidence is None else round(confidence, 3)


def _names(runs: tuple[Run, Run]) -> tuple[str, str]:
    first, second = (run.folder.resolve().name for run in runs)
    if first != second:
        return first, second
    return str(runs[0].folder), str(runs[1].folder)


def _summary(result: Comparison) -> str:
    n = result.n_labelled_in_both
    if not n:
        return "No file has a label in both runs, so there is nothing to compare."
    if not result.n_changed:
        return f"No label changed: all {count(n)} files that are labelled in both runs have the same emotion in both."
    share = percent(result.n_changed / n)
    changed = f"The label of {count(result.n_changed)} of {count(n)} files changed ({share})."
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
    if not result.n_labelled_in_both:
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
