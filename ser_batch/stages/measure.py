"""How fast this machine is, measured on a sample of real work; and how much audio there is, from headers."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from ser_batch.audio.formats import MEDIA_SUFFIXES, pyav_reader
from ser_batch.records import ClipOutcome, ClipRef, Status
from ser_batch.stages.discover import Found
from ser_batch.stages.fetch import Fetched
from ser_batch.stages.ingredients import Setup
from ser_batch.stages.pool import temporary_extraction
from ser_batch.stages.progress import Progress
from ser_batch.storage.address import is_url

__all__ = ["Speed", "estimate_audio_s", "measure_speed", "sample_refs"]

#: Headers read per suffix for an estimate of hours.
_HEADERS = 50
#: Fetched of a suffix for them, of an archive in a bucket.
_FETCHED_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Speed:
    """What a measurement found.

    Attributes
    ----------
    n_files, audio_s : int, float
        Files and audio processed while the clock ran.
    wall_s : float
        Time for them, start-up not included.
    start_s : float
        Time to start the workers and to process their first files.
    stage_s : mapping
        Processing time of one core per stage.
    failures : mapping
        Reason -> files of the sample that failed.
    """

    n_files: int
    audio_s: float
    wall_s: float
    start_s: float
    stage_s: Mapping[str, float]
    failures: Mapping[str, int]

    @property
    def files_per_s(self) -> float:
        return self.n_files / self.wall_s

    @property
    def audio_per_s(self) -> float:
        """Audio processed per unit of time: hours per hour."""
        return self.audio_s / self.wall_s


def sample_refs(found: Found, n_files: int) -> list[ClipRef]:
    """Return files spread evenly over what was found."""
    n_files = min(n_files, len(found))
    return [found.ref(index * len(found) // n_files) for index in range(n_files)]


def measure_speed(refs: Sequence[ClipRef], setup: Setup, n_jobs: int, progress: Progress) -> Speed:
    """Process files in `n_jobs` workers, storing nothing.

    Parameters
    ----------
    refs : sequence of ClipRef
        At least one; the first few are processed twice, to start the workers before the clock runs.
    setup : Setup
    n_jobs : int
    progress : Progress
        Told of finished files, and what takes long.
    """
    first = list(refs[: 2 * n_jobs])
    progress.begin(len(first) + len(refs), len(first) + len(refs))
    try:
        with temporary_extraction(setup, n_jobs, progress) as extraction:
            begin = time.perf_counter()
            extraction.finish(extraction.start(first))
            started = time.perf_counter()
            outcomes = extraction.finish(extraction.start(refs))
            wall_s = time.perf_counter() - started
    finally:
        progress.end()
    failures: dict[str, int] = defaultdict(int)
    for outcome in outcomes:
        if outcome.status is Status.FAILED:
            failures[f"{outcome.stage}: {outcome.error_type}: {outcome.error_message}"] += 1
    return Speed(
        n_files=len(outcomes),
        audio_s=sum(outcome.duration_s for outcome in outcomes if outcome.duration_s > 0),
        wall_s=wall_s,
        start_s=started - begin,
        stage_s=_stage_seconds(outcomes),
        failures=failures,
    )


def _stage_seconds(outcomes: Sequence[ClipOutcome]) -> dict[str, float]:
    stages = ("decode", "extract", "predict")
    return {stage: sum(outcome.seconds.get(stage, 0.0) for outcome in outcomes) for stage in stages}


def estimate_audio_s(found: Found) -> dict[str, float]:
    """Estimate the audio of each suffix in s, from the headers of some files and the sizes of all.

    A suffix of which no header can be read is left out.
    """
    n_files: Counter[str] = Counter()
    total_bytes: Counter[str] = Counter()
    for clip_id, size in zip(found.clip_ids, found.sizes_bytes, strict=True):
        n_files[_suffix(clip_id)] += 1
        total_bytes[_suffix(clip_id)] += size
    n_seen: Counter[str] = Counter()
    samples: dict[str, list[ClipRef]] = defaultdict(list)
    for index, clip_id in enumerate(found.clip_ids):
        suffix = _suffix(clip_id)
        n_seen[suffix] += 1
        if (n_seen[suffix] - 1) % max(n_files[suffix] // _HEADERS, 1) == 0:
            samples[suffix].append(found.ref(index))
    estimates = {}
    for suffix, sample in sorted(samples.items()):
        n_bytes, audio_s = _headers(_affordable(sample) if is_url(found.root) else sample)
        if n_bytes:
            estimates[suffix] = total_bytes[suffix] * audio_s / n_bytes
    return estimates


def _suffix(clip_id: str) -> str:
    return os.path.splitext(clip_id)[1].lower()  # noqa: PTH122 - a million times


def _affordable(refs: Sequence[ClipRef]) -> list[ClipRef]:
    """Leave out objects that are not worth to be fetched whole for their headers."""
    chosen: list[ClipRef] = []
    n_bytes = 0
    for ref in refs:
        if not chosen or n_bytes + ref.size_bytes <= _FETCHED_BYTES:
            chosen.append(ref)
            n_bytes += ref.size_bytes
    return chosen


def _headers(refs: Sequence[ClipRef]) -> tuple[int, float]:
    """Return the size of those files whose headers can be read, and the length in s that they state."""
    n_bytes, audio_s = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="ser-batch-") as folder, Fetched(refs, Path(folder)) as fetched:
        for place, ref in enumerate(refs):
            try:
                file = fetched.take(place)
                # A pipe that somebody named would keep us waiting.
                if isinstance(file, ClipRef) and stat.S_ISREG(os.stat(file.path).st_mode):  # noqa: PTH116
                    audio_s += _length_s(file.path)
                    n_bytes += ref.size_bytes
            except (OSError, ValueError, soundfile.LibsndfileError):
                continue
    return n_bytes, audio_s


def _length_s(path: str) -> float:
    """Return what a file says of its own length."""
    if os.path.splitext(path)[1].lower() in MEDIA_SUFFIXES and pyav_reader():  # noqa: PTH122 - names not UTF-8
        from ser_batch.audio.media import stated_s  # noqa: PLC0415 - an extra

        return stated_s(path)
    return float(soundfile.info(os.fsencode(path)).duration)
