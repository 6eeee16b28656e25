"""``ser-batch show``: the essence of a run in the terminal."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import click

from ser_batch.cli.options import json_option, readable_run_argument
from ser_batch.errors import ExitCode
from ser_batch.run.summary import gaps_of
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.report.survey import Survey
    from ser_batch.run.read import Run

__all__ = ["command"]

_MOST_GROUPS = 8
_MOST_REASONS = 10


@click.command("show")
@readable_run_argument
@json_option
def command(run_dir: str, as_json: bool) -> int:
    """Summarise RUN, also one in a bucket: counts, emotions, doubtful labels, groups, failures by reason and speed."""
    from ser_batch.report.survey import survey_run  # noqa: PLC0415 - loads pyarrow, not for --help
    from ser_batch.run.copy import readable  # noqa: PLC0415
    from ser_batch.run.read import open_run  # noqa: PLC0415

    with readable(run_dir, ["segments"]) as run:
        opened = open_run(run.folder)
        survey = survey_run(opened, most_table_rows=1)
        for line in [json.dumps(_facts(opened, survey), indent=2)] if as_json else _lines(opened, survey):
            click.echo(run.told(line))
    return ExitCode.OK


def _facts(run: Run, survey: Survey) -> dict[str, Any]:
    emotions = {}
    if survey.n_labelled:
        row = survey.overall
        emotions = {
            label: {
                "n_files": row.counts[i],
                "share": row.shares[i],
                "low": _number(row.low[i]),
                "high": _number(row.high[i]),
            }
            for i, label in enumerate(survey.labels)
        }
    return {
        "run": str(run.folder),
        "state": run.info.get("state"),
        "notices": [*run.notices, *gaps_of(run.info)],
        "model": (run.info.get("model") or {}).get("name"),
        "n_files": survey.n_present,
        "n_vanished": survey.n_vanished,
        "status": dict(survey.status),
        "audio_s": survey.audio_s,
        "emotions": emotions,
        "n_uncertain": survey.n_uncertain,
        "n_low_margin": survey.n_low_margin,
        "flags": {name: {"n_files": n, "n_measured": n_all} for name, (n, n_all) in survey.flagged.items()},
        "groups": {
            groups.title: {row.name: dict(zip(survey.labels, row.counts, strict=True)) for row in groups.rows()}
            for groups in survey.groups
        },
        "reasons": [
            {
                "status": kind[0],
                "stage": kind[1],
                "error_type": kind[2],
                "n_files": n,
                "example": survey.reasons.examples[kind][0],
            }
            for kind, n in survey.reasons.counts.most_common()
        ],
        "wall_s": run.info.get("wall_s"),
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _lines(run: Run, survey: Survey) -> list[str]:
    from ser_batch.report.formats import clock, count, hours, percent  # noqa: PLC0415

    model = (run.info.get("model") or {}).get("name")
    states = ("ok", "partial", "skipped", "failed")
    counts = ", ".join(f"{count(survey.status[name])} {name}" for name in states if survey.status[name])
    lines = [
        f"{printable(run.folder)}: {count(survey.n_present)} files ({counts or 'none yet'}), "
        f"{hours(survey.audio_s)} of audio"
    ]
    lines[0] += f", model {printable(model)}" if model and survey.labels else ", features alone"
    if survey.n_vanished:
        lines.append(f"{count(survey.n_vanished)} files of an earlier scan are gone; they are left out here.")
    lines += [f"Note: {printable(notice)}" for notice in (*run.notices, *gaps_of(run.info))]
    if survey.n_labelled:
        lines += ["", *_emotion_lines(survey)]
        undecided = percent(survey.n_low_margin / survey.n_labelled)
        lines.append(f"  {undecided} of labels lead the second emotion by less than 0.10")
        if survey.n_uncertain:
            lines.append(f"  {percent(survey.n_uncertain / survey.n_labelled)} are marked uncertain")
        for groups in survey.groups:
            if groups.n_groups > 1:
                lines += ["", *_group_lines(survey, groups)]
    flagged = {name: n for name, (n, _) in survey.flagged.items() if n}
    if flagged:
        lines += ["", "Unlike what the model knows: " + ", ".join(f"{count(n)} {name}" for name, n in flagged.items())]
    if survey.reasons.counts:
        lines += ["", "Not whole, by reason:"]
        kinds = survey.reasons.counts.most_common()
        for (status, stage, error_type), n in kinds[:_MOST_REASONS]:
            clip_id, message = survey.reasons.examples[(status, stage, error_type)][0]
            reason = ": ".join(part for part in (stage, error_type, message) if part)
            lines.append(f"  {n:>9,}  {status}  {printable(reason)}  (such as {printable(clip_id)})")
        if len(kinds) > _MOST_REASONS:
            lines.append(f"  and {len(kinds) - _MOST_REASONS} more kinds; the report has them")
    wall_s = float(run.info.get("wall_s") or 0)
    if wall_s and survey.n_rows:
        lines += ["", f"{clock(wall_s)} on the clock: {survey.n_rows / wall_s:,.1f} files a second."]
    return lines


def _emotion_lines(survey: Survey) -> list[str]:
    from ser_batch.cli.bars import bar_lines  # noqa: PLC0415

    row = survey.overall
    counts = dict(zip(survey.labels, row.counts, strict=True))
    ends = {label: (100 * row.low[i], 100 * row.high[i]) for i, label in enumerate(survey.labels)}
    ranked = sorted(survey.labels, key=lambda label: -row.shares[survey.labels.index(label)])
    bars = bar_lines(dict(zip(survey.labels, row.shares, strict=True)))
    lines = []
    for label, bar in zip(ranked, bars, strict=True):
        low, high = ends[label]
        interval = f"  ({low:.1f} to {high:.1f})" if math.isfinite(low) else ""
        lines.append(f"{bar}  {counts[label]:>9,}{interval}")
    return lines


def _group_lines(survey: Survey, groups: Any) -> list[str]:
    rows = groups.rows()
    width = min(max(len(printable(row.name)) for row in rows[:_MOST_GROUPS]), 32)
    lines = [
        f"  {'By ' + printable(groups.title):<{width}}  {'files':>9}  "
        + "".join(f"{printable(label)[:9]:>10}" for label in survey.labels)
    ]
    for row in rows[:_MOST_GROUPS]:
        shares = "".join(f"{100 * share:>8.1f} %" for share in row.shares)
        lines.append(f"  {printable(row.name)[:width]:<{width}}  {row.n_files:>9,}  {shares}")
    if len(rows) > _MOST_GROUPS:
        lines.append(f"  and {len(rows) - _MOST_GROUPS} more groups; --json and the report have them")
    return lines
