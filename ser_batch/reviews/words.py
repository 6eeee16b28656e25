"""Sentences about an audit, for the terminal and the report."""

from __future__ import annotations

import math

from ser_batch.reviews.agreement import Agreement
from ser_batch.reviews.audit import Audit

__all__ = ["agreement_text", "points_text", "progress_text", "threshold_text"]


def points_text(difference: float) -> str:
    """Return a difference of shares in whole points with its sign; nothing where it is undefined."""
    if math.isnan(difference):
        return ""
    return f"{round(100 * difference):+d} points".replace("+0 ", "0 ")


def threshold_text(audit: Audit) -> str:
    """Say which labels to keep so that as many as wanted are right."""
    found = audit.threshold
    ends = f"(95 % interval {_percent(found.accuracy.low)} to {_percent(found.accuracy.high)})"
    if math.isnan(found.confidence):
        if math.isnan(found.accuracy.value):
            return f"No confidence is known above which {_percent(found.target)} of labels are right."
        return (
            f"No confidence is high enough for {_percent(found.target)} of labels to be right: of the surest fifth, "
            f"{_percent(found.accuracy.value)} are {ends}."
        )
    if found.confidence == 0:
        return f"{_percent(found.target)} of labels are right without setting any aside {ends}."
    return (
        f"Keep what is above {_share(found.confidence)} to be right in {_percent(found.target)} of cases {ends}: that "
        f"leaves {_percent(found.kept)} of {audit.unit}."
    )


def progress_text(audit: Audit) -> str:
    """Say what more answers would give."""
    now = 100 * audit.accuracy.half_width
    n_more = audit.n_for_fine - audit.n_answers
    if n_more <= 0:
        return f"Known to within ±{now:.1f} points."
    minutes = max(round(n_more * audit.time_s / 60), 1)
    time = f", about {minutes} minutes at your pace" if audit.time_s > 0 else ""
    return f"Known to within ±{now:.1f} points; ±3 need {audit.n_for_fine:,} answers, {n_more:,} more{time}."


def agreement_text(agreement: Agreement) -> str:
    """Say how far reviewers agree."""
    names = " and ".join([", ".join(agreement.reviewers[:-1]), agreement.reviewers[-1]])
    both = f"{names} heard the same {agreement.n_clips} clips" if agreement.n_clips > 1 else f"{names} share one clip"
    if agreement.note:
        return f"{both}: {agreement.note}."
    return (
        f"{both}; Krippendorff's alpha is {_share(agreement.alpha)} ({_share(agreement.low)} to "
        f"{_share(agreement.high)}), 1 being full agreement. No label can be righter than that."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _share(value: float) -> str:
    return f"{value:.2f}".replace("0.", ".", 1)
