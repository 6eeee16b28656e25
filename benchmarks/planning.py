"""Memory for planning a large archive, against one of a tenth: ``python -m benchmarks.planning``.

Lists of paths stand for the archives, so that no disk has to hold ten million files; each is planned in a process of
its own: found, sorted, compared with what a run has, cut into parts. `again` is an archive of which a run has
everything, in parts made up as they are read.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa

from ser_batch.run.journal import Filesystem
from ser_batch.run.plan import Index, IndexedPart, IndexedRows, make_plan, part_size
from ser_batch.stages import discover
from ser_batch.stages.found import Names

#: A path as archives have them; the numbers come in no order.
_NAME = "/archive/speaker{:04d}/session{:03d}/recording-{:08d}.flac"
_STEP = 7_368_787


def names(n_files: int) -> Iterator[str]:
    for number in range(n_files):
        place = number * _STEP % n_files
        yield _NAME.format(place // 10_000, place // 100 % 100, place)


class _Info:
    """What `os.stat` says of each file."""

    st_mode, st_size, st_mtime_ns = 0o100644, 120_000, 1_700_000_000_000_000_000


def _rows(part: int, n_files: int, size: int) -> IndexedRows:
    places = range(part * size, min((part + 1) * size, n_files))
    full = [_NAME.format(place // 10_000, place // 100 % 100, place) for place in places]
    ids = pa.array([name.removeprefix("/archive/") for name in full], pa.string())
    zeros, marks = np.zeros(len(ids), np.int64), np.zeros(len(ids), bool)
    sizes, times = np.full(len(ids), _Info.st_size), np.full(len(ids), _Info.st_mtime_ns)
    words = np.full(len(ids), "ok")
    return IndexedRows(ids, sizes, times, words, marks, words, marks, zeros, zeros)


def plan(what: str, n_files: int) -> int:
    """Plan an archive, new or done already; return how many files are to be processed."""
    listed = discover.FileList(Names(names(n_files)), "-")
    with patch.object(discover.os, "stat", lambda _path: _Info):
        found = discover.discover(listed)
    size, index = part_size(n_files, Filesystem.most_parts), Index.empty()
    if what == "again":
        depth = len(found.root) + 1
        parts = []
        for part in range(-(-n_files // size)):
            ends = part * size, min((part + 1) * size, n_files) - 1
            first, last = (_NAME.format(place // 10_000, place // 100 % 100, place)[depth:] for place in ends)
            parts.append(IndexedPart(part, ends[1] - ends[0] + 1, first, last, True))
        index = Index(parts, lambda part: _rows(part, n_files, size))
    made = make_plan(found, index, size)
    n_refs = sum(len(shard.refs) for shard in made.shards())
    assert n_refs == made.n_files == (n_files if what == "new" else 0), (n_refs, made.n_files)
    return n_refs


def peak_of(what: str, n_files: int) -> float:
    """Plan in a process of its own; return its peak of resident memory, MB."""
    command = [sys.executable, "-m", "benchmarks.planning", "--one", what, "--files", str(n_files)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1], timeout=10_000
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000_000, help="of the larger archive")
    parser.add_argument("--one", choices=("new", "again"), help="plan one archive here, and print the peak in MB")
    options = parser.parse_args()
    if options.one:
        plan(options.one, options.files)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    for what in ("new", "again"):
        begin = time.perf_counter()
        few, many = (peak_of(what, n_files) for n_files in (options.files // 10, options.files))
        print(
            f"{what}: {options.files:,} files against a tenth: {many / few:.2f} (≤ 1.5), {many:.0f} and {few:.0f} MB, "
            f"{time.perf_counter() - begin:.0f} s"
        )


if __name__ == "__main__":
    main()
