"""The progress of work: a bar on a terminal, plain lines in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import click

from ser_batch.interrupt import Interruptions
from ser_batch.records import ClipOutcome
from ser_batch.stages.progress import Progress
from ser_batch.text import printable

__all__ = ["BarProgress", "LineProgress", "hours_text", "interruptible", "make_progress", "working"]

#: Seconds between two lines in a log.
_LINE_PERIOD_S = 30.0


def make_progress(quiet: bool = False) -> Progress:
    """Return a bar where standard error is a terminal, else lines; nothing if `quiet`."""
    if quiet:
        return Progress()
    return BarProgress() if sys.stderr.isatty() else LineProgress()


@contextmanager
def working(kept: str = "What is done is kept: the same command goes on from there.") -> Iterator[Progress]:
    """Give the progress of a command; Ctrl-C and SIGTERM end it in order, and say what is kept of its work."""
    progress = make_progress()
    try:
        with interruptible(kept), Interruptions():
            yield progress
    finally:
        progress.end()


@contextmanager
def interruptible(kept: str) -> Iterator[None]:
    """Let Ctrl-C end a command in order, and say what it leaves."""
    try:
        yield
    except KeyboardInterrupt:
        raise click.Abort(f"\nInterrupted. {kept}") from None


class _Counting(Progress):
    """What both count."""

    def begin(self, n_files: int, n_found: int) -> None:
        self._n_files = n_files
        self._n_done = 0
        self._n_failed = 0
        self._audio_s = 0.0
        self._begin_s = time.monotonic()
        if n_files < n_found:
            self.say(f"{n_found - n_files:,} of {n_found:,} files are done already.")

    def advance(self, outcomes: Sequence[ClipOutcome]) -> None:
        self._n_done += len(outcomes)
        self._n_failed += sum(outcome.status == "failed" for outcome in outcomes)
        self._audio_s += sum(outcome.duration_s for outcome in outcomes if not math.isnan(outcome.duration_s))

    def _rate(self) -> str:
        elapsed_s = max(time.monotonic() - self._begin_s, 1e-9)
        failed = f", {self._n_failed:,} failed" if self._n_failed else ""
        return f"{hours_text(self._audio_s)} of audio, {self._audio_s / elapsed_s:.0f} h/h{failed}"

    def say(self, text: str) -> None:
        click.echo("\n".join(printable(line) for line in text.splitlines()), err=True)


class BarProgress(_Counting):
    """A bar with files, audio, speed and time left, or with what else work is counted in."""

    _bar: Any = None

    def begin(self, n_files: int, n_found: int) -> None:
        super().begin(n_files, n_found)
        self._open(n_files, unit="file", smoothing=0.05)

    def _open(self, total: int, **more: Any) -> None:
        from tqdm import tqdm  # noqa: PLC0415 - only where there is a terminal

        self.end()
        self._bar = tqdm(total=total, dynamic_ncols=True, file=sys.stderr, **more)

    def advance(self, outcomes: Sequence[ClipOutcome]) -> None:
        super().advance(outcomes)
        self._bar.set_postfix_str(self._rate(), refresh=False)
        self._bar.update(len(outcomes))

    def step(self, what: str, done: int, total: int) -> None:
        if self._bar is None or self._bar.desc != what or done < self._bar.n:
            self._open(total, desc=what, leave=False)
        self._bar.update(done - self._bar.n)

    def say(self, text: str) -> None:
        if self._bar is None:
            super().say(text)
        else:
            self._bar.write("\n".join(printable(line) for line in text.splitlines()), file=sys.stderr)

    def end(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class LineProgress(_Counting):
    """A line now and then, for logs and pipes."""

    def begin(self, n_files: int, n_found: int) -> None:
        super().begin(n_files, n_found)
        self._last_s = self._begin_s

    def advance(self, outcomes: Sequence[ClipOutcome]) -> None:
        super().advance(outcomes)
        now_s = time.monotonic()
        if now_s - self._last_s >= _LINE_PERIOD_S:
            self._last_s = now_s
            left_s = (now_s - self._begin_s) / self._n_done * (self._n_files - self._n_done)
            left = timedelta(seconds=round(left_s))
            click.echo(f"{self._n_done:,} of {self._n_files:,} files, {self._rate()}, {left} left", err=True)


def hours_text(seconds: float) -> str:
    """Return a length of audio for people: ``12.3 h``, or minutes or seconds where it is short."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"
