"""Scores of predictions on labelled clips: overall, per class, per corpus, per sex, with intervals by speaker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import DataError
from ser_batch.kinds import AMOUNT, CARD, TEXTS, Kind, is_number, object_of
from ser_batch.training import metrics
from ser_batch.training.audio_keys import KnownAudio
from ser_batch.training.dataset import speaker_key

__all__ = ["CONTEXTS", "SCORE_TABLE", "Predictions", "check_known_audio", "check_leakage", "score_table"]

#: Labels among which the contexts of vocal bursts (crying in joy, sadness, anger, disgust) are told apart.
CONTEXTS = ("anger", "disgust", "happiness", "sadness")
#: The corpus of vocal bursts.
_BURSTS = "emogator"
#: Digits of a content hash that a model file keeps.
HASH_DIGITS = 12

#: Of what `score_table` returns, read from a file again, all that a training makes use of.
SCORE_TABLE: Mapping[str, Kind] = {
    "labels": TEXTS,
    "temperature": Kind(lambda value: is_number(value) and value > 0, "a number above 0"),
    "overall.uar": AMOUNT,
    "overall.chance": AMOUNT,
    "overall.uar_interval": CARD["scores.uar_interval"],
    "corpora": Kind(
        object_of(lambda block: isinstance(block, dict) and AMOUNT.holds(block.get("uar"))),
        "an object: corpus -> its scores",
    ),
}


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What a model said of clips whose labels are known; arrays of n_clips."""

    labels: tuple[str, ...]
    #: int64: index into `labels`.
    truth: NDArray[np.int64]
    #: float64 (n_clips, n_labels), calibrated.
    probabilities: NDArray[np.float64]
    speaker: NDArray[np.str_]
    corpus: NDArray[np.str_]
    sex: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.truth)

    def only(self, inside: NDArray[np.bool_]) -> Predictions:
        """Return those clips where `inside` is True."""
        return Predictions(
            self.labels,
            self.truth[inside],
            self.probabilities[inside],
            self.speaker[inside],
            self.corpus[inside],
            self.sex[inside],
        )


def score_table(predictions: Predictions, n_draws: int = 1000) -> dict[str, Any]:
    """Return all scores as JSON-able values.

    Returns
    -------
    dict
        ``overall`` and, under ``corpora`` and ``sexes``, a block per group of clips; each has n_clips, n_speakers, uar
        with its chance, accuracy, intervals of both, ece, brier, nll, risk_coverage, confusion and classes.
        ``speakers`` holds corpus, sex, n_clips, uar and chance of each speaker who is known, so that two tables can be
        compared pair by pair. ``contexts`` holds UAR among anger, disgust, happiness and sadness of vocal bursts,
        probabilities renormalised over the four.
    """
    table: dict[str, Any] = {"labels": list(predictions.labels), "overall": _block(predictions, n_draws)}
    for key, column in (("corpora", predictions.corpus), ("sexes", predictions.sex)):
        table[key] = {
            str(name): _block(predictions.only(column == name), n_draws) for name in np.unique(column) if str(name)
        }
    table["speakers"] = {
        str(name): _speaker(predictions.only(predictions.speaker == name))
        for name in np.unique(predictions.speaker)
        if not str(name).startswith("?")
    }
    contexts = _contexts(predictions, n_draws)
    if contexts:
        table["contexts"] = contexts
    return table


def _block(predictions: Predictions, n_draws: int) -> dict[str, Any]:
    truth, probabilities = predictions.truth, predictions.probabilities
    predicted = probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(truth, predicted, len(predictions.labels))

    def interval(score: Callable[[NDArray[np.int64]], float]) -> list[float | None]:
        return [_number(bound) for bound in metrics.bootstrap_by_group(predictions.speaker, score, n_draws)]

    return {
        "n_clips": len(predictions),
        "n_speakers": len(set(predictions.speaker)),
        "uar": metrics.uar(truth, predicted),
        "chance": metrics.chance(truth),
        "uar_interval": interval(lambda index: metrics.uar(truth[index], predicted[index])),
        "accuracy": float(np.mean(truth == predicted)),
        "accuracy_interval": interval(lambda index: float(np.mean(truth[index] == predicted[index]))),
        "ece": metrics.expected_calibration_error(probabilities, truth),
        "brier": metrics.brier_score(probabilities, truth),
        "nll": metrics.negative_log_likelihood(probabilities, truth),
        "risk_coverage": metrics.risk_coverage(probabilities.max(axis=1), predicted == truth),
        "reliability": metrics.reliability_bins(probabilities.max(axis=1), predicted == truth),
        "confusion": confusion.tolist(),
        "classes": {
            label: {name: _number(value) for name, value in scores.items()}
            for label, scores in zip(predictions.labels, metrics.class_scores(confusion), strict=True)
        },
    }


