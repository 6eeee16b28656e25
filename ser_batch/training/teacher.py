"""A teacher, in training only: another model's embeddings, from which it is learnt how sure one can be of each clip.

The embeddings are computed by the workers of a scan, one per clip, and kept in the cache. What is taught are the
answers of a linear layer on them, for speakers that this layer did not hear: how much a smile sounds like surprise,
and which recordings nobody could know. So a network learns nothing of a teacher that it could not learn of its clips.
The teacher hears each clip as it is; of a changed copy the network is to say what was heard in the clip.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ser_batch import hooks
from ser_batch._version import __version__
from ser_batch.classifier.loader import trained_audio
from ser_batch.config import Config
from ser_batch.errors import ConfigError, DataError
from ser_batch.plugins import PluginRecipe
from ser_batch.records import ClipOutcome
from ser_batch.stages.ingredients import gather
from ser_batch.stages.progress import Progress
from ser_batch.training.augment import AugmentConfig
from ser_batch.training.buckets import Rows, Task, compute
from ser_batch.training.dataset import NO_TARGET, Dataset
from ser_batch.training.features import WEIGHT_COLUMN

__all__ = ["Embeddings", "embeddings_of", "soft_labels", "windows_heard"]

#: float16 (n_clips, n_embedding); NaN where a clip gave nothing.
Embeddings = NDArray[np.float16]

#: Speakers are told by what was learnt from the others, in so many groups.
_N_GROUPS = 4
#: Penalty on the squared weights of the linear layer; chosen on corpora left out, and from 0.01 to 0.1 all is alike.
_PENALTY = 0.03
_N_ITERATIONS = 60


def windows_heard(
    model: str,
    paths: Sequence[str],
    hashes: Sequence[str],
    *,
    cache_dir: Path,
    recipe: PluginRecipe,
    changes: AugmentConfig,
    jobs: int = 0,
    progress: Progress,
) -> Rows:
    """Return what a model hears in each window, of clips and of changed copies of them.

    Arguments are those of `features.extract_features`. The model hears by the settings that it was trained with.

    Returns
    -------
    Rows
        With ``embedding``, float16 (n_rows, n_embedding), and ``seconds``, float32 (n_rows,): those that are audible,
        more than 0. Silence has nothing to teach, and gives no row.

    Raises
    ------
    ConfigError
        The model does not tell what it hears.
    ModelError, PluginError, RunError
        The model, a plugin or the cache cannot be used.
    """
    values: dict[str, dict[str, Any]] = {
        "audio": trained_audio(model),
        "predict": {"model": model, "device": "cpu"},
        "extract": {"extractors": ("quality",)},
    }
    config = Config().with_values(values, "--teacher")
    manager = recipe.build()
    hooks.validate_config(manager, config)
    ingredients = gather(manager, recipe, config)
    if not ingredients.n_embedding:
        raise ConfigError(f"--teacher: model {model!r} gives labels alone; a teacher must tell what it hears, too.")
    (quality,) = (spec for spec in ingredients.specs if spec.extractor == "quality")
    task = Task(
        setup=ingredients.setup(predict=True),
        depends=[ingredients.settings(), __version__, "windows heard"],
        arrays={"embedding": (np.float16, (ingredients.n_embedding,)), "seconds": (np.float32, ())},
        rows_of=partial(_audible, place=quality.columns.index(WEIGHT_COLUMN)),
    )
    progress.say(f"What the teacher {model} hears:")
    return compute(task, paths, hashes, cache_dir, changes, jobs, progress)


def _audible(outcome: ClipOutcome, place: int) -> dict[str, NDArray]:
    (seconds,) = (block.scalars[:, place] for block in outcome.blocks if block.extractor == "quality")
    inside = np.nan_to_num(seconds) > 0
    return {"embedding": outcome.embeddings[inside].astype(np.float16), "seconds": seconds[inside].astype(np.float32)}


def embeddings_of(model: str, paths: Sequence[str], hashes: Sequence[str], **how: Any) -> Embeddings:
    """Return what a model hears in each clip: means over windows, weighted by audible seconds.

    Arguments and errors are those of `windows_heard`, without changes.
    """
    rows = windows_heard(model, paths, hashes, changes=AugmentConfig(copies=0), **how)
    seconds = rows.arrays["seconds"].astype(np.float64)
    total = np.bincount(rows.clip, seconds, minlength=len(paths))
    mean = np.zeros((len(paths), rows.arrays["embedding"].shape[1]))
    np.add.at(mean, rows.clip, seconds[:, None] * rows.arrays["embedding"])
    return np.divide(mean, total[:, None], out=np.full_like(mean, np.nan), where=total[:, None] > 0).astype(np.float16)


def soft_labels(heard: Embeddings, dataset: Dataset, clips: NDArray[np.int64], balance: float) -> NDArray[np.float32]:
    """Return what a linear layer on embeddings says of clips whose speakers it did not hear.

    Parameters
    ----------
    heard : Embeddings
    dataset : Dataset
    clips : int64 (n,)
        Those that are learnt from: what is said of each, the others say.
    balance : float
        See `DataConfig.balance`.

    Returns
    -------
    float32 (n_clips, n_labels)
        Probabilities; NaN for all other clips, and where nothing was heard.

    Raises
    ------
    DataError
        Of nobody can anything be said: there is only one speaker.
    """
    known = np.zeros(len(dataset), bool)
    known[clips] = True
    index = np.flatnonzero(known & ~np.isnan(heard[:, 0]))
    values = torch.from_numpy(heard[index].astype(np.float32))
    weights = torch.from_numpy(dataset.weights(balance)[index].astype(np.float32))
    mean = (weights / weights.sum()) @ values
    values -= mean
    values /= ((weights / weights.sum()) @ values.square()).sqrt() + 1e-3
    target = torch.from_numpy(dataset.target[index])
    group = torch.from_numpy(_groups(dataset)[index])
    labels = np.full((len(dataset), len(dataset.labels)), np.nan, np.float32)
    for number in range(_N_GROUPS):
        asked = group == number
        learnt = ~asked & (target != NO_TARGET)
        if not (asked.any() and learnt.any()):
            continue
        layer = _linear_layer(values[learnt], target[learnt], weights[learnt], len(dataset.labels))
        labels[index[asked.numpy()]] = torch.softmax(layer(values[asked]), dim=1).detach().numpy()
    if np.isnan(labels).all():
        raise DataError("A teacher says of each speaker what others taught it, and only one is left to learn from.")
    return labels


def _groups(dataset: Dataset) -> NDArray[np.int64]:
    """Deal the speakers of each corpus out to groups."""
    group = np.zeros(len(dataset), np.int64)
    for corpus in range(len(dataset.corpora)):
        inside = dataset.corpus == corpus
        _, number = np.unique(dataset.speaker[inside], return_inverse=True)
        group[inside] = number % _N_GROUPS
    return group


def _linear_layer(values: torch.Tensor, target: torch.Tensor, weights: torch.Tensor, n_labels: int) -> torch.nn.Linear:
    """Fit multinomial logistic regression with a penalty on the squared weights."""
    layer = torch.nn.Linear(values.shape[1], n_labels)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    share = weights / weights.sum()
    optimiser = torch.optim.LBFGS(
        layer.parameters(), max_iter=_N_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        errors = functional.cross_entropy(layer(values), target, reduction="none")
        total = errors @ share + _PENALTY / 2 * layer.weight.square().sum()
        total.backward()
        return total

    optimiser.step(loss)
    return layer
