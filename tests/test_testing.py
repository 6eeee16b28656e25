"""The conformance kit passes an honest extractor and catches each way of breaking the contract, by name."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ser_batch import audio
from ser_batch.cli.main import main
from ser_batch.hookspecs import hookimpl
from ser_batch.records import Clip, ClipRef, FeatureBlock, FeatureSpec, Prediction
from ser_batch.testing import check_classifier, check_extractor, check_reader, check_signals


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


class Plain:
    """Reads WAV as a reader should, but for the lies of subclasses."""

    def pieces(self, clips: Iterable[Clip]) -> Iterable[Clip]:
        return clips

    @hookimpl
    def read_clip(self, ref: ClipRef, sample_rate_hz: int, piece_s: float, overlap_s: float) -> Iterable[Clip]:
        return self.pieces(audio.read_clip(ref, sample_rate_hz, piece_s, overlap_s))


class DriftsInPieces(Plain):
    def pieces(self, clips: Iterable[Clip]) -> Iterable[Clip]:
        return (replace(clip, samples=clip.samples * np.float32(1 + clip.start_s)) for clip in clips)


class Skips(Plain):
    def pieces(self, clips: Iterable[Clip]) -> Iterable[Clip]:
        return (clip for clip in clips if clip.start_s != 1.0)


class Noisy(Plain):
    random = np.random.default_rng()

    def pieces(self, clips: Iterable[Clip]) -> Iterable[Clip]:
        return (replace(clip, samples=clip.samples + np.float32(1e-5 * self.random.random())) for clip in clips)


class ForgivesAll(Plain):
    def pieces(self, clips: Iterable[Clip]) -> Iterable[Clip]:
        try:
            yield from clips
        except OSError:
            return


class KeepsOpen(Plain):
    def __init__(self) -> None:
        self.handles: list[object] = []

    def pieces(self, clips: Iterable[Clip]) -> Iterable[Clip]:
        self.handles.append(open("/dev/null", "rb"))  # noqa: SIM115, PTH123 - the leak is the point
        return clips


def test_an_honest_reader_passes() -> None:
    report = check_reader(Plain())
    assert report.ok, str(report)
    assert report.checks == (
        *("whole voice.wav", "pieces of voice.wav", "voice.wav again"),
        *("missing file", "nothing left open"),
    )
    assert "cost" not in str(report) and str(report).startswith("Reader 'Plain'")


@pytest.mark.parametrize(
    ("reader", "check", "message"),
    [
        (DriftsInPieces(), "pieces of voice.wav", r"the piece at 1 s differs from the whole by up to"),
        (Skips(), "pieces of voice.wav", r"read_clip gave a piece that begins at 2 s, where 1 s is next"),
        (Noisy(), "voice.wav again", r"gives other samples at a second time"),
        (ForgivesAll(), "missing file", r"gave 0 pieces and no error for a file that is not there"),
        (KeepsOpen(), "nothing left open", r"left open files behind: /dev/null|more file handles"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Plain) else None,
)
def test_a_reader_that_breaks_a_promise_is_found(reader: Plain, check: str, message: str) -> None:
    report = check_reader(reader)
    for handle in getattr(reader, "handles", ()):
        handle.close()
    found = [finding.message for finding in report.findings if finding.check == check]
    assert any(re.search(message, text) for text in found), str(report)


class Loud:
    """Loud is yes; what subclasses change is wrong."""

    name, sha256, device = "loud", "0" * 64, "cpu"
    labels: Any = ("no", "yes")
    needs = (("quality", 1),)

    def predict(self, blocks: Mapping[str, FeatureBlock]) -> Any:
        yes = 1 / (1 + np.exp(-np.nan_to_num(blocks["quality"].scalars[:, 0]) / 100))
        return np.column_stack([1 - yes, yes]), np.ones(len(yes))

    def pool(self, window_probabilities: Any, weights: Any) -> Any:
        mean = window_probabilities.mean(axis=0)
        return Prediction(self.labels[int(mean.argmax())], mean, window_probabilities, float(mean.max()), 0.5, 0.5)


class OneLabel(Loud):
    labels = ("yes",)


class OldNeeds(Loud):
    needs = (("quality", 99),)


class NeedsNumbers(Loud):
    def predict(self, blocks: Mapping[str, FeatureBlock]) -> Any:
        probabilities, weights = super().predict(blocks)
        return probabilities + blocks["quality"].scalars[:, :1] * 0, weights


class Moody(Loud):
    random = np.random.default_rng()

    def predict(self, blocks: Mapping[str, FeatureBlock]) -> Any:
        yes = self.random.random(len(blocks["quality"].scalars))
        return np.column_stack([1 - yes, yes]), np.ones(len(yes))


class LooksAround(Loud):
    def predict(self, blocks: Mapping[str, FeatureBlock]) -> Any:
        yes = np.full(len(blocks["quality"].scalars), 1 / (1 + len(blocks["quality"].scalars)))
        return np.column_stack([1 - yes, yes]), np.ones(len(yes))


def test_an_honest_model_passes_and_so_does_the_shipped_one() -> None:
    report = check_classifier(Loud(), plugin="loud-plugin")
    assert report.ok, str(report)
    assert str(report).startswith("Model 'loud'")
    assert main(["plugins", "--check", "ser6"]) == 0


@pytest.mark.parametrize(
    ("model", "check", "message"),
    [
        (OneLabel(), "promises", r"labels must be at least two different emotions"),
        (OldNeeds(), "promises", r"trained with version 99 of extractor 'quality'"),
        (NeedsNumbers(), "undefined features", r"predict: probabilities must be finite and 0 or more"),
        (Moody(), "same numbers again", r"the probabilities for 'voice' differ between two calls"),
        (LooksAround(), "windows of several files at once", r"windows predicted together differ by up to"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Loud) else None,
)
def test_a_model_that_breaks_a_promise_is_found(model: Loud, check: str, message: str) -> None:
    report = check_classifier(model)
    found = [finding.message for finding in report.findings if finding.check == check]
    assert any(re.search(message, text) for text in found), str(report)
