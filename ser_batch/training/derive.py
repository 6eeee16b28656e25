"""A second model out of a trained one, that answers with some of its labels only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ser_batch.classifier.checkpoint import Checkpoint

__all__ = ["keep_labels"]


def keep_labels(model: Checkpoint, labels: Sequence[str], name: str, temperature: float) -> Checkpoint:
    """Cut the outputs of all other labels off: the probabilities are then those given that one of `labels` is true.

    Parameters
    ----------
    model : Checkpoint
    labels : sequence of str
        Two or more labels of `model`; they keep the order of the model.
    name : str
        Name of the new model.
    temperature : float
        Fitted anew, since confidence differs among fewer labels.

    """
    kept = [index for index, label in enumerate(model.labels) if label in labels]
    weights = dict(model.weights)
    for part in ("head.weight", "head.bias"):
        weights[part] = np.ascontiguousarray(weights[part][kept])
    meta = dict(model.meta)
    meta |= {
        "name": name,
        "labels": [model.labels[index] for index in kept],
        "network": {**meta["network"], "n_labels": len(kept)},
        "temperature": float(temperature),
        "derived_from": model.name,
    }
    return Checkpoint(weights, meta)
