"""From labelled clips to a model file: features, split, training, temperature, scores."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ser_batch._version import __version__
from ser_batch.atomic import write_atomic
from ser_batch.classifier import checkpoint
from ser_batch.classifier.dense import DENSE_FEATURES
from ser_batch.errors import ConfigError, DataError
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Corpus, LabelledClip
from ser_batch.resources import model_path
from ser_batch.stages.progress import Progress
from ser_batch.training import metrics
from ser_batch.training.audio_keys import join_keys
from ser_batch.training.dataset import Dataset, content_hashes, speaker_key, split_speakers, with_labels
from ser_batch.training.derive import keep_labels
from ser_batch.training.evaluate import HASH_DIGITS, Predictions, score_table
from ser_batch.training.features import (
    WEIGHT_COLUMN,
    FeatureTable,
    extract_features,
    feature_ingredients,
    feature_settings,
    table_keys,
)
from ser_batch.training.preflight import check_model_names, require_file, require_folder
from ser_batch.training.starting import load_start, weights_of, with_history
from ser_batch.training.train_config import TrainConfig

__all__ = [
    "TrainOptions",
    "calibrate",
    "check_also",
    "for_strangers",
    "load_features",
    "predictions_of",
    "restricted",
    "taught_by",
    "train_model",
    "training_key",
]

if TYPE_CHECKING:
    from ser_batch.training.teacher import Embeddings

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Where a training reads and writes, and on what it runs."""

    name: str
    output: Path
    report_dir: Path
    cache_dir: Path
    seed: int = 0
    device: str = "cpu"
    jobs: int = 0
    #: Go on from the state of an earlier, interrupted training of the same data and configuration.
    resume: bool = True
    recipe: PluginRecipe = field(default_factory=PluginRecipe)
    #: Further models to write beside `output`: name -> the labels that each keeps; see `keep_labels`.
    also: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: What `cross_validate` said of this recipe: its temperatures and scores go into the models.
    scores: Mapping[str, Any] | None = None
    #: Model that teaches, see `ser_batch.training.teacher`; "" = none.
    teacher: str = ""
    #: Model to go on from; "" = none.
    start: str = ""


def load_features(
    clips: Sequence[LabelledClip], config: TrainConfig, options: TrainOptions, progress: Progress
) -> tuple[list[LabelledClip], list[str], FeatureTable, Embeddings | None]:
    """Return the clips that can be read, the hash of each, and their features; say which cannot and why.

    What the teacher hears in each comes last; None without a teacher.

    Raises
    ------
    DataError
        No clip can be read, or a file with the same content has two labels or two speakers.
    RunError
        The cache cannot be written, or no worker can be kept alive.
    """
    hashes = content_hashes([clip.path for clip in clips])
    _check_duplicates(clips, hashes)
    paths = [clip.path for clip in clips]
    how: dict[str, Any] = {
        "cache_dir": options.cache_dir,
        "recipe": options.recipe,
        "jobs": options.jobs,
        "progress": progress,
    }
    table = extract_features(paths, hashes, audio=config.audio, changes=config.augment, **how)
    # A copy alone may fail, for example when a codec refuses it; a clip is lost when it gave nothing at all.
    readable = set(table.clip[table.copy == 0].tolist())
    lost = [index for index in range(len(clips)) if index not in readable]
    for index in lost:
        progress.say(f"Left out: {clips[index].path}: {table.failures.get(index, 'no windows')}")
    if not readable:
        raise DataError(f"None of the {len(clips)} clips can be read; the lines above say why.")
    if lost:
        progress.say(f"{len(lost)} of {len(clips)} clips cannot be read and are left out.")
        table = table.only(sorted(readable))
    kept = sorted(readable)
    clips, hashes = [clips[index] for index in kept], [hashes[index] for index in kept]
    if not options.teacher:
        return clips, hashes, table, None
    from ser_batch.training.teacher import embeddings_of  # noqa: PLC0415 - torch is slow to import

    return clips, hashes, table, embeddings_of(options.teacher, [paths[index] for index in kept], hashes, **how)


def taught_by(
    heard: Embeddings | None, dataset: Dataset, clips: Indices, config: TrainConfig
) -> NDArray[np.float32] | None:
    """Return what a teacher that hears `heard` says of `clips`, for a `FitPlan`; None without a teacher."""
    if heard is None:
        return None
    from ser_batch.training.teacher import soft_labels  # noqa: PLC0415

    return soft_labels(heard, dataset, clips, config.data.balance)


