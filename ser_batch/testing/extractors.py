"""The trial of an extractor."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_batch import hooks
from ser_batch.config import Config
from ser_batch.contracts import CheckedExtractor, check_spec
from ser_batch.errors import PluginError
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Clip, Extractor, FeatureBlock, FeatureSpec
from ser_batch.testing.kit import CheckReport, Finding, Kit, Resources, warnings_caught

__all__ = ["check_extractor"]

#: Seconds that the fresh interpreter of the worker check may take; imports of large libraries are slow on a cold disk.
_WORKER_TIMEOUT_S = 300
#: Relative difference that the order of float32 sums may make.
_ROUNDING = 1e-5

#: Units in which 0 is no possible value of a voice, so that 0 on silence can only mean "undefined".
_NEVER_ZERO = ("hz", "st")


def check_extractor(
    extractor: Extractor,
    *,
    config: Config | None = None,
    plugin: str = "",
    recipe: PluginRecipe | None = None,
    in_worker: bool = True,
) -> CheckReport:
    """Try `extractor` on unkind audio and return what was found.

    Parameters
    ----------
    extractor : Extractor
        The extractor to try.
    config : Config, optional
        Gives the sample rate and the windows; the defaults when None.
    plugin : str, optional
        Name of its plugin, for messages.
    recipe : PluginRecipe, optional
        How a worker process builds the extractor, as a scan does. When None it is pickled instead.
    in_worker : bool, default True
        Whether to compare with a fresh process too, which takes a second or two.

    Returns
    -------
    report : CheckReport
        ``report.ok`` is False when a promise is broken: a wrong spec, shape or type; infinity; 0 Hz for silence;
        numbers that change from call to call, with the position in the recording or in another process; audio that
        is modified; warnings; files, threads or processes left open.
    """
    kit = _ExtractorKit(extractor, config or Config(), plugin or type(extractor).__module__)
    try:
        spec = check_spec(kit.plugin, extractor)
    except PluginError as error:
        finding = Finding("spec", str(error))
        return CheckReport("extractor", type(extractor).__name__, ("spec",), (finding,), np.nan, np.nan)
    kit.run("spec", lambda: _check_spec_style(spec))
    before = Resources.now()
    for name in kit.signals:
        kit.run(name, partial(kit.try_signal, name))
    kit.run("same numbers again", kit.check_repeatable)
    kit.run("many windows", kit.check_many_windows)
    kit.run("piece of a recording", kit.check_piece)
    kit.run("nothing left open", partial(kit.check_leftovers, before, lambda: kit.extract(kit.signals["20 ms"])))
    if in_worker:
        kit.run("same numbers in a worker", partial(kit.check_worker, recipe))
    return kit.report("extractor", spec.extractor, kit.cost_per_window_s)


class _ExtractorKit(Kit):
    """One extractor under trial."""

    def __init__(self, extractor: Extractor, config: Config, plugin: str) -> None:
        super().__init__(config, plugin)
        self.extractor = extractor
        self.first_blocks: dict[str, FeatureBlock] = {}
        self.cost_per_window_s = float("nan")

    def extract_from(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        return CheckedExtractor(self.plugin, self.extractor).extract(clip, windows_s)

    def extract(self, samples: NDArray[np.float32]) -> FeatureBlock:
        return self.extract_from(self.clip(samples), self.windows(samples))

    def try_signal(self, name: str) -> list[str]:
        """Extract from one signal; nothing may be broken, changed or said."""
        samples = self.signals[name]
        clip = self.clip(samples)
        with warnings_caught() as caught:
            block = self.extract_from(clip, self.windows(samples))
        messages = [f"warned: {warning}" for warning in caught]
        if not np.array_equal(clip.samples, samples):
            messages.append("changed the samples of the clip, which other extractors share")
        self.first_blocks[name] = block
        if name == "silence":
            messages += self._zeros_on_silence(block)
        return messages

    def _zeros_on_silence(self, block: FeatureBlock) -> list[str]:
        messages = []
        rows = np.vstack([block.scalars, block.clip_scalars])
        for column, (_, unit), values in zip(
            self.extractor.spec.columns, self.extractor.spec.scalars, rows.T, strict=True
        ):
            if unit in _NEVER_ZERO and (values == 0).any():
                messages.append(f"column {column!r} is 0 {unit} on digital silence; undefined is NaN, never 0")
        return messages

    def check_repeatable(self) -> list[str]:
        """Every signal again, in the opposite order: neither chance nor what came before may count."""
        return [
            f"the numbers for {name!r} differ between two calls: {difference}"
            for name in reversed(self.first_blocks)
            if (difference := _difference(self.first_blocks[name], self.extract(self.signals[name])))
        ]

    def check_many_windows(self) -> None:
        """Half a minute of audio with overlapping windows; measures the cost on the plain grid besides."""
        longer = np.tile(self.signals["voice"], 3)
        windows_s = self.windows(longer, hop_s=self.config.audio.window_s / 4)
        self.extract_from(self.clip(longer), windows_s)
        voice, seconds = self.signals["voice"], []
        for _ in range(3):
            begin = time.perf_counter()
            self.extract(voice)
            seconds.append(time.perf_counter() - begin)
        self.cost_per_window_s = float(np.median(seconds)) / len(self.windows(voice))

    def check_piece(self) -> list[str]:
        """The same audio as a piece that begins at 120 s of a recording must give the same numbers."""
        samples = self.signals["voice"]
        windows_s = self.windows(samples)
        piece = self.extract_from(self.clip(samples, start_s=120.0), windows_s + 120.0)
        # Times beyond 120 s are rounded a little differently, so not bit for bit.
        difference = _difference(self.extract(samples), piece, rtol=1e-4)
        if not difference:
            return []
        return [f"a piece that starts at 120 s gives other numbers than at 0 s: {difference}; cut with clip.window"]

    def check_worker(self, recipe: PluginRecipe | None) -> list[str]:
        """A fresh interpreter must give the same numbers, but for float32 rounding: sums depend on where arrays lie."""
        name = self.extractor.spec.extractor
        if "voice" not in self.first_blocks:
            return []
        if recipe is None:
            try:
                pickle.dumps(self.extractor)
            except Exception as error:
                return [f"cannot be pickled ({error}); give check_extractor a `recipe` that builds it in the worker"]
        with tempfile.TemporaryDirectory() as folder:
            job, answer = Path(folder) / "job", Path(folder) / "answer"
            job.write_bytes(pickle.dumps((recipe or self.extractor, name, self.config, self.signals["voice"])))
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            done = subprocess.run(
                [sys.executable, "-P", "-m", "ser_batch.testing.extractors", str(job), str(answer)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=_WORKER_TIMEOUT_S,
                check=False,
            )
            if done.returncode:
                return [f"a worker process ended with code {done.returncode}: {done.stderr.strip()[-500:]}"]
            block = pickle.loads(answer.read_bytes())
        difference = _difference(self.first_blocks["voice"], block, rtol=_ROUNDING)
        return [f"a worker process gives other numbers: {difference}"] if difference else []


def _answer(job: Path, answer: Path) -> None:
    """Do the worker's half of `Kit.check_worker`."""
    source, name, config, samples = pickle.loads(job.read_bytes())
    if isinstance(source, PluginRecipe):
        source = hooks.register_extractors(source.build(), config)[name][1].inner
    kit = _ExtractorKit(source, config, name)
    answer.write_bytes(pickle.dumps(kit.extract(samples)))


def _check_spec_style(spec: FeatureSpec) -> list[str]:
    messages = []
    if not spec.scalars and spec.tensor_shape is None:
        messages.append("declares neither scalars nor a tensor, so it can give nothing")
    messages += [
        f"column {column!r}: column names are lower case, with digits and underscores"
        for column in spec.columns
        if column != column.lower() or not column.isascii()
    ]
    return messages


def _difference(first: FeatureBlock, second: FeatureBlock, rtol: float = 0.0) -> str:
    """Say where two blocks differ, or nothing; NaN equals NaN."""
    for name in ("scalars", "clip_scalars", "tensor"):
        left, right = getattr(first, name), getattr(second, name)
        if left is None or right is None:
            continue
        if left.shape != right.shape:
            return f"{name} of shape {left.shape} and {right.shape}"
        unequal = ~np.isclose(left, right, rtol=rtol, atol=rtol, equal_nan=True)
        if unequal.any():
            where = tuple(int(index) for index in np.argwhere(unequal)[0])
            return f"{name}{list(where)} is {left[where]!r} and then {right[where]!r}"
    return ""


if __name__ == "__main__":
    _answer(Path(sys.argv[1]), Path(sys.argv[2]))
