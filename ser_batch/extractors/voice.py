"""Stretches of voice as segments, for recordings of which nobody says who speaks when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ser_batch.hookspecs import hookimpl
from ser_batch.records import Clip, Segment

__all__ = ["FINDER_VERSION", "find_segments"]

#: Raised whenever other stretches are found.
FINDER_VERSION: Final = 1


@hookimpl(trylast=True)
def find_segments(clip: Clip) -> Sequence[Segment]:
    """Find stretches of voice."""
    from ser_batch.extractors.voicing import voice_spans  # noqa: PLC0415 - numba is loaded when first needed

    return [Segment(start_s, end_s, source="voice") for start_s, end_s in voice_spans(clip).tolist()]
