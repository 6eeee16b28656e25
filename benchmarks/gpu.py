"""What a GPU brings: ``python -m benchmarks.gpu RECORDINGS [--device cuda] [--files N] [--jobs N]... [--profile]``.

Prints Markdown: whether labels are those of the CPU, the network alone by windows per batch, and whole scans by workers
on the CPU and on the device, which take turns. RECORDINGS is a folder of clips, which are repeated under other names.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.engine import Clock, folder, make_clips
from ser_batch import load_results
from ser_batch.classifier.device import fixed_batch, open_classifier
from ser_batch.config import Config
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.engine import scan
from ser_batch.plugins import PluginRecipe
from ser_batch.records import ClipOutcome

Rows = Iterator[tuple[object, ...]]


def table(*heads: str) -> None:
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)


def same_labels(audio: Path, options: argparse.Namespace) -> Rows:
    """Compare every file and window of two scans."""
    with folder("parity") as place:
        for device in ("cpu", options.device):
            scan(audio, place / device, config=settings(device, 16, options), report=False)
        for name, keys in (("files", ["clip_id"]), ("windows", ["clip_id", "window_index"])):
            cpu, gpu = (
                load_results(place / device, table=name).set_index(keys).sort_index()
                for device in ("cpu", options.device)
            )
            columns = [column for column in cpu if column.startswith("p_")]
            first, second = cpu[columns].fillna(0).to_numpy(), gpu[columns].fillna(0).to_numpy()
            other = int((first.argmax(axis=1) != second.argmax(axis=1)).sum())
            yield name, len(cpu), other, f"{np.abs(first - second).max():.1e}"


def network_alone(options: argparse.Namespace) -> Rows:
    """Windows per second of the network with what it takes to bring them there and back."""
    loaded = {device: open_network(device, options.model) for device in ("cpu", options.device)}
    for size in (1, 8, 64, 256, 1024):
        speeds = []
        for classifier in loaded.values():
            mel, features = fixed_batch(classifier.inner.checkpoint.network)  # type: ignore[attr-defined]
            picked = np.random.default_rng(size).integers(0, 5, size)  # the five without silence
            mel, features = mel[picked], features[picked]
            classifier.inner.embed(mel, features)  # type: ignore[attr-defined]
            n_done, begin = 0, time.perf_counter()
            while (taken := time.perf_counter() - begin) < 1 or n_done < 3 * size:
                classifier.inner.embed(mel, features)  # type: ignore[attr-defined]
                n_done += size
            speeds.append(f"{n_done / taken:,.0f}")
        yield size, *speeds


def open_network(device: str, model: str) -> CheckedClassifier:
    classifier, choice = open_classifier(PluginRecipe().build(), model, device)
    if choice.device != device:
        raise SystemExit(choice.note)
    return classifier


def settings(device: str, jobs: int, options: argparse.Namespace) -> Config:
    return Config().with_values(
        {
            "predict": {"model": options.model, "device": device, "batch_size": options.batch_size},
            "extract": {"jobs": jobs},
        }
    )


class ParentClock(Clock):
    """Takes the processor time of this process, too, from the first finished files on."""

    first_cpu_s = 0.0

    def advance(self, outcomes: Sequence[ClipOutcome]) -> None:
        if not self.n_files:
            self.first_cpu_s = time.process_time()
        super().advance(outcomes)

    def parent_ms(self) -> float:
        return 1000 * (time.process_time() - self.first_cpu_s) / max(self.n_files - self.n_first, 1)


def whole_scans(source: list[str], options: argparse.Namespace) -> Rows:
    """Files per second by workers, and what a file costs the parent; both devices in turn, the better of two rounds."""
    for jobs in options.jobs:
        n_files = max(options.files * jobs // max(options.jobs), 500)
        best: dict[str, tuple[float, float]] = {}
        with folder("files") as place:
            make_clips(place / "audio", source, n_files)
            for turn in range(2):
                for device in ("cpu", options.device):
                    clock = ParentClock()
                    run = place / f"{device}-{turn}"
                    summary = scan(
                        place / "audio", run, config=settings(device, jobs, options), progress=clock, report=False
                    )
                    assert summary.counts["failed"] == 0, summary.failures
                    best[device] = max(best.get(device, (0.0, 0.0)), (clock.files_per_s(), clock.parent_ms()))
        (cpu, cpu_ms), (gpu, gpu_ms) = best["cpu"], best[options.device]
        yield jobs, n_files, f"{cpu:,.0f}", f"{gpu:,.0f}", f"{gpu / cpu:.2f}", f"{cpu_ms:.2f}", f"{gpu_ms:.2f}"


def where_time_goes(source: list[str], options: argparse.Namespace) -> None:
    """Profile the parent of one scan on the device."""
    with folder("profile") as place:
        make_clips(place / "audio", source, options.files)
        profile = cProfile.Profile()
        config = settings(options.device, max(options.jobs), options)
        profile.runcall(scan, place / "audio", place / "run", config=config, report=False)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", default="ser6")
    parser.add_argument("--files", type=int, default=16_000, help="of the scan with the most workers")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--jobs", type=int, action="append", help="workers; may be repeated; 1, 4 and all cores")
    parser.add_argument("--profile", action="store_true", help="where the parent's time goes, in place of the rest")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    options.jobs = options.jobs or sorted({1, min(4, cores), cores})
    source = sorted(str(path) for path in options.recordings.rglob("*") if path.suffix in (".flac", ".wav"))
    if options.profile:
        where_time_goes(source, options)
        return
    print(f"{cores} cores, Python {sys.version.split()[0]}, {len(source)} recordings")
    table("windows per batch", "cpu, one thread, windows/s", f"{options.device}, windows/s")
    for row in network_alone(options):
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    table("table", "rows", "other labels", "largest difference of a probability")
    for row in same_labels(options.recordings, options):
        print(f"| {' | '.join(map(str, row))} |", flush=True)
    heads = ("cpu, files/s", f"{options.device}, files/s", "ratio", "parent, ms per file, cpu", options.device)
    table("workers", "files", *heads)
    for row in whole_scans(source, options):
        print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main()