def _check_duplicates(clips: Sequence[LabelledClip], hashes: Sequence[str]) -> None:
    first: dict[str, LabelledClip] = {}
    for clip, content in zip(clips, hashes, strict=True):
        other = first.setdefault(content, clip)
        if (other.emotion, other.speaker) != (clip.emotion, clip.speaker):
            raise DataError(
                f"{other.path} and {clip.path} hold the very same audio, but as {other.emotion} of "
                f"{other.speaker or 'somebody'} and {clip.emotion} of {clip.speaker or 'somebody'}. Remove one of them."
            )


def predictions_of(dataset: Dataset, clips: Indices, probabilities: NDArray[np.float64]) -> Predictions:
    """Join probabilities of clips with what is known of them."""
    return Predictions(
        labels=dataset.labels,
        truth=dataset.target[clips],
        probabilities=probabilities,
        speaker=dataset.speaker[clips],
        corpus=np.array(dataset.corpora)[dataset.corpus[clips]],
        sex=np.array([dataset.clips[index].sex for index in clips]),
    )


def calibrate(scores: Any, dataset: Dataset) -> float:
    """Return the temperature that suits validation clips, every corpus counting the same; `scores` is WindowScores."""
    corpus = dataset.corpus[scores.clips]
    counts = np.bincount(corpus, minlength=len(dataset.corpora))
    return metrics.fit_temperature(scores.logits, dataset.target[scores.clips], 1.0 / counts[corpus], scores.pool)


def train_model(
    clips: Sequence[LabelledClip],
    corpora: Sequence[Corpus],
    config: TrainConfig,
    options: TrainOptions,
    progress: Progress,
) -> dict[str, Any]:
    """Train a model and write it, its report and its scores; return the report as JSON-able values.

    Raises
    ------
    ConfigError
        Names of models, or scores, that do not fit.
    DataError
        Labels, speakers or audio that cannot be used.
    RunError
        A folder cannot be written, or no worker can be kept alive.
    """
    from ser_batch.training.fit import FitPlan, batch_size_for, fit  # noqa: PLC0415 - torch is slow to import
    from ser_batch.training.rows import Rows  # noqa: PLC0415

    check_model_names(options.output, options.also)
    config = with_labels(config, clips)
    check_also(options.also, config.data.labels)
    _check_scores(config, options)
    start = load_start(options.start, config.audio) if options.start else None
    # Labels and speakers first: what is wrong with them should not wait for the features.
    draft = Dataset.build(clips, config.data)
    split_speakers(draft, config.data, options.seed)
    _describe(draft, progress)
    require_file(options.output, "--output")
    require_folder(options.report_dir, "--report")
    require_folder(options.cache_dir, "--cache")
    clips, hashes, table, heard = load_features(clips, config, options, progress)
    dataset = Dataset.build(clips, config.data)
    split = split_speakers(dataset, config.data, options.seed)
    _say_batch_size(batch_size_for(len(split.train), config.fit), len(split.train), config, progress)
    state = options.report_dir / "state" / training_key(clips, hashes, config, options)
    if not options.resume:
        shutil.rmtree(state.parent, ignore_errors=True)
    rows = Rows.build(table, dataset, options.device, config.audio.sample_rate_hz)

    def announce(record: dict[str, float]) -> None:
        progress.step("epochs", int(record["epoch"]), config.fit.epochs)
        progress.say(_epoch_line(record, dataset.target[rows.labelled(split.validation, dataset)]))

    validated = split.validation if len(split.validation) else None
    # Validation speakers chose the epoch and the temperature, even where they were not learnt.
    known = np.concatenate([split.train, split.validation])
    plan = FitPlan(
        split.train,
        validated,
        options.seed,
        config.data.balance,
        state_file=state / "first.pt",
        start=start,
        taught=taught_by(heard, dataset, split.train, config),
    )
    result = fit(rows, dataset, plan, config.fit, announce)
    report: dict[str, Any] = {
        "name": options.name,
        "best_epoch": result.best_epoch,
        "history": result.history,
        "n_clips": {side: len(getattr(split, side)) for side in ("train", "validation", "test")},
    }
    report |= _validate(rows, result.network, dataset, split.validation, options)
    temperature = report["temperature"]
    if config.fit.refit and validated is not None:
        progress.say(f"Training again on training and validation speakers, {result.best_epoch} epochs.")
        plan = FitPlan(
            known,
            None,
            options.seed,
            config.data.balance,
            n_epochs=result.best_epoch,
            state_file=state / "second.pt",
            start=start,
            taught=taught_by(heard, dataset, known, config),
        )
        result = fit(rows, dataset, plan, config.fit, announce)
    if len(rows.labelled(split.test, dataset)):
        test = rows.score(result.network, rows.labelled(split.test, dataset))
        report["test"] = score_table(predictions_of(dataset, test.clips, test.probabilities(temperature)))
    weights = weights_of(result.network)
    meta = _metadata(dataset, corpora, config, options, result.network.config, temperature, report)
    meta["training"] |= {
        "speakers": sorted({speaker_key(clip.speaker) for clip in (dataset.clips[i] for i in known) if clip.speaker}),
        "audio": "".join(sorted({hashes[index][:HASH_DIGITS] for index in known})),
        "audio_keys": join_keys(table_keys(table, known.tolist())),
    }
    model = checkpoint.Checkpoint(weights, meta if start is None else with_history(meta, start))
    checkpoint.save(options.output, model)
    for name, labels in options.also.items():
        part = report["also"][name]
        cut = keep_labels(model, labels, name, part["temperature"])
        cut.meta["scores"] = _summary(part)  # type: ignore[index]
        checkpoint.save(options.output.with_name(f"{name}.safetensors"), cut)
    write_atomic(options.report_dir / "training.json", json.dumps(report, indent=1))
    shutil.rmtree(state, ignore_errors=True)
    return report


