"""The whole network of a model, continued on the audio of answers, as far as these speak for it.

How far is told as it is for a last layer: by what is said of groups that were not learnt from. What it is held to is
the network that was there: what is taken lies on the way from that to the one that went on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch._version import __version__
from ser_batch.classifier.checkpoint import Checkpoint
from ser_batch.classifier.device import choose_device
from ser_batch.classifier.loader import trained_audio
from ser_batch.config import Config
from ser_batch.errors import DataError, RunError
from ser_batch.heads.answered import Found
from ser_batch.heads.learn import Examples, Floats, fit_temperature, folds_of, head_of, weights_of_head
from ser_batch.heads.recordings import audio_of
from ser_batch.heads.scored import Scored, Unlearnt, score
from ser_batch.plugins import PluginRecipe
from ser_batch.records import LabelledClip
from ser_batch.resources import config_path
from ser_batch.reviews.excerpts import root_of
from ser_batch.run.read import Run
from ser_batch.stages.ingredients import gather
from ser_batch.stages.progress import Progress
from ser_batch.text import shown
from ser_batch.training.audio_keys import join_keys
from ser_batch.training.dataset import Dataset, content_hashes, speaker_key
from ser_batch.training.evaluate import HASH_DIGITS
from ser_batch.training.features import FeatureTable, extract_features, table_keys
from ser_batch.training.fit import FitPlan, fit
from ser_batch.training.rows import Rows
from ser_batch.training.starting import STRENGTHS, between, weights_of
from ser_batch.training.train_config import TrainConfig, load_train_config

__all__ = [
    "FEWEST_ANSWERS",
    "Answers",
    "Deep",
    "DeepOptions",
    "Heard",
    "config_for",
    "go_on",
    "heard_again",
    "learn_deep",
]

#: From fewer, the last layer alone is learnt.
FEWEST_ANSWERS = 100
_N_FOLDS = 5
#: Told the name of a training, its epochs done, and those in all.
_Tell = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class DeepOptions:
    """Where the audio is, and on what is computed."""

    #: Where the recordings are now; "" for where the scan found them.
    audio: str = ""
    device: str = "auto"
    jobs: int = 0
    recipe: PluginRecipe = field(default_factory=PluginRecipe)
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True, slots=True, eq=False)
class Heard:
    """The audio of answers as a network hears it."""

    #: Clips are numbered as the answers are.
    table: FeatureTable
    #: SHA-256 of each file, as hexadecimal digits.
    hashes: list[str]
    config: TrainConfig
    #: On which the network goes on.
    device: str


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Answered stretches, each a clip, as a network hears them."""

    labels: tuple[str, ...]
    #: Windows of all copies.
    rows: Rows
    dataset: Dataset
    #: The windows as they are, without inputs: what is said of them is pooled by it.
    examples: Examples

    @classmethod
    def build(
        cls,
        table: FeatureTable,
        labels: Sequence[str],
        truth: Floats,
        groups: Sequence[str],
        device: str,
        sample_rate_hz: int,
    ) -> Answers:
        """Join features of clips, of which each has some, with `truth` (n_clips, n_labels) and the group of each."""
        target = truth.argmax(axis=1)
        names, group = np.unique(groups, return_inverse=True)
        emotions = [labels[place] for place in target]
        clips = [LabelledClip("", name, who, "", "answers", name) for name, who in zip(emotions, groups, strict=True)]
        dataset = Dataset(
            clips=tuple(clips),
            labels=tuple(labels),
            target=target,
            corpus=np.zeros(len(target), np.int64),
            corpora=("answers",),
            corpus_weight=np.ones(1),
            category=target,
            category_corpus=np.zeros(len(labels), np.int64),
            speaker=names[group],
            n_unknown_speakers=0,
        )
        rows = Rows.build(table, dataset, device, sample_rate_hz)
        asked = rows.copy == 0
        examples = Examples(np.zeros((asked.sum(), 0)), rows.share[asked], rows.clip[asked], truth, group)
        return cls(tuple(labels), rows, dataset, examples)

    def disputed(self) -> NDArray[np.float32] | None:
        """Return what was answered where answers differ, NaN elsewhere, as a teacher would say it."""
        truth = self.examples.truth
        differ = truth.max(axis=1) < 1
        return np.where(differ[:, None], truth, np.nan).astype(np.float32) if differ.any() else None


