"""Reports and reads of large runs: time, memory, size, what a browser makes of it, and what a filter reads.

    python -m benchmarks.report [--files N ...] [--browser] [--folder FOLDER]

Runs are synthetic (tests/synthetic_run.py), in parts of 256 files as a scan writes them, a long recording every 200
files. Each measurement is a process of its own; peak memory is that of the whole process, imports included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent

_BUILD = """
import json, resource, sys, time
from ser_batch.report.build import build_report
begun = time.perf_counter()
path = build_report(sys.argv[1])
print(json.dumps({"s": time.perf_counter() - begun, "mb": path.stat().st_size / 1e6,
                  "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}))
"""

_READ = """
import json, pathlib, sys, time, warnings
from ser_batch import load_results
warnings.simplefilter("ignore")
import pyarrow.parquet, pandas
run, name = sys.argv[1:]
def measured(**arguments):
    counters = lambda: int(dict(line.split(": ") for line in open("/proc/self/io").read().splitlines())["rchar"])
    begun, before = time.perf_counter(), counters()
    rows = len(load_results(run, **arguments))
    return {"rows": rows, "s": time.perf_counter() - begun, "mb": (counters() - before) / 1e6}
measured(columns=["clip_id"])
print(json.dumps({
    "everything": measured(),
    "three columns": measured(columns=["clip_id", "emotion", "confidence"]),
    "one file": measured(where=[("clip_id", "==", name)]),
    "one folder": measured(where=[("clip_id", ">=", "radio/tape-03/"), ("clip_id", "<", "radio/tape-030")]),
}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--shard-size", type=int, default=256, help="files per part")
    parser.add_argument("--browser", action="store_true", help="open the reports in Chromium too")
    parser.add_argument("--folder", type=Path, help="keep the runs here, and use those that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        print(
            f"{'files':>10} {'build s':>9} {'peak MB':>9} {'size MB':>9}"
            + "  first paint ms  table ready ms" * options.browser
        )
        for n_files in options.files:
            run = _run(folder, n_files, options.shard_size)
            built = _child(_BUILD, run)
            line = f"{n_files:>10,} {built['s']:>9.1f} {built['peak_mb']:>9.0f} {built['mb']:>9.2f}"
            if options.browser:
                seen = _opened(run / "report.html")
                line += f"{seen['paint_ms']:>16.0f}{seen['ready_ms']:>16.0f}"
            print(line, flush=True)
        print(f"\nload_results of {options.files[-1]:,} files, parts of {options.shard_size:,}")
        read = _child(_READ, run, "radio/tape-03/clip-0000014.flac")
        whole = read["everything"]
        for what, found in read.items():
            shares = f"{found['s'] / whole['s']:>9.1%} of the time{found['mb'] / whole['mb']:>9.1%} of the bytes"
            print(f"{what:>14}: {found['rows']:>9,} rows {found['s']:>7.2f} s {found['mb']:>8.1f} MB {shares}")


def _run(folder: Path, n_files: int, shard_size: int) -> Path:
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from synthetic_run import RunPlan, make_run

    run = folder / f"run-{n_files}-{shard_size}"
    if not (run / "run.json").exists():
        make_run(run, n_files, RunPlan(long_every=200, shard_size=shard_size))
    return run


def _child(code: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def _opened(report: Path) -> dict[str, float]:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path="/usr/bin/chromium", args=arguments)
        page = browser.new_page()
        begun = time.perf_counter()
        page.goto(report.as_uri())
        page.wait_for_selector("html[data-table=ready]")
        ready_ms = 1000 * (time.perf_counter() - begun)
        paint_ms = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        browser.close()
    return {"paint_ms": paint_ms, "ready_ms": ready_ms}


if __name__ == "__main__":
    main()
