"""What a person waits for before the first answer: ``python -m benchmarks.startup [SAMPLES]``.

All are whole processes, from start to exit. They are started in turn, after one round that fills caches, and their
medians compared with that of ``import torch``: a busy machine slows all alike. Only the first scan on a machine, which
compiles the kernels, has rounds of its own, beside which ``import torch`` is timed again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TORCH = ["-c", "import torch"]


def seconds(arguments: list[str], **environment: str) -> float:
    """Time one process from start to end."""
    begin = time.perf_counter()
    command = [sys.executable, *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | environment)
    return time.perf_counter() - begin


def scan(source: Path, place: Path, *options: str, **environment: str) -> float:
    """Time a scan into a new run."""
    shutil.rmtree(place / "run", ignore_errors=True)
    arguments = ["scan", str(source), "-o", str(place / "run"), "--device", "cpu", "--quiet", *options]
    return seconds(["-m", "ser_batch", *arguments], **environment)


def first_scan(samples: Path, place: Path) -> float:
    """Time a scan of a folder on a machine that has no kernels yet."""
    kernels = place / "kernels"
    shutil.rmtree(kernels, ignore_errors=True)
    kernels.mkdir()
    return scan(samples, place, "--no-report", NUMBA_CACHE_DIR=str(kernels))


def main() -> None:
    """Print the medians, and their ratios to ``import torch``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=Path, nargs="?", default=Path("data/samples"), help="folder of recordings")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--first-rounds", type=int, default=3, help="of the first scan of SAMPLES without kernels")
    options = parser.parse_args()
    # Libraries were installed with their byte code; without ours, every start would compile the package.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    one = next(path for path in sorted(options.samples.rglob("*")) if path.suffix in (".wav", ".flac"))
    with tempfile.TemporaryDirectory(prefix="ser-batch-startup-") as scratch:
        place = Path(scratch)
        actions = {
            "import torch": lambda: seconds(TORCH),
            "python -c pass": lambda: seconds(["-c", "pass"]),
            "import ser_batch": lambda: seconds(["-c", "import ser_batch"]),
            "ser-batch --help (to reach: .33)": lambda: seconds(["-m", "ser_batch", "--help"]),
            "ser-batch scan --help": lambda: seconds(["-m", "ser_batch", "scan", "--help"]),
            "scan of one file, no report (.8)": lambda: scan(one, place, "--no-report"),
            "scan of one file with its report (1.1)": lambda: scan(one, place),
        }
        times: dict[str, list[float]] = {name: [] for name in actions}
        for number in range(options.rounds + 1):
            for name, action in actions.items():
                taken = action()
                if number:
                    times[name].append(taken)
        again = times["import torch, beside first scans"] = []
        first = times["first scan of the samples, no kernels (6)"] = []
        for _ in range(options.first_rounds):
            again.append(seconds(TORCH))
            first.append(first_scan(options.samples, place))
    print(f"| what | s, median | of import torch |\n|{'---|' * 3}")
    yardstick = 0.0
    for name, values in filter(lambda item: item[1], times.items()):
        if name.startswith("import torch"):
            yardstick = statistics.median(values)
        print(f"| {name} | {statistics.median(values):.3f} | {statistics.median(values) / yardstick:.2f} |")


if __name__ == "__main__":
    main()