def _say_batch_size(n_windows: int, n_clips: int, config: TrainConfig, progress: Progress) -> None:
    if n_windows < config.fit.batch_size:
        progress.say(
            f"fit.batch_size is {config.fit.batch_size}, but only {n_clips} clips are learnt from: steps are of "
            f"{n_windows} windows."
        )


def _epoch_line(record: Mapping[str, float], truth: Indices) -> str:
    line = f"epoch {record['epoch']}: loss {record['loss']:.3f}"
    if "validation_uar" in record:
        line += f", validation UAR {record['validation_uar']:.3f} ({metrics.chance_told(metrics.chance(truth))})"
    return line


def for_strangers(scores: Mapping[str, Any], strangers: Mapping[str, Any]) -> dict[str, Any]:
    """Return scores of a cross-validation with temperatures that suit voices from elsewhere.

    Parameters
    ----------
    scores
        As `cross_validate` returns them, over speakers of known corpora.
    strangers
        The same over corpora left out; its temperatures and the UAR of each corpus are taken over.

    Raises
    ------
    ConfigError
        One of the label sets is missing in `strangers`.
    """
    also = {
        name: for_strangers(table, strangers.get("also", {}).get(name, {}))
        for name, table in scores.get("also", {}).items()
    }
    if set(strangers.get("labels", ())) != set(scores.get("labels", ())):
        raise ConfigError(
            f"`train --strangers` has no scores of the labels {', '.join(scores.get('labels', ()))}; make them by "
            f"`ser-batch evaluate --leave-corpus-out --json FILE` with the options of the cross-validation."
        )
    uars = {name: block["uar"] for name, block in strangers["corpora"].items()}
    return {**scores, "temperature": strangers["temperature"], "strangers": uars, **({"also": also} if also else {})}


def _check_scores(config: TrainConfig, options: TrainOptions) -> None:
    if options.scores is None:
        if not config.data.validation_share:
            raise ConfigError(
                "With data.validation_share = 0 nobody is left to set the temperature by. Set a share; or score it by "
                "`ser-batch evaluate --cross-validate FOLDS --json FILE`, and `ser-batch train --scores FILE`."
            )
        return
    known = {"": options.scores, **options.scores.get("also", {})}
    wanted = {"": config.data.labels, **options.also}
    for name, labels in wanted.items():
        if set(known.get(name, {}).get("labels", ())) != set(labels) or "temperature" not in known[name]:
            raise ConfigError(
                f"The scores given are not those of a cross-validation with the labels {', '.join(labels)}"
                + (f"; make them with --also {name}={','.join(labels)}." if name else ".")
            )


def _validate(rows: Any, network: Any, dataset: Dataset, validation: Indices, options: TrainOptions) -> dict[str, Any]:
    """Return temperatures, and the tables they were found with: of validation speakers, or of a cross-validation."""
    if options.scores is not None:
        side = "cross_validation"
        found = {"": dict(options.scores), **options.scores.get("also", {})}
        parts = {name: {"temperature": table["temperature"], side: table} for name, table in found.items()}
    else:
        scores = rows.score(network, rows.labelled(validation, dataset))
        wanted = {"": (scores, dataset)}
        wanted |= {name: restricted(scores, dataset, labels) for name, labels in options.also.items()}
        parts = {}
        for name, (part, labelled) in wanted.items():
            temperature = calibrate(part, labelled)
            table = score_table(predictions_of(labelled, part.clips, part.probabilities(temperature)))
            parts[name] = {"temperature": temperature, "validation": table}
    return {**parts.pop(""), **({"also": parts} if parts else {})}


