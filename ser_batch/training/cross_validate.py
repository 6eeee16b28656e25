"""Scores a recipe: trains one network per fold and tests it on the speakers that the fold holds out."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import DataError
from ser_batch.records import Corpus, LabelledClip
from ser_batch.stages.progress import Progress
from ser_batch.training import metrics
from ser_batch.training.dataset import Dataset, cross_validation_folds, split_speakers, with_labels
from ser_batch.training.evaluate import Predictions, score_table
from ser_batch.training.preflight import require_folder
from ser_batch.training.stored import read_arrays, write_arrays
from ser_batch.training.train import (
    TrainOptions,
    calibrate,
    check_also,
    load_features,
    predictions_of,
    restricted,
    taught_by,
    training_key,
)
from ser_batch.training.train_config import TrainConfig

if TYPE_CHECKING:
    from ser_batch.training.rows import Rows, WindowScores
    from ser_batch.training.teacher import Embeddings

__all__ = ["corpus_folds", "cross_validate"]

Fold = tuple[str, NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class _Tested:
    """What the network of one fold says of the clips that it was not trained on."""

    name: str
    scores: WindowScores
    #: float64 (n_clips, n_categories): of the second head, among all corpora's categories.
    categories: NDArray[np.float64]

    @property
    def clips(self) -> NDArray[np.int64]:
        return self.scores.clips


def corpus_folds(dataset: Dataset) -> Iterator[Fold]:
    """Yield (name, training clips, test clips) of folds that each leave one corpus out.

    Raises
    ------
    DataError
        Only one corpus.
    """
    if len(dataset.corpora) < 2:
        raise DataError(f"Leaving a corpus out needs two or more; here is only {dataset.corpora[0]}.")
    everything = np.arange(len(dataset))
    for number, name in enumerate(dataset.corpora):
        test = (dataset.corpus == number) & (dataset.target >= 0)
        yield f"without {name}", everything[dataset.corpus != number], everything[test]


def cross_validate(
    clips: Sequence[LabelledClip],
    corpora: Sequence[Corpus],
    config: TrainConfig,
    options: TrainOptions,
    progress: Progress,
    scheme: str,
    only: Sequence[int] = (),
) -> dict[str, Any]:
    """Train one network per fold with `config` and score all of them together.

    The temperature of a fold is the one that suits the tested speakers of all other folds. What a fold gave is kept in
    the cache, and a training of many epochs goes on from its last one, so that a killed call can be made again.

    Parameters
    ----------
    scheme : str
        As for `cross_validation_folds`, or ``corpus`` to leave out one corpus at a time.
    only : sequence of int
        Numbers, from 1, of the folds wanted; all by default.

    Returns
    -------
    dict
        The score table over the folds; under ``folds`` UAR and chance of each by corpus; under ``categories`` the UAR
        of the second head among the corpora's own categories; under ``also`` the tables of the label sets in
        `options.also`; ``temperature`` is the one that suits all folds.

    Raises
    ------
    DataError
        Labels, speakers, audio or numbers of folds that cannot be used.
    """
    from ser_batch.training.rows import Rows  # noqa: PLC0415 - torch is slow to import

    config = with_labels(config, clips)
    check_also(options.also, config.data.labels)
    # Labels and speakers first: what is wrong with them should not wait for the features.
    _folds(Dataset.build(clips, config.data), corpora, scheme, only)
    require_folder(options.cache_dir, "--cache")
    clips, hashes, table, heard = load_features(clips, config, options, progress)
    dataset = Dataset.build(clips, config.data)
    rows = Rows.build(table, dataset, options.device, config.audio.sample_rate_hz)
    key = training_key(clips, hashes, config, options)
    tested: list[_Tested] = []
    for fold in _folds(dataset, corpora, scheme, only):
        name = hashlib.sha256(json.dumps([key, scheme, fold[0]]).encode()).hexdigest()[:16]
        stored = options.cache_dir / "folds" / f"{name}.npz"
        one = _load(stored, fold[0])
        if one is None:
            one = _test(fold, rows, dataset, heard, config, options, stored, progress)
        tested.append(one)
        found = _corpus_scores(dataset, one.clips, one.scores.probabilities())
        lines = (f"{corpus} UAR {block['uar']:.3f} (chance {block['chance']:.3f})" for corpus, block in found.items())
        progress.say(f"{fold[0]}: {', '.join(lines)}")
    if len(tested) == 1:
        progress.say("One fold alone has no other speakers to set its temperature by: it is 1.")
    report = {"scheme": scheme, "seed": options.seed, **_score([fold.scores for fold in tested], tested, dataset)}
    report["categories"] = _score_categories(tested, dataset)
    for name, labels in options.also.items():
        parts = [restricted(fold.scores, dataset, labels) for fold in tested]
        report.setdefault("also", {})[name] = _score([part for part, _ in parts], tested, parts[0][1])
    return report


def _folds(dataset: Dataset, corpora: Sequence[Corpus], scheme: str, only: Sequence[int]) -> list[Fold]:
    folds = list(corpus_folds(dataset) if scheme == "corpus" else cross_validation_folds(dataset, corpora, scheme))
    unknown = [number for number in only if not 1 <= number <= len(folds)]
    if unknown:
        raise DataError(f"There is no fold {unknown[0]}: these data have folds 1 to {len(folds)}.")
    return [fold for number, fold in enumerate(folds, start=1) if not only or number in only]


def _test(
    fold: Fold,
    rows: Rows,
    dataset: Dataset,
    heard: Embeddings | None,
    config: TrainConfig,
    options: TrainOptions,
    stored: Path,
    progress: Progress,
) -> _Tested:
    from ser_batch.training.fit import FitPlan, fit  # noqa: PLC0415 - torch is slow to import

    name, train, test = fold

    def tell(record: dict[str, float]) -> None:
        progress.step(f"epochs of {name}", int(record["epoch"]), config.fit.epochs)

    split = split_speakers(dataset, replace(config.data, test_share=0.0), options.seed, train)
    states = [stored.with_suffix(suffix) for suffix in (".first.pt", ".second.pt")]
    validation = split.validation if len(split.validation) else None
    taught = taught_by(heard, dataset, split.train, config)
    plan = FitPlan(split.train, validation, options.seed, config.data.balance, state_file=states[0], taught=taught)
    result = fit(rows, dataset, plan, config.fit, tell)
    if config.fit.refit and validation is not None:
        plan = FitPlan(
            train,
            None,
            options.seed,
            config.data.balance,
            n_epochs=result.best_epoch,
            state_file=states[1],
            taught=taught_by(heard, dataset, train, config),
        )
        result = fit(rows, dataset, plan, config.fit, tell)
    clips = rows.labelled(test, dataset)
    second = copy.deepcopy(result.network)
    second.head = result.category_head
    tested = _Tested(name, rows.score(result.network, clips), rows.score(second, clips).probabilities())
    _save(stored, tested)
    for state in states:
        state.unlink(missing_ok=True)
    return tested


_FIELDS = ("logits", "position", "share", "clips")


def _save(path: Path, tested: _Tested) -> None:
    write_arrays(path, {"categories": tested.categories, **{name: getattr(tested.scores, name) for name in _FIELDS}})


def _load(path: Path, name: str) -> _Tested | None:
    """Return what was stored of a fold; None where there is nothing, or it is damaged."""
    from ser_batch.training.rows import WindowScores  # noqa: PLC0415

    arrays = read_arrays(path, (*_FIELDS, "categories"))
    if arrays is None:
        return None
    categories = arrays.pop("categories")
    return _Tested(name, WindowScores(**arrays), categories)


def _joined(parts: Sequence[WindowScores]) -> WindowScores:
    starts = np.cumsum([0, *(len(part.clips) for part in parts)])
    return replace(
        parts[0],
        logits=np.concatenate([part.logits for part in parts]),
        position=np.concatenate([part.position + start for part, start in zip(parts, starts, strict=False)]),
        share=np.concatenate([part.share for part in parts]),
        clips=np.concatenate([part.clips for part in parts]),
    )


def _score(scores: Sequence[WindowScores], tested: Sequence[_Tested], dataset: Dataset) -> dict[str, Any]:
    predictions, folds = [], []
    for number, (fold, part) in enumerate(zip(tested, scores, strict=True)):
        others = [other for place, other in enumerate(scores) if place != number]
        temperature = calibrate(_joined(others), dataset) if others else 1.0
        probabilities = part.probabilities(temperature)
        predictions.append(predictions_of(dataset, part.clips, probabilities))
        found = _corpus_scores(dataset, part.clips, probabilities)
        folds.append({"name": fold.name, "corpora": found, "temperature": temperature})
    together = Predictions(
        dataset.labels,
        *(
            np.concatenate([getattr(part, field) for part in predictions])
            for field in ("truth", "probabilities", "speaker", "corpus", "sex")
        ),
    )
    return {"temperature": calibrate(_joined(scores), dataset), "folds": folds, **score_table(together)}


def _corpus_scores(
    dataset: Dataset, clips: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> dict[str, dict[str, float]]:
    """Return n_clips, UAR and its chance of each corpus."""
    corpus, predicted = dataset.corpus[clips], probabilities.argmax(axis=1)
    blocks = {}
    for number in np.unique(corpus):
        inside = corpus == number
        truth = dataset.target[clips][inside]
        blocks[dataset.corpora[number]] = {
            "n_clips": len(truth),
            "uar": metrics.uar(truth, predicted[inside]),
            "chance": metrics.chance(truth),
        }
    return blocks


def _score_categories(tested: Sequence[_Tested], dataset: Dataset) -> dict[str, Any]:
    """Return UAR among each corpus' own categories, where a tested clip of each is there."""
    clips = np.concatenate([fold.clips for fold in tested])
    probabilities = np.concatenate([fold.categories for fold in tested])
    names = sorted({(clip.corpus, clip.category) for clip in dataset.clips})
    blocks: dict[str, Any] = {}
    for number, corpus in enumerate(dataset.corpora):
        own = np.flatnonzero(dataset.category_corpus == number)
        inside = dataset.corpus[clips] == number
        truth = dataset.category[clips[inside]]
        if set(truth) != set(own):
            continue
        predicted = own[probabilities[inside][:, own].argmax(axis=1)]
        interval = metrics.bootstrap_by_group(
            dataset.speaker[clips[inside]], partial(_uar_of_draw, truth=truth, predicted=predicted)
        )
        blocks[corpus] = {
            "labels": [names[place][1] for place in own],
            "n_clips": int(inside.sum()),
            "uar": metrics.uar(truth, predicted),
            "chance": metrics.chance(truth),
            "uar_interval": [None if np.isnan(bound) else float(bound) for bound in interval],
        }
    return blocks


def _uar_of_draw(index: NDArray[np.int64], truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    return metrics.uar(truth[index], predicted[index])
