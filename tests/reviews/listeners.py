"""People who answer: a listener with a known ear, so that what an audit must find is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ser_batch.reviews.answers import Answer, AnswerJournal
from ser_batch.reviews.sample import Item, draw_sample, load_sample, save_sample
from ser_batch.run.read import open_run


def listen(folder: Path, hear: Callable[[Item], str], n: int, reviewer: str = "anna", half_width: float = 0.05) -> None:
    """Draw the audit sample of a run, unless it was, and answer its first `n` items."""
    run = open_run(folder)
    sample = load_sample(folder)
    if sample is None:
        sample = draw_sample(run, half_width)
        save_sample(folder, sample)
    run_id = str(run.info["run_id"])
    with AnswerJournal.open(folder, reviewer, run_id) as journal:
        for item in sample.items[:n]:
            journal.append(
                Answer(
                    item.clip_id,
                    item.start_s,
                    item.end_s,
                    hear(item),
                    "audit",
                    item.inclusion_probability,
                    item.model_label,
                    item.model_confidence,
                    6.0,
                    "",
                )
            )
