"""What plugins return, held against what docs/hooks.md promises. Everything that comes from a plugin passes here, or
through `ser_batch.contracts_models`.

Arrays are copied, into memory that nobody can write to: a plugin that uses its arrays again, or writes into what it is
shown, changes no number of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import PluginError
from ser_batch.plugins import blamed
from ser_batch.records import Clip, Corpus, CorpusItem, Extractor, FeatureBlock, FeatureSpec, Segment
from ser_batch.segments.marked import MOST_CHANNELS
from ser_batch.text import shown

__all__ = [
    "CheckedExtractor",
    "check_block",
    "check_clips",
    "check_corpus",
    "check_segments",
    "check_spec",
    "read_only",
]

#: Longest note of a reader that is kept.
_NOTE_CHARACTERS = 500


def read_only(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a float32 copy that cannot be made writable."""
    return np.asarray(np.array(array, np.float32, order="C").data.toreadonly())


def check_spec(plugin: str, extractor: object) -> FeatureSpec:
    """Return the spec of `extractor` if it is an extractor whose name, version and columns are well formed.

    Raises
    ------
    PluginError
        It is not; the message names the plugin and says what was expected.
    """
    with blamed(f"Plugin {plugin!r}: the spec of {shown(extractor)} cannot be read"):
        spec = getattr(extractor, "spec", None)
        if not isinstance(spec, FeatureSpec) or not callable(getattr(extractor, "extract", None)):
            raise PluginError(
                f"Plugin {plugin!r} registered {shown(extractor)}, which is not an extractor: an instance with a "
                f"`spec` (FeatureSpec) and a method `extract(clip, windows_s)`."
            )
        _check_fields(f"Plugin {plugin!r}: extractor {shown(spec.extractor)}", spec)
    return spec


def _check_fields(where: str, spec: FeatureSpec) -> None:
    if not spec.extractor.isidentifier() or "__" in spec.extractor:
        raise PluginError(f"{where}: the name must be a Python identifier without a double underscore.")
    if not isinstance(spec.version, int) or spec.version < 1:
        raise PluginError(f"{where}: version must be a whole number from 1, not {shown(spec.version)}.")
    for scalar in spec.scalars:
        if len(scalar) != 2 or not f"{scalar[0]}_{scalar[1]}".isidentifier():
            pair = '("f0_mean", "hz")'
            raise PluginError(f"{where}: scalars must be pairs (name, unit) such as {pair}, not {shown(scalar)}.")
    twice = sorted({column for column in spec.columns if spec.columns.count(column) > 1})
    if twice:
        raise PluginError(f"{where} declares column {twice[0]!r} twice.")
    unknown = [name for name in spec.totals if name not in {scalar[0] for scalar in spec.scalars}]
    if unknown:
        raise PluginError(f"{where}: totals must be names of its scalars; {shown(unknown[0])} is none.")
    shape = spec.tensor_shape
    if shape is not None and not (
        isinstance(shape, tuple) and shape and all(isinstance(size, int) and size > 0 for size in shape)
    ):
        raise PluginError(f"{where}: tensor_shape must be None or whole numbers above 0, not {shown(shape)}.")


def check_block(plugin: str, spec: FeatureSpec, block: object, n_windows: int) -> FeatureBlock:
    """Return a copy of `block` if it keeps the promise of `spec`: shapes, float32, NaN (never infinity) for undefined.

    Raises
    ------
    PluginError
        It does not; the message names plugin, extractor and column, and what was expected.
    """
    where = f"Plugin {plugin!r}: extractor {spec.extractor!r}"
    if not isinstance(block, FeatureBlock):
        raise PluginError(f"{where} must return a FeatureBlock, not {type(block).__name__}.")
    if not isinstance(block.extractor, str) or block.extractor != spec.extractor:
        raise PluginError(f"{where} returned a block named {shown(block.extractor)}; name it after the extractor.")
    n_scalars = len(spec.scalars)
    _check_array(where, "scalars", block.scalars, (n_windows, n_scalars))
    _check_array(where, "clip_scalars", block.clip_scalars, (n_scalars,))
    infinite = np.isinf(np.vstack([block.scalars, block.clip_scalars])).any(axis=0)
    if infinite.any():
        column = spec.columns[int(np.argmax(infinite))]
        raise PluginError(f"{where} gave infinity in column {column!r}; use NaN where a number is undefined.")
    if spec.tensor_shape is None:
        if block.tensor is not None:
            raise PluginError(f"{where} returned a tensor, but its spec declares none (tensor_shape=None).")
        return FeatureBlock(block.extractor, read_only(block.scalars), read_only(block.clip_scalars))
    if block.tensor is None:
        raise PluginError(f"{where} returned no tensor, but its spec declares one of shape {spec.tensor_shape}.")
    _check_array(where, "tensor", block.tensor, (n_windows, *spec.tensor_shape))
    if np.isinf(block.tensor).any():
        raise PluginError(f"{where} gave infinity in its tensor; limit it, or use NaN where a number is undefined.")
    return FeatureBlock(
        block.extractor, read_only(block.scalars), read_only(block.clip_scalars), read_only(block.tensor)
    )


