"""Scores a model file on labelled clips."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ser_batch import hooks
from ser_batch.classifier.loader import trained_audio
from ser_batch.config import Config
from ser_batch.errors import DataError
from ser_batch.records import ClipOutcome, FeatureSpec, LabelledClip, Status
from ser_batch.stages.ingredients import Setup, gather
from ser_batch.stages.pool import temporary_extraction
from ser_batch.stages.processes import worker_count
from ser_batch.stages.progress import Progress
from ser_batch.training.audio_keys import KnownAudio, audio_key
from ser_batch.training.buckets import clip_ref, reason_of
from ser_batch.training.dataset import content_hashes, merged_emotions
from ser_batch.training.evaluate import Predictions, check_known_audio, check_leakage, score_table
from ser_batch.training.features import WEIGHT_COLUMN
from ser_batch.training.train import TrainOptions

__all__ = ["score_model"]

#: Extractors that keys are made from: of the spectrogram, and of how much of it is audible.
_MEL, _ACTIVE = "mel", WEIGHT_COLUMN.split("__")[0]
#: Files in the hands of the workers at a time.
_SHARD_FILES = 256


def score_model(
    model: str,
    clips: Sequence[LabelledClip],
    options: TrainOptions,
    progress: Progress,
    merge: Sequence[str] = (),
    among: Sequence[str] = (),
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
    among : sequence of str
        The labels of the model to answer among; none means all.

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
        "predict": {"model": model, "device": "cpu", "labels": tuple(among)},
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
    paths = [clips[index].path for index in taken]
    classifier = hooks.load_classifier(manager, model, "cpu")
    training = classifier.card.get("training", {})
    check_leakage(training, [clips[index].speaker for index in taken], content_hashes(paths))
    has_keys = "audio_keys" in training and {_MEL, _ACTIVE} <= dict(classifier.needs).keys()
    setup = replace(ingredients.setup(predict=True), keep_tensors=has_keys)
    outcomes = _outcomes(setup, paths, options.jobs, progress)
    if has_keys:
        outcomes = _unknown(outcomes, paths, KnownAudio(training["audio_keys"]), ingredients.specs)
    kept, probabilities = [], []
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


def _unknown(
    outcomes: Iterable[ClipOutcome], paths: Sequence[str], known: KnownAudio, specs: Iterable[FeatureSpec]
) -> Iterator[ClipOutcome]:
    """Pass outcomes on; refuse audio of the training as soon as there is some in what the workers give at a time."""
    columns = {spec.extractor: spec.columns for spec in specs}
    place = columns[_ACTIVE].index(WEIGHT_COLUMN)
    keys: list[bytes] = []
    for number, outcome in enumerate(outcomes, start=1):
        blocks = {block.extractor: block for block in outcome.blocks}
        mel = blocks[_MEL].tensor if blocks else None
        keys.append(b"" if mel is None else audio_key(mel, blocks[_ACTIVE].scalars[:, place]))
        if number % _SHARD_FILES == 0 or number == len(paths):
            check_known_audio(known, paths[:number], keys)
        yield outcome


def _outcomes(setup: Setup, paths: Sequence[str], jobs: int, progress: Progress) -> Iterator[ClipOutcome]:
    """Analyse and predict files in workers, as a scan does; yield an outcome for each."""
    # By number: a file may be there twice.
    refs = [clip_ref(path, f"{number}{os.path.splitext(path)[1]}") for number, path in enumerate(paths)]  # noqa: PTH122
    shards = ((None, refs[start : start + _SHARD_FILES]) for start in range(0, len(refs), _SHARD_FILES))
    progress.begin(len(refs), len(refs))
    try:
        with temporary_extraction(setup, worker_count(jobs, len(refs)), progress) as extraction:
            for _, outcomes in extraction.run(shards):
                yield from outcomes
    finally:
        progress.end()
