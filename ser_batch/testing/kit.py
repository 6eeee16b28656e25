"""What all trials share: signals, a report, and what is left open."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.errors import SerBatchError
from ser_batch.records import Clip
from ser_batch.windows import plan_windows

__all__ = ["NEARLY", "CheckReport", "Finding", "Kit", "Resources", "check_signals", "warnings_caught"]

#: Largest difference in a sample or a probability that pieces and batches may make.
NEARLY = 1e-3

#: Calls after which a leak of one handle per call shows.
_LEAK_CALLS = 5


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise."""

    #: Name of the check, one of `CheckReport.checks`.
    check: str
    #: What was expected and what came instead.
    message: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the kit found; ``str(report)`` is the text for a person."""

    #: extractor, reader or model.
    kind: str
    name: str
    #: Names of the checks that ran, in order.
    checks: tuple[str, ...]
    findings: tuple[Finding, ...]
    #: Median processing time per window of 3 s, in s; NaN for a reader.
    cost_per_window_s: float
    #: Processing time over audio time, at the same median.
    rtf: float

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def __str__(self) -> str:
        lines = [f"{self.kind.capitalize()} {self.name!r}"]
        for check in self.checks:
            messages = [finding.message for finding in self.findings if finding.check == check]
            lines.append(f"  {'FAILED' if messages else 'passed'}  {check}")
            lines += [f"            {message}" for message in messages]
        if not np.isnan(self.cost_per_window_s):
            lines.append(f"  cost    {1000 * self.cost_per_window_s:.2f} ms per window of 3 s (RTF {self.rtf:.5f})")
        return "\n".join(lines)


def check_signals(sample_rate_hz: int = 22_050) -> dict[str, NDArray[np.float32]]:
    """Return the audio that extractors are tried on: name -> float32 (n_samples,), finite, within [-1, 1].

    A synthetic voice (`ser_batch.dsp.voice`), the same clipped, the same with a constant offset, digital silence, 20 ms
    of the voice, a tone of 440 Hz, and white noise. Always the same samples.
    """
    voice = synthetic_voice(10.0, sample_rate_hz)
    times_s = np.arange(3 * sample_rate_hz) / sample_rate_hz
    noise = np.random.default_rng(0).normal(0, 0.1, 3 * sample_rate_hz)
    signals = {
        "voice": voice,
        "clipping": np.clip(6 * voice, -1, 1),
        "dc offset": 0.8 * voice + 0.15,
        "silence": np.zeros(4 * sample_rate_hz),
        "20 ms": voice[sample_rate_hz : sample_rate_hz + sample_rate_hz // 50],
        "pure tone": 0.5 * np.sin(2 * np.pi * 440 * times_s),
        "white noise": np.clip(noise, -1, 1),
    }
    return {name: samples.astype(np.float32) for name, samples in signals.items()}


@dataclass(frozen=True, slots=True)
class Resources:
    """What this process holds open."""

    files: frozenset[str]
    threads: frozenset[str]
    processes: frozenset[str]

    @classmethod
    def now(cls) -> Resources:
        process = psutil.Process()
        return cls(
            frozenset(file.path for file in process.open_files()),
            frozenset(f"{thread.name} ({thread.ident})" for thread in threading.enumerate()),
            frozenset(f"{child.name()} ({child.pid})" for child in process.children()),
        )

    def beyond(self, earlier: Resources) -> dict[str, frozenset[str]]:
        return {
            "open files": self.files - earlier.files,
            "threads": self.threads - earlier.threads,
            "processes": self.processes - earlier.processes,
        }

    @staticmethod
    def count_handles() -> int:
        """Count operating-system threads and, where there are such, file descriptors."""
        process = psutil.Process()
        return process.num_threads() + (process.num_fds() if hasattr(process, "num_fds") else 0)


class Kit:
    """Something under trial: runs checks, turns whatever they raise into findings."""

    def __init__(self, config: Config, plugin: str) -> None:
        self.config = config
        self.plugin = plugin
        self.signals = check_signals(config.audio.sample_rate_hz)
        self.checks: list[str] = []
        self.findings: list[Finding] = []

    def report(self, kind: str, name: str, cost_per_window_s: float = float("nan")) -> CheckReport:
        rtf = cost_per_window_s / self.config.audio.window_s
        return CheckReport(kind, name, tuple(self.checks), tuple(self.findings), cost_per_window_s, rtf)

    def run(self, check: str, action: Callable[[], Sequence[str] | None]) -> None:
        """Run one check; what it returns or raises becomes findings."""
        self.checks.append(check)
        try:
            messages = action() or ()
        except SerBatchError as error:
            messages = (str(error),)
        except Exception as error:
            messages = (f"{type(error).__name__}: {error}",)
        self.findings += [Finding(check, message) for message in messages]

    def clip(self, samples: NDArray[np.float32], start_s: float = 0.0) -> Clip:
        rate = self.config.audio.sample_rate_hz
        return Clip(samples.copy(), rate, source_rate_hz=rate, source_channels=1, start_s=start_s)

    def windows(self, samples: NDArray[np.float32], hop_s: float | None = None) -> NDArray[np.float64]:
        audio = self.config.audio
        return plan_windows(len(samples) / audio.sample_rate_hz, audio.window_s, hop_s or audio.window_hop_s)

    def check_leftovers(self, before: Resources, call: Callable[[], object]) -> list[str]:
        """Compare what is open with `before` the trial, and with what five more calls add."""
        n_before = Resources.count_handles()
        for _ in range(_LEAK_CALLS):
            call()
        n_more = Resources.count_handles() - n_before
        messages = [
            f"left {kind} behind: {', '.join(sorted(left))}"
            for kind, left in Resources.now().beyond(before).items()
            if left
        ]
        if not messages and n_more >= _LEAK_CALLS:
            messages.append(f"{_LEAK_CALLS} more calls left {n_more} more file handles or threads open")
        return messages


@contextmanager
def warnings_caught() -> Iterator[list[str]]:
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
        messages += sorted({f"{warning.category.__name__}: {warning.message}" for warning in caught})
