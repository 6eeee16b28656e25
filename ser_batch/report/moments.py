"""One pass over the windows table: where in a recording its emotion is strongest, and how it changes over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ser_batch.run.read import Run

__all__ = ["Moments", "Timeline", "find_moments"]

_N_LONGEST = 3
_N_EVENTFUL = 3
#: Of a recording whose channels were split, so many are drawn.
_MOST_CHANNELS = 4

#: A timeline with more windows is averaged down to this many steps.
MOST_STEPS = 180


@dataclass(frozen=True, eq=False)
class Timeline:
    """The emotions of one long recording, or of one channel of it."""

    clip_id: str
    #: From 1; 0 where channels are not told apart.
    channel: int
    #: How many channels have windows; 1 where they are not told apart.
    n_channels: int
    #: Why it is shown: "longest" or "most eventful".
    reason: str
    duration_s: float
    #: Times at which the most probable emotion changes.
    n_changes: int
    #: Start and end of each step in s, (n_steps, 2).
    steps_s: NDArray[np.float64]
    #: Mean probability of each label in each step, (n_steps, n_labels).
    probabilities: NDArray[np.float64]
    #: Windows averaged in a step, 1 where the windows themselves are shown.
    windows_per_step: int
    #: For each label the time of its most probable window and that probability.
    peaks: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Moments:
    """What one pass over the windows table found."""

    #: clip_id -> start in s of the window in which the file's emotion is most probable.
    strongest_s: dict[str, float]
    timelines: list[Timeline]


def find_moments(run: Run, rows: Sequence[dict[str, Any]], longest: Sequence[dict[str, Any]]) -> Moments:
    """Find the strongest moment of some files, and the timelines worth showing.

    Parameters
    ----------
    run : Run
        An opened run.
    rows : sequence of dict
        Files (``clip_id``, ``emotion``) whose strongest moment is wanted.
    longest : sequence of dict
        The longest recordings (``clip_id``, ``duration_s``), the longest first: whose timelines may be shown.
    """
    durations_s = {row["clip_id"]: row["duration_s"] for row in longest}
    labels = run.labels
    label_index = {label: i for i, label in enumerate(labels)}
    wanted = {row["clip_id"]: label_index[row["emotion"]] for row in rows if row["emotion"] in label_index}
    if not (wanted or durations_s):
        return Moments({}, [])
    names = pa.array([*wanted, *(name for name in durations_s if name not in wanted)], pa.string())
    emotions = np.asarray([wanted.get(name, -1) for name in names.to_pylist()])
    best = np.full(len(names), -1.0)
    best_s = np.zeros(len(names))
    held: dict[str, list[pa.Table]] = {name: [] for name in durations_s}
    split = ["channel"] if "channel" in run.schema("windows").names else []
    columns = ["clip_id", "start_s", "end_s", *split, *(f"p_{label}" for label in labels)]
    for table in run.tables("windows", columns):
        place = pc.index_in(table.column("clip_id"), value_set=names)
        known = pc.is_valid(place)
        part = table.filter(known)
        if not len(part):
            continue
        _keep_best(part, np.asarray(pc.drop_null(place)), emotions, best, best_s)
        long_ones = part.filter(pc.is_in(part.column("clip_id"), pa.array(durations_s, pa.string())))
        for name in long_ones.column("clip_id").unique():
            held[name.as_py()].append(long_ones.filter(pc.equal(long_ones.column("clip_id"), name)))
    strongest = {name: float(best_s[i]) for i, name in enumerate(names.to_pylist()) if best[i] >= 0}
    return Moments(strongest, _choose(held, durations_s))


def _keep_best(
    part: pa.Table,
    place: NDArray[np.int64],
    emotions: NDArray[np.int64],
    best: NDArray[np.float64],
    best_s: NDArray[np.float64],
) -> None:
    """Raise `best` and set `best_s` where this part holds a more probable window of the file's emotion."""
    probabilities = _matrix(part)
    emotion = emotions[place]
    value = np.where(emotion >= 0, probabilities[np.arange(len(place)), np.maximum(emotion, 0)], -1.0)
    start_s = part.column("start_s").to_numpy()
    # The last write wins: in ascending order, the best window of each file comes last, the earliest among equals.
    order = np.lexsort((-start_s, value))
    found = np.full(len(best), -1.0)
    found_s = np.zeros(len(best))
    found[place[order]] = value[order]
    found_s[place[order]] = start_s[order]
    better = found > best
    best[better] = found[better]
    best_s[better] = found_s[better]


def _matrix(table: pa.Table) -> NDArray[np.float64]:
    names = [name for name in table.column_names if name.startswith("p_")]
    return np.column_stack([table.column(name).to_numpy().astype(np.float64) for name in names])


def _choose(held: dict[str, list[pa.Table]], durations_s: dict[str, float | None]) -> list[Timeline]:
    tables = {name: _by_channel(pa.concat_tables(parts)) for name, parts in held.items() if parts}
    n_changes = {name: sum(map(_n_changes, channels.values())) for name, channels in tables.items()}
    longest = list(tables)[:_N_LONGEST]
    eventful = sorted((name for name in tables if name not in longest), key=lambda name: (-n_changes[name], name))
    chosen = [(name, "longest") for name in longest]
    chosen += [(name, "most eventful") for name in eventful[:_N_EVENTFUL] if n_changes[name] > 0]
    return [
        _timeline((name, channel, len(tables[name])), reason, table, durations_s[name])
        for name, reason in chosen
        for channel, table in list(tables[name].items())[:_MOST_CHANNELS]
    ]


def _by_channel(windows: pa.Table) -> dict[int, pa.Table]:
    """Return the windows of each channel in the order of time; under 0 those of a recording that was not split."""
    windows = windows.sort_by("start_s")
    if "channel" not in windows.column_names:
        return {0: windows}
    channel = pc.fill_null(windows.column("channel"), 0)
    return {number: windows.filter(pc.equal(channel, number)) for number in sorted(channel.unique().to_pylist())}


def _n_changes(windows: pa.Table) -> int:
    return int(np.count_nonzero(np.diff(_matrix(windows).argmax(axis=1))))


def _timeline(which: tuple[str, int, int], reason: str, table: pa.Table, duration_s: float | None) -> Timeline:
    """Make the timeline of `which`: a recording, a channel of it, and how many channels it has."""
    probabilities = _matrix(table)
    start_s, end_s = table.column("start_s").to_numpy(), table.column("end_s").to_numpy()
    peaks = probabilities.argmax(axis=0)
    per_step = -(-len(table) // MOST_STEPS)
    first = np.arange(0, len(table), per_step)
    last = np.minimum(first + per_step, len(table)) - 1
    # Windows may overlap: a step ends where the next one begins.
    ends_s = np.append(start_s[first[1:]], end_s[last[-1]])
    return Timeline(
        clip_id=which[0],
        channel=which[1],
        n_channels=which[2],
        reason=reason,
        # The last window is padded: it ends after the audio does.
        duration_s=float(np.fmin(end_s[-1], np.nan if duration_s is None else duration_s)),
        n_changes=_n_changes(table),
        steps_s=np.column_stack([start_s[first], ends_s]),
        probabilities=np.stack([probabilities[a : b + 1].mean(axis=0) for a, b in zip(first, last, strict=True)]),
        windows_per_step=per_step,
        peaks=tuple((float(start_s[row]), float(probabilities[row, i])) for i, row in enumerate(peaks)),
    )
