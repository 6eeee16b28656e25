"""The section "How right are these labels?": what listeners answered, once some did."""

from __future__ import annotations

import math
from typing import Any

from ser_batch.errors import DataError, RunError
from ser_batch.report import charts
from ser_batch.report.formats import count, percent
from ser_batch.reviews.answers import read_answers
from ser_batch.reviews.audit import Audit, audit_run
from ser_batch.reviews.estimates import Estimate
from ser_batch.reviews.words import agreement_text, points_text, progress_text, threshold_text
from ser_batch.run.read import Run

__all__ = ["rightness_of"]


def rightness_of(run: Run) -> dict[str, Any] | None:
    """Return what the section shows; None where nobody has answered. What cannot be said is said in ``problem``."""
    try:
        if not run.labels or not read_answers(run.folder).answers:
            return None
        audit = audit_run(run)
    except (DataError, RunError) as error:
        return {"problem": str(error)}
    return {
        "problem": "",
        "notices": audit.notices,
        "lead": f"{count(audit.n_answers)} of {count(audit.n_units)} labelled {audit.unit} were drawn at random and "
        f"heard by {', '.join(audit.reviewers)}. Each figure stands for all of them, with its 95 % interval.",
        "tiles": [
            {"name": "Labels that are right", "value": percent(audit.accuracy.value), "note": _ends(audit.accuracy)},
            {"name": "Mean recall of the emotions", "value": percent(audit.uar.value), "note": _ends(audit.uar)},
            {"name": "Confidence", "value": points_text(audit.overconfidence), "note": _meaning(audit)},
        ],
        "sentences": [
            threshold_text(audit),
            progress_text(audit),
            *([agreement_text(audit.agreement)] if audit.agreement else []),
        ],
        "chart": charts.shares_chart(audit.labels, audit.shares),
        "caption": "Dots: the share that listeners would give each answer, by prediction-powered inference, with its "
        "95 % interval. Bars: the share that the model gave it, with all that it gets wrong.",
        "shares": [
            [item.answer, percent(item.predicted) if item.answer in audit.labels else "no label", _cell(item.share)]
            for item in audit.shares
        ],
        "scores": [[score.label, _cell(score.precision), _cell(score.recall)] for score in audit.scores],
        "confusion_header": ["heard as", *audit.labels],
        "confusion": [
            [truth, *(_cell(row[label]) for label in audit.labels)] for truth, row in audit.confusion.items()
        ],
        "reliability": [
            [f"{percent(item.low)} to {percent(item.high)}", percent(item.confidence), _cell(item.accuracy)]
            for item in audit.reliability
        ],
        "groups": [[group.title, group.name, _cell(group.accuracy)] for group in audit.groups],
    }


def _ends(estimate: Estimate) -> str:
    return f"{percent(estimate.low)} to {percent(estimate.high)}" if math.isfinite(estimate.low) else "no answers"


def _cell(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "no answers"
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


def _meaning(audit: Audit) -> str:
    if abs(audit.overconfidence) < audit.accuracy.half_width:
        return "as high as labels are right, as far as is known"
    return "higher than labels are right" if audit.overconfidence > 0 else "lower than labels are right"
