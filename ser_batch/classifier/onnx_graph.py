"""Builds the ONNX graph of the hybrid network from its weights alone, without torch.

The graph follows `ser_batch.classifier.network` node by node and must change with it; a test compares the two. Batch
norm is folded into the convolutions and the temperature into the last layer, so that the output is calibrated.

Inputs: ``mel`` float32 (n, n_bands, n_frames) in dB, ``features`` float32 (n, 13) with NaN = undefined. Outputs:
``embedding`` float32 (n, fusion_units), what the network has heard, and ``probabilities`` float32 (n, n_labels), rows
sum to 1, which a last layer makes of it; a runtime that is asked for one of them computes no more than that. The
metadata of the model file is kept under the key ``ser_batch``, so that an exported graph says its labels and what its
inputs are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ser_batch._version import __version__
from ser_batch.classifier.checkpoint import METADATA_KEY, Checkpoint
from ser_batch.classifier.network_config import N_DENSE, NetworkConfig

__all__ = ["OPSET", "build_onnx"]

#: Old enough for any runtime in use (onnxruntime 1.12 and later), new enough for all operators below.
OPSET = 17
_IR_VERSION = 8

#: Of `torch.nn.BatchNorm2d`.
_BATCH_NORM_EPSILON = 1e-5


def build_onnx(checkpoint: Checkpoint, n_frames: str | None = None) -> bytes:
    """Return the serialised ONNX model that computes what `HybridCNN` with these weights does, softmax included.

    Parameters
    ----------
    checkpoint : Checkpoint
    n_frames : str, optional
        Leaves the frames of ``mel`` open under this name, for a caller who knows which frames matter.
    """
    graph = _Graph(checkpoint.weights)
    config = checkpoint.network
    mel = _mel_branch(graph, config)
    dense = _dense_branch(graph)
    fused = graph.linear(graph.node("Concat", [mel, dense], axis=1), "fusion")
    embedding = graph.node("Relu", [fused], output="embedding")
    logits = graph.linear(embedding, "head", divide_by=checkpoint.temperature)
    graph.node("Softmax", [logits], output="probabilities", axis=1)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "ser_batch",
            [
                helper.make_tensor_value_info(
                    "mel", TensorProto.FLOAT, ["n", config.n_bands, n_frames or config.n_frames]
                ),
                helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", N_DENSE]),
            ],
            [
                helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", config.fusion_units]),
                helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", config.n_labels]),
            ],
            initializer=graph.constants,
        ),
        producer_name="ser-batch",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(model, {METADATA_KEY: json.dumps(dict(checkpoint.meta), sort_keys=True)})
    serialised: bytes = model.SerializeToString()
    return serialised


class _Graph:
    """Collects nodes and constants; every method returns the name of its output."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: NDArray | Sequence[int] | float, dtype: type = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype)), name))
        return name

    def axes(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def node(self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        name = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def linear(self, x: str, name: str, relu: bool = False, divide_by: float = 1.0) -> str:
        """A layer over rows: x (n, units in) -> (n, units out)."""
        weight = self.constant(self.weights[f"{name}.weight"] / np.float64(divide_by))
        bias = self.constant(self.weights[f"{name}.bias"] / np.float64(divide_by))
        y = self.node("Gemm", [x, weight, bias], transB=1)
        return self.node("Relu", [y]) if relu else y

    def linear_per_step(self, x: str, name: str) -> str:
        """A layer over the last axis: x (n, steps, units in) -> (n, steps, units out)."""
        product = self.node("MatMul", [x, self.constant(self.weights[f"{name}.weight"].T)])
        return self.node("Add", [product, self.constant(self.weights[f"{name}.bias"])])

    def z_score(self, x: str, mean: NDArray[np.float32], std: NDArray[np.float32]) -> str:
        return self.node("Div", [self.node("Sub", [x, self.constant(mean)]), self.constant(std)])


def _mel_branch(graph: _Graph, config: NetworkConfig) -> str:
    x, audible = _mel_norm(graph, config)  # (n, views, 128, 130), (n, 1, 130)
    for index in range(len(config.channels)):
        x = _block(graph, config, index, x)
    x = graph.node("Transpose", [x], perm=[0, 3, 1, 2])  # (n, steps, channels, bands)
    n_step = config.channels[-1] * config.n_bands_out
    x = graph.node("Reshape", [x, graph.axes(0, 0, n_step)])
    # A step is audible where one of its frames is; the last step may have fewer frames.
    stride = [config.time_stride]
    audible = graph.node("MaxPool", [audible], kernel_shape=stride, strides=stride, ceil_mode=1)
    audible = graph.node("Transpose", [audible], perm=[0, 2, 1])  # (n, steps, 1)
    return graph.linear(_attentive_pool(graph, x, audible), "mel_out", relu=True)


def _mel_norm(graph: _Graph, config: NetworkConfig) -> tuple[str, str]:
    peak = graph.node("ReduceMax", ["mel"], axes=[1, 2], keepdims=1)
    below = graph.node("Sub", ["mel", peak])
    below = graph.node("Max", [below, graph.constant(-config.dynamic_range_db)])
    loudest = graph.node("ReduceMax", [below], axes=[1], keepdims=0)
    audible = graph.node("GreaterOrEqual", [loudest, graph.constant(-config.audible_range_db)])
    mean, std = (graph.weights[f"mel_norm.band_{part}"][:, None] for part in ("mean", "std"))
    z = graph.z_score(below, mean, std)
    audible = graph.node("Cast", [audible], to=TensorProto.FLOAT)
    audible = graph.node("Unsqueeze", [audible, graph.axes(1)])
    views = [z]
    if config.n_views == 2:
        total = graph.node("ReduceSum", [graph.node("Mul", [z, audible]), graph.axes(2)], keepdims=1)
        count = graph.node("ReduceSum", [audible, graph.axes(2)], keepdims=1)
        views.append(graph.node("Sub", [z, graph.node("Div", [total, count])]))
    views = [graph.node("Unsqueeze", [view, graph.axes(1)]) for view in views]
    return graph.node("Concat", views, axis=1) if len(views) > 1 else views[0], audible


def _block(graph: _Graph, config: NetworkConfig, index: int, x: str) -> str:
    """3x3 convolution with batch norm folded in, ReLU, max-pooling."""
    norm = {
        part: graph.weights[f"blocks.{index}.norm.{part}"].astype(np.float64)
        for part in ("weight", "bias", "running_mean", "running_var")
    }
    scale = norm["weight"] / np.sqrt(norm["running_var"] + _BATCH_NORM_EPSILON)
    kernel = graph.constant(graph.weights[f"blocks.{index}.conv.weight"] * scale[:, None, None, None])
    bias = graph.constant(norm["bias"] - norm["running_mean"] * scale)
    x = graph.node("Conv", [x, kernel, bias], strides=config.strides[index], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    x = graph.node("Relu", [x])
    pool = config.pools[index]
    return x if pool == (1, 1) else graph.node("MaxPool", [x], kernel_shape=pool, strides=pool, ceil_mode=1)


def _attentive_pool(graph: _Graph, x: str, audible: str) -> str:
    """Mean and deviation over time: x (n, steps, c), audible (n, steps, 1) -> (n, 2c)."""
    hidden = graph.node("Tanh", [graph.linear_per_step(x, "attention.hidden")])
    mask = graph.node("Mul", [graph.node("Sub", [audible, graph.constant(1.0)]), graph.constant(1e4)])
    scores = graph.node("Add", [graph.linear_per_step(hidden, "attention.score"), mask])
    weights = graph.node("Softmax", [scores], axis=1)
    mean = graph.node("ReduceSum", [graph.node("Mul", [weights, x]), graph.axes(1)], keepdims=1)
    offset = graph.node("Sub", [x, mean])
    square = graph.node("Mul", [weights, graph.node("Mul", [offset, offset])])
    variance = graph.node("ReduceSum", [square, graph.axes(1)], keepdims=0)
    deviation = graph.node("Sqrt", [graph.node("Max", [variance, graph.constant(1e-4)])])
    return graph.node("Concat", [graph.node("Squeeze", [mean, graph.axes(1)]), deviation], axis=1)


def _dense_branch(graph: _Graph) -> str:
    missing = graph.node("IsNaN", ["features"])
    mean, std = (graph.weights[f"dense_norm.{part}"] for part in ("mean", "std"))
    known = graph.node("Where", [missing, graph.constant(mean), "features"])
    z = graph.node("Clip", [graph.z_score(known, mean, std), graph.constant(-4.0), graph.constant(4.0)])
    mask = graph.node("Cast", [missing], to=TensorProto.FLOAT)
    x = graph.linear(graph.node("Concat", [z, mask], axis=1), "dense_in", relu=True)
    return graph.linear(x, "dense_out", relu=True)
