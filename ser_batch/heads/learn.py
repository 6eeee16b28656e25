"""The last layer of a network, learnt from few answers: logistic regression held to the layer that was there.

With few answers the network's own last layer is the best guess, and each answer may move it a little: the penalty is
on the distance from it, per standard deviation of each input over the archive, and the answers choose how strong it is.
The strongest leaves the layer as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ser_batch.classifier.checkpoint import Checkpoint

__all__ = [
    "PENALTIES",
    "Examples",
    "Head",
    "best_head",
    "cross_fitted",
    "fit_head",
    "fit_temperature",
    "folds_of",
    "head_of",
    "weights_of_head",
]

Floats = NDArray[np.float64]

#: How strongly a layer is held to the one it began as, from not at all moved to hardly held.
PENALTIES = (np.inf, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)

#: Share of the penalty that the bias bears: how frequent labels are differs most from archive to archive.
_BIAS_SHARE = 0.01
_MOST_STEPS = 200
#: After so many weaker penalties that do no better, no weaker one is tried.
_N_WORSE = 2


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A last layer."""

    labels: tuple[str, ...]
    #: float64 (n_labels, n_inputs).
    weights: Floats
    #: float64 (n_labels,).
    bias: Floats
    #: Divides the logits.
    temperature: float = 1.0

    def logits(self, inputs: Floats) -> Floats:
        """Return (n, n_labels) of inputs (n, n_inputs), divided by the temperature."""
        return np.asarray((inputs @ self.weights.T + self.bias) / self.temperature)

    def with_labels(self, labels: Sequence[str]) -> Head:
        """Return the layer for other labels: those it does not know begin in the middle of those it knows."""
        weights = np.tile(self.weights.mean(axis=0), (len(labels), 1))
        bias = np.full(len(labels), self.bias.mean())
        for row, label in enumerate(labels):
            if label in self.labels:
                weights[row], bias[row] = self.weights[self.labels.index(label)], self.bias[self.labels.index(label)]
        return Head(tuple(labels), weights, bias, self.temperature)


def head_of(model: Checkpoint) -> Head:
    """Return the last layer of a model."""
    weights, bias = (model.weights[f"head.{name}"].astype(np.float64) for name in ("weight", "bias"))
    return Head(model.labels, weights, bias, model.temperature)


