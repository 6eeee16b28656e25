"""Scores a model file on labelled clips."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ser_batch import hooks
from ser_batch.classifier.loader import trained_audio
from ser_batch.config import Config
from ser_batch.errors import DataError
from ser_batch.records import ClipOutcome, LabelledClip, Status
from ser_batch.stages.ingredients import Ingredients, gather
from ser_batch.stages.pool import temporary_extraction
from ser_batch.stages.processes import worker_count
from ser_batch.stages.progress import Progress
from ser_batch.training.dataset import content_hashes, merged_emotions
from ser_batch.training.evaluate import Predictions, check_leakage, score_table
from ser_batch.training.features import clip_ref, reason_of
from ser_batch.training.train import TrainOptions

__all__ = ["score_model"]

#: Files in the hands of the workers at a time.
_SHARD_FILES = 256


def score_model(
    model: str, clips: Sequence[LabelledClip], options: TrainOptions, progress: Progress, merge: Sequence[str] = ()
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
    progress : Progress
    merge : sequence of str
        Labels that count as another one, as ``"calm=neutral"``.

    Raises
    ------
    ConfigError
        A wrong rule in `merge`.
    DataError
        No clip of the model's labels, none that can be read, or speakers or audio of the training among them.
    ModelError, PluginError
        The model or a plugin cannot be used.
    RunError
        No worker can be kept alive.
    """
    values: dict[str, dict[str, Any]] = {
        "audio": trained_audio(model),
        "predict": {"model": model, "device": "cpu"},
        "extract": {"extractors": ()},
    }
    config = Config().with_values(values, "evaluate")
    manager = options.recipe.build()
    hooks.validate_config(manager, config)
    ingredients = gather(manager, options.recipe, config)
    labels = ingredients.labels
    emotions = merged_emotions(clips, merge, labels, "--merge")
    taken = [index for index, emotion in enumerate(emotions) if emotion in labels]
    if not taken:
        raise DataError(f"None of the {len(clips)} clips has a label of the model ({', '.join(labels)}).")
    if len(taken) < len(clips):
        progress.say(f"{len(clips) - len(taken)} clips of other labels are left out.")
    hashes = content_hashes([clips[index].path for index in taken])
    card = hooks.load_classifier(manager, model, "cpu").card
    check_leakage(card.get("training", {}), [clips[index].speaker for index in taken], hashes)
    kept, probabilities = [], []
    outcomes = _outcomes(ingredients, [clips[index].path for index in taken], options.jobs, progress)
    for index, outcome in zip(taken, outcomes, strict=True):
        if outcome.prediction is None:
            progress.say(f"Left out: {clips[index].path}: {reason_of(outcome)}")
            continue
        if outcome.status is Status.PARTIAL:
            progress.say(f"Scored as far as it goes: {clips[index].path}: {outcome.error_message}")
        kept.append(index)
        probabilities.append(outcome.prediction.probabilities.astype(np.float64))
    if not kept:
        raise DataError("None of the clips can be read; the lines above say why.")
    predictions = Predictions(
        labels=labels,
        truth=np.array([labels.index(emotions[index]) for index in kept], np.int64),
        probabilities=np.stack(probabilities),
        speaker=np.array([clips[index].speaker or f"?{index}" for index in kept]),
        corpus=np.array([clips[index].corpus for index in kept]),
        sex=np.array([clips[index].sex for index in kept]),
    )
    return {"model": model, "n_unreadable": len(taken) - len(kept), **score_table(predictions)}


def _outcomes(ingredients: Ingredients, paths: Sequence[str], jobs: int, progress: Progress) -> Iterator[ClipOutcome]:
    """Analyse and predict files in workers, as a scan does; yield an outcome for each."""
    # By number: a file may be there twice.
    refs = [clip_ref(path, f"{number}{os.path.splitext(path)[1]}") for number, path in enumerate(paths)]  # noqa: PTH122
    shards = ((None, refs[start : start + _SHARD_FILES]) for start in range(0, len(refs), _SHARD_FILES))
    progress.begin(len(refs), len(refs))
    try:
        with temporary_extraction(
            ingredients.setup(predict=True), worker_count(jobs, len(refs)), progress
        ) as extraction:
            for _, outcomes in extraction.run(shards):
                yield from outcomes
    finally:
        progress.end()
