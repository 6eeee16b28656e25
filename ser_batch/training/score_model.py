"""Scores a model file on labelled clips, and a recipe by cross-validation."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.classifier import checkpoint
from ser_batch.errors import DataError, ModelError
from ser_batch.plugins import PluginRecipe
from ser_batch.predictor import EmotionPredictor
from ser_batch.resources import model_path
from ser_batch.training.corpora import Corpus, LabelledClip
from ser_batch.training.dataset import Dataset, content_hashes, cross_validation_folds, split_speakers
from ser_batch.training.evaluate import Predictions, check_leakage, score_table
from ser_batch.training.train import TrainOptions, Voice, calibrate, load_features, predictions_of
from ser_batch.training.train_config import TrainConfig

__all__ = ["corpus_folds", "cross_validate", "score_model"]

_PREDICTOR: list[EmotionPredictor] = []


def _start(model: str, recipe: PluginRecipe) -> None:
    _PREDICTOR.append(EmotionPredictor(model, "cpu", recipe))


def _predict(paths: Sequence[tuple[int, str]]) -> list[tuple[int, list[float], str]]:
    answers = []
    for index, path in paths:
        result = _PREDICTOR[0].predict_batch([path])[0]
        answers.append((index, list(result.probabilities.values()), result.error))
    return answers


def score_model(
    model: str, clips: Sequence[LabelledClip], options: TrainOptions, voice: Voice, merge: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the score table of a model on clips of its labels; predictions are those that a scan gives.

    Parameters
    ----------
    model : str
        Shipped name or path.
    clips
        Clips of other labels are left out, and counted aloud.
    options : TrainOptions
        Its `jobs` and `recipe` are used.
    voice : Voice
    merge : sequence of str
        Labels that count as another one, as ``"calm=neutral"``.

    Raises
    ------
    DataError
        No clip of the model's labels, none that can be read, or speakers or audio of the training among them.
    """
    predictor = EmotionPredictor(model, "cpu", options.recipe)
    labels = tuple(predictor.labels)
    rules = dict(item.split("=", 1) for item in merge)
    emotions = [rules.get(clip.emotion, clip.emotion) for clip in clips]
    taken = [index for index, emotion in enumerate(emotions) if emotion in labels]
    if not taken:
        raise DataError(f"None of the {len(clips)} clips has a label of the model ({', '.join(labels)}).")
    if len(taken) < len(clips):
        voice.say(f"{len(clips) - len(taken)} clips of other labels are left out.")
    hashes = content_hashes([clips[index].path for index in taken])
    check_leakage(_training_of(model), [clips[index].speaker for index in taken], hashes)
    probabilities = np.full((len(clips), len(labels)), np.nan)
    done = 0
    for answers in _in_workers(model, [(index, clips[index].path) for index in taken], options):
        for index, values, error in answers:
            if values:
                probabilities[index] = values
            else:
                voice.say(f"Left out: {clips[index].path}: {error}")
        done += len(answers)
        voice.progress("clips", done, len(taken))
    kept = np.array([index for index in taken if not np.isnan(probabilities[index, 0])], np.int64)
    if not len(kept):
        raise DataError("None of the clips can be read; the lines above say why.")
    predictions = Predictions(
        labels=labels,
        truth=np.array([labels.index(emotions[index]) for index in kept], np.int64),
        probabilities=probabilities[kept],
        speaker=np.array([clips[index].speaker or f"?{index}" for index in kept]),
        corpus=np.array([clips[index].corpus for index in kept]),
        sex=np.array([clips[index].sex for index in kept]),
    )
    return {"model": model, "n_unreadable": len(taken) - len(kept), **score_table(predictions)}


def _training_of(model: str) -> dict[str, Any]:
    try:
        return dict(checkpoint.load(model_path(model)).meta.get("training", {}))
    except ModelError:
        # A model of a plugin, which says nothing of its training.
        return {}


def _in_workers(
    model: str, items: list[tuple[int, str]], options: TrainOptions
) -> Iterator[list[tuple[int, list[float], str]]]:
    jobs = options.jobs or os.cpu_count() or 1
    parts = [items[start : start + 50] for start in range(0, len(items), 50)]
    with ProcessPoolExecutor(
        min(jobs, len(parts)), mp_context=get_context("spawn"), initializer=_start, initargs=(model, options.recipe)
    ) as pool:
        for future in as_completed([pool.submit(_predict, part) for part in parts]):
            yield future.result()


def corpus_folds(dataset: Dataset) -> Iterator[tuple[str, NDArray[np.int64], NDArray[np.int64]]]:
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
    voice: Voice,
    scheme: str,
) -> dict[str, Any]:
    """Train one model per fold with `config`, each calibrated on validation speakers of its own; score them together.

    Parameters
    ----------
    scheme : str
        As for `cross_validation_folds`, or ``corpus`` to leave out one corpus at a time.

    Returns
    -------
    dict
        The score table over all folds, and under ``folds`` the UAR of each.
    """
    from ser_batch.training.fit import FitPlan, fit  # noqa: PLC0415 - torch is slow to import
    from ser_batch.training.rows import Rows  # noqa: PLC0415

    draft = Dataset.build(clips, config.data)
    list(_folds(draft, corpora, scheme))
    clips, _, table = load_features(clips, config, options, voice)
    dataset = Dataset.build(clips, config.data)
    rows = Rows.build(table, dataset, options.device)
    parts: list[Predictions] = []
    folds = []
    for name, train, test in _folds(dataset, corpora, scheme):
        split = split_speakers(dataset, replace(config.data, test_share=0.0), options.seed, train)
        plan = FitPlan(split.train, split.validation, options.seed, config.data.balance)
        result = fit(rows, dataset, plan, config.fit, lambda record: _tell(voice, record, config))
        temperature = calibrate(rows.score(result.network, rows.labelled(split.validation, dataset)), dataset)
        if config.fit.refit:
            plan = FitPlan(train, None, options.seed, config.data.balance, n_epochs=result.best_epoch)
            result = fit(rows, dataset, plan, config.fit, lambda record: _tell(voice, record, config))
        scores = rows.score(result.network, rows.labelled(test, dataset))
        part = predictions_of(dataset, scores.clips, scores.probabilities(temperature))
        parts.append(part)
        block = score_table(part, n_draws=1)
        folds.append(
            {
                "name": name,
                "uar": block["overall"]["uar"],
                "corpora": {corpus: values["uar"] for corpus, values in block["corpora"].items()},
                "temperature": temperature,
            }
        )
        voice.say(
            f"{name}: " + ", ".join(f"{corpus} UAR {value:.3f}" for corpus, value in folds[-1]["corpora"].items())
        )
    together = Predictions(
        dataset.labels,
        *(
            np.concatenate([getattr(part, field) for part in parts])
            for field in ("truth", "probabilities", "speaker", "corpus", "sex")
        ),
    )
    return {"scheme": scheme, "seed": options.seed, "folds": folds, **score_table(together)}


def _folds(dataset: Dataset, corpora: Sequence[Corpus], scheme: str) -> Any:
    return corpus_folds(dataset) if scheme == "corpus" else cross_validation_folds(dataset, corpora, scheme)


def _tell(voice: Voice, record: dict[str, float], config: TrainConfig) -> None:
    voice.progress("epochs", int(record["epoch"]), config.fit.epochs)
