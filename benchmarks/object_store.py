"""How fast a scan reads from a bucket, against the same files on the disk: ``python -m benchmarks.object_store``.

    python -m benchmarks.object_store [--files N] [--jobs N] [--rounds N]
    python -m benchmarks.object_store --url s3://bucket/prefix --copy FOLDER

The first makes files of about 120 KB and puts them into moto's S3 server on this machine, which takes a core of its
own; the second takes an archive and a copy of it on a disk. Prints ratios of files per second, the two in turn in each
round: of fetching and decoding alone, in one process, and of a whole scan with its features and labels.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import soundfile

from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.plugins import PluginRecipe
from ser_batch.records import ClipOutcome, ClipRef
from ser_batch.stages.discover import Found, discover
from ser_batch.stages.fetch import Fetched
from ser_batch.stages.ingredients import gather
from ser_batch.stages.measure import measure_speed
from ser_batch.stages.progress import Progress

RATE_HZ = 22_050
#: Files that a worker is given at once.
TASK_FILES = 8


def make_files(folder: Path, n_files: int) -> None:
    """Write recordings of about 120 KB each."""
    folder.mkdir()
    for number in range(n_files):
        path = folder / f"{number:05d}.flac"
        soundfile.write(path, synthetic_voice(4.8, RATE_HZ, 90 + number % 160), RATE_HZ)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Put the files of a folder into a bucket of a server of our own; yield its address."""
    import obstore
    from obstore.store import S3Store

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    keys = {"AWS_ACCESS_KEY_ID": "benchmark", "AWS_SECRET_ACCESS_KEY": "benchmark", "AWS_REGION": "us-east-1"}
    os.environ |= keys | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", port]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", int(port))).close()
                break
            except OSError:
                time.sleep(0.05)
        import boto3

        boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).create_bucket(Bucket="benchmark")
        store = S3Store("benchmark", client_options={"allow_http": True})
        for path in folder.iterdir():
            obstore.put(store, f"files/{path.name}", path)
        yield "s3://benchmark/files"
    finally:
        process.terminate()
        process.wait()


def refs_of(found: Found) -> list[ClipRef]:
    return [found.ref(place) for place in range(len(found))]


def read_files_per_s(refs: Sequence[ClipRef], folder: Path) -> float:
    """Fetch and decode files in one process, as a worker does."""
    from ser_batch.audio import read_clip

    begin = time.perf_counter()
    for first in range(0, len(refs), TASK_FILES):
        task = refs[first : first + TASK_FILES]
        with Fetched(task, folder) as fetched:
            for place in range(len(task)):
                file = fetched.take(place)
                if isinstance(file, ClipOutcome):
                    raise SystemExit(f"{file.ref.path}: {file.error_message}")
                for _ in read_clip(file, RATE_HZ, 60.0, 3.0):
                    pass
                fetched.drop(place)
    return len(refs) / (time.perf_counter() - begin)


def main() -> None:
    """Print what each round found, and the medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=1, help="workers of the scan; leave a core to the server")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url", help="an archive in a bucket")
    parser.add_argument("--copy", type=Path, help="the same on a disk")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.url:
            compare(refs_of(discover([options.copy])), refs_of(discover([options.url])), folder, options)
            return
        make_files(folder / "files", options.files)
        with server(folder / "files") as url:
            compare(refs_of(discover([folder / "files"])), refs_of(discover([url])), folder, options)


def compare(on_disk: list[ClipRef], in_bucket: list[ClipRef], folder: Path, options: argparse.Namespace) -> None:
    """Measure both, in turn."""
    config, recipe = Config(), PluginRecipe(entry_points=())
    setup = gather(recipe.build(), recipe, config).setup(predict=True)
    mean_bytes = sum(ref.size_bytes for ref in on_disk) / len(on_disk)
    print(
        f"{len(on_disk)} files of {mean_bytes / 1000:.0f} KB, {options.jobs} workers, {options.rounds} rounds in turn"
    )
    ratios: dict[str, list[float]] = {"reading alone": [], "a scan": []}
    read_files_per_s(on_disk[:TASK_FILES], folder)
    for _ in range(options.rounds):
        reading = [read_files_per_s(refs, folder) for refs in (on_disk, in_bucket)]
        scans = [measure_speed(refs, setup, options.jobs, Progress()).files_per_s for refs in (on_disk, in_bucket)]
        for kind, (disk, bucket) in zip(ratios, (reading, scans), strict=True):
            ratios[kind].append(bucket / disk)
            print(f"{kind:14} disk {disk:7.1f}/s   bucket {bucket:7.1f}/s   ratio {bucket / disk:.2f}")
    for kind, values in ratios.items():
        print(f"{kind:14} median ratio {statistics.median(values):.2f}")
    share = statistics.median(ratios["a scan"])
    print(f"a scan reads at 0.7 of the speed of the disk or more: {'yes' if share >= 0.7 else 'NO'}")


if __name__ == "__main__":
    main()
