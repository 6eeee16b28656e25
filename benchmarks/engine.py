"""What a scan costs, against peers and against itself: ``python -m benchmarks.engine [--only NAME]...``.

Prints a Markdown table of ratios; docs/performance.md holds one. Both sides of every ratio run in turn on the same
machine and the same files, after a warm-up; start-up is reported apart. Needs the benchmark extra (opensmile, librosa),
and RAVDESS and EmoGator in the folders ``ravdess`` and ``emogator`` of --corpora, $SER_CORPORA or ../shared/corpora.
All parts together take about an hour on two cores; --clips, --files and --tree make them smaller. --quick is
benchmarks/quick.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import soundfile

from benchmarks import peers, quick
from ser_batch.config import Config
from ser_batch.engine import scan
from ser_batch.records import ClipOutcome
from ser_batch.run import journal
from ser_batch.run.plan import Index, make_plan
from ser_batch.stages import watch
from ser_batch.stages.discover import discover
from ser_batch.stages.progress import Progress

#: Rounds in which the sides of a ratio take turns.
ROUNDS = 5


class Clock(Progress):
    """Takes the time from the first finished files on, so that start-up can be told apart."""

    def __init__(self) -> None:
        self.begin_s = time.perf_counter()
        self.first_s = self.last_s = 0.0
        self.n_first = self.n_files = 0

    def advance(self, outcomes: Sequence[ClipOutcome]) -> None:
        self.last_s = time.perf_counter()
        if not self.n_files:
            self.first_s, self.n_first = self.last_s, len(outcomes)
        self.n_files += len(outcomes)

    def files_per_s(self) -> float:
        """Speed after the first files, the writing of the last part included."""
        return (self.n_files - self.n_first) / (time.perf_counter() - self.first_s)

    def start_s(self) -> float:
        return self.first_s - self.begin_s


@contextmanager
def folder(name: str) -> Iterator[Path]:
    """A scratch folder on the disk that the runs are written to."""
    path = Path(tempfile.mkdtemp(prefix=f"ser-batch-{name}-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def config(model: str, **extract_values: Any) -> Config:
    values = {"predict": {"model": model, "device": "cpu"}, "extract": {"timeout_s": 0.0, **extract_values}}
    return Config().with_values(values)


def timed_scan(inputs: Any, settings: Config) -> Clock:
    """Scan with everything on - all extractors, the network, Parquet, journal - but for the report."""
    with folder("scan") as run:
        clock = Clock()
        summary = scan(inputs, run / "run", config=settings, progress=clock, report=False)
        assert summary.counts["failed"] == 0, summary.failures
        return clock


def recordings(folder: Path, n_clips: int, *suffixes: str) -> list[str]:
    paths = sorted(str(path) for path in folder.rglob("*") if path.suffix in suffixes)
    if not paths:
        raise SystemExit(f"No recordings under {folder}; name the folder of corpora with --corpora.")
    step = max(len(paths) // n_clips, 1)
    return paths[::step][:n_clips]


def ravdess(corpora: Path, n_clips: int) -> list[str]:
    return recordings(corpora / "ravdess", n_clips, ".flac", ".wav")


def throughput(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Files per second of a whole scan, of openSMILE and of the usual script, each on two workers.

    Peers get a part of the files in each round: their speed does not depend on how many there are.
    """
    paths = ravdess(options.corpora, options.clips)
    parts = [paths[start::ROUNDS] for start in range(ROUNDS)]
    ours, smile, naive, one_job, starts = [], [], [], [], []
    with peers.OpenSmile(2) as opensmile, peers.UsualScript(2) as script:
        opensmile.files_per_s(paths[:8])
        script.files_per_s(paths[:4])
        for part in parts:
            clock = timed_scan(paths, config(options.model, jobs=2))
            ours.append(clock.files_per_s())
            starts.append(clock.start_s())
            smile.append(opensmile.files_per_s(part))
            ours.append(timed_scan(paths, config(options.model, jobs=2)).files_per_s())
            naive.append(script.files_per_s(part[: max(len(part) // options.naive_share, 1)]))
            one_job.append(timed_scan(paths, config(options.model, jobs=1)).files_per_s())
    speed = statistics.median(ours)
    detail = f"{speed:.1f} files/s; start-up {statistics.median(starts):.1f} s apart"
    yield "files/s, RAVDESS, against openSMILE eGeMAPSv02", f"{speed / statistics.median(smile):.1f} (≥ 8)", detail
    detail = f"openSMILE {statistics.median(smile):.1f}, usual script {statistics.median(naive):.2f} files/s"
    yield "files/s, RAVDESS, against the usual script", f"{speed / statistics.median(naive):.1f} (≥ 35)", detail
    detail = f"one job {statistics.median(one_job):.1f} files/s"
    yield "two jobs against one", f"{speed / statistics.median(one_job):.2f} (≥ 1.8)", detail


def bursts(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Files per second of a whole scan and of openSMILE on vocal bursts: MP3, most shorter than two seconds."""
    paths = recordings(options.corpora / "emogator", options.clips, ".mp3")
    ours, smile = [], []
    with peers.OpenSmile(2) as opensmile:
        opensmile.files_per_s(paths[:8])
        for start in range(ROUNDS):
            ours.append(timed_scan(paths, config(options.model, jobs=2)).files_per_s())
            smile.append(opensmile.files_per_s(paths[start::ROUNDS]))
    speed, least = statistics.median(ours), statistics.median(smile)
    detail = f"{speed:.1f} and {least:.1f} files/s"
    yield "files/s, vocal bursts, against openSMILE eGeMAPSv02", f"{speed / least:.1f} (≥ 10)", detail


def peak_mb(action: Callable[[], object]) -> float:
    """Peak of resident memory, summed over this process and all below it, above what this one had before."""
    this = psutil.Process()
    before = this.memory_info().rss
    peak = 0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.05):
            total = 0
            for process in [this, *this.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        action()
    finally:
        over.set()
        watcher.join()
    return (peak - before) / 2**20


def in_a_fresh_process(inputs: Path, model: str) -> float:
    """Peak memory of a whole ``ser-batch scan``, all processes."""
    with folder("memory") as run:
        command = ["scan", str(inputs), "-o", str(run / "run"), "--model", model, "--device", "cpu", "--jobs", "2"]
        command += ["--no-report", "--quiet"]
        return peak_mb(lambda: subprocess.run([sys.executable, "-m", "ser_batch", *command], check=True))


def make_clips(target: Path, source: Sequence[str], n_files: int) -> None:
    """Fill a folder with links to recordings, under names of their own."""
    target.mkdir(parents=True)
    for index in range(n_files):
        path = Path(source[index % len(source)])
        (target / f"{index:06d}{path.suffix}").symlink_to(path.resolve())


def memory_by_files(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Peak memory of many files against a tenth of them."""
    paths = ravdess(options.corpora, 1200)
    with folder("files") as audio:
        make_clips(audio / "few", paths, options.files // 10)
        make_clips(audio / "many", paths, options.files)
        few, many = (in_a_fresh_process(audio / name, options.model) for name in ("few", "many"))
    title = f"peak memory, {options.files:,} files against {options.files // 10:,}"
    yield title, f"{many / few:.2f} (≤ 1.1)", f"{many:.0f} and {few:.0f} MB"


def memory_by_length(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Peak memory of one recording of hours against one of minutes."""
    speech, rate_hz = [], 0
    for path in ravdess(options.corpora, 50):
        samples, rate_hz = soundfile.read(path, dtype="int16")
        speech.append(samples)
    joined = np.concatenate(speech)
    with folder("length") as audio:
        peaks = []
        for name, seconds in (("minutes", 180), ("hours", 180 * options.longer)):
            (audio / name).mkdir()
            with soundfile.SoundFile(audio / name / "long.flac", "w", rate_hz, 1, "PCM_16") as file:
                left = seconds * rate_hz
                while left > 0:
                    file.write(joined[:left])
                    left -= len(joined)
            peaks.append(in_a_fresh_process(audio / name, options.model))
    title = f"peak memory, a file of {180 * options.longer / 3600:.0f} h against one of 3 min"
    yield title, f"{peaks[1] / peaks[0]:.2f} (≤ 1.2)", f"{peaks[1]:.0f} and {peaks[0]:.0f} MB"


def planning(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """From nothing to the first shard over a large tree, against ``find`` with sizes and times."""
    with folder("tree") as tree:
        for index in range(options.tree):
            if index % 1000 == 0:
                below = tree / f"{index // 100_000:02d}" / f"{index // 1000:04d}"
                below.mkdir(parents=True)
            os.close(os.open(below / f"clip{index:07d}.wav", os.O_CREAT | os.O_WRONLY))
        ours, reference = [], []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            subprocess.run(
                ["find", str(tree), "-type", "f", "-printf", "%s %T@ %p\\n"], check=True, stdout=subprocess.DEVNULL
            )
            reference.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            found = discover([tree])
            next(make_plan(found, Index.empty(), 256).shards())
            ours.append(time.perf_counter() - begin)
            assert len(found) == options.tree
    taken, least = statistics.median(ours), statistics.median(reference)
    yield (
        f"planning {options.tree:,} files against find",
        f"{taken / least:.1f} (≤ 4)",
        f"{taken:.1f} and {least:.1f} s",
    )


def again(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """A finished scan once more, against the first time; whole processes."""
    paths = ravdess(options.corpora, 1200)
    with folder("again") as place:
        make_clips(place / "audio", paths, options.files)
        command = ["scan", str(place / "audio"), "-o", str(place / "run"), "--model", options.model, "--device", "cpu"]
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            subprocess.run([sys.executable, "-m", "ser_batch", *command, "--quiet"], check=True)
            times.append(time.perf_counter() - begin)
    first, second = times[0], min(times[1:])
    title = f"a finished scan of {options.files:,} files again, against the first"
    yield title, f"{100 * second / first:.2f} % (≤ 2 %)", f"{second:.2f} and {first:.1f} s"


@contextmanager
def no_machinery() -> Iterator[None]:
    """A scan without journal, flushes and watchdog. (A heartbeat of a worker is a write of 32 bytes in place.)"""
    patched: list[tuple[Any, str, Any]] = [
        (journal.Filesystem, "flush", lambda self, descriptor: None),
        (journal.Filesystem, "append", lambda self, path, data: None),
        (watch.Watchdog, "run", lambda self: None),
    ]
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in patched]
    for owner, name, stand_in in patched:
        setattr(owner, name, stand_in)
    try:
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def overhead(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """Journal, flushes, watchdog and retry machinery, against the same scan without them."""
    paths = ravdess(options.corpora, options.clips)
    settings = config(options.model, jobs=2)
    safe, bare = [], []
    for _ in range(2 * ROUNDS):
        safe.append(1 / timed_scan(paths, settings).files_per_s())
        with no_machinery():
            bare.append(1 / timed_scan(paths, settings).files_per_s())
    share = statistics.median(safe) / statistics.median(bare) - 1
    yield "overhead of journal, fsync, watchdog", f"{100 * share:+.1f} % (≤ 3 %)", f"{2 * ROUNDS} scans each, in turn"


def one_file(options: argparse.Namespace) -> Iterator[tuple[str, str, str]]:
    """``ser-batch predict FILE`` from process start to answer, against ``import torch``."""
    [path] = ravdess(options.corpora, 1)
    ours: list[float] = []
    torch: list[float] = []
    for number in range(2 * ROUNDS + 1):
        for arguments, times in (
            (["-m", "ser_batch", "predict", path, "--model", options.model, "--device", "cpu"], ours),
            (["-c", "import torch"], torch),
        ):
            begin = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if number:  # the first call fills caches
                times.append(time.perf_counter() - begin)
    answer, least = statistics.median(ours), statistics.median(torch)
    yield (
        "one file, ser-batch predict, against import torch",
        f"{answer / least:.2f} (≤ 1.5)",
        f"{answer:.2f}, {least:.2f} s",
    )


PARTS = {
    "throughput": throughput,
    "bursts": bursts,
    "memory-files": memory_by_files,
    "memory-length": memory_by_length,
    "planning": planning,
    "again": again,
    "overhead": overhead,
    "one-file": one_file,
}


def main() -> None:
    """Run the parts that were asked for, and print their table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; may be repeated")
    parser.add_argument("--corpora", type=Path, default=Path(os.environ.get("SER_CORPORA", "../shared/corpora")))
    parser.add_argument("--model", default="ser6")
    parser.add_argument("--clips", type=int, default=1200, help="RAVDESS clips for speeds")
    parser.add_argument("--naive-share", type=int, default=4, help="the usual script gets one clip in so many")
    parser.add_argument("--files", type=int, default=8000, help="files for memory and for the second scan")
    parser.add_argument("--longer", type=int, default=60, help="how many times 3 minutes the long recording has")
    parser.add_argument("--tree", type=int, default=1_000_000, help="files of the tree that is planned")
    parser.add_argument("--quick", action="store_true", help="see benchmarks/quick.py; all other parts are left out")
    options = parser.parse_args()
    # Libraries were installed with their byte code; without ours, every start would compile the package.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if options.quick:
        quick.as_a_worker()
        with folder("quick") as place:
            print("| what | processor time, as a ratio | detail |\n|---|---|---|", flush=True)
            for row in quick.rows(ravdess(options.corpora, 1200), options.model, place):
                print(f"| {' | '.join(row)} |", flush=True)
        return
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}\n")
    print("| what | measured (to reach) | detail |\n|---|---|---|", flush=True)
    for name in options.only or PARTS:
        for row in PARTS[name](options):
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