def restricted(scores: Any, dataset: Dataset, labels: Sequence[str]) -> tuple[Any, Dataset]:
    """Return scores (WindowScores) and dataset as they are when only `labels` exist."""
    kept = [index for index, label in enumerate(dataset.labels) if label in labels]
    of_old = np.full(len(dataset.labels), -1)
    of_old[kept] = np.arange(len(kept))
    target = np.where(dataset.target >= 0, of_old[dataset.target], -1)
    inside = target[scores.clips] >= 0
    windows = inside[scores.position]
    part = replace(
        scores,
        logits=scores.logits[windows][:, kept],
        position=(np.cumsum(inside) - 1)[scores.position[windows]],
        share=scores.share[windows],
        clips=scores.clips[inside],
    )
    return part, replace(dataset, labels=tuple(dataset.labels[index] for index in kept), target=target)


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    side = next(side for side in ("test", "cross_validation", "validation") if side in report)
    return {
        "side": side,
        "uar": report[side]["overall"]["uar"],
        "uar_interval": report[side]["overall"]["uar_interval"],
        "chance": report[side]["overall"]["chance"],
        "corpora": {name: block["uar"] for name, block in report[side]["corpora"].items()},
        **({"strangers": report[side]["strangers"]} if "strangers" in report[side] else {}),
    }


def check_also(also: Mapping[str, tuple[str, ...]], labels: Sequence[str]) -> None:
    """Raise ConfigError unless each label set in `also` is two or more of `labels`."""
    for name, kept in also.items():
        if len(set(kept)) < 2 or not set(kept) <= set(labels):
            raise ConfigError(f"Model {name!r}: give two or more of {', '.join(labels)}, not {', '.join(kept)}.")


def _describe(dataset: Dataset, progress: Progress) -> None:
    counts = Counter(dataset.labels[target] for target in dataset.target if target >= 0)
    left_out = int((dataset.target < 0).sum())
    progress.say(
        f"{len(dataset)} clips, {len(set(dataset.speaker))} speakers, {', '.join(dataset.corpora)}: "
        + ", ".join(f"{label} {counts[label]}" for label in dataset.labels)
        + (f"; {left_out} of other labels train the auxiliary head only" if left_out else "")
    )
    if dataset.n_unknown_speakers:
        progress.say(
            f"WARNING: the speaker of {dataset.n_unknown_speakers} clips is unknown, so the split cannot keep speakers "
            f"apart, and scores on these data will flatter the model by 20 points or so. Put the speaker before the "
            f"first underscore of each file name, or list file and speaker in speakers.csv."
        )


def training_key(
    clips: Sequence[LabelledClip], hashes: Sequence[str], config: TrainConfig, options: TrainOptions
) -> str:
    """Return a hash of all that decides what a training gives."""
    # A label or a speaker that was put right in between is another training.
    known = sorted((content, c.emotion, c.category, c.speaker) for content, c in zip(hashes, clips, strict=True))
    settings = feature_settings(feature_ingredients(options.recipe, config.audio))
    depends = [settings, known, config.as_dict(), options.seed, options.device, options.teacher]
    if options.start:
        depends.append(checkpoint.load(model_path(options.start)).sha256)
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:16]


def _metadata(
    dataset: Dataset,
    corpora: Sequence[Corpus],
    config: TrainConfig,
    options: TrainOptions,
    network: Any,
    temperature: float,
    report: dict[str, Any],
) -> dict[str, Any]:
    audio = config.audio
    known = {corpus.name: corpus for corpus in corpora}
    sources = [
        {"name": name, "title": known[name].title, "licence": known[name].licence, "url": known[name].url}
        if name in known
        else {"name": name, "title": name, "licence": "your own", "url": ""}
        for name in dataset.corpora
    ]
    return checkpoint.new_meta(
        name=options.name,
        labels=dataset.labels,
        audio={"sample_rate_hz": audio.sample_rate_hz, "window_s": audio.window_s, "window_hop_s": audio.window_hop_s},
        specs=feature_ingredients(options.recipe, audio).specs,
        features=DENSE_FEATURES,
        network=network,
        temperature=temperature,
        pooling={"rule": "weighted_mean", "weight_column": WEIGHT_COLUMN},
        training={
            "corpora": sources,
            "licences": sorted({source["licence"] for source in sources}),
            "seeds": [options.seed],
            **({"teacher": options.teacher} if options.teacher else {}),
            "config": config.as_dict(),
            "n_clips": len(dataset),
            "n_speakers": len(set(dataset.speaker)),
            "tool_version": __version__,
        },
        scores=_summary(report),
        created=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )
