"""The trial of a reader of audio."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pluggy
from numpy.typing import NDArray

from ser_batch import hooks, hookspecs
from ser_batch.config import Config
from ser_batch.dsp.voice import synthetic_voice
from ser_batch.records import Clip, ClipRef
from ser_batch.testing.kit import NEARLY, CheckReport, Kit, Resources, warnings_caught

__all__ = ["check_reader"]


def check_reader(
    plugin: object, files: Sequence[str | os.PathLike[str]] = (), *, config: Config | None = None, name: str = ""
) -> CheckReport:
    """Try the hook ``read_clip`` of `plugin` and return what was found.

    Parameters
    ----------
    plugin : object
        The module or object that implements the hook.
    files : sequence of path
        Recordings that it reads, of a few seconds at least; a WAV of 10 s when there are none.
    config : Config, optional
        Gives the sample rate; the defaults when None.
    name : str, optional
        Name of the plugin, for messages.

    Returns
    -------
    report : CheckReport
        ``report.ok`` is False when a promise is broken: pieces in disorder or of another rate, samples that are not
        finite or not float32, other samples in pieces than of the whole, or at a second time; no error for a file that
        is missing; files left open.
    """
    kit = Kit(config or Config(), name or getattr(plugin, "__name__", type(plugin).__name__))
    before = Resources.now()
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(file) for file in files] or [_written_voice(Path(folder))]
        reader = _Reader(plugin, kit)
        for path in paths:
            kit.run(f"whole {path.name}", partial(reader.check_whole, path))
            kit.run(f"pieces of {path.name}", partial(reader.check_pieces, path))
            kit.run(f"{path.name} again", partial(reader.check_again, path))
        missing = Path(folder) / f"missing{paths[0].suffix}"
        kit.run("missing file", partial(reader.check_missing, missing))
        kit.run("nothing left open", partial(kit.check_leftovers, before, partial(reader.begin, paths[0])))
    return kit.report("reader", kit.plugin)


def _written_voice(folder: Path) -> Path:
    import soundfile  # noqa: PLC0415 - only for readers

    path = folder / "voice.wav"
    soundfile.write(path, synthetic_voice(10.0), 22_050)
    return path


class _Reader:
    """The reader of one plugin under trial."""

    def __init__(self, plugin: object, kit: Kit) -> None:
        self._manager = pluggy.PluginManager("ser_batch")
        self._manager.add_hookspecs(hookspecs)
        self._manager.register(plugin, kit.plugin)
        self._rate_hz = kit.config.audio.sample_rate_hz
        self._whole: dict[Path, NDArray[np.float32]] = {}

    def _pieces(self, path: Path, piece_s: float, overlap_s: float) -> Iterator[Clip]:
        size_bytes = path.stat().st_size if path.exists() else 0
        ref = ClipRef(path.name, str(path), size_bytes, 0)
        return hooks.read_clip(self._manager, ref, self._rate_hz, piece_s, overlap_s)

    def _read(self, path: Path) -> NDArray[np.float32]:
        (clip,) = self._pieces(path, 86_400.0, 0.0)
        return clip.samples

    def check_whole(self, path: Path) -> list[str]:
        with warnings_caught() as caught:
            self._whole[path] = self._read(path)
        return [f"warned: {warning}" for warning in caught]

    def check_pieces(self, path: Path) -> list[str]:
        """Pieces of a second that overlap by a quarter must be the stretches of the whole."""
        whole = self._whole[path]
        for piece in self._pieces(path, 1.0, 0.25):
            first = round(piece.start_s * self._rate_hz)
            expected = whole[first : first + len(piece.samples)]
            if len(expected) < len(piece.samples) - 1:
                return [f"the piece at {piece.start_s:g} s reaches beyond the end of the whole"]
            difference = np.abs(piece.samples[: len(expected)] - expected).max(initial=0.0)
            if difference > NEARLY:
                return [f"the piece at {piece.start_s:g} s differs from the whole by up to {difference:.2g}"]
        return []

    def check_again(self, path: Path) -> list[str]:
        same = np.array_equal(self._read(path), self._whole[path])
        return [] if same else ["gives other samples at a second time"]

    def check_missing(self, path: Path) -> list[str]:
        try:
            n_pieces = len(list(self._pieces(path, 60.0, 0.0)))
        except Exception:
            return []
        return [f"gave {n_pieces} pieces and no error for a file that is not there"]

    def begin(self, path: Path) -> None:
        """Read one piece and leave the rest, as a scan does with a file that fails."""
        next(self._pieces(path, 1.0, 0.0), None)
