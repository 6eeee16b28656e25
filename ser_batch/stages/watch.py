"""Watches workers from the parent: kills the one whose file takes too long or too much memory, and remembers why."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from ser_batch.stages.worker import BEAT_PREFIX, Beat, read_beat

__all__ = ["Watchdog", "end_orphans"]

#: How often workers are looked at.
_PERIOD_S = 0.2


class Watchdog(threading.Thread):
    """Looks at the heartbeats in a folder until stopped.

    Parameters
    ----------
    folder : Path
        Where the workers of one pool keep their heartbeats.
    memory_limit_mb : int
        Resident memory of one worker; 0 = no limit. The time limit comes with each heartbeat.
    """

    def __init__(self, folder: Path, memory_limit_mb: int) -> None:
        super().__init__(name="ser-batch watchdog", daemon=True)
        self._folder, self._memory_limit_mb = folder, memory_limit_mb
        self._ended = threading.Event()
        #: Heartbeat of each worker killed -> why.
        self.killed: dict[Beat, str] = {}

    def run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            for path in self._folder.glob(f"{BEAT_PREFIX}*"):
                with suppress(OSError, psutil.Error):
                    self._look_at(path)

    def stop(self) -> None:
        self._ended.set()
        if self.is_alive():
            self.join()

    def reason(self, beat: Beat | None) -> str:
        """Why the worker of a heartbeat was killed, "" where it was not killed from here."""
        return next((why for known, why in self.killed.items() if beat and known.pid == beat.pid), "")

    def _look_at(self, path: Path) -> None:
        beat = read_beat(path)
        if beat is None or beat.stage == "idle":
            return
        why = self._over_limit(beat)
        # Read again: the worker may have been writing, or may have gone on to the next file.
        if why and read_beat(path) == beat and not self._ended.is_set():
            self.killed[beat] = why
            os.kill(beat.pid, signal.SIGKILL)

    def _over_limit(self, beat: Beat) -> str:
        if beat.limit_s > 0 and time.monotonic() - beat.began_s > beat.limit_s:
            return f"timed out after {beat.limit_s:g} s"
        if self._memory_limit_mb and psutil.Process(beat.pid).memory_info().rss > self._memory_limit_mb * 2**20:
            return f"exceeded {self._memory_limit_mb} MB"
        return ""


def end_orphans(folder: Path) -> None:
    """Kill workers that outlived a parent which was itself killed; `folder` is where they keep their heartbeats.

    A worker notices that its parent is gone within a second, unless native code in it never returns.
    """
    for path in folder.rglob(f"{BEAT_PREFIX}*"):
        with suppress(OSError, ValueError, psutil.Error):
            worker = psutil.Process(int(path.name.removeprefix(BEAT_PREFIX)))
            is_ours = worker.create_time() < path.stat().st_mtime + 1 and "loky" in " ".join(worker.cmdline())
            if is_ours and worker.ppid() in (1, 0):
                worker.kill()
                worker.wait(5)
