"""The conformance kit passes an honest extractor and catches each way of breaking the contract, by name."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray

from ser_batch.records import Clip, FeatureBlock, FeatureSpec
from ser_batch.testing import check_extractor, check_signals


def _loudness(samples: NDArray[np.float32]) -> float:
    power = float(np.mean(samples.astype(np.float64) ** 2)) if len(samples) else 0.0
    return 10 * np.log10(power) if power > 0 else np.nan


@dataclass
class Honest:
    """Level in dB of each window and of the clip."""

    @property
    def spec(self) -> FeatureSpec:
        return FeatureSpec("honest", 1, (("level", "db"), ("peak", "")))

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        parts = [clip.window(*window) for window in windows_s]
        rows = [(_loudness(part), np.abs(part).max(initial=0)) for part in parts]
        clip_row = (_loudness(clip.samples), np.abs(clip.samples).max(initial=0))
        return FeatureBlock("honest", np.array(rows, np.float32).reshape(-1, 2), np.array(clip_row, np.float32))


class WrongType(Honest):
    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        block = super().extract(clip, windows_s)
        return FeatureBlock("honest", block.scalars.astype(np.float64), block.clip_scalars)


class Infinite(Honest):
    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        block = super().extract(clip, windows_s)
        return FeatureBlock("honest", np.where(np.isnan(block.scalars), -np.inf, block.scalars), block.clip_scalars)


class ZeroForUndefined(Honest):
    @property
    def spec(self) -> FeatureSpec:
        return FeatureSpec("honest", 1, (("pitch", "hz"), ("peak", "")))

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        block = super().extract(clip, windows_s)
        return FeatureBlock("honest", np.nan_to_num(block.scalars), np.nan_to_num(block.clip_scalars))


class Random(Honest):
    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        block = super().extract(clip, windows_s)
        return FeatureBlock("honest", block.scalars, block.clip_scalars + np.float32(np.random.default_rng().random()))


class IgnoresWhereThePieceStarts(Honest):
    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        at_zero = Clip(clip.samples, clip.sample_rate_hz, clip.source_rate_hz, clip.source_channels)
        return super().extract(at_zero, windows_s)


class Raises(Honest):
    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        if clip.duration_s < 0.1:
            raise ZeroDivisionError("no frames")
        return super().extract(clip, windows_s)


class Modifies(Honest):
    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        clip.samples.flags.writeable = True
        clip.samples[...] *= 0.5
        return super().extract(clip, windows_s)


class Warns(Honest):
    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        warnings.warn("mean of empty slice", RuntimeWarning, stacklevel=2)
        return super().extract(clip, windows_s)


@dataclass
class LeavesThreads(Honest):
    stop: Callable[[], None] | None = None

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        if self.stop is None:
            done = threading.Event()
            self.stop = done.set
            threading.Thread(target=done.wait, name="forgotten", daemon=True).start()
        return super().extract(clip, windows_s)


@dataclass
class LeaksHandles(Honest):
    handles: list[object] = field(default_factory=list)

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        self.handles.append(open("/dev/null", "rb"))  # noqa: SIM115, PTH123 - the leak is the point
        return super().extract(clip, windows_s)


@dataclass
class DiffersElsewhere(Honest):
    """Carries state that the worker does not get."""

    offset: float = 0.0

    def __reduce__(self) -> tuple[type, tuple[float]]:
        return DiffersElsewhere, (1.0,)

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        block = super().extract(clip, windows_s)
        return FeatureBlock("honest", block.scalars + np.float32(self.offset), block.clip_scalars)


class BadName(Honest):
    @property
    def spec(self) -> FeatureSpec:
        return FeatureSpec("two words", 1, (("level", "db"),))


def test_an_honest_extractor_passes_every_check() -> None:
    report = check_extractor(Honest())
    assert report.ok, str(report)
    assert len(report.checks) == 13
    assert 0 < report.cost_per_window_s < 0.1
    assert report.rtf == pytest.approx(report.cost_per_window_s / 3)
    assert "passed  silence" in str(report)


@pytest.mark.parametrize(
    ("extractor", "check", "message"),
    [
        (WrongType(), "voice", r"scalars must be float32 of shape \(4, 2\), not float64"),
        (Infinite(), "silence", r"infinity in column 'honest__level_db'; use NaN"),
        (ZeroForUndefined(), "silence", r"'honest__pitch_hz' is 0 hz on digital silence; undefined is NaN"),
        (Random(), "same numbers again", r"'voice' differ between two calls: clip_scalars\[0\]"),
        (IgnoresWhereThePieceStarts(), "piece of a recording", r"starts at 120 s .* clip\.window"),
        (Raises(), "20 ms", r"'honest' failed: ZeroDivisionError: no frames"),
        (Modifies(), "voice", r"changed the samples of the clip"),
        (Warns(), "pure tone", r"warned: RuntimeWarning: mean of empty slice"),
        (DiffersElsewhere(), "same numbers in a worker", r"a worker process gives other numbers"),
        (BadName(), "spec", r"'two words': the name must be a Python identifier"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Honest) else None,
)
def test_a_broken_promise_is_found_and_named(extractor: Honest, check: str, message: str) -> None:
    report = check_extractor(extractor, plugin="broken-plugin", in_worker="worker" in check)
    found = [finding.message for finding in report.findings if finding.check == check]
    assert found, report
    assert any(re.search(message, text) for text in found), found
    assert f"FAILED  {check}" in str(report)


def test_threads_left_behind_are_named() -> None:
    extractor = LeavesThreads()
    report = check_extractor(extractor, in_worker=False)
    assert extractor.stop is not None
    extractor.stop()
    assert any("threads" in item.message and "forgotten" in item.message for item in report.findings), report


def test_handles_left_open_are_counted() -> None:
    extractor = LeaksHandles()
    report = check_extractor(extractor, in_worker=False)
    for handle in extractor.handles:
        handle.close()  # type: ignore[attr-defined]
    assert any("more file handles" in item.message for item in report.findings), report


def test_the_signals_are_what_they_say() -> None:
    signals = check_signals()
    assert all(samples.dtype == np.float32 and np.isfinite(samples).all() for samples in signals.values())
    assert all(np.abs(samples).max() <= 1 for samples in signals.values())
    assert not signals["silence"].any()
    assert len(signals["20 ms"]) == 441
    assert np.mean(np.abs(signals["clipping"]) == 1) > 0.02
    assert signals["dc offset"].mean() == pytest.approx(0.15, abs=0.01)
    spectrum = np.abs(np.fft.rfft(signals["pure tone"]))
    assert np.argmax(spectrum) / 3 == pytest.approx(440, abs=0.2)
    again = check_signals()
    assert all(np.array_equal(signals[name], again[name]) for name in signals)
