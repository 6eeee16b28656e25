"""Windows as label tracks, in the formats of Audacity, Praat, ELAN and diarisation tools (RTTM)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.errors import RunError
from ser_batch.run.read import Run
from ser_batch.text import printable

__all__ = ["TRACK_FORMATS", "Segment", "Track", "merged_segments", "track_path", "tracks_of"]

#: Longest file name, in bytes, on the file systems of today.
_LONGEST_NAME_BYTES = 255


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording with one emotion."""

    start_s: float
    end_s: float
    emotion: str
    #: Mean probability of the emotion over the windows of the stretch.
    probability: float


@dataclass(frozen=True)
class Track:
    """The segments of one recording: without gaps, from 0 to its end."""

    clip_id: str
    duration_s: float
    segments: tuple[Segment, ...]
    #: Folder that holds the recording of this clip_id; "" where unknown.
    root: str = ""
    #: When the run was last written, ISO 8601.
    date: str = ""


def merged_segments(
    start_s: NDArray[np.float64], end_s: NDArray[np.float64], probabilities: NDArray[np.float64], labels: Sequence[str]
) -> tuple[Segment, ...]:
    """Turn windows into segments: neighbours of one emotion become one segment.

    Where windows overlap, the border between two lies midway between their centres; where they follow each other, this
    is where one ends and the next begins.

    Parameters
    ----------
    start_s, end_s : (n_windows,)
        In ascending order; `end_s` of the last window already cut to the end of the audio.
    probabilities : (n_windows, n_labels)
    labels : sequence of str
        Names of the columns of `probabilities`.
    """
    if not len(start_s):
        return ()
    centres = (start_s + np.append(end_s[:-1], start_s[-1] + (end_s - start_s).max())) / 2
    borders = np.concatenate([start_s[:1], (centres[:-1] + centres[1:]) / 2, end_s[-1:]])
    # Audio that ends within the first half of a last, overlapping window leaves nothing for it.
    borders = np.minimum(borders, end_s[-1])
    best = probabilities.argmax(axis=1)
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(best)) + 1])
    lasts = np.append(firsts[1:], len(best))
    segments = (
        Segment(
            float(borders[first]),
            float(borders[last]),
            labels[best[first]],
            float(probabilities[first:last, best[first]].mean()),
        )
        for first, last in zip(firsts, lasts, strict=True)
    )
    return tuple(segment for segment in segments if segment.end_s > segment.start_s)


def tracks_of(run: Run, wanted: pa.Table) -> Iterator[Track]:
    """Yield the tracks of some recordings in the order in which their windows are stored, in flat memory.

    Parameters
    ----------
    run : Run
        An opened run with labels.
    wanted : pyarrow.Table
        ``clip_id`` and ``duration_s`` of the recordings.
    """
    names = wanted.column("clip_id").combine_chunks()
    durations_s = pc.fill_null(wanted.column("duration_s"), float("nan")).to_numpy()
    columns = ["clip_id", "start_s", "end_s", *(f"p_{label}" for label in run.labels)]
    made = str(run.info.get("root") or ""), str(run.info.get("updated") or "")
    held: pa.Table | None = None
    for table in run.tables("windows", columns):
        rows = table.filter(pc.is_in(table.column("clip_id"), value_set=names))
        rows = rows if held is None else pa.concat_tables([held, rows]).combine_chunks()
        *whole, held = _by_clip(rows) if len(rows) else [None]
        for part in whole:
            yield _track(part, names, durations_s, run.labels, made)
    if held is not None and len(held):
        yield _track(held, names, durations_s, run.labels, made)


def _by_clip(rows: pa.Table) -> list[pa.Table]:
    """Cut rows where clip_id changes; the last piece may go on in the next table."""
    names = rows.column("clip_id").combine_chunks()
    changes = np.flatnonzero(pc.not_equal(names[:-1], names[1:]).to_numpy(zero_copy_only=False)) + 1
    firsts = [0, *changes.tolist()]
    return [rows.slice(a, b - a) for a, b in zip(firsts, [*firsts[1:], len(rows)], strict=True)]


def _track(
    rows: pa.Table, names: pa.Array, durations_s: NDArray[np.float64], labels: Sequence[str], made: tuple[str, str]
) -> Track:
    clip_id = rows.column("clip_id")[0].as_py()
    start_s, end_s = rows.column("start_s").to_numpy(), rows.column("end_s").to_numpy().copy()
    duration_s = float(durations_s[pc.index(names, clip_id).as_py()])
    # The last window is padded, so it ends after the audio does.
    end_s[-1] = np.fmin(end_s[-1], duration_s)
    probabilities = np.column_stack([rows.column(f"p_{label}").to_numpy() for label in labels]).astype(np.float64)
    return Track(clip_id, float(end_s[-1]), merged_segments(start_s, end_s, probabilities, labels), *made)