def _speaker(predictions: Predictions) -> dict[str, Any]:
    return {
        "corpus": str(predictions.corpus[0]),
        "sex": str(predictions.sex[0]),
        "n_clips": len(predictions),
        "uar": metrics.uar(predictions.truth, predictions.probabilities.argmax(axis=1)),
        "chance": metrics.chance(predictions.truth),
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def _contexts(predictions: Predictions, n_draws: int) -> dict[str, Any] | None:
    if not set(CONTEXTS) <= set(predictions.labels):
        return None
    places = [predictions.labels.index(label) for label in CONTEXTS]
    bursts = predictions.only((predictions.corpus == _BURSTS) & np.isin(predictions.truth, places))
    if not len(bursts):
        return None
    truth = np.searchsorted(places, bursts.truth)
    predicted = metrics.restrict(bursts.probabilities, places).argmax(axis=1)
    interval = metrics.bootstrap_by_group(
        bursts.speaker, lambda index: metrics.uar(truth[index], predicted[index]), n_draws
    )
    return {
        "labels": list(CONTEXTS),
        "n_clips": len(bursts),
        "uar": metrics.uar(truth, predicted),
        "chance": metrics.chance(truth),
        "uar_interval": [_number(bound) for bound in interval],
    }


def check_leakage(training: dict[str, Any], speakers: Sequence[str], hashes: Sequence[str]) -> None:
    """Refuse to score a model on what it was trained on.

    Parameters
    ----------
    training : dict
        The field ``training`` of the model's metadata, with ``speakers`` and ``audio`` (keys of both).
    speakers, hashes
        Speaker and content hash of each clip to be scored.

    Raises
    ------
    DataError
        A speaker, or a file with the very same content, was in the training.
    """
    known = set(training.get("speakers", ()))
    shared = sorted({speaker for speaker in speakers if speaker and speaker_key(speaker) in known})
    if shared:
        names = ", ".join(shared[:5]) + (" …" if len(shared) > 5 else "")
        raise DataError(
            f"{len(shared)} of the speakers were in the training of this model ({names}): a score on them says how "
            f"well it remembers. Leave them out, or score the recipe: `ser-batch evaluate --cross-validate`."
        )
    text = training.get("audio", "")
    stored = {text[start : start + HASH_DIGITS] for start in range(0, len(text), HASH_DIGITS)}
    count = sum(content[:HASH_DIGITS] in stored for content in hashes)
    if count:
        raise DataError(
            f"{count} of the files have the very same content as files this model was trained on. Leave them out, or "
            f"score the recipe: `ser-batch evaluate --cross-validate`."
        )


def check_known_audio(known: KnownAudio, paths: Sequence[str], keys: Sequence[bytes]) -> None:
    """Refuse to score a model on audio that it was trained on, stored in another form.

    Parameters
    ----------
    known : KnownAudio
        That of the training.
    paths, keys
        File and `audio_key` of each clip to be scored.

    Raises
    ------
    DataError
        There is such audio.
    """
    found = [path for path, key in zip(paths, keys, strict=True) if key in known]
    if found:
        names = ", ".join(found[:3]) + (" …" if len(found) > 3 else "")
        raise DataError(
            f"{len(found)} of the first {len(keys)} files hold audio that this model was trained on, in another form "
            f"({names}). Leave them out, or score the recipe: `ser-batch evaluate --cross-validate`."
        )