@dataclass(frozen=True, slots=True, eq=False)
class Deep:
    """A network that went on, and how it does."""

    labels: tuple[str, ...]
    #: Arrays under the names of a model file: those that differ from the model that was there.
    weights: dict[str, NDArray[np.float32]]
    temperature: float
    #: Whether these are new, or those that were there, because the new ones are not better.
    is_new: bool
    #: One of `STRENGTHS`: how far it went.
    strength: float
    scores: Scored
    #: float64 (n_stretches, n_labels): what new networks say of answers that they did not learn from.
    unlearnt: Floats
    #: What it learnt from, for its card.
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def how(self) -> dict[str, float]:
        return {"strength": self.strength}


def config_for(parent: Checkpoint) -> TrainConfig:
    """Return the shipped configuration ``deep``, for audio as a model hears it."""
    config = load_train_config(config_path("deep", TrainConfig().as_dict()))
    n_frames = parent.network.n_frames
    fits = {name: min(getattr(config.fit, name), n_frames) for name in ("crop_frames", "frame_mask_frames")}
    return config.with_values({"audio": trained_audio(parent.path), "fit": fits}, parent.name)


def heard_again(run: Run, parent: Checkpoint, found: Found, options: DeepOptions) -> Heard:
    """Return the audio of answers as a network hears it.

    Answers that cannot be heard any more are left out of `found`, and said.

    Parameters
    ----------
    run, parent
    found : Found
        Answers that can be used, grouped.
    options : DeepOptions

    Raises
    ------
    ConfigError
        There is no such device.
    DataError
        Too few answers, or none whose recordings are there.
    InputError
        The folder of the recordings is gone.
    ModelError
        The model needs other extractors than there are.
    RunError
        The run is of single channels, or a temporary file cannot be written.
    """
    _check_enough(len(found.stretches))
    if run.info.get("settings", {}).get("channels", "mix") != "mix":
        raise RunError(f"{run.folder} is of single channels, which --deep does not tell apart. Adapt without --deep.")
    root, config, recipe = root_of(run, options.audio), config_for(parent), options.recipe
    manager = recipe.build()
    # What is learnt from must be what the model says that it hears.
    heard_by: dict[str, dict[str, Any]] = {"audio": trained_audio(parent.path), "predict": {"model": parent.path}}
    gather(manager, recipe, Config().with_values(heard_by))
    chosen = choose_device(options.device)
    with tempfile.TemporaryDirectory(prefix="ser-batch-") as folder:
        files = audio_of(run, found, root, manager, config.audio.sample_rate_hz, Path(folder))
        options.progress.say(f"Device: {chosen.device}. {chosen.note}".strip())
        hashes = content_hashes(files)
        table = extract_features(
            files,
            hashes,
            cache_dir=Path(folder) / "cache",
            recipe=recipe,
            changes=config.augment,
            audio=config.audio,
            jobs=options.jobs,
            progress=options.progress,
        )
    kept = np.unique(table.clip[table.copy == 0]).tolist()
    if len(kept) < len(files):
        lost = min(set(range(len(files))) - set(kept))
        found.notices.append(
            f"{len(files) - len(kept)} answers are left out, such as that to {shown(found.stretches[lost].clip_id)}: "
            f"{table.failures.get(lost, 'no voice')}."
        )
    found.stretches = [found.stretches[place] for place in kept]
    _check_enough(len(kept))
    return Heard(table.only(kept), [hashes[place] for place in kept], config, chosen.device)


def learn_deep(
    run: Run, parent: Checkpoint, found: Found, labels: Sequence[str], heard: Heard, options: DeepOptions
) -> Deep:
    """Go on from a model by answers about a run; `heard` is of the stretches of `found`."""
    table, config = heard.table, heard.config
    truth = np.array([[item.heard.get(label, 0.0) for label in labels] for item in found.stretches])
    groups = [item.group for item in found.stretches]
    answers = Answers.build(table, labels, truth, groups, heard.device, config.audio.sample_rate_hz)
    deep = go_on(answers, parent, run.labels, config, options.progress.step)
    n_clips = len(found.stretches)
    training = {
        "corpora": [{"name": "answers", "title": f"answers about {run.folder.name}", "licence": "your own", "url": ""}],
        "licences": ["your own"],
        "seeds": [0],
        "config": config.as_dict(),
        "n_clips": n_clips,
        "n_speakers": len(np.unique(answers.examples.group)),
        "tool_version": __version__,
        "speakers": sorted({speaker_key(item.speaker) for item in found.stretches if item.speaker}),
        "audio": "".join(sorted({content[:HASH_DIGITS] for content in heard.hashes})),
        "audio_keys": join_keys(table_keys(table, range(n_clips))),
    }
    return replace(deep, training=training)


