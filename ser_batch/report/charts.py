"""Charts as Vega-Lite specifications; `ser_batch.report.drawing` draws them when the report is built.

Colours are CSS variables, so one picture serves light and dark.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ser_batch.report.moments import Timeline
from ser_batch.report.palette import variable
from ser_batch.report.survey import N_CONFIDENCE_BINS, Survey
from ser_batch.report.tallies import ShareRow
from ser_batch.reviews.audit import ShareEstimate
from ser_batch.text import printable

__all__ = [
    "MOST_CHARTED_GROUPS",
    "Chart",
    "confidence_chart",
    "coverage_chart",
    "emotions_chart",
    "groups_chart",
    "periods_chart",
    "shares_chart",
    "stages_chart",
    "timeline_chart",
    "transitions_chart",
]

#: Groups drawn in a chart; the table beside it lists more.
MOST_CHARTED_GROUPS = 12

#: Widths in px: of the page, of half of it, of a phone.
_WIDE, _HALF, _NARROW = 940, 450, 330

_INK, _INK_2, _LINE = "var(--ink)", "var(--ink-2)", "var(--line)"

_CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _INK_2,
        "titleColor": _INK_2,
        "gridColor": _LINE,
        "domainColor": _LINE,
        "tickColor": _LINE,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": 400,
        "labelLimit": 190,
    },
    "header": {"labelColor": _INK, "labelFontSize": 12, "title": None},
    "text": {"color": _INK, "fontSize": 12},
}

_PERCENT = {"format": "%", "title": None, "tickCount": 5}


@dataclass(frozen=True)
class Chart:
    """A picture to be drawn, twice: so that its text keeps its size on a phone."""

    #: What it shows, in words.
    label: str
    #: Vega-Lite specifications.
    wide: dict[str, Any]
    narrow: dict[str, Any]


def _chart(label: str, spec: Callable[[int], dict[str, Any]], wide: int = _WIDE) -> Chart:
    """Make a chart of what `spec` returns for a width in px."""
    base = {"config": _CONFIG, "autosize": {"type": "fit", "contains": "padding"}}
    return Chart(_text(label, 1_000), _drawable(base | spec(wide)), _drawable(base | spec(_NARROW)))


#: Keys of a specification that hold code of ours.
_EXPRESSIONS = {"labelExpr", "calculate", "filter"}


def _drawable(value: Any) -> Any:
    """Return a specification with all text from outside in it made harmless."""
    if isinstance(value, dict):
        return {key: item if key in _EXPRESSIONS else _drawable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_drawable(item) for item in value]
    return _text(value) if isinstance(value, str) else value


#: What XML cannot hold; the chart engine ends at it.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _text(text: str, longest: int = 200) -> str:
    """Cut and escape text: the chart engine takes an hour over a name of a megabyte."""
    if len(text) > longest:
        # Two long names stay two.
        text = f"{text[:longest]}… {zlib.crc32(text.encode(errors='backslashreplace')):08x}"
    return _FORBIDDEN.sub(lambda found: printable(found.group()), text)


def _colour(labels: Sequence[str]) -> dict[str, Any]:
    scale = {"domain": list(labels), "range": [variable(i) for i in range(len(labels))]}
    return {"field": "emotion", "type": "nominal", "scale": scale, "legend": None}


def emotions_chart(survey: Survey, row: ShareRow) -> Chart:
    """Draw the share of each emotion with its interval, and the mean of its probability as a tick."""
    mean = survey.probability_sum / max(survey.n_labelled, 1)
    values = [
        {
            "emotion": label,
            "share": row.shares[i],
            "low": row.low[i] if np.isfinite(row.low[i]) else None,
            "high": row.high[i] if np.isfinite(row.high[i]) else None,
            "mean": mean[i],
            "text": f"{row.shares[i]:.1%}",
            "description": f"{label}: {row.counts[i]:,} files, {row.shares[i]:.1%}; mean probability {mean[i]:.1%}",
        }
        for i, label in enumerate(survey.labels)
    ]
    order = [value["emotion"] for value in sorted(values, key=lambda value: -value["share"])]
    top = max([value["high"] or value["share"] for value in values] + list(mean))
    y = {"field": "emotion", "type": "nominal", "sort": order, "title": None, "axis": {"ticks": False, "domain": False}}
    domain = {"domain": [0, min(top * 1.15, 1.1)]}

    def spec(width: int) -> dict[str, Any]:
        x = {"field": "share", "type": "quantitative", "axis": _PERCENT, "scale": domain}
        # Lines are drawn with a rim, to be seen on every colour.
        rule = {"type": "rule", "color": _INK, "strokeWidth": 1.5, "aria": False}
        tick = {"type": "tick", "color": _INK, "thickness": 2, "size": 24, "aria": False}
        mean_x = {"x": {"field": "mean", "type": "quantitative"}}
        text = {"mark": {"type": "text", "align": "left", "dx": 8, "fontWeight": 600, "aria": False}}
        ends = {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}}
        return {
            "width": width,
            "height": 36 * len(values) + 30,
            "data": {"values": values},
            "encoding": {"y": y},
            "layer": [
                {
                    "mark": {"type": "bar", "height": 18, "cornerRadiusEnd": 2},
                    "encoding": {"x": x, "color": _colour(survey.labels), "description": {"field": "description"}},
                },
                {"mark": {**rule, "color": "var(--card)", "strokeWidth": 4.5}, "encoding": ends},
                {"mark": {**tick, "color": "var(--card)", "thickness": 5}, "encoding": mean_x},
                {"mark": rule, "encoding": ends},
                {"mark": tick, "encoding": mean_x},
                {
                    **text,
                    "transform": [{"calculate": "max(datum.high || 0, datum.share, datum.mean)", "as": "end"}],
                    "encoding": {"x": {"field": "end", "type": "quantitative"}, "text": {"field": "text"}},
                },
            ],
        }

    told = ", ".join(f"{value['emotion']} {value['text']}" for value in sorted(values, key=lambda v: -v["share"]))
    return _chart(f"Bar chart of the share of files per emotion: {told}.", spec)


def shares_chart(labels: Sequence[str], shares: Sequence[ShareEstimate]) -> Chart:
    """Draw the share of each answer by listeners, with its interval, over that of the labels given."""
    values = [
        {
            "emotion": item.answer,
            "predicted": item.predicted,
            "share": item.share.value,
            "low": item.share.low,
            "high": item.share.high,
            "description": f"{item.answer}: labelled {item.predicted:.1%}, by listeners {item.share.value:.1%} "
            f"({item.share.low:.1%} to {item.share.high:.1%})",
        }
        for item in shares
    ]
    order = [value["emotion"] for value in values]
    top = max(max(item.share.high, item.predicted) for item in shares)
    y = {"field": "emotion", "type": "nominal", "sort": order, "title": None, "axis": {"ticks": False, "domain": False}}

    def spec(width: int) -> dict[str, Any]:
        domain = {"domain": [0, min(top * 1.08, 1.0)]}
        x = {"type": "quantitative", "axis": _PERCENT, "scale": domain}
        bar = {"type": "bar", "height": 18, "cornerRadiusEnd": 2, "opacity": 0.45, "aria": False}
        ends = {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}}
        dot = {"type": "point", "shape": "circle", "filled": True, "size": 70, "color": _INK, "opacity": 1}
        return {
            "width": width,
            "height": 34 * len(values) + 30,
            "data": {"values": values},
            "encoding": {"y": y},
            "layer": [
                {"mark": bar, "encoding": {"x": {**x, "field": "predicted"}, "color": _colour(labels)}},
                {"mark": {"type": "rule", "color": _INK, "strokeWidth": 2, "aria": False}, "encoding": ends},
                {"mark": dot, "encoding": {"x": {**x, "field": "share"}, "description": {"field": "description"}}},
            ],
        }

    told = ", ".join(f"{value['emotion']} {value['share']:.1%}" for value in values)
    return _chart(f"Share of each answer in the archive, by listeners: {told}.", spec)


def groups_chart(title: str, labels: Sequence[str], rows: Sequence[ShareRow]) -> Chart:
    """Draw the share of each emotion in each group: with intervals where there is room, stacked on a phone."""
    shown = rows[:MOST_CHARTED_GROUPS]
    values = [
        {
            "group": row.name,
            "emotion": label,
            "index": i,
            "share": row.shares[i],
            "low": row.low[i] if np.isfinite(row.low[i]) else None,
            "high": row.high[i] if np.isfinite(row.high[i]) else None,
            "description": f"{row.name}, {label}: {row.shares[i]:.1%} of {row.n_files:,} files",
        }
        for row in shown
        for i, label in enumerate(labels)
    ]
    order = [row.name for row in shown]
    described = {"field": "description"}

    def spec(width: int) -> dict[str, Any]:
        axis = {"ticks": False, "domain": False}
        y = {"field": "group", "type": "nominal", "sort": order, "title": None}
        if width == _NARROW:
            x = {"field": "share", "type": "quantitative", "stack": "normalize", "axis": _PERCENT}
            stacked = {
                "x": x,
                "y": {**y, "axis": {**axis, "labelLimit": 100}},
                "color": _colour(labels),
                "order": {"field": "index"},
                "description": described,
            }
            height = 26 * len(shown) + 30
            return {"width": width, "height": height, "data": {"values": values}, "mark": "bar", "encoding": stacked}
        x = {
            "field": "share",
            "type": "quantitative",
            "axis": {"format": "%", "title": None, "tickCount": 3, "labelFontSize": 11},
            "scale": {"zero": True, "nice": True},
        }
        ends = {"x": {"field": "low", "type": "quantitative"}, "x2": {"field": "high"}}
        layers = [
            {"mark": {"type": "rule", "strokeWidth": 2, "aria": False}, "encoding": ends},
            {
                "mark": {"type": "point", "filled": True, "size": 55, "opacity": 1},
                "encoding": {"x": x, "description": described},
            },
        ]
        return {
            "data": {"values": values},
            "autosize": "pad",
            "spacing": 12,
            "facet": {"column": {"field": "emotion", "sort": list(labels), "type": "nominal"}},
            "spec": {
                "width": (width - 80) / len(labels) - 12,
                "height": 24 * len(shown),
                "encoding": {
                    "y": {**y, "axis": {**axis, "grid": True, "labelLimit": 120}},
                    "color": _colour(labels),
                },
                "layer": layers,
            },
        }

    return _chart(f"Chart of the share of each emotion by {title}; the table below gives the numbers.", spec)


def periods_chart(period: str, labels: Sequence[str], rows: Sequence[ShareRow]) -> Chart:
    """Draw the share of each emotion per period, and under it how many files there are."""
    dated = sorted(rows, key=lambda row: row.name)
    values = [
        {"period": row.name, "emotion": label, "index": i, "share": row.shares[i], "n": row.n_files}
        for row in dated
        for i, label in enumerate(labels)
    ]

    def spec(width: int) -> dict[str, Any]:
        step = max(1, len(dated) * 60 // width)
        kept = [row.name for row in dated][::step]
        x = {"field": "period", "type": "ordinal", "title": None, "axis": {"labelAngle": -40, "values": kept}}
        share = {"field": "share", "type": "quantitative", "stack": "normalize", "axis": _PERCENT}
        n_files = {"field": "n", "type": "quantitative", "title": "files", "axis": {"tickCount": 2}}
        coloured = {"color": _colour(labels), "order": {"field": "index"}}
        bare = {**x, "axis": {"labels": False, "ticks": False}}
        return {
            "data": {"values": values},
            "autosize": "pad",
            "spacing": 8,
            "vconcat": [
                {"width": width - 60, "height": 200, "mark": "bar", "encoding": {"x": bare, "y": share, **coloured}},
                {
                    "width": width - 60,
                    "height": 50,
                    "transform": [{"filter": "datum.index == 0"}],
                    "mark": {"type": "bar", "color": _INK_2},
                    "encoding": {"x": x, "y": n_files},
                },
            ],
        }

    return _chart(f"Stacked bars of the share of each emotion per {period}, with the number of files under them.", spec)


def confidence_chart(survey: Survey, abstain: float) -> Chart:
    """Draw how many files have which confidence, by emotion; a line marks the threshold of `uncertain`."""
    width_of_bin = 1 / N_CONFIDENCE_BINS
    values = [
        {
            "from": b * width_of_bin,
            "to": (b + 1) * width_of_bin,
            "emotion": label,
            "index": i,
            "n": int(survey.confidence[b, i]),
            "description": f"{label}, {b * width_of_bin:.0%} to {(b + 1) * width_of_bin:.0%}: "
            f"{survey.confidence[b, i]:,} files",
        }
        for b in range(N_CONFIDENCE_BINS)
        for i, label in enumerate(survey.labels)
    ]

    def spec(width: int) -> dict[str, Any]:
        axis = {"format": "%", "title": "confidence: the highest probability of a file", "grid": False, "tickCount": 6}
        x = {"field": "from", "type": "quantitative", "bin": "binned", "axis": axis, "scale": {"domain": [0, 1]}}
        y = {"field": "n", "type": "quantitative", "title": "files"}
        bars: dict[str, Any] = {
            "mark": {"type": "bar", "binSpacing": 1},
            "encoding": {
                "x": x,
                "x2": {"field": "to"},
                "y": y,
                "color": _colour(survey.labels),
                "order": {"field": "index"},
                "description": {"field": "description"},
            },
        }
        layers = [bars]
        if abstain > 0:
            mark = {"type": "rule", "color": _INK, "strokeDash": [4, 3], "strokeWidth": 1.5}
            layers.append({"mark": mark, "data": {"values": [{}]}, "encoding": {"x": {"datum": abstain}}})
        return {"width": width, "height": 220, "data": {"values": values}, "layer": layers}

    return _chart("Histogram of confidence, stacked by emotion; the table below gives the numbers.", spec, _HALF)


def coverage_chart(coverage: Sequence[tuple[float, float]]) -> Chart:
    """Draw which share of files remains when those below a confidence are set aside."""
    values = [{"threshold": t, "share": share} for t, share in coverage]

    def spec(width: int) -> dict[str, Any]:
        x_axis = {"format": "%", "title": "lowest confidence that is kept", "grid": False, "tickCount": 6}
        y_axis = {"format": "%", "title": "files that remain", "tickCount": 5}
        return {
            "width": width,
            "height": 200,
            "data": {"values": values},
            "mark": {"type": "area", "line": {"color": _INK_2}, "color": _LINE, "opacity": 0.6, "aria": False},
            "encoding": {
                "x": {"field": "threshold", "type": "quantitative", "axis": x_axis, "scale": {"domain": [0, 1]}},
                "y": {"field": "share", "type": "quantitative", "axis": y_axis, "scale": {"domain": [0, 1]}},
            },
        }

    return _chart("Curve of the share of files that remain at each threshold of confidence.", spec, _HALF)


def timeline_chart(labels: Sequence[str], timeline: Timeline) -> Chart:
    """Draw the probabilities of a recording over time, stacked."""
    values = []
    for (start_s, end_s), row in zip(timeline.steps_s, timeline.probabilities, strict=True):
        for i, label in enumerate(labels):
            point = {"t": float(start_s), "emotion": label, "index": i, "p": round(float(row[i]), 3)}
            values.append(point)
            if end_s == timeline.steps_s[-1, 1]:
                values.append({**point, "t": float(min(end_s, timeline.duration_s))})
    clock = "floor(datum.value / 3600) > 0 ? format(floor(datum.value / 3600), 'd') + ':' + format(floor(datum.value "
    clock += "% 3600 / 60), '02d') + ':' + format(datum.value % 60, '02.0f') : format(floor(datum.value / 60), 'd') + "
    clock += "':' + format(datum.value % 60, '02.0f')"

    def spec(width: int) -> dict[str, Any]:
        ticks = width // 110
        x_axis = {
            "labelExpr": clock,
            "title": None,
            "grid": False,
            "tickCount": ticks,
            "tickMinStep": 1,
            "labelFlush": True,
        }
        return {
            "width": width,
            "height": 110,
            "data": {"values": values},
            "mark": {"type": "area", "interpolate": "step-after", "aria": False},
            "encoding": {
                "x": {"field": "t", "type": "quantitative", "axis": x_axis, "scale": {"nice": False}},
                "y": {"field": "p", "type": "quantitative", "stack": "normalize", "axis": None},
                "color": _colour(labels),
                "order": {"field": "index"},
            },
        }

    where = f"channel {timeline.channel} of {timeline.clip_id}" if timeline.channel else timeline.clip_id
    return _chart(f"Timeline of the emotions in {where}; its strongest moments are listed below.", spec)


def stages_chart(stage_s: dict[str, float]) -> Chart:
    """Draw the processing time of each stage."""
    total = sum(stage_s.values()) or 1.0
    values = [{"stage": name, "s": s, "text": f"{s / total:.0%}"} for name, s in stage_s.items()]

    def spec(width: int) -> dict[str, Any]:
        y = {"field": "stage", "type": "nominal", "sort": list(stage_s), "title": None, "axis": {"ticks": False}}
        x = {
            "field": "s",
            "type": "quantitative",
            "title": "processing time, s",
            "axis": {"tickCount": 4},
            "scale": {"domain": [0, max(stage_s.values()) * 1.12]},
        }
        text = {
            "mark": {"type": "text", "align": "left", "dx": 5, "aria": False},
            "encoding": {"text": {"field": "text"}},
        }
        return {
            "width": width,
            "height": 30 * len(values) + 45,
            "data": {"values": values},
            "encoding": {"y": y, "x": x},
            "layer": [{"mark": {"type": "bar", "height": 14, "color": _INK_2}}, text],
        }

    return _chart("Bar chart of processing time per stage.", spec)


def transitions_chart(before: Sequence[str], after: Sequence[str], counts: Sequence[Sequence[int]]) -> Chart:
    """Draw how many files went from which label in one run to which in the other."""
    most = max((n for i, row in enumerate(counts) for j, n in enumerate(row) if before[i] != after[j]), default=0)
    values = [
        {"a": a, "b": b, "n": counts[i][j], "same": a == b, "weight": 0 if a == b else counts[i][j] / max(most, 1)}
        for i, a in enumerate(before)
        for j, b in enumerate(after)
    ]

    def spec(width: int) -> dict[str, Any]:
        narrow = width == _NARROW
        y = {"field": "a", "type": "nominal", "sort": list(before), "title": "first run", "axis": {"ticks": False}}
        x_axis = {"orient": "top", "labelAngle": -40 if narrow else 0, "ticks": False, "domain": False}
        x = {"field": "b", "type": "nominal", "sort": list(after), "title": "second run", "axis": x_axis}
        opacity = {
            "field": "weight",
            "type": "quantitative",
            "scale": {"domain": [0, 1], "range": [0, 0.55]},
            "legend": None,
        }
        text = {"type": "text", "fontSize": 11 if narrow else 12}
        number = {"text": {"field": "n", "format": ","}}
        return {
            "width": width,
            "height": 34 * len(before) + 60,
            "data": {"values": values},
            "encoding": {"x": x, "y": y},
            "layer": [
                {"mark": {"type": "rect", "color": "var(--accent)", "aria": False}, "encoding": {"opacity": opacity}},
                {"mark": text, "encoding": number},
                {"mark": {**text, "fontWeight": 700}, "transform": [{"filter": "datum.same"}], "encoding": number},
            ],
        }

    return _chart("Table of labels in the first run against labels in the second.", spec)