def _check_array(where: str, name: str, value: object, shape: tuple[int, ...]) -> None:
    if not isinstance(value, np.ndarray):
        raise PluginError(f"{where}: {name} must be a numpy array, not {type(value).__name__}.")
    if value.dtype != np.float32 or value.shape != shape:
        raise PluginError(
            f"{where}: {name} must be float32 of shape {shape}, not {value.dtype} of shape {value.shape}."
        )


class CheckedExtractor:
    """An extractor of a plugin, each of whose blocks is checked and copied.

    Attributes
    ----------
    spec : FeatureSpec
        As it was when the plugin registered it.
    inner : Extractor
        As the plugin registered it, unchecked.

    Raises
    ------
    PluginError
        It is no extractor; see `check_spec`.
    """

    def __init__(self, plugin: str, extractor: Extractor) -> None:
        self.spec = check_spec(plugin, extractor)
        self.inner = extractor
        self._plugin = plugin

    def extract(self, clip: Clip, windows_s: NDArray[np.float64]) -> FeatureBlock:
        """Return what the extractor finds in `clip`; see `Extractor`.

        Raises
        ------
        PluginError
            It failed, or what it gave is not what its spec says.
        """
        windows_s = np.asarray(windows_s.data.toreadonly())  # all extractors are shown the same
        with blamed(f"Plugin {self._plugin!r}: extractor {self.spec.extractor!r} failed"):
            block = self.inner.extract(clip, windows_s)
        return check_block(self._plugin, self.spec, block, len(windows_s))


def check_clips(
    plugin: str, pieces: Iterable[Clip], sample_rate_hz: int, piece_s: float, overlap_s: float
) -> Iterator[Clip]:
    """Yield copies of the pieces of one recording, as long as they are what was asked for, in their order.

    Raises
    ------
    PluginError
        A piece is not; the message names the plugin and says what was expected.
    Exception
        What the reader raises between pieces.
    """
    where = f"Plugin {plugin!r}: read_clip"
    if not isinstance(pieces, Iterable):
        raise PluginError(f"{where} must return an iterable of Clip, not {shown(pieces)}.")
    iterator = iter(pieces)
    before_s: tuple[float, float] | None = None
    while True:
        with blamed(f"{where} failed", passing=Exception):
            piece = next(iterator, None)
        if piece is None:
            return
        clip = _checked_clip(where, piece, sample_rate_hz)
        _check_place(where, clip, before_s, piece_s, overlap_s)
        before_s = clip.start_s, clip.start_s + clip.duration_s
        del piece
        yield clip
        # What extractors shared about it would stay while the next piece is decoded.
        del clip


def check_segments(plugin: str, answer: object, clip: Clip) -> list[Segment]:
    """Return the segments that a plugin found in `clip`, cut to it, by where they begin.

    Raises
    ------
    PluginError
        They are no list of segments, or one is outside of the clip.
    """
    where = f"Plugin {plugin!r}: find_segments"
    if not isinstance(answer, Sequence) or not all(isinstance(item, Segment) for item in answer):
        raise PluginError(f"{where} must return a list of Segment, not {shown(answer)}.")
    end_s = clip.start_s + clip.duration_s
    found = []
    for item in answer:
        with blamed(f"{where} gave what is no segment"):
            times = float(item.start_s), float(item.end_s)
            channel, words = int(item.channel), (str(item.speaker), " ".join(str(item.text).split()))
            source = str(item.source) or plugin
        if not 0 <= channel <= MOST_CHANNELS:
            raise PluginError(f"{where} gave a segment of channel {shown(channel)}; channels count from 1, 0 is none.")
        if not clip.start_s - 1 <= times[0] < times[1] <= end_s + 1:
            raise PluginError(
                f"{where} gave a segment from {times[0]:.3f} to {times[1]:.3f} s in a piece from {clip.start_s:.3f} to "
                f"{end_s:.3f} s. Times are in s of the recording."
            )
        start_s, stop_s = max(times[0], clip.start_s), min(times[1], end_s)
        if start_s < stop_s:
            found.append(Segment(start_s, stop_s, channel, *words, source))
    return sorted(found, key=lambda item: (item.start_s, item.end_s))


