"""Scores a model file on labelled clips."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

import numpy as np

from ser_batch.classifier import checkpoint
from ser_batch.errors import DataError, ModelError
from ser_batch.plugins import PluginRecipe
from ser_batch.predictor import EmotionPredictor
from ser_batch.records import LabelledClip
from ser_batch.resources import model_path
from ser_batch.training.dataset import content_hashes
from ser_batch.training.evaluate import Predictions, check_leakage, score_table
from ser_batch.training.train import TrainOptions, Voice

__all__ = ["score_model"]

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
