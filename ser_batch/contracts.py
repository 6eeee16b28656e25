"""What plugins return, held against what docs/hooks.md promises. Everything that comes from a plugin passes here.

Arrays are copied, into memory that nobody can write to: a plugin that uses its arrays again, or writes into what it is
shown, changes no number of another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ser_batch.errors import ModelError, PluginError
from ser_batch.kinds import CARD, is_count, is_text, problem_with, read_json
from ser_batch.plugins import blamed
from ser_batch.records import Classifier, Clip, Corpus, CorpusItem, Extractor, FeatureBlock, FeatureSpec, Prediction
from ser_batch.text import did_you_mean, shown

__all__ = [
    "CheckedClassifier",
    "CheckedExtractor",
    "check_block",
    "check_clips",
    "check_corpus",
    "check_spec",
    "read_only",
]

#: How far probabilities may be from adding up to 1; half precision rounds by as much.
_SUM_TOLERANCE = 2e-3
#: Rounding of numbers in [0, 1].
_ROUNDING = 1e-5
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
    if block.extractor != spec.extractor:
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
    for name in ("source_rate_hz", "source_channels"):
        value = getattr(clip, name)
        if not isinstance(value, int | np.integer) or not 0 <= value < 2**31:
            raise PluginError(f"{where}: {name} must be a whole number from 0, not {shown(value)}.")
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


class CheckedClassifier:
    """A classifier of a plugin, each of whose answers is checked and copied.

    Parameters
    ----------
    plugin : str
        Who loaded it.
    classifier : Classifier
        As the plugin returned it.
    among : sequence of str
        The labels to answer among; none means all. Probabilities of each window are renormalised over them.

    Attributes
    ----------
    name, sha256, needs, device
        As in `Classifier`.
    labels : tuple of str
        Those to answer among, in the order of the model.
    columns : dict
        Extractor -> its columns as the model was trained on them, in their order; empty where the model does not say.
    card : dict
        What the model says of itself.
    inner : Classifier
        As the plugin returned it, unchecked.
    plugin : str
        Who loaded it.

    Raises
    ------
    PluginError
        One of them is missing or wrong; the message names the plugin and what was expected.
    ModelError
        The model does not have a label of `among`, or there is only one.
    """

    def __init__(self, plugin: str, classifier: Classifier, among: Sequence[str] = ()) -> None:
        self.inner, self.plugin = classifier, plugin
        self._where = f"Plugin {plugin!r}: the model"
        with blamed(f"{self._where} cannot be used"):
            self.name = self._read("name", _is_name, "text")
            self._where = f"Plugin {plugin!r}: model {self.name!r}"
            self.sha256 = self._read("sha256", _is_sha256, "64 hexadecimal digits, of the file of the weights")
            self.device = self._read("device", _is_name, "cpu, cuda or mps")
            labels = self._read("labels", _are_labels, "at least two different emotions")
            needs = self._read("needs", _are_needs, "(extractor, version) pairs")
            columns = self._read("columns", _are_columns, "extractor -> list of its columns", {})
            card = self._read("card", _is_card, "what the metadata of a model file may hold", {})
        self._all_labels = tuple(labels)
        self.labels = self._among(among)
        self._kept = [self._all_labels.index(label) for label in self.labels]
        self.needs = tuple((name, int(version)) for name, version in needs)
        self.columns: dict[str, tuple[str, ...]] = {name: tuple(names) for name, names in columns.items()}
        self.card: dict[str, Any] = dict(card)

    def _among(self, labels: Sequence[str]) -> tuple[str, ...]:
        for label in labels:
            if label not in self._all_labels:
                raise ModelError(
                    f"Model {self.name!r} has no label {label!r}.{did_you_mean(label, self._all_labels)} "
                    f"Its labels: {', '.join(self._all_labels)}."
                )
        if labels and len(set(labels)) < 2:
            raise ModelError(f"To answer among {labels[0]!r} alone is no question: give two labels or more.")
        return tuple(label for label in self._all_labels if not labels or label in labels)

    def _read(self, name: str, holds: Any, rule: str, default: Any = None) -> Any:
        value = getattr(self.inner, name, default)
        if not holds(value):
            raise self._wrong(f"{name} must be {rule}, not {shown(value)}.")
        return value

    def _wrong(self, message: str) -> PluginError:
        return PluginError(f"{self._where}: {message}")

    def predict(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return window probabilities (n_windows, n_labels) and pooling weights (n_windows,); see `Classifier`.

        Raises
        ------
        PluginError
            The classifier failed, or what it gave is not that.
        """
        with blamed(f"{self._where} failed in predict"):
            answer = self.inner.predict(blocks)
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise PluginError(
                f"{self._where}: predict must return (probabilities, weights), not {type(answer).__name__}."
            )
        n_windows = next((len(block.scalars) for block in blocks.values()), None)
        probabilities = self._table("predict: probabilities", answer[0], n_windows)
        weights = self._array("predict: weights", answer[1], (len(probabilities),))
        return self._renormalised(probabilities), weights

    def pool(self, window_probabilities: NDArray[np.float32], weights: NDArray[np.float32]) -> Prediction:
        """Return the prediction for a file; see `Classifier`.

        Raises
        ------
        PluginError
            The classifier failed, or what it gave is no prediction.
        """
        with blamed(f"{self._where} failed in pool"):
            found = self.inner.pool(self._widened(window_probabilities), weights)
        if not isinstance(found, Prediction):
            raise self._wrong(f"pool must return a Prediction, not {type(found).__name__}.")
        if found.emotion not in self.labels:
            raise PluginError(
                f"{self._where}: pool gave the emotion {shown(found.emotion)}, which is none of its labels."
            )
        (probabilities,) = self._table("pool: probabilities", [found.probabilities], 1)
        if probabilities[self._all_labels.index(found.emotion)] < probabilities.max() - _ROUNDING:
            raise PluginError(
                f"{self._where}: pool gave {shown(found.emotion)}, which is not the most probable emotion."
            )
        table = self._table("pool: window_probabilities", found.window_probabilities, len(window_probabilities))
        confidence, entropy, margin = (
            self._share(name, getattr(found, name)) for name in ("confidence", "entropy", "margin")
        )
        if len(self.labels) < len(self._all_labels):
            probabilities, table = self._renormalised(probabilities[None])[0], self._renormalised(table)
            entropy = min(entropy * math.log(len(self._all_labels)) / math.log(len(self.labels)), 1.0)
        return Prediction(str(found.emotion), probabilities, table, confidence, entropy, margin)

    def _renormalised(self, table: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the columns of the labels to answer among; alike where none of them was thought possible."""
        if len(self.labels) == len(self._all_labels):
            return table
        kept = table[:, self._kept].astype(np.float64)
        total = kept.sum(axis=1, keepdims=True)
        return read_only(np.where(total > 0, kept / np.where(total > 0, total, 1), 1 / len(self.labels)))

    def _widened(self, table: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a table with the columns of all labels, zeros in those that are not to be answered."""
        if len(self.labels) == len(self._all_labels):
            return table
        wide = np.zeros((len(table), len(self._all_labels)), np.float32)
        wide[:, self._kept] = table
        return wide

    def _share(self, name: str, value: object) -> float:
        if not isinstance(value, int | float | np.number) or not -_ROUNDING <= value <= 1 + _ROUNDING:
            raise self._wrong(f"pool: {name} must be a number in [0, 1], not {shown(value)}.")
        return min(max(float(value), 0.0), 1.0)

    def _table(self, what: str, value: ArrayLike, n_rows: int | None) -> NDArray[np.float32]:
        array = self._array(what, value, (n_rows, len(self._all_labels)))
        sums = array.sum(axis=1, dtype=np.float64)
        wrong = np.flatnonzero(np.abs(sums - 1) > _SUM_TOLERANCE)
        if len(wrong):
            raise self._wrong(f"{what} must add up to 1 in each row, not to {sums[wrong[0]]:g}.")
        return array

    def _array(self, what: str, value: ArrayLike, shape: tuple[int | None, ...]) -> NDArray[np.float32]:
        """Return a copy of numbers that must be of this shape (None: any), finite and 0 or more."""
        with blamed(f"{self._where}: {what} must be numbers of one shape", passing=PluginError):
            array = read_only(np.asarray(value))
        if array.ndim != len(shape) or any(
            want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
        ):
            raise self._wrong(f"{what} must be of shape {shape}, not {array.shape}.")
        if not (array >= 0).all() or not np.isfinite(array).all():
            raise self._wrong(f"{what} must be finite and 0 or more; there is NaN, infinity or less.")
        return array


def _is_name(value: object) -> bool:
    return is_text(value) and bool(value)


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and not set(value.lower()) - set("0123456789abcdef")


def _are_labels(value: object) -> bool:
    return (
        isinstance(value, tuple | list)
        and len(value) >= 2
        and all(map(_is_name, value))
        and len(set(value)) == len(value)
    )


def _are_needs(value: object) -> bool:
    return isinstance(value, tuple | list) and all(
        isinstance(item, tuple | list) and len(item) == 2 and _is_name(item[0]) and is_count(item[1]) for item in value
    )


def _are_columns(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        _is_name(name) and isinstance(columns, tuple | list) and all(map(_is_name, columns))
        for name, columns in value.items()
    )


def _is_card(value: object) -> bool:
    try:
        # As run.json will hold it.
        read = read_json(json.dumps(value))
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(value, Mapping) and not problem_with(read, CARD)
