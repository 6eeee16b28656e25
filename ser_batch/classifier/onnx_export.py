"""Writes a model as an ONNX file for other programs, and sees that the file computes what torch computes."""

from __future__ import annotations

import os
from pathlib import Path

from ser_batch.atomic import write_atomic
from ser_batch.classifier.checkpoint import Checkpoint
from ser_batch.classifier.device import fixed_batch
from ser_batch.classifier.onnx_classifier import open_session
from ser_batch.classifier.onnx_graph import build_onnx
from ser_batch.errors import ModelError
from ser_batch.text import printable

__all__ = ["EXPORT_TOLERANCE", "export_onnx"]

#: Largest difference in a probability, between the file and torch, that is taken for rounding.
EXPORT_TOLERANCE = 1e-5


def export_onnx(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> float:
    """Write the ONNX file of a model, unless it gives other numbers than torch.

    Parameters
    ----------
    checkpoint : Checkpoint
    path : path-like
        Replaced where it exists; a reader never sees a half-written file.

    Returns
    -------
    difference : float
        The largest difference in a probability between the file, run by onnxruntime, and torch, over a fixed batch.

    Raises
    ------
    ModelError
        The file cannot be written, or the difference is above `EXPORT_TOLERANCE`.
    """
    from ser_batch.classifier.torch_classifier import TorchClassifier  # noqa: PLC0415 - takes a second to import

    path = Path(path)
    graph = build_onnx(checkpoint)
    mel, features = fixed_batch(checkpoint.network)
    found = open_session(graph).run(["probabilities"], {"mel": mel, "features": features})[0]
    difference = float(abs(found - TorchClassifier(checkpoint, "cpu").run(mel, features)).max())
    # Written so that NaN fails.
    if not difference <= EXPORT_TOLERANCE:
        raise ModelError(
            f"The ONNX graph of model {checkpoint.name!r} differs from torch by up to {difference:.2g} in a "
            f"probability (limit {EXPORT_TOLERANCE:g}); nothing was written. This is a fault of ser-batch or of "
            f"the installed onnxruntime: please report it with their versions."
        )
    try:
        write_atomic(path, graph)
    except OSError as error:
        raise ModelError(f"{printable(path)} cannot be written: {error.strerror}.") from error
    return difference
