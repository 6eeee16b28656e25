"""What the template shows of one run, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ser_batch.report import charts
from ser_batch.report.filetable import FileTable
from ser_batch.report.formats import clock, count, hours, percent, plural
from ser_batch.report.grouping import FOLDER
from ser_batch.report.moments import Moments
from ser_batch.report.survey import LOW_MARGIN, N_CONFIDENCE_BINS, Survey
from ser_batch.report.tallies import Groups, ShareRow
from ser_batch.run.read import Run

__all__ = ["Page", "report_context"]

_MOST_LISTED_GROUPS = 100
_MOST_PROBLEMS = 50

_INDEPENDENT = (
    "Lines are 95 % Wilson intervals. They take files as independent; files of one speaker, tape or day are not, so "
    "the true uncertainty is larger."
)
_CLUSTERED = (
    "Lines are 95 % intervals by bootstrap over the metadata column {column!r}: as if other speakers had been recorded."
)
_MODEL_ERROR = "No interval covers what the model itself gets wrong."


@dataclass(frozen=True)
class Page:
    """A page to be filled."""

    #: Name of a template that extends ``base.html.j2``.
    template: str
    labels: tuple[str, ...]
    #: What the page's script reads.
    payload: dict[str, Any]
    #: Variables of the template.
    context: dict[str, Any]


def report_context(run: Run, survey: Survey, moments: Moments, table: FileTable) -> dict[str, Any]:
    """Return the variables of the template ``report.html.j2``, besides those of the page itself."""
    context: dict[str, Any] = {
        "s": survey,
        "name": run.folder.resolve().name,
        "subtitle": _subtitle(run, survey),
        "summary": _summary(run, survey),
        "tiles": _tiles(survey),
        "groups": [],
        "periods": None,
        "timelines": [],
        "listen": _listen(survey, moments),
        "table": table,
        "table_note": _table_note(survey, table),
        "problems": _problems(survey),
        "problems_lead": _problems_lead(survey),
        "speed": _speed(run, survey),
    }
    if survey.labels and survey.n_labelled:
        context |= {
            "overall": _overall(survey),
            "groups": [_group(survey, groups) for groups in survey.groups if groups.n_groups > 1],
            "periods": _periods(run, survey),
            "confidence": _confidence(run, survey),
            "timelines": [_timeline(survey, timeline) for timeline in moments.timelines],
        }
    return context


def _subtitle(run: Run, survey: Survey) -> str:
    model = (run.info.get("model") or {}).get("name")
    parts = [f"Scanned {str(run.info.get('created', ''))[:10]}" if run.info.get("created") else ""]
    inputs = run.info.get("inputs") or []
    parts.append("from " + ", ".join(map(str, inputs[:3])) + (" and more" if len(inputs) > 3 else "") if inputs else "")
    made = f"with ser-batch {run.info.get('tool_version', '?')}"
    parts.append(f"{made} and the model {model}" if model and survey.labels else f"{made}, features alone")
    return " ".join(part for part in parts if part) + "."


def _summary(run: Run, survey: Survey) -> str:
    if not survey.n_present:
        return "This run holds no file yet."
    text = f"{count(survey.n_analysed)} of {count(survey.n_present)} files were analysed, "
    text += f"{hours(survey.audio_s)} of audio."
    if survey.n_labelled:
        row = survey.overall
        best = int(np.argmax(row.shares))
        text += f" The label given most often is {survey.labels[best]} ({percent(row.shares[best])})."
        abstain = _abstain(run)
        if abstain:
            text += f" {percent(survey.n_uncertain / survey.n_labelled)} of labels are marked uncertain."
        else:
            undecided = percent(survey.n_low_margin / survey.n_labelled)
            text += f" In {undecided} of files, the first two emotions are less than {LOW_MARGIN:.2f} apart."
    lost = survey.n_present - survey.n_analysed
    if lost:
        text += f" {plural(lost, 'file')} could not be labelled; the reasons are below."
    return text


def _abstain(run: Run) -> float:
    return float(((run.info.get("config") or {}).get("predict") or {}).get("abstain") or 0.0)


def _tiles(survey: Survey) -> list[dict[str, str]]:
    states = [f"{count(survey.status[name])} {name}" for name in ("ok", "partial", "skipped", "failed")]
    note = ", ".join(text for text in states if not text.startswith("0 ")) or "none"
    if survey.n_vanished:
        note += f"; {count(survey.n_vanished)} more have vanished"
    tiles = [{"name": "Files", "value": count(survey.n_present), "note": note}]
    mean_s = survey.audio_s / max(survey.n_analysed, 1)
    tiles.append({"name": "Audio", "value": hours(survey.audio_s), "note": f"{mean_s:.1f} s a file on average"})
    if survey.n_labelled:
        row = survey.overall
        best = int(np.argmax(row.shares))
        tiles.append(
            {
                "name": "Most frequent label",
                "value": survey.labels[best],
                "note": f"{percent(row.shares[best])}, {count(row.counts[best])} files",
            }
        )
        mean = survey.confidence_sum.sum() / survey.n_labelled
        tiles.append(
            {
                "name": "Mean confidence",
                "value": percent(float(mean)),
                "note": f"guessing among {len(survey.labels)} would be {percent(1 / len(survey.labels))}",
            }
        )
    return tiles


def _interval_caption(clustered: bool, column: str) -> str:
    return f"{_CLUSTERED.format(column=column) if clustered else _INDEPENDENT} {_MODEL_ERROR}"


def _share_cell(row: ShareRow, i: int) -> str:
    text = percent(row.shares[i])
    if math.isfinite(row.low[i]):
        text += f" ({percent(row.low[i])[:-2]} to {percent(row.high[i])})"
    return text


def _overall(survey: Survey) -> dict[str, Any]:
    row = survey.overall
    mean = survey.probability_sum / survey.n_labelled
    rows = [
        [label, count(row.counts[i]), _share_cell(row, i), percent(float(mean[i]))]
        for i, label in enumerate(survey.labels)
    ]
    caption = _interval_caption(survey.everything.clustered, survey.clustered_by)
    return {
        "chart": charts.emotions_chart(survey, row),
        "caption": f"{caption} The upright tick is the mean probability of the emotion over all files: where it lies "
        "far from the end of the bar, doubtful files lean one way.",
        "header": ["emotion", "files", "share (95 % interval)", "mean probability"],
        "rows": sorted(rows, key=lambda cells: -row.counts[survey.labels.index(cells[0])]),
    }


def _group(survey: Survey, groups: Groups) -> dict[str, Any]:
    rows = groups.rows()
    caption = _interval_caption(groups.clustered, survey.clustered_by)
    if len(rows) > charts.MOST_CHARTED_GROUPS:
        caption = f"The {charts.MOST_CHARTED_GROUPS} largest of {count(len(rows))} groups. {caption}"
        if len(rows) > _MOST_LISTED_GROUPS:
            caption += f" The table lists the {_MOST_LISTED_GROUPS} largest."
    return {
        "title": "By folder" if groups.title == FOLDER else f"By {groups.title}",
        "chart": charts.groups_chart(groups.title, survey.labels, rows),
        "caption": caption,
        "header": [groups.title, "files", *survey.labels],
        "rows": _group_rows(survey.labels, rows[:_MOST_LISTED_GROUPS]),
    }


def _group_rows(labels: Sequence[str], rows: Sequence[ShareRow]) -> list[list[str]]:
    return [[row.name, count(row.n_files), *(_share_cell(row, i) for i in range(len(labels)))] for row in rows]


def _periods(run: Run, survey: Survey) -> dict[str, Any] | None:
    if survey.over_time is None:
        return None
    rows = sorted((row for row in survey.over_time.rows() if row.name != Groups.NOT_GIVEN), key=lambda row: row.name)
    n_undated = survey.n_labelled - sum(row.n_files for row in rows)
    if len(rows) < 2:
        return None
    caption = "Bars below: number of files. A period of few files says little."
    if n_undated:
        caption += f" {count(n_undated)} files have no date and are left out."
    period = survey.period
    return {
        "period": period,
        "column": survey.over_time.title,
        "chart": charts.periods_chart(period, survey.labels, rows),
        "caption": caption,
        "header": [period, "files", *survey.labels],
        "rows": _group_rows(survey.labels, rows),
    }


def _confidence(run: Run, survey: Survey) -> dict[str, Any]:
    n = survey.n_labelled
    abstain = _abstain(run)
    undecided = percent(survey.n_low_margin / n)
    lead = f"In {undecided} of files the second emotion is less than {LOW_MARGIN:.2f} behind the first."
    if abstain:
        lead = f"{percent(survey.n_uncertain / n)} of labels lie below the confidence of {abstain:g} asked for. {lead}"
    per_label = survey.confidence.sum(axis=0)
    rows = [
        [
            label,
            count(int(per_label[i])),
            percent(float(survey.confidence_sum[i] / per_label[i])) if per_label[i] else "",
        ]
        for i, label in enumerate(survey.labels)
    ]
    below = np.concatenate([[0], np.cumsum(survey.confidence.sum(axis=1))])
    coverage = [(b / N_CONFIDENCE_BINS, float(1 - below[b] / n)) for b in range(N_CONFIDENCE_BINS + 1)]
    caption = "Confidence is the highest probability of a file, calibrated as the model card states."
    if abstain:
        caption += f" The dashed line is the threshold of {abstain:g}."
    return {
        "lead": lead,
        "histogram": charts.confidence_chart(survey, abstain),
        "histogram_caption": f"{caption} On other material it may promise too much.",
        "header": ["emotion", "files", "mean confidence"],
        "rows": rows,
        "coverage": charts.coverage_chart(coverage),
        "coverage_rows": [[f"{threshold:.2f}", percent(share)] for threshold, share in coverage],
    }


def _timeline(survey: Survey, timeline: Any) -> dict[str, Any]:
    text = f"{timeline.reason}: {clock(timeline.duration_s)}, {plural(timeline.n_changes, 'change')}"
    if timeline.channel:
        text = f"channel {timeline.channel} of {timeline.n_channels} in which somebody is heard; {text}"
    if timeline.windows_per_step > 1:
        text += f"; drawn as means of {timeline.windows_per_step} windows each"
    order = np.argsort([-probability for _, probability in timeline.peaks])[:3]
    return {
        "clip_id": timeline.clip_id,
        "duration_s": timeline.duration_s,
        "text": text,
        "chart": charts.timeline_chart(survey.labels, timeline),
        "moments": [{"emotion": survey.labels[i], "at_s": timeline.peaks[i][0]} for i in order],
    }


def _listen(survey: Survey, moments: Moments) -> list[dict[str, Any]]:
    def row(found: dict[str, Any], note: str) -> dict[str, Any]:
        at_s = moments.strongest_s.get(found["clip_id"])
        return {
            "clip_id": found["clip_id"],
            "at_s": at_s if at_s else None,
            "emotion": found.get("emotion") or "",
            "note": note,
        }

    cards = []
    if survey.labels:
        sure = [
            row(found, f"confidence {percent(found['confidence'])}")
            for label in survey.labels
            for found in survey.confident[label]
        ]
        cards.append({"title": "Surest of each emotion", "note": "Highest confidence.", "rows": sure})
        unsure = [row(found, f"entropy {found['entropy']:.2f}, {_first_two(survey, found)}") for found in survey.unsure]
        cards.append({"title": "Hardest to tell", "note": "Highest entropy, of 1 at most.", "rows": unsure})
    unusual = [
        row(item.row, f"{item.feature} {item.value:.4g}; usual is {item.median:.4g} ({item.distance:.0f} deviations)")
        for item in survey.outliers
    ]
    cards.append({"title": "Unlike the rest", "note": "A feature far from the median of this run.", "rows": unusual})
    return [card for card in cards if card["rows"]]


def _first_two(survey: Survey, row: dict[str, Any]) -> str:
    ranked = sorted(survey.labels, key=lambda label: -(row[f"p_{label}"] or 0.0))[:2]
    return " or ".join(f"{label} {percent(row[f'p_{label}'])}" for label in ranked)


def _table_note(survey: Survey, table: FileTable) -> str:
    if table.n_shown >= table.n_files:
        return f"All {count(table.n_files)} files."
    return (
        f"{count(table.n_shown)} of {count(table.n_files)} files, so that a browser can open this: an even sample, "
        "and more of those that are not ok. Searching and sorting see only these; the Parquet tables hold all."
    )


def _problems(survey: Survey) -> list[dict[str, Any]]:
    order = {"failed": 0, "partial": 1, "skipped": 2}
    kinds = sorted(survey.reasons.counts.items(), key=lambda item: (order.get(item[0][0], 3), -item[1], item[0]))
    return [
        {
            "status": status,
            "stage": stage,
            "reason": error_type,
            "n": n,
            "examples": _by_message(survey.reasons.examples[(status, stage, error_type)]),
        }
        for (status, stage, error_type), n in kinds[:_MOST_PROBLEMS]
    ]


def _by_message(examples: Sequence[tuple[str, str]]) -> list[tuple[str, list[str]]]:
    grouped: dict[str, list[str]] = {}
    for clip_id, message in examples:
        grouped.setdefault(message, []).append(clip_id)
    return list(grouped.items())


def _problems_lead(survey: Survey) -> str:
    n_kinds = len(survey.reasons.counts)
    text = (
        "Partial files were analysed up to where they broke; skipped ones hold nothing to analyse or wait for a reader."
    )
    return text + (f" The {_MOST_PROBLEMS} most frequent of {n_kinds} kinds." if n_kinds > _MOST_PROBLEMS else "")


def _speed(run: Run, survey: Survey) -> dict[str, Any]:
    wall_s = float(run.info.get("wall_s") or 0.0)
    stage_s = {name: float(value) for name, value in (run.info.get("stage_s") or survey.stage_s).items() if value}
    total = sum(stage_s.values())
    lead = "The run does not say how long it took."
    if wall_s > 0 and survey.n_rows:
        lead = (
            f"{clock(wall_s)} on the clock: {survey.n_rows / wall_s:,.1f} files a second, "
            f"{survey.audio_s / wall_s:,.0f} hours of audio an hour."
        )
    return {
        "lead": lead,
        "chart": charts.stages_chart(stage_s) if total > 0 else None,
        "rows": [[name, f"{value:,.1f}", percent(value / total)] for name, value in stage_s.items()] if total else [],
        "slowest": survey.slowest,
    }
