"""What the models of plugins answer, held against what docs/hooks.md promises; see `ser_batch.contracts`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ser_batch.contracts import read_only
from ser_batch.errors import ModelError, PluginError
from ser_batch.kinds import CARD, is_count, is_text, problem_with, read_json
from ser_batch.plugins import blamed
from ser_batch.records import Classifier, FeatureBlock, Prediction
from ser_batch.text import did_you_mean, shown

__all__ = ["CheckedClassifier"]

#: How far probabilities may be from adding up to 1; half precision rounds by as much.
_SUM_TOLERANCE = 2e-3
#: Rounding of numbers in [0, 1].
_ROUNDING = 1e-5


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
    n_embedding, listening_sha256
        As in `Listener`; 0 and "" for a model that is none.
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
        self.listening_sha256 = ""
        self._where = f"Plugin {plugin!r}: the model"
        with blamed(f"{self._where} cannot be used"):
            self.name = self._read("name", _is_name, "text")
            self._where = f"Plugin {plugin!r}: model {shown(self.name)}"
            self.sha256 = self._read("sha256", _is_sha256, "64 hexadecimal digits, of the file of the weights")
            self.device = self._read("device", _is_name, "cpu, cuda or mps")
            labels = self._read("labels", _are_labels, "at least two different emotions")
            needs = self._read("needs", _are_needs, "(extractor, version) pairs")
            columns = self._read("columns", _are_columns, "extractor -> list of its columns", {})
            card = self._read("card", _is_card, "what the metadata of a model file may hold", {})
            self.n_embedding = int(self._read("n_embedding", is_count, "a whole number from 0", 0))
            if self.n_embedding:
                rule = "64 hexadecimal digits, of all that decides an embedding"
                self.listening_sha256 = self._read("listening_sha256", _is_sha256, rule)
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
        first, second = self._pair("predict", "(probabilities, weights)", answer)
        n_windows = next((len(block.scalars) for block in blocks.values()), None)
        probabilities = self._table("predict: probabilities", first, n_windows)
        weights = self._array("predict: weights", second, (len(probabilities),))
        return self._renormalised(probabilities), weights

    def listen(self, blocks: Mapping[str, FeatureBlock]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return embeddings (n_windows, n_embedding) and pooling weights (n_windows,); see `Listener`.

        Raises
        ------
        PluginError
            The classifier failed, or what it gave is not that.
        """
        with blamed(f"{self._where} failed in listen"):
            answer = self.inner.listen(blocks)  # type: ignore[attr-defined]
        first, second = self._pair("listen", "(embeddings, weights)", answer)
        n_windows = next((len(block.scalars) for block in blocks.values()), None)
        embeddings = self._array("listen: embeddings", first, (n_windows, self.n_embedding), -math.inf)
        return embeddings, self._array("listen: weights", second, (len(embeddings),))

    def label(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return window probabilities (n_windows, n_labels) of embeddings; see `Listener`.

        Raises
        ------
        PluginError
            The classifier failed, or what it gave is not that.
        """
        with blamed(f"{self._where} failed in label"):
            answer = self.inner.label(embeddings)  # type: ignore[attr-defined]
        return self._renormalised(self._table("label: probabilities", answer, len(embeddings)))

    def _pair(self, method: str, what: str, answer: Any) -> tuple[Any, Any]:
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise self._wrong(f"{method} must return {what}, not {type(answer).__name__}.")
        return answer[0], answer[1]

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
        if not isinstance(found.emotion, str) or found.emotion not in self.labels:
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

    def _array(
        self, what: str, value: ArrayLike, shape: tuple[int | None, ...], lowest: float = 0
    ) -> NDArray[np.float32]:
        """Return a copy of numbers that must be of this shape (None: any), finite and `lowest` or more."""
        with blamed(f"{self._where}: {what} must be numbers of one shape", passing=PluginError):
            array = read_only(np.asarray(value))
        if array.ndim != len(shape) or any(
            want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
        ):
            raise self._wrong(f"{what} must be of shape {shape}, not {array.shape}.")
        if not (array >= lowest).all() or not np.isfinite(array).all():
            at_least = f" and {lowest} or more" if lowest == 0 else ""
            raise self._wrong(
                f"{what} must be finite{at_least}; there is NaN, infinity{' or less' if at_least else ''}."
            )
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