def weights_of_head(head: Head) -> dict[str, NDArray[np.float32]]:
    """Return a last layer as a model file holds it."""
    return {"head.weight": head.weights.astype(np.float32), "head.bias": head.bias.astype(np.float32)}


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Windows of answered stretches. `of` numbers the stretches from 0; each has a window."""

    #: float64 (n_windows, n_inputs).
    inputs: Floats
    #: float64 (n_windows,): share of a window in its stretch; those of a stretch sum to 1.
    share: Floats
    #: int64 (n_windows,): the stretch of each window.
    of: NDArray[np.int64]
    #: float64 (n_stretches, n_labels): what was answered; where answers differ, each has its part.
    truth: Floats
    #: int64 (n_stretches,): what is drawn or held out together, such as the speaker.
    group: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.truth)

    def only(self, stretches: NDArray[np.bool_]) -> Examples:
        """Return some of the stretches."""
        windows = stretches[self.of]
        number = np.cumsum(stretches) - 1
        return Examples(
            self.inputs[windows],
            self.share[windows],
            number[self.of[windows]],
            self.truth[stretches],
            self.group[stretches],
        )

    def pooled(self, logits: Floats) -> Floats:
        """Return probabilities of each stretch (n_stretches, n_labels), windows pooled as a scan pools them."""
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares *= (self.share / shares.sum(axis=1))[:, None]
        return np.column_stack([np.bincount(self.of, column, len(self)) for column in shares.T])

    def said_by(self, head: Head) -> Floats:
        """Return what a layer says of each stretch (n_stretches, n_labels)."""
        return self.pooled(head.logits(self.inputs))


def fit_head(
    examples: Examples, start: Head, spread: tuple[Floats, Floats], penalties: Sequence[float]
) -> Iterator[Head]:
    """Yield the layers that fit examples best under each penalty.

    Parameters
    ----------
    examples : Examples
        Its labels are those of `start`.
    start : Head
        What the layers are held to.
    spread : pair of float64 (n_inputs,)
        Mean and deviation of each input over the archive; an input that does not vary is not used.
    penalties : sequence of float
        The strongest first; infinity gives `start`.
    """
    from scipy.optimize import minimize  # noqa: PLC0415 - heavy

    mean, deviation = spread
    used = deviation > 0
    scaled = ((examples.inputs - mean) / np.where(used, deviation, 1.0))[:, used]
    base = start.logits(examples.inputs)
    target, weight = examples.truth[examples.of], examples.share / len(examples)
    n_labels, n_inputs = len(start.labels), scaled.shape[1]
    held = np.append(np.ones(n_inputs), _BIAS_SHARE)
    with_one = np.column_stack([scaled, np.ones(len(scaled))])

    def loss(flat: Floats, penalty: float) -> tuple[float, Floats]:
        moved = flat.reshape(n_labels, n_inputs + 1)
        logits = base + with_one @ moved.T
        logits -= logits.max(axis=1, keepdims=True)
        total = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        shares = np.exp(logits - total)
        value = (weight[:, None] * target * (total - logits)).sum() + penalty / 2 * (held * moved**2).sum()
        slope = ((shares - target) * weight[:, None]).T @ with_one + penalty * held * moved
        return float(value), slope.ravel()

    flat = np.zeros(n_labels * (n_inputs + 1))
    for penalty in penalties:
        if np.isfinite(penalty):
            options = {"maxiter": _MOST_STEPS, "ftol": 1e-6, "gtol": 1e-4}
            flat = minimize(loss, flat, (penalty,), jac=True, method="L-BFGS-B", options=options).x
        moved = flat.reshape(n_labels, n_inputs + 1)
        change = np.zeros_like(start.weights)
        change[:, used] = moved[:, :-1] / deviation[used]
        bias = start.bias / start.temperature + moved[:, -1] - change @ mean
        yield Head(start.labels, start.weights / start.temperature + change, bias)


def best_head(examples: Examples, start: Head, spread: tuple[Floats, Floats], best: int, temperature: float) -> Head:
    """Return the layer that fits examples best under one of `PENALTIES`; see `cross_fitted`."""
    *_, head = fit_head(examples, start, spread, PENALTIES[: best + 1])
    return replace(head, temperature=temperature)


def folds_of(group: NDArray[np.int64], n_folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Deal groups to folds of about equal size; return the fold of each stretch."""
    names, sizes = np.unique(group, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    load, fold = np.zeros(min(n_folds, len(names))), np.zeros(len(names), np.int64)
    for index in sorted(order, key=lambda index: -sizes[index]):
        fold[index] = load.argmin()
        load[fold[index]] += sizes[index]
    return np.asarray(fold[np.searchsorted(names, group)])


def cross_fitted(
    examples: Examples, start: Head, spread: tuple[Floats, Floats], n_folds: int, seed: int = 0
) -> tuple[int, float]:
    """Choose penalty and temperature by what layers say of groups that they did not learn from.

    Returns
    -------
    best : int
        Position in `PENALTIES` of the lowest mean log loss.
    temperature : float
        The one at which it is lowest.
    """
    fold = folds_of(examples.group, n_folds, seed)
    paths = [fit_head(examples.only(fold != number), start, spread, PENALTIES) for number in range(fold.max() + 1)]
    fitted: list[tuple[float, float]] = []
    best = 0
    for heads in zip(*paths, strict=True):
        logits = np.empty((len(examples.inputs), len(start.labels)))
        for number, head in enumerate(heads):
            asked = fold[examples.of] == number
            logits[asked] = head.logits(examples.inputs[asked])
        fitted.append(fit_temperature(examples, logits))
        best = int(np.argmin([loss for _, loss in fitted]))
        # The weaker the penalty, the longer it takes, and where it has become too weak it stays so.
        if len(fitted) > best + _N_WORSE:
            break
    return best, fitted[best][0]


def fit_temperature(examples: Examples, logits: Floats) -> tuple[float, float]:
    """Return the temperature at which logits of windows fit the answers best, and the mean log loss at it."""
    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - heavy

    def loss(log_temperature: float) -> float:
        said = examples.pooled(logits / np.exp(log_temperature))
        return float(-(examples.truth * np.log(said.clip(min=1e-12))).sum() / len(examples))

    found = minimize_scalar(loss, bounds=(-1.5, 1.5), method="bounded", options={"xatol": 1e-2})
    return float(np.exp(found.x)), float(found.fun)
