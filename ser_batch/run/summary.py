"""What a scan comes to, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ser_batch.audio.formats import PYAV
from ser_batch.errors import ExitCode
from ser_batch.kinds import is_count, is_number, is_text, object_of
from ser_batch.records import Status

if TYPE_CHECKING:
    import pyarrow as pa

    from ser_batch.run.store import RunStore

__all__ = ["RunSummary", "are_sums", "gaps_of", "summarise", "sums_of"]


@dataclass(frozen=True)
class RunSummary:
    """The state of a run after a scan.

    Attributes
    ----------
    run_dir : Path or str
        Its folder, or the address of one in a bucket.
    counts : mapping
        found, ok, partial, skipped, failed, vanished, hidden_skipped, unmatched, system_skipped and unlisted (folders),
        segments and with_segments (files that have any).
        The four of status add up to the rows, found and vanished too.
    emotions : mapping
        Emotion -> files, of the files that were found.
    failures : mapping
        Reason (stage and error type) -> files, of the files that were found.
    gaps : sequence of str
        See `gaps_of`.
    n_processed : int
        Files that this scan worked on.
    audio_s, wall_s : float
        Audio of all rows; time spent on the run by all scans together.
    has_report : bool
        Whether a report was built of what it is now; of a run on a disk its folder says so, too.
    doubts : tuple of str
        What speaks against the labels, one line each.
    """

    run_dir: Path | str
    run_id: str
    counts: Mapping[str, int]
    emotions: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    gaps: Sequence[str] = ()
    n_processed: int = 0
    audio_s: float = 0.0
    wall_s: float = 0.0
    doubts: tuple[str, ...] = ()
    has_report: bool = False

    @property
    def exit_code(self) -> ExitCode:
        is_short = self.failures or self.counts.get("unlisted")
        return ExitCode.SOME_FILES_FAILED if is_short else ExitCode.OK


def gaps_of(manifest: Mapping[str, Any]) -> list[str]:
    """Say what a run lacks that its scan could not look into, one sentence each, by its ``run.json``."""
    gaps = []
    n_unlisted, unlisted = manifest.get("counts", {}).get("unlisted", 0), manifest.get("unlisted")
    if n_unlisted and unlisted:
        folders = "1 folder" if n_unlisted == 1 else f"{n_unlisted:,} folders"
        gaps.append(f"{folders} could not be listed, so what they hold is missing here; the first is {unlisted[0]}.")
    if waiting := manifest.get("needs_media"):
        suffixes = ", ".join(f"{n_files:,} {suffix or 'without suffix'}" for suffix, n_files in waiting.items())
        gaps.append(
            f'Skipped for want of PyAV: {suffixes}. pip install "ser-batch[media]" reads them; the same scan then '
            f"takes them up."
        )
    return gaps


#: What the sums of a part hold: name -> files, but for ``totals``.
_SUMS = ("statuses", "emotions", "failures", "needs_media", "totals")


def sums_of(table: pa.Table) -> dict[str, dict[str, Any]]:
    """Count what one part has, by its table ``files``: small, and all that a summary of the run needs of it.

    Returns
    -------
    sums : dict
        statuses of all rows; emotions, failures and needs_media of the files that were found; and totals: vanished,
        segments, with_segments, duration_s, and the columns of times. What is 0 is left out.
    """
    import pyarrow as pa  # noqa: PLC0415 - not needed to hold a summary
    import pyarrow.compute as pc  # noqa: PLC0415

    from ser_batch.run.columns import as_column  # noqa: PLC0415
    from ser_batch.run.schema import TIMING_COLUMNS  # noqa: PLC0415

    # Not as Python values, which would cost the import of pandas.
    none, pyav = as_column([0], pa.int32())[0], as_column([PYAV], pa.string())[0]
    sums: dict[str, Counter[str]] = {name: Counter() for name in _SUMS}
    totals = sums["totals"]
    sums["statuses"].update(table.column("status").to_pylist())
    present = table.filter(pc.invert(table.column("vanished")))
    ends = [present.column(name).to_pylist() for name in ("status", "stage", "error_type")]
    reasons = (f"{stage}: {error}" for status, stage, error in zip(*ends, strict=True) if status == "failed")
    sums["failures"].update(reasons)
    if "reader" in table.column_names:
        waiting = present.filter(pc.equal(present.column("reader"), pyav)).column("clip_id").to_pylist()
        sums["needs_media"].update(PurePosixPath(clip_id).suffix.lower() for clip_id in waiting)
    totals["vanished"] += pc.sum(table.column("vanished")).as_py() or 0
    if "n_segments" in table.column_names:
        counted = pc.fill_null(present.column("n_segments"), none)
        totals["segments"] += pc.sum(counted).as_py() or 0
        totals["with_segments"] += pc.sum(pc.greater(counted, none)).as_py() or 0
    for name in ("duration_s", *TIMING_COLUMNS):
        totals[name] += round(pc.sum(table.column(name)).as_py() or 0, 6)
    if "emotion" in table.column_names:
        sums["emotions"].update(emotion for emotion in present.column("emotion").to_pylist() if emotion)
    # Each commit holds them, and is sent or read with thousands of others.
    told = {name: {key: value for key, value in counts.items() if value} for name, counts in sums.items()}
    return {name: counts for name, counts in told.items() if counts}


def are_sums(value: Any) -> bool:
    """Tell whether a value out of a journal is what `sums_of` returns."""
    if not isinstance(value, dict) or value.keys() - set(_SUMS):
        return False
    holds = {name: is_number if name == "totals" else is_count for name in _SUMS}
    return all(object_of(holds[name])(counts) and all(map(is_text, counts)) for name, counts in value.items())


def summarise(store: RunStore, labels: tuple[str, ...]) -> dict[str, Any]:
    """Count what a run has, from its committed parts alone: by what the journal says of each, if it does.

    Returns
    -------
    totals : dict
        counts, emotions, failures as in `RunSummary`; needs_media (suffix -> files that PyAV would read); audio_s;
        stage_s (processing time per stage, all files).
    """
    from ser_batch.run.schema import TIMING_COLUMNS  # noqa: PLC0415 - loads pyarrow

    columns = (
        "status",
        "stage",
        "error_type",
        "vanished",
        "clip_id",
        "reader",
        "duration_s",
        "n_segments",
        *TIMING_COLUMNS,
        *(["emotion"] if labels else []),
    )
    sums: dict[str, Counter[str]] = {name: Counter() for name in _SUMS}
    for part, entry in sorted(store.entries.items()):
        own = entry.sums or sums_of(store.some("files", part, columns))
        for name, counts in own.items():
            for key, value in counts.items():
                sums[name][key] += value
    statuses, emotions, failures, needs_media, totals = (sums[name] for name in _SUMS)
    return {
        "counts": {
            **{str(status): statuses[status] for status in Status},
            **{name: totals[name] for name in ("vanished", "segments", "with_segments")},
        },
        "emotions": {label: emotions[label] for label in labels},
        "failures": dict(failures.most_common()),
        "needs_media": dict(needs_media.most_common()),
        "audio_s": round(totals["duration_s"], 3),
        "stage_s": {name.removeprefix("time_").removesuffix("_s"): round(totals[name], 3) for name in TIMING_COLUMNS},
    }
