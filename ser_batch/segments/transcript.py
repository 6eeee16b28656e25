"""Reader of transcripts in JSON: Whisper and its kin, WhisperX, whisper.cpp."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ser_batch.errors import DataError
from ser_batch.records import Segment
from ser_batch.tables.table import decoded

__all__ = ["read_transcript"]


def read_transcript(path: Path) -> Iterator[tuple[str, Segment]] | None:
    """Read the segments of a transcript; None where the JSON is about something else.

    They are a list, by itself or as ``segments``, of objects with ``start`` and ``end`` in s, and, where known,
    ``text`` and ``speaker``; whisper.cpp's ``transcription`` has times in ms.

    Raises
    ------
    DataError
        A segment has no times.
    """
    content = json.loads(decoded(path, path.read_bytes())[0])
    if isinstance(content, dict) and isinstance(content.get("transcription"), list):
        return _segments(content["transcription"], _offsets)
    items = content.get("segments") if isinstance(content, dict) else content
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return None
    # A list of other things; one of segments has times in all of them, or is broken.
    if items and not any("start" in item and "end" in item for item in items):
        return None
    return _segments(items, lambda item: (float(item["start"]), float(item["end"])))


def _offsets(item: Any) -> tuple[float, float]:
    return float(item["offsets"]["from"]) / 1000, float(item["offsets"]["to"]) / 1000


def _segments(items: list[Any], times: Callable[[Any], tuple[float, float]]) -> Iterator[tuple[str, Segment]]:
    for number, item in enumerate(items, 1):
        try:
            start_s, end_s = times(item)
        except (KeyError, TypeError, ValueError):
            raise DataError(f"its segment {number} has no times") from None
        speaker, text = item.get("speaker"), item.get("text")
        yield "", Segment(start_s, end_s, 0, *("" if said is None else str(said) for said in (speaker, text)))
