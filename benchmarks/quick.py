"""Whether a change made a scan slower: ``python -m benchmarks.engine --quick``, in under three minutes.

Everything is processor time, the least of a few rounds in turn, as a ratio to a yardstick of the same rounds: products
of matrices and Fourier transforms by numpy for what a clip costs, ``import torch`` for what a command costs. So a
machine that is busy with other things disturbs it little, and versions can be compared in a table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ser_batch.config import Config
from ser_batch.engine import scan
from ser_batch.plugins import PluginRecipe
from ser_batch.run.plan import Index, make_plan
from ser_batch.stages.discover import discover
from ser_batch.stages.ingredients import gather
from ser_batch.stages.processes import WORKER_ENVIRONMENT
from ser_batch.stages.worker import Workshop

__all__ = ["as_a_worker", "rows"]

ROUNDS = 5
#: Scans of so many files; what they differ by is what a file costs.
FEW, MANY = 32, 288


def yardstick() -> None:
    """One product of two matrices of 1024 by 1024, and 1,024 transforms of 2,048 samples; one thread."""
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((1024, 1024)).astype(np.float32)
    frames = generator.standard_normal((1024, 2048))
    matrix @ matrix  # what it gives is not wanted
    np.fft.rfft(frames)


def cpu_s(action: Callable[[], object]) -> float:
    """Return the processor time that this process takes for something."""
    begin = time.process_time()
    action()
    return time.process_time() - begin


def command_cpu_s(*arguments: str) -> float:
    """Return the processor time of a whole Python process and those that it starts."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments)} ended with {status}")
    return used.ru_utime + used.ru_stime


def least(*actions: Callable[[], float], rounds: int = ROUNDS) -> list[float]:
    """Return the least that each of some measurements gives, taking turns."""
    return [min(times) for times in zip(*([action() for action in actions] for _ in range(rounds)), strict=True)]


def as_a_worker() -> None:
    """Begin this program anew with threads and allocator set as for workers, unless it has."""
    wanted = {name: value for name, value in WORKER_ENVIRONMENT.items() if name != "PYTHONSAFEPATH"}
    if not wanted.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:]], os.environ | wanted)


def rows(paths: Sequence[str], model: str, place: Path) -> Iterator[tuple[str, str, str]]:
    """Yield what was measured, its ratio and the detail; scratch goes below `place`."""
    yield from _clip(paths[:: max(len(paths) // 120, 1)][:120], model)
    yield from _parent(paths, model, place)
    yield from _commands(paths, model, place)


def _clip(paths: Sequence[str], model: str) -> Iterator[tuple[str, str, str]]:
    recipe = PluginRecipe()
    manager = recipe.build()
    workshop = Workshop(gather(manager, recipe, _config(model)).setup(predict=True))
    refs = [ref for shard in make_plan(discover(paths), Index.empty(), 256).shards() for ref in shard.refs]
    seconds: dict[str, float] = {}

    def analyse() -> None:
        seconds.clear()
        for ref in refs:
            for stage, taken_s in workshop.analyse(ref, lambda stage, audio_s: None).seconds.items():
                seconds[stage] = seconds.get(stage, 0.0) + taken_s

    analyse()
    ours_s, yard_s = least(lambda: cpu_s(analyse), lambda: cpu_s(yardstick))
    each_ms = 1000 * ours_s / len(refs)
    parts = ", ".join(f"{stage} {100 * taken_s / sum(seconds.values()):.0f} %" for stage, taken_s in seconds.items())
    yield "a clip in a worker, against the yardstick", f"{each_ms / 1000 / yard_s:.3f}", f"{each_ms:.2f} ms; {parts}"


def _parent(paths: Sequence[str], model: str, place: Path) -> Iterator[tuple[str, str, str]]:
    number = 0

    def parent_s(n_files: int) -> float:
        nonlocal number
        number += 1
        return cpu_s(lambda: scan(paths[:n_files], place / f"scan-{number}", config=_config(model), report=False))

    parent_s(8)
    few_s, many_s, yard_s = least(
        lambda: parent_s(FEW), lambda: parent_s(MANY), lambda: cpu_s(yardstick), rounds=ROUNDS - 2
    )
    each_s = (many_s - few_s) / (MANY - FEW)
    yield "a file in the parent, against the yardstick", f"{each_s / yard_s:.4f}", f"{1000 * each_s:.3f} ms"


def _commands(paths: Sequence[str], model: str, place: Path) -> Iterator[tuple[str, str, str]]:
    run = str(place / "again")
    scanned = ["-m", "ser_batch", "scan", *paths[:8], "-o", run, "--model", model, "--device", "cpu", "--quiet"]
    predicted = ["-m", "ser_batch", "predict", paths[0], "--model", model, "--device", "cpu"]
    command_cpu_s(*scanned)
    again_s, predict_s, help_s, torch_s = least(
        lambda: command_cpu_s(*scanned),
        lambda: command_cpu_s(*predicted),
        lambda: command_cpu_s("-m", "ser_batch", "--help"),
        lambda: command_cpu_s("-c", "import torch"),
    )
    for name, taken_s in (
        ("a finished scan of 8 files again", again_s),
        ("predict, one file", predict_s),
        ("--help", help_s),
    ):
        yield f"{name}, against import torch", f"{taken_s / torch_s:.2f}", f"{taken_s:.2f}, {torch_s:.2f} s"


def _config(model: str) -> Config:
    return Config().with_values({"predict": {"model": model, "device": "cpu"}, "extract": {"jobs": 2}})
