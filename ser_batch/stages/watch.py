"""Watches workers from the parent: kills the one whose file takes too long or too much memory, and remembers why."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

from ser_batch.births import BIRTH_TOLERANCE_S, born_s
from ser_batch.stages.blame import Cause
from ser_batch.stages.worker import BEAT_PREFIX, LOG_PREFIX, Beat, read_beat

__all__ = ["Watchdog", "beats", "end_left_behind", "end_orphans"]

#: How often workers are looked at.
_PERIOD_S = 0.2
#: How long the system may take to end a process that is killed.
_DEATH_S = 5.0
#: Output of a worker beyond this is forgotten: a plugin may print for each of a million files.
_LOG_BYTES = 2**20


class Watchdog(threading.Thread):
    """Looks at the heartbeats in a folder until stopped.

    Parameters
    ----------
    folder : Path
        Where the workers of one pool keep their heartbeats and their logs.
    memory_limit_mb : int
        Resident memory of one worker; 0 = no limit. The time limit comes with each heartbeat.
    """

    def __init__(self, folder: Path, memory_limit_mb: int) -> None:
        super().__init__(name="ser-batch watchdog", daemon=True)
        self._folder, self._memory_limit_mb = folder, memory_limit_mb
        self._ended = threading.Event()
        #: Process of each worker killed -> why.
        self.killed: dict[int, Cause] = {}

    def run(self) -> None:
        while not self._ended.wait(_PERIOD_S):
            for beat in beats(self._folder):
                with suppress(OSError, psutil.Error):
                    self._look_at(beat)

    def stop(self) -> None:
        self._ended.set()
        if self.is_alive():
            self.join()

    def _look_at(self, beat: Beat) -> None:
        log = self._folder / f"{LOG_PREFIX}{beat.pid}"
        if log.stat().st_size > _LOG_BYTES:
            os.truncate(log, 0)  # workers append, so the next line is the first
        cause = None if beat.stage == "idle" else self._over_limit(beat)
        # Read again: the worker may have been writing, or may have gone on to the next file.
        if cause and read_beat(self._folder / f"{BEAT_PREFIX}{beat.pid}") == beat and not self._ended.is_set():
            self.killed[beat.pid] = cause
            _kill_group(beat.pid)

    def _over_limit(self, beat: Beat) -> Cause | None:
        if beat.limit_s > 0 and time.monotonic() - beat.began_s > beat.limit_s:
            return Cause("TimedOut", f"timed out after {beat.limit_s:g} s")
        if self._memory_limit_mb and psutil.Process(beat.pid).memory_info().rss > self._memory_limit_mb * 2**20:
            return Cause("OutOfMemory", f"exceeded {self._memory_limit_mb} MB")
        return None


def beats(folder: Path) -> Iterator[Beat]:
    """Yield the last heartbeat of each worker that had its heartbeat below a folder."""
    for below, _, names in os.walk(folder):
        for name in names:
            if name.startswith(BEAT_PREFIX):
                with suppress(OSError, ValueError):
                    if beat := read_beat(Path(below, name)):
                        yield beat


def end_left_behind(folder: Path) -> None:
    """End what workers that have just died leave behind: programs that a plugin started."""
    for beat in beats(folder):
        # A number is not given away while a group bears it, so this is theirs or nobody's.
        if not psutil.pid_exists(beat.pid) or _is_worker(beat):
            _kill_group(beat.pid)


def end_orphans(folder: Path) -> None:
    """End workers that outlived a parent which was itself killed; `folder` is where they keep their heartbeats.

    A worker notices that its parent is gone within a second, unless native code in it never returns.
    """
    orphans = [beat for beat in beats(folder) if _is_worker(beat)]
    for beat in orphans:
        _kill_group(beat.pid)
    # Not until their numbers are free: whoever inherits them, as the first process of many containers, may never ask.
    deadline_s = time.monotonic() + _DEATH_S
    while any(_is_worker(beat) for beat in orphans) and time.monotonic() < deadline_s:
        time.sleep(0.01)


def _is_worker(beat: Beat) -> bool:
    """Whether the process of this number is still the one that wrote the heartbeat, and not only what is left of it."""
    try:
        began_then = abs(born_s(beat.pid) - beat.born_s) < BIRTH_TOLERANCE_S
        return began_then and "loky" in " ".join(psutil.Process(beat.pid).cmdline())
    except psutil.Error:
        return False


def _kill_group(pid: int) -> None:
    """Kill a worker with all that was started in it; each worker leads a group of its own."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