def _check_enough(n_answers: int) -> None:
    """Raise DataError unless there are answers enough for a whole network."""
    if n_answers < FEWEST_ANSWERS:
        raise DataError(
            f"{n_answers} answers can be used; a whole network learns from {FEWEST_ANSWERS} or more. Without --deep, "
            f"`ser-batch adapt` learns the last layer from fewer."
        )


def go_on(answers: Answers, start: Checkpoint, old_labels: Sequence[str], config: TrainConfig, tell: _Tell) -> Deep:
    """Go on from a model, and find out whether that is better.

    Networks are trained besides, one for each part of the groups, for what is said of answers that were not learnt
    from; strength and temperature of each part are those that suit all other parts.

    Parameters
    ----------
    answers : Answers
        Of two groups or more.
    start : Checkpoint
    old_labels : sequence of str
        Those that it answered among; the first ones of `answers`.
    config : TrainConfig
    tell : callable
        Told the training, its epochs done, and those in all.
    """
    examples, everything = answers.examples, np.arange(len(answers.examples))
    fold = folds_of(examples.group, _N_FOLDS, seed=1)
    n_folds = int(fold.max()) + 1
    logits = np.zeros((len(STRENGTHS), len(examples.inputs), len(answers.labels)))
    for number in range(n_folds):
        name = f"epochs of training {number + 1} of {n_folds + 1}"
        network = _trained(answers, start, everything[fold != number], config, name, tell)
        for one, place in zip(between(network, start, answers.labels), logits, strict=True):
            place[fold[examples.of] == number] = answers.rows.score(one, everything[fold == number]).logits
    n_old = len(old_labels)
    before = np.zeros_like(examples.truth)
    before[:, :n_old] = examples.pooled(logits[0, :, :n_old] / start.temperature)
    tempered, after = np.zeros_like(before), np.zeros_like(before)
    for number in range(n_folds):
        inside = fold == number
        asked, fitted = inside[examples.of], _fitted(examples, logits, ~inside)
        best = _best(fitted)
        for said, at in ((tempered, 0), (after, best)):
            said[inside] = examples.only(inside).pooled(logits[at, asked] / fitted[at][0])
    scores = score(answers.labels, examples.truth, examples.group, Unlearnt(before, tempered, after))
    fitted = _fitted(examples, logits, np.ones(len(examples), bool))
    best = _best(fitted)
    if not (scores.is_better and best > 0):
        kept = head_of(start).with_labels(old_labels)
        return Deep(kept.labels, weights_of_head(kept), kept.temperature, False, STRENGTHS[best], scores, after)
    name = f"epochs of training {n_folds + 1} of {n_folds + 1}"
    network = _trained(answers, start, everything, config, name, tell)
    taken = list(between(network, start, answers.labels))[best]
    return Deep(answers.labels, weights_of(taken), fitted[best][0], True, STRENGTHS[best], scores, after)


def _trained(
    answers: Answers, start: Checkpoint, clips: NDArray[np.int64], config: TrainConfig, name: str, tell: _Tell
) -> Any:
    plan = FitPlan(clips, None, 0, config.data.balance, start=start, taught=answers.disputed())
    epochs = config.fit.epochs
    found = fit(
        answers.rows, answers.dataset, plan, config.fit, lambda record: tell(name, int(record["epoch"]), epochs)
    )
    return found.network


def _fitted(examples: Examples, logits: Floats, chosen: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Return temperature and loss of each strength on some stretches."""
    some = examples.only(chosen)
    return [fit_temperature(some, one[chosen[examples.of]]) for one in logits]


def _best(fitted: Sequence[tuple[float, float]]) -> int:
    return int(np.argmin([loss for _, loss in fitted]))