def _checked_clip(where: str, clip: object, sample_rate_hz: int) -> Clip:
    if not isinstance(clip, Clip):
        raise PluginError(f"{where} must give Clips, not {type(clip).__name__}.")
    samples = clip.samples
    if not isinstance(samples, np.ndarray) or samples.dtype != np.float32 or samples.ndim != 1:
        what = (
            f"{samples.dtype} of shape {samples.shape}" if isinstance(samples, np.ndarray) else type(samples).__name__
        )
        raise PluginError(f"{where}: samples must be float32 of shape (n_samples,), mono, not {what}.")
    if clip.sample_rate_hz != sample_rate_hz:
        raise PluginError(f"{where} gave {shown(clip.sample_rate_hz)} Hz where {sample_rate_hz} Hz were asked for.")
    # As the tables of a run hold them.
    for name, most in (("source_rate_hz", 2**31 - 1), ("source_channels", MOST_CHANNELS), ("channel", MOST_CHANNELS)):
        value = getattr(clip, name)
        if not isinstance(value, int | np.integer) or not 0 <= value <= most:
            raise PluginError(f"{where}: {name} must be a whole number from 0 to {most:,}, not {shown(value)}.")
    if not isinstance(clip.start_s, int | float | np.number) or not math.isfinite(clip.start_s):
        raise PluginError(f"{where}: start_s must be a time in s, not {shown(clip.start_s)}.")
    for name in ("note", "reader"):
        if not isinstance(getattr(clip, name), str):
            raise PluginError(f"{where}: {name} must be text, not {shown(getattr(clip, name))}.")
    if not np.isfinite(samples).all():
        raise PluginError(f"{where} gave samples that are NaN or infinite; read them as 0 and say so in `note`.")
    return Clip(
        read_only(samples),
        sample_rate_hz,
        int(clip.source_rate_hz),
        int(clip.source_channels),
        float(clip.start_s),
        clip.note[:_NOTE_CHARACTERS],
        clip.reader[:_NOTE_CHARACTERS],
        int(clip.channel),
    )


def _check_place(
    where: str, clip: Clip, before_s: tuple[float, float] | None, piece_s: float, overlap_s: float
) -> None:
    """See that a piece begins `piece_s` after the start of the one before, which reached `overlap_s` into it."""
    sample_s = 1.01 / clip.sample_rate_hz
    expected_s = 0.0 if before_s is None else before_s[0] + piece_s
    if abs(clip.start_s - expected_s) > sample_s:
        raise PluginError(f"{where} gave a piece that begins at {clip.start_s:g} s, where {expected_s:g} s is next.")
    if clip.duration_s > piece_s + overlap_s + sample_s:
        raise PluginError(
            f"{where} gave a piece of {clip.duration_s:g} s; a piece is at most piece_s + overlap_s, "
            f"{piece_s + overlap_s:g} s."
        )
    if before_s is not None:
        reached_s = before_s[1] - clip.start_s
        wanted_s = min(overlap_s, clip.duration_s)
        if reached_s < wanted_s - sample_s:
            raise PluginError(
                f"{where} gave a piece that reaches {reached_s:g} s beyond the start of the next one; "
                f"{wanted_s:g} s were asked for."
            )


def check_corpus(plugin: str, corpus: object) -> Corpus:
    """Return `corpus` with a `read` and a `looks_like` whose answers are checked, and whose errors name the plugin.

    Raises
    ------
    PluginError
        It is no corpus; the message names the plugin and says what was expected.
    """
    if not isinstance(corpus, Corpus):
        raise PluginError(f"Plugin {plugin!r}: register_corpora gave {shown(corpus)}, which is no Corpus.")
    where = f"Plugin {plugin!r}: corpus {shown(corpus.name)}"
    _check_texts(where, corpus, ("name", "title", "licence", "url", "language"))
    if not corpus.name:
        raise PluginError(f"{where} needs a name.")

    def read(folder: Path) -> Iterable[CorpusItem]:
        with blamed(f"{where} failed on {folder}"):
            items = list(corpus.read(folder))
        for item in items:
            if not isinstance(item, CorpusItem):
                raise PluginError(f"{where} gave {shown(item)}, which is no LabelledClip, PassedOver or Remark.")
            _check_texts(where, item, [field.name for field in fields(item)])
        return items

    def looks_like(folder: Path, names: Sequence[str]) -> bool:
        with blamed(f"{where} failed on {folder}"):
            return bool(corpus.looks_like(folder, names))

    return replace(corpus, read=read, looks_like=looks_like)


def _check_texts(where: str, record: object, names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(value := getattr(record, name), str):
            raise PluginError(f"{where}: {name} must be text, not {shown(value)}.")
