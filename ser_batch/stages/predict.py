"""Prediction in the parent, on a GPU: windows of many files in one batch. A file that cannot be predicted is a row."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ser_batch.records import Classifier, ClipOutcome, FeatureBlock, Status
from ser_batch.text import message_of

__all__ = ["Heard", "hear", "predict_outcomes", "stacked"]

#: Largest number of half precision.
_LARGEST = float(np.finfo(np.float16).max)


class Heard(NamedTuple):
    """What a classifier says of some windows."""

    #: float32 (n_windows, n_labels).
    probabilities: NDArray[np.float32]
    #: float32 (n_windows,), for pooling.
    weights: NDArray[np.float32]
    #: float16 (n_windows, n_embedding); no columns where the classifier does not tell what it hears.
    embeddings: NDArray[np.float16]


def hear(classifier: Classifier, blocks: Mapping[str, FeatureBlock]) -> Heard:
    """Predict windows, and keep what was heard on the way; `blocks` as for `Classifier.predict`."""
    listener: Any = classifier
    if not getattr(listener, "n_embedding", 0):
        probabilities, weights = classifier.predict(blocks)
        return Heard(probabilities, weights, np.zeros((len(probabilities), 0), np.float16))
    embeddings, weights = listener.listen(blocks)
    return Heard(listener.label(embeddings), weights, embeddings.clip(-_LARGEST, _LARGEST).astype(np.float16))


def predict_outcomes(outcomes: Sequence[ClipOutcome], classifier: Classifier, batch_size: int) -> list[ClipOutcome]:
    """Predict every outcome that has windows and no prediction yet; tensors are dropped.

    Parameters
    ----------
    outcomes : sequence of ClipOutcome
    classifier : Classifier
    batch_size : int
        Windows per call, at least those of one file; changes probabilities by rounding only.

    Returns
    -------
    outcomes : list of ClipOutcome
        In the same order.
    """
    done = list(outcomes)
    waiting: list[int] = []
    n_windows = 0
    for index, outcome in enumerate(outcomes):
        if not len(outcome.windows_s) or outcome.prediction is not None:
            continue
        waiting.append(index)
        n_windows += len(outcome.windows_s)
        if n_windows >= batch_size:
            _predict(done, waiting, classifier)
            waiting, n_windows = [], 0
    if waiting:
        _predict(done, waiting, classifier)
    return done


def _predict(outcomes: list[ClipOutcome], indices: Sequence[int], classifier: Classifier) -> None:
    """Predict some outcomes in one batch, in place; a batch that fails is tried file by file, to fail few."""
    begin = time.perf_counter()
    predictions = []
    try:
        heard = hear(classifier, stacked([outcomes[index].blocks for index in indices]))
        first = 0
        for index in indices:
            part = slice(first, first := first + len(outcomes[index].windows_s))
            prediction = classifier.pool(heard.probabilities[part], heard.weights[part])
            predictions.append((prediction, heard.embeddings[part].copy(), heard.weights[part].copy()))
    except Exception as error:
        if len(indices) == 1:
            outcomes[indices[0]] = _failed(outcomes[indices[0]], error)
            return
        for index in indices:
            _predict(outcomes, [index], classifier)
        return
    per_window_s = (time.perf_counter() - begin) / len(heard.probabilities)
    for index, (prediction, embeddings, weights) in zip(indices, predictions, strict=True):
        outcome = outcomes[index]
        blocks = tuple(FeatureBlock(block.extractor, block.scalars, block.clip_scalars) for block in outcome.blocks)
        seconds = {**outcome.seconds, "predict": per_window_s * len(outcome.windows_s)}
        outcomes[index] = replace(
            outcome, blocks=blocks, prediction=prediction, embeddings=embeddings, weights=weights, seconds=seconds
        )


def stacked(files: Sequence[Sequence[FeatureBlock]]) -> dict[str, FeatureBlock]:
    """Stack the windows of several files, extractor by extractor, as `Classifier.predict` takes them."""
    stacked = {}
    for blocks in zip(*files, strict=True):
        tensors = [block.tensor for block in blocks if block.tensor is not None]
        stacked[blocks[0].extractor] = FeatureBlock(
            blocks[0].extractor,
            np.concatenate([block.scalars for block in blocks]),
            blocks[0].clip_scalars,
            np.concatenate(tensors) if tensors else None,
        )
    return stacked


def _failed(outcome: ClipOutcome, error: Exception) -> ClipOutcome:
    return ClipOutcome(
        outcome.ref,
        Status.FAILED,
        "predict",
        type(error).__name__,
        message_of(error),
        outcome.duration_s,
        outcome.source_rate_hz,
        outcome.source_channels,
        outcome.reader,
        seconds=outcome.seconds,
    )
