"""How long a user waits for ``ser-batch --help``, against ``import torch``: ``python -m benchmarks.startup``.

The two are started in turn, after one round that fills the disk cache, and their medians compared: a busy machine slows
both alike.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import ser_batch": ["-c", "import ser_batch"],
    "ser-batch --help": ["-m", "ser_batch", "--help"],
    "ser-batch scan --help": ["-m", "ser_batch", "scan", "--help"],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: list[str]) -> float:
    """Time one process from start to end."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Print the medians, and their ratios to ``import torch``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if number:
                times[name].append(taken)
    torch_s = statistics.median(times["import torch"])
    print(f"medians of {rounds} rounds, in turn")
    for name, values in times.items():
        median_s = statistics.median(values)
        print(f"{name:24} {1000 * median_s:7.0f} ms   {median_s / torch_s:6.3f} of import torch")
    share = statistics.median(times["ser-batch --help"]) / torch_s
    print(f"ser-batch --help takes less than a third of import torch: {'yes' if share < 1 / 3 else 'NO'}")


if __name__ == "__main__":
    main()
