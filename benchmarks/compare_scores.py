"""Is one recipe better than another, speaker by speaker? Paired, over several seeds.

    python -m benchmarks.compare_scores --better A0.json A1.json A2.json --than B0.json B1.json B2.json

Each file is what ``ser-batch evaluate --cross-validate --json`` wrote; those of one side differ by seed. Prints, per
corpus, the mean over speakers of the difference in UAR, seeds averaged, with a 95 % interval by speaker.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ser_batch.training import metrics


def speakers(paths: Sequence[Path], part: str | None) -> dict[str, tuple[str, float]]:
    """Return corpus and UAR of each speaker, the mean over the files; `part` names a table under ``also``."""
    tables = [json.loads(path.read_text()) for path in paths]
    found = [table["also"][part]["speakers"] if part else table["speakers"] for table in tables]
    return {
        name: (block["corpus"], float(np.mean([table[name]["uar"] for table in found])))
        for name, block in found[0].items()
    }


def differences(
    better: dict[str, tuple[str, float]], than: dict[str, tuple[str, float]]
) -> dict[str, tuple[float, float, float, int]]:
    """Return per corpus the mean difference, its interval, and the number of speakers."""
    rows = {}
    for corpus in sorted({corpus for corpus, _ in better.values()}):
        names = [name for name, (own, _) in better.items() if own == corpus and name in than]
        values = np.array([better[name][1] - than[name][1] for name in names])
        low, high = metrics.bootstrap_by_group(names, lambda index, values=values: float(values[index].mean()))
        rows[corpus] = (float(values.mean()), low, high, len(names))
    return rows


def main() -> None:
    """Print one line per corpus."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--better", type=Path, nargs="+", required=True)
    parser.add_argument("--than", type=Path, nargs="+", required=True)
    parser.add_argument("--also", help="Compare the table of this label set, as named by evaluate --also.")
    options = parser.parse_args()
    rows = differences(speakers(options.better, options.also), speakers(options.than, options.also))
    for corpus, (mean, low, high, count) in rows.items():
        print(f"{corpus:12} {count:4} speakers  {100 * mean:+5.1f} points ({100 * low:+.1f} to {100 * high:+.1f})")


if __name__ == "__main__":
    main()