def track_path(folder: Path, clip_id: str, suffix: str) -> Path:
    """Return where the track of a recording goes: the same tree, the whole name of the recording, and the suffix.

    Raises
    ------
    RunError
        The clip_id leads out of `folder`; only a run that was tampered with holds such a name.
    """
    parts = clip_id.split("/")
    if clip_id.startswith("/") or ".." in parts or "\0" in clip_id:
        raise RunError(
            f"The run names a recording {printable(clip_id)!r}, which lies outside of its folder: not exported."
        )
    name = parts[-1]
    room = _LONGEST_NAME_BYTES - len(suffix)
    if len(name.encode()) > room:
        mark = f"~{zlib.crc32(name.encode()):08x}"
        name = name.encode()[: room - len(mark)].decode(errors="ignore") + mark
    return folder.joinpath(*parts[:-1], name + suffix)


def _audacity(track: Track) -> str:
    """Label track: start, end and text, separated by tabs (Audacity manual, Importing and Exporting Labels)."""
    return "".join(f"{s.start_s:.6f}\t{s.end_s:.6f}\t{s.emotion}\n" for s in track.segments)


def _textgrid(track: Track) -> str:
    """Long TextGrid with two interval tiers, emotion and mean probability (Praat manual, TextGrid file formats)."""
    tiers = (
        ("emotion", [s.emotion for s in track.segments]),
        ("probability", [f"{s.probability:.3f}" for s in track.segments]),
    )
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {track.duration_s:.6f}"]
    lines += ["tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    for number, (name, texts) in enumerate(tiers, 1):
        lines += [
            f"    item [{number}]:",
            '        class = "IntervalTier"',
            f'        name = "{name}"',
            "        xmin = 0",
        ]
        lines += [f"        xmax = {track.duration_s:.6f}", f"        intervals: size = {len(texts)}"]
        for place, (segment, text) in enumerate(zip(track.segments, texts, strict=True), 1):
            quoted = text.replace('"', '""')
            lines += [
                f"        intervals [{place}]:",
                f"            xmin = {segment.start_s:.6f}",
                f"            xmax = {segment.end_s:.6f}",
                f'            text = "{quoted}"',
            ]
    return "\n".join(lines) + "\n"


def _rttm(track: Track) -> str:
    """NIST RTTM: one line a segment, the emotion as speaker type and its mean probability as confidence."""
    # Fields are separated by blanks, so blanks in names are percent-encoded.
    name = re.sub(r"\s", lambda match: quote(match.group()), track.clip_id)
    return "".join(
        f"SPEAKER {name} 1 {s.start_s:.3f} {s.end_s - s.start_s:.3f} <NA> <NA> "
        f"{re.sub(r'[^!-~]', '_', s.emotion)} {s.probability:.3f} <NA>\n"
        for s in track.segments
    )


def _elan(track: Track) -> str:
    """ELAN annotation format 3.0: one tier of aligned annotations; times are whole milliseconds."""
    document = ET.Element(
        "ANNOTATION_DOCUMENT",
        AUTHOR="ser-batch",
        DATE=track.date or "1970-01-01T00:00:00+00:00",
        FORMAT="3.0",
        VERSION="3.0",
    )
    document.set("xmlns:xsi", "http://www.w3.org/2001/XMLSchema-instance")
    document.set("xsi:noNamespaceSchemaLocation", "http://www.mpi.nl/tools/elan/EAFv3.0.xsd")
    header = ET.SubElement(document, "HEADER", MEDIA_FILE="", TIME_UNITS="milliseconds")
    if track.root:
        url = f"file://{quote(f'{track.root}/{track.clip_id}')}"
        ET.SubElement(header, "MEDIA_DESCRIPTOR", MEDIA_URL=url, MIME_TYPE="unknown", RELATIVE_MEDIA_URL="")
    order = ET.SubElement(document, "TIME_ORDER")
    tier = ET.SubElement(document, "TIER", LINGUISTIC_TYPE_REF="emotion", TIER_ID="emotion")
    for number, segment in enumerate(track.segments, 1):
        slots = [f"ts{2 * number - 1}", f"ts{2 * number}"]
        for slot, time_s in zip(slots, (segment.start_s, segment.end_s), strict=True):
            ET.SubElement(order, "TIME_SLOT", TIME_SLOT_ID=slot, TIME_VALUE=str(round(time_s * 1000)))
        annotation = ET.SubElement(
            ET.SubElement(tier, "ANNOTATION"), "ALIGNABLE_ANNOTATION", ANNOTATION_ID=f"a{number}"
        )
        annotation.set("TIME_SLOT_REF1", slots[0])
        annotation.set("TIME_SLOT_REF2", slots[1])
        ET.SubElement(annotation, "ANNOTATION_VALUE").text = segment.emotion
    kind = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": "emotion", "TIME_ALIGNABLE": "true"}
    ET.SubElement(document, "LINGUISTIC_TYPE", kind)
    ET.indent(document)
    return ET.tostring(document, encoding="unicode", xml_declaration=True) + "\n"


#: Format -> (suffix, writer).
TRACK_FORMATS: dict[str, tuple[str, Callable[[Track], str]]] = {
    "audacity": (".txt", _audacity),
    "elan": (".eaf", _elan),
    "textgrid": (".TextGrid", _textgrid),
    "rttm": (".rttm", _rttm),
}
