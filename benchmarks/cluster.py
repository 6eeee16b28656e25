"""What a driver of many nodes takes, and what a cluster costs on one machine: ``python -m benchmarks.cluster``.

`simulated` is a real scheduler of Dask with a thousand real workers, whose nodes are simulated: each waits, and
publishes a part that was made before. `overhead` is a scan with ``--on`` of one worker against a plain one, of files
that wait instead of being analysed, so that other work on the machine does not count; then the same command on the
finished run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

HOME = Path(__file__).resolve().parents[1]
#: Sparse files, so large that each is a bundle of its own.
_FILE_BYTES = 10 * 2**30
#: A made-up plugin: one number, and a wait for each file.
_PLUGIN = HOME / "tests" / "nodes" / "tiny_plugin.py"


@contextmanager
def _scheduler() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with _process("dask", "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"):
        yield f"tcp://127.0.0.1:{port}"


@contextmanager
def _process(*arguments: str, **environment: str) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", *arguments],
        cwd=HOME,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _settings(**run: int) -> dict[str, Any]:
    from ser_batch.config import Config
    from ser_batch.plugins import PluginRecipe

    values = {"predict": {"model": "tiny", "device": "cpu"}, "extract": {"extractors": ["tiny"], "jobs": 2}}
    recipe = PluginRecipe(files=(str(_PLUGIN),), entry_points=(), built_in=("ser_batch.audio",))
    return {"config": Config().with_values({**values, "run": run}), "plugins": recipe}


# Simulated nodes.


def serve(address: str, n_workers: int) -> None:
    """Be so many workers."""
    import dask
    import distributed

    from ser_batch.nodes import errand

    errand.run_bundle = simulated_bundle
    # What workers measure of themselves, as if each had a machine of its own, would take these two cores whole.
    dask.config.set({"distributed.worker.profile.enabled": False, "distributed.admin.system-monitor.interval": "60s"})

    async def work() -> None:
        begun: list[Any] = []
        with tempfile.TemporaryDirectory() as folder:
            while len(begun) < n_workers:
                some = range(min(25, n_workers - len(begun)))
                begun += await asyncio.gather(
                    *(distributed.Worker(address, nthreads=1, memory_limit=0, local_directory=folder) for _ in some)
                )
            await asyncio.Event().wait()

    asyncio.run(work())


def simulated_bundle(options: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """Do what `ser_batch.nodes.errand.run_bundle` does, with a part that is there."""
    from ser_batch.run.attempts import Attempts
    from ser_batch.run.journal import Filesystem

    class Hasty(Filesystem):
        """All nodes share one disk here, which could not flush for a thousand of them."""

        def flush(self, descriptor: int) -> None:
            pass

        def flush_folder(self, folder: Path) -> None:
            pass

    time.sleep(float(os.environ["SIMULATED_S"]))
    run = Path(options["run_dir"])
    attempts = Attempts(run, options["plan_id"], Hasty())
    template = pickle.loads((run.parent / "template").read_bytes())
    for part in range(first, last + 1):
        node = f"{part:012x}"
        attempt = f"{options['plan_id']}/{node}-0"
        for table in template.entry.tables:
            shutil.copyfile(run.parent / f"{table}.parquet", attempts.staged / f"{node}-0.{table}.parquet")
        entry = replace(template.entry, part=part, attempt=attempt)
        attempts.publish(replace(template, plan=options["plan_id"], part=part, node=node, entry=entry))
    return {"host": "simulated", "node": node, "n_files": 1, "n_second": 0, "n_left": 0}


def _make_template(folder: Path, plan: Any) -> None:
    """Make a part of the run, by a real node, in a run of its own."""
    import numpy as np
    import soundfile

    from ser_batch import engine
    from ser_batch.nodes.node import Node
    from ser_batch.run.attempts import Attempts
    from ser_batch.run.planned import plan_of

    (folder / "one").mkdir()
    soundfile.write(folder / "one" / "clip.wav", 0.1 * np.sin(np.arange(4000) / 9), 8000)
    engine.plan(folder / "one", folder / "one-run", **_settings())
    with Node(folder / "one-run", trust_plugins=True) as node:
        node.process([0])
    manifest = Attempts(folder / "one-run", plan_of(folder / "one-run").plan_id).manifest(0)
    assert manifest.entry is not None
    name = manifest.entry.attempt.partition("/")[2]
    for table in manifest.entry.tables:
        staged = next(folder.glob(f"one-run/.attempts/*/staged/{name}.{table}.parquet"))
        shutil.copyfile(staged, folder / f"{table}.parquet")
    entry = replace(manifest.entry, run_id=plan.run_id, fingerprint=plan.manifest["fingerprint"])
    (folder / "template").write_bytes(pickle.dumps(replace(manifest, entry=entry, base="")))


def simulate(n_nodes: int, n_bundles: int, bundle_s: float) -> None:
    from ser_batch import engine
    from ser_batch.nodes.dask import Cluster, do_bundle
    from ser_batch.stages.progress import Progress

    with tempfile.TemporaryDirectory() as name, _scheduler() as address:
        folder, here = Path(name), ["--workers", str(-(-n_nodes // 4)), "--address", address]
        (folder / "archive").mkdir()
        for number in range(n_bundles):
            with (folder / "archive" / f"{number:06d}.wav").open("wb") as file:
                file.truncate(_FILE_BYTES)
        one = [_process("benchmarks.cluster", *here, SIMULATED_S=str(bundle_s)) for _ in range(4)]
        with one[0], one[1], one[2], one[3], Cluster(address, Progress()) as cluster:
            begin_s = time.perf_counter()
            cluster._client.wait_for_workers(n_nodes - n_nodes % 4, timeout=600)
            print(f"simulated: {n_nodes:,} workers began in {time.perf_counter() - begin_s:.0f} s", flush=True)
            with engine.planned_run(folder / "archive", folder / "run", **_settings()) as (planned, run):
                collector = run.collector()
                assert planned.n_bundles == planned.n_parts == n_bundles, planned
                _make_template(folder, collector.plan)
                options = {"run_dir": str(folder / "run"), "plan_id": collector.plan.plan_id, "trust_plugins": True}
                for kind in ("staged", "manifests", "nodes", "tries", "second"):
                    (collector.plan.folder / kind).mkdir(exist_ok=True)
                task = len(pickle.dumps((do_bundle, "0" * 48, options, 0, n_bundles)))
                answer = len(pickle.dumps(("0" * 48, simulated_answer())))
                begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
                summary_s = _timed_finish(cluster, collector)
                wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
            manifest = len(pickle.loads((folder / "template").read_bytes()).as_json())
            print(
                f"simulated: {n_bundles / (wall_s - summary_s):.0f} bundles/s (≥ 100), driver "
                f"{cpu_s / n_bundles * 1e3:.1f} ms of CPU per bundle (≤ 50), "
                f"of it {summary_s / n_bundles * 1e3:.1f} ms in the summary at the end; "
                f"task {task:,} bytes, answer {answer} (≤ 4,096), manifest of a part {manifest}"
            )


def simulated_answer() -> dict[str, Any]:
    return {"host": socket.gethostname(), "node": "0" * 12, "n_files": 99_999, "n_second": 99, "n_left": 99}


def _timed_finish(cluster: Any, collector: Any) -> float:
    """Have all done; return how long the summary of the whole run took at the end."""
    from ser_batch.run.writer import RunWriter

    spent_s: list[float] = []
    finish = RunWriter.finish

    def timed(*arguments: Any) -> None:
        begin_s = time.perf_counter()
        finish(*arguments)
        spent_s.append(time.perf_counter() - begin_s)

    with patch.object(RunWriter, "finish", timed):
        cluster.do(collector, {"trust_plugins": True})
    return sum(spent_s)


# One machine.


def overhead(bundle_s: float) -> None:
    import numpy as np
    import soundfile

    from ser_batch import engine
    from ser_batch.cluster import scan_on
    from ser_batch.run import planned

    with tempfile.TemporaryDirectory() as name, _scheduler() as address:
        folder = Path(name)
        (folder / "archive").mkdir()
        # Two workers, two bundles.
        wait_s, n_files = 0.25, round(2 * 2 * bundle_s / 0.25)
        soundfile.write(folder / "clip.wav", 0.1 * np.sin(np.arange(2400) / 9), 8000)
        for number in range(n_files):
            os.link(folder / "clip.wav", folder / "archive" / f"{number:05d}.wav")
        os.environ["SER_BATCH_TEST_SLEEP_S"] = str(wait_s)
        worker = "worker", address, "--no-nanny", "--memory-limit", "0", "--no-dashboard", "--local-directory", name
        settings = _settings(shard_size=max(1, n_files // 8))
        with _process("dask", *worker), patch.object(planned, "_FEWEST_BUNDLES", 2):
            times = []
            for what in (
                lambda: engine.scan(folder / "archive", folder / "here", report=False, **settings),
                lambda: scan_on(address, folder / "archive", folder / "there", report=False, **settings),
                lambda: scan_on(address, folder / "archive", folder / "there", report=False, **settings),
            ):
                begin_s = time.perf_counter()
                what()
                times.append(time.perf_counter() - begin_s)
        here_s, there_s, again_s = times
        print(
            f"overhead: {there_s:.1f} s on a cluster of one worker against {here_s:.1f} s here, bundles of "
            f"{bundle_s:.0f} s: {there_s / here_s - 1:+.1%} (≤ 5 %); the finished run again {again_s:.2f} s, "
            f"{again_s / there_s:.1%} (≤ 2 %)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--bundles", type=int, default=3000)
    parser.add_argument("--bundle-s", type=float, default=60.0, help="of the bundles of `overhead`")
    parser.add_argument("--only", choices=("simulated", "overhead"))
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.workers:
        serve(options.address, options.workers)
        return
    if options.only != "overhead":
        # As fast as is asked of it: 200 bundles/s, if all nodes are busy.
        simulate(options.nodes, options.bundles, options.nodes / 200)
    if options.only != "simulated":
        overhead(options.bundle_s)


if __name__ == "__main__":
    main()
