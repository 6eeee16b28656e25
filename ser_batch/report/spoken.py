"""Who says what, and in which voice: the segments of some recordings, by speaker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ser_batch.report.formats import clock, percent, plural
from ser_batch.run.read import Run
from ser_batch.segments.marked import voices

__all__ = ["spoken"]

_N_RECORDINGS = 6
#: Segments of one recording that are listed.
_MOST_LISTED = 60
#: Segments of one recording that are drawn.
_MOST_DRAWN = 600
_COLUMNS = ("clip_id", "segment_index", "start_s", "end_s", "channel", "speaker", "text", "context_s")


def spoken(run: Run) -> dict[str, Any] | None:
    """Return what the section shows; None where the run has no segments.

    The recordings with the most speakers are shown, of these the ones with the most segments.
    """
    if not run.has_table("segments") or not run.n_rows("segments"):
        return None
    n_segments: Counter[str] = Counter()
    speakers: dict[str, set[str]] = {}
    all_speakers: set[str] = set()
    for rows in run.tables("segments", ["clip_id", "speaker"]):
        counted = rows.group_by(["clip_id", "speaker"]).aggregate([([], "count_all")]).to_pylist()
        for row in counted:
            n_segments[row["clip_id"]] += row["count_all"]
            if row["speaker"]:
                speakers.setdefault(row["clip_id"], set()).add(row["speaker"])
                all_speakers.add(row["speaker"])
    ranked = sorted(n_segments, key=lambda name: (-len(speakers.get(name, ())), -n_segments[name], name))
    chosen = sorted(ranked[:_N_RECORDINGS])
    lead = f"{plural(n_segments.total(), 'segment')} of {plural(len(n_segments), 'recording')}"
    lead += f", {plural(len(all_speakers), 'speaker')} by name." if all_speakers else "."
    if len(n_segments) > len(chosen):
        lead += f" {len(chosen)} recordings are shown, those with the most speakers and segments."
    felt = ("emotion", "confidence") if run.labels else ()
    held = [
        rows
        for rows in run.tables(
            "segments", [*_COLUMNS, *felt], pc.is_in(pc.field("clip_id"), value_set=pa.array(chosen, pa.string()))
        )
        if len(rows)
    ]
    of: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    for row in pa.concat_tables(held).sort_by([("clip_id", "ascending"), ("segment_index", "ascending")]).to_pylist():
        of[row["clip_id"]].append(row)
    return {"lead": lead, "recordings": [_recording(name, rows) for name, rows in of.items()]}


def _recording(clip_id: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    until_s = max(row["end_s"] for row in rows)
    lanes: dict[str, list[dict[str, Any]]] = {}
    voice_of = voices([(row["speaker"], row["channel"]) for row in rows])
    for row, voice in zip(rows[:_MOST_DRAWN], voice_of, strict=False):
        said = f"{clock(row['start_s'])} {row.get('emotion') or ''} {row['text'] or ''}".strip()
        stretch = {
            "at_s": row["start_s"],
            "to_s": row["end_s"],
            "left": f"{100 * row['start_s'] / until_s:.3f}%",
            "width": f"{100 * (row['end_s'] - row['start_s']) / until_s:.3f}%",
            "emotion": row.get("emotion") or "",
            "said": said[:200],
        }
        lanes.setdefault(voice, []).append(stretch)
    listed = [
        {
            "at_s": row["start_s"],
            "to_s": row["end_s"],
            "speaker": voice,
            "text": row["text"] or "",
            "emotion": row.get("emotion") or "",
            "confidence": percent(row["confidence"]) if row.get("confidence") is not None else "",
            "short": bool(row["context_s"]),
        }
        for row, voice in zip(rows[:_MOST_LISTED], voice_of, strict=False)
    ]
    note = f"{plural(len(rows), 'segment')} until {clock(until_s)}"
    if len(rows) > _MOST_LISTED:
        note += f"; the first {_MOST_LISTED} are listed"
    if len(rows) > _MOST_DRAWN:
        note += f", the first {_MOST_DRAWN} drawn"
    return {"clip_id": clip_id, "note": note, "lanes": sorted(lanes.items()), "rows": listed}
