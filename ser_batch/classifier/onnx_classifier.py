"""The network on a CPU by onnxruntime: at the core's arithmetic peak, and starting without torch."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_batch.classifier.audible import audible_frames
from ser_batch.classifier.base import CheckpointClassifier
from ser_batch.classifier.checkpoint import Checkpoint

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxClassifier", "open_session"]


def open_session(model: bytes | str) -> onnxruntime.InferenceSession:
    """Return a one-thread CPU session for a serialised graph or for the path of an ``.onnx`` file."""
    import onnxruntime  # noqa: PLC0415 - a process that never predicts does without

    options = onnxruntime.SessionOptions()
    # One worker process per core: threads of their own would only fight each other.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    # Windows differ in length; plans of memory per length bring no speed here and keep memory.
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class OnnxClassifier(CheckpointClassifier):
    """A model on one CPU thread."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint, "cpu")
        self._config = checkpoint.network

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        """Opened for the first window: the parent of a scan needs a model's labels and versions alone."""
        from ser_batch.classifier.onnx_graph import build_onnx  # noqa: PLC0415 - loads onnx

        return open_session(build_onnx(self.checkpoint, n_frames="n_frames"))

    def embed(self, mel: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
        # Speech seldom fills its window; what is silent before and after it costs as much and changes nothing. Windows
        # of other lengths cannot share a batch, but on one thread a batch is no faster.
        embeddings = np.empty((len(mel), self.n_embedding), np.float32)
        for row, (first, last) in enumerate(audible_frames(mel, self._config).tolist()):
            window = np.ascontiguousarray(mel[row : row + 1, :, first:last])
            inputs = {"mel": window, "features": features[row : row + 1]}
            embeddings[row] = self._session.run(["embedding"], inputs)[0]
        return embeddings
