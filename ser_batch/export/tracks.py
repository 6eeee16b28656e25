"""Segments or windows as label tracks: one for each recording."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.atomic import write_atomic
from ser_batch.errors import InputError, RunError
from ser_batch.export.names import TrackNames
from ser_batch.export.track_formats import TRACK_FORMATS, Stretch, Track
from ser_batch.run.read import Run
from ser_batch.run.where import Where
from ser_batch.segments.marked import voices
from ser_batch.text import printable

__all__ = ["TrackTable", "export_tracks", "merged_stretches", "tracks_of"]

#: What tracks are made of.
TrackTable = Literal["windows", "segments"]


def merged_stretches(
    start_s: NDArray[np.float64], end_s: NDArray[np.float64], probabilities: NDArray[np.float64], labels: Sequence[str]
) -> tuple[Stretch, ...]:
    """Turn windows into stretches: neighbours of one emotion become one stretch.

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
    stretches = (
        Stretch(
            float(borders[first]),
            float(borders[last]),
            labels[best[first]],
            float(probabilities[first:last, best[first]].mean()),
        )
        for first, last in zip(firsts, lasts, strict=True)
    )
    return tuple(stretch for stretch in stretches if stretch.end_s > stretch.start_s)


def export_tracks(
    run: Run, file_format: str, folder: Path, where: Where | None = None, table: TrackTable = "windows"
) -> tuple[int, int]:
    """Write a label track for each recording that has windows, or segments, in the tree of the recordings.

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
    table : {"windows", "segments"}
        What the labels are of.

    Returns
    -------
    n_written, n_without : int
        Tracks written; selected files that have none because nothing of them was analysed, or they have no segments.

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
        for track in tracks_of(part, wanted, table):
            path = folder / names.path(track.clip_id)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                # Not flushed one by one: what a power cut takes is written again in a minute.
                write_atomic(path, write(track), flush=False)
            except OSError as error:
                raise InputError(f"{path} cannot be written: {error.strerror}. Give another folder with -o.") from None
            n_written += 1
    return n_written, n_wanted - n_written


def tracks_of(run: Run, wanted: pa.Table, table: TrackTable = "windows") -> Iterator[Track]:
    """Yield the tracks of some recordings in the order in which their windows, or segments, are stored.

    Parameters
    ----------
    run : Run
        An opened run with labels, or a slice of one.
    wanted : pyarrow.Table
        ``clip_id`` and ``duration_s`` of the recordings.
    table : {"windows", "segments"}

    Raises
    ------
    RunError
        A window or segment begins or ends at no time.
    """
    names = wanted.column("clip_id").combine_chunks()
    durations_s = pc.fill_null(wanted.column("duration_s"), float("nan")).to_numpy()
    durations_s = np.where(np.isfinite(durations_s), durations_s, np.nan)
    made = str(run.info.get("root") or ""), str(run.info.get("updated") or "")

    def track(rows: pa.Table) -> Track:
        place = rows.column("place")[0].as_py()
        if table == "segments":
            stretches = _said(rows)
            return Track(names[place].as_py(), float(durations_s[place]), stretches, *made, is_spoken=True)
        channels = _by_channel(rows)
        if len(channels) > 1:
            parts = [(number, track(part).stretches) for number, part in channels.items()]
            named = (replace(s, channel=n, speaker=f"channel {n}") for n, part in parts for s in part)
            stretches = tuple(sorted(named, key=lambda stretch: stretch.start_s))
            return Track(names[place].as_py(), float(durations_s[place]), stretches, *made, is_spoken=True)
        start_s, end_s = rows.column("start_s").to_numpy(), rows.column("end_s").to_numpy().copy()
        # The last window is padded, so it ends after the audio does.
        end_s[-1] = np.fmin(end_s[-1], durations_s[place])
        columns = [rows.column(f"p_{label}").to_numpy() for label in run.labels]
        # Names come from a model; no format has a place for control characters.
        labels = [printable(label) for label in run.labels]
        stretches = merged_stretches(start_s, end_s, np.column_stack(columns).astype(np.float64), labels)
        return Track(names[place].as_py(), float(end_s[-1]), stretches, *made)

    split = ["channel"] if "channel" in run.schema("windows").names else []
    of_windows = [*split, "start_s", "end_s", *(f"p_{label}" for label in run.labels)]
    columns = of_windows if table == "windows" else list(_SAID)
    held: pa.Table | None = None
    for some in run.tables(table, ["clip_id", *columns]):
        place = pc.index_in(some.column("clip_id"), value_set=names)
        rows = some.append_column("place", place).filter(pc.is_valid(place))
        if not all(np.isfinite(rows.column(name).to_numpy()).all() for name in ("start_s", "end_s")):
            raise RunError(f"{run.folder / table} holds a time that is none. Scan again, into a new run.")
        rows = rows if held is None else pa.concat_tables([held, rows]).combine_chunks()
        # The last recording may go on in the next table.
        *whole, held = _by_place(rows) if len(rows) else [None]
        yield from map(track, whole)
    if held is not None:
        yield track(held)


#: Columns of segments that tracks are made of.
_SAID = ("start_s", "end_s", "channel", "speaker", "text", "emotion", "confidence")


def _said(rows: pa.Table) -> tuple[Stretch, ...]:
    """Return the segments of one recording."""
    said = rows.select(list(_SAID)).to_pylist()
    return tuple(
        Stretch(
            row["start_s"],
            row["end_s"],
            printable(row["emotion"] or ""),
            float("nan") if row["confidence"] is None else row["confidence"],
            printable(voice),
            printable(row["text"] or ""),
            row["channel"] or 1,
        )
        for row, voice in zip(said, voices([(row["speaker"], row["channel"]) for row in said]), strict=True)
    )


def _by_channel(rows: pa.Table) -> dict[int, pa.Table]:
    """Return the windows of each channel; all as those of 0 where the channels were mixed."""
    if "channel" not in rows.column_names or rows.column("channel").null_count:
        return {0: rows}
    numbers = rows.column("channel").unique().to_pylist()
    return {number: rows.filter(pc.equal(rows.column("channel"), number)) for number in numbers}


def _by_place(rows: pa.Table) -> list[pa.Table]:
    """Cut rows where the recording changes."""
    firsts = [0, *(np.flatnonzero(np.diff(rows.column("place").to_numpy())) + 1).tolist()]
    return [rows.slice(a, b - a) for a, b in zip(firsts, [*firsts[1:], len(rows)], strict=True)]
