"""Windows as label tracks, in the formats of Audacity, Praat, ELAN and diarisation tools (RTTM)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.atomic import write_atomic
from ser_batch.errors import InputError, RunError
from ser_batch.export.names import TrackNames
from ser_batch.run.read import Run
from ser_batch.run.where import Where
from ser_batch.text import printable

__all__ = ["TRACK_FORMATS", "Segment", "Track", "export_tracks", "merged_segments", "tracks_of"]


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


def export_tracks(run: Run, file_format: str, folder: Path, where: Where | None = None) -> tuple[int, int]:
    """Write a label track for each recording that has windows, in the tree of the recordings.

    Parameters
    ----------
    run : Run
        An opened run.
    file_format : str
        One of `TRACK_FORMATS`.
    folder : Path
        Made where it does not exist; tracks of an earlier export are replaced.
    where : optional
        Recordings to export, as for `ser_batch.load_results`.

    Returns
    -------
    n_written, n_without : int
        Tracks written; selected files that have none because nothing of them was analysed.

    Raises
    ------
    RunError
        The run has no labels, a condition cannot be used, or a name leads out of `folder`.
    InputError
        A track cannot be written.
    """
    if not run.labels:
        raise RunError(f"{run.folder} was scanned without a model, so it has no emotions to export as tracks.")
    suffix, write = TRACK_FORMATS[file_format]
    stored = (table.column("clip_id").to_pylist() for table in run.tables("files", ["clip_id"]))
    names = TrackNames(chain.from_iterable(stored), suffix)
    n_wanted = n_written = 0
    for part in run.slices():
        wanted = part.read("files", ["clip_id", "duration_s"], where=where)
        n_wanted += len(wanted)
        for track in tracks_of(part, wanted):
            path = folder / names.path(track.clip_id)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Not flushed one by one: what a power cut takes is written again in a minute.
                write_atomic(path, write(track), flush=False)
            except OSError as error:
                raise InputError(f"{path} cannot be written: {error.strerror}. Give another folder with -o.") from None
            n_written += 1
    return n_written, n_wanted - n_written


def tracks_of(run: Run, wanted: pa.Table) -> Iterator[Track]:
    """Yield the tracks of some recordings in the order in which their windows are stored.

    Parameters
    ----------
    run : Run
        An opened run with labels, or a slice of one.
    wanted : pyarrow.Table
        ``clip_id`` and ``duration_s`` of the recordings.
    """
    names = wanted.column("clip_id").combine_chunks()
    durations_s = pc.fill_null(wanted.column("duration_s"), float("nan")).to_numpy()
    # Names come from a model; no format has a place for control characters.
    labels = [printable(label) for label in run.labels]
    made = str(run.info.get("root") or ""), str(run.info.get("updated") or "")

    def track(rows: pa.Table) -> Track:
        place = rows.column("place")[0].as_py()
        start_s, end_s = rows.column("start_s").to_numpy(), rows.column("end_s").to_numpy().copy()
        # The last window is padded, so it ends after the audio does.
        end_s[-1] = np.fmin(end_s[-1], durations_s[place])
        columns = [rows.column(f"p_{label}").to_numpy() for label in run.labels]
        segments = merged_segments(start_s, end_s, np.column_stack(columns).astype(np.float64), labels)
        return Track(names[place].as_py(), float(end_s[-1]), segments, *made)

    held: pa.Table | None = None
    for table in run.tables("windows", ["clip_id", "start_s", "end_s", *(f"p_{label}" for label in run.labels)]):
        place = pc.index_in(table.column("clip_id"), value_set=names)
        rows = table.append_column("place", place).filter(pc.is_valid(place))
        rows = rows if held is None else pa.concat_tables([held, rows]).combine_chunks()
        # The last recording may go on in the next table.
        *whole, held = _by_place(rows) if len(rows) else [None]
        yield from map(track, whole)
    if held is not None:
        yield track(held)


def _by_place(rows: pa.Table) -> list[pa.Table]:
    """Cut rows where the recording changes."""
    firsts = [0, *(np.flatnonzero(np.diff(rows.column("place").to_numpy())) + 1).tolist()]
    return [rows.slice(a, b - a) for a, b in zip(firsts, [*firsts[1:], len(rows)], strict=True)]


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
    # Fields are separated by blanks, so blanks in names are percent-encoded, and what would read as one.
    name = re.sub(r"[\s%]", lambda match: quote(match.group()), track.clip_id)
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
