"""The lower layers of Whisper's encoder, for onnxruntime and for torch; weights under the names of the model file.

Two convolutions halve the 100 frames a second, positions are added, and each of `N_LAYERS` transformer layers
(attention of 6 heads, then two linear layers, each after a layer norm and added to what came in) gives 384 numbers per
step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["N_LAYERS", "WIDTH", "build_onnx", "run_torch", "weight_shapes"]

N_LAYERS, WIDTH, N_HEADS = 2, 384, 6
_EPSILON = 1e-5
#: Steps of 20 ms in a window of 3 s.
N_STEPS = 150

Weights = Mapping[str, NDArray[np.float32]]


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of the encoder."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (WIDTH, 80, 3),
        "conv1.bias": (WIDTH,),
        "conv2.weight": (WIDTH, WIDTH, 3),
        "conv2.bias": (WIDTH,),
        "positions": (N_STEPS, WIDTH),
    }
    for layer in range(N_LAYERS):
        for part in ("attention_norm", "mlp_norm"):
            shapes |= {f"layers.{layer}.{part}.{kind}": (WIDTH,) for kind in ("weight", "bias")}
        for part, n_out, n_in in (
            ("attention_in", 3 * WIDTH, WIDTH),
            ("attention_out", WIDTH, WIDTH),
            ("mlp_in", 4 * WIDTH, WIDTH),
            ("mlp_out", WIDTH, 4 * WIDTH),
        ):
            shapes |= {f"layers.{layer}.{part}.weight": (n_out, n_in), f"layers.{layer}.{part}.bias": (n_out,)}
    return shapes


def build_onnx(weights: Weights) -> bytes:
    """Return a graph from ``mel`` (1, 80, n_frames) to ``layer_1``, ``layer_2``, …: (1, n_steps, 384) each."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(value: NDArray[Any] | Sequence[int] | float, dtype: Any = np.float32) -> str:
        name = f"constant_{len(constants)}"
        constants.append(numpy_helper.from_array(np.ascontiguousarray(np.asarray(value, dtype)), name))
        return name

    def node(operator: str, inputs: list[str], output: str | None = None, n_out: int = 1, **attributes: Any) -> Any:
        names = [output or f"{operator.lower()}_{len(nodes)}_{part}" for part in range(n_out)]
        nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names if n_out > 1 else names[0]

    def gelu(x: str) -> str:
        share = node("Add", [node("Erf", [node("Mul", [x, constant(2**-0.5)])]), constant(1.0)])
        return str(node("Mul", [node("Mul", [x, constant(0.5)]), share]))

    def linear(x: str, name: str) -> str:
        product = node("MatMul", [x, constant(weights[f"{name}.weight"].T)])
        return str(node("Add", [product, constant(weights[f"{name}.bias"])]))

    def norm(x: str, name: str) -> str:
        scale, bias = (constant(weights[f"{name}.{kind}"]) for kind in ("weight", "bias"))
        return str(node("LayerNormalization", [x, scale, bias], axis=-1, epsilon=_EPSILON))

    def heads(x: str, order: Sequence[int]) -> str:
        return str(node("Transpose", [node("Reshape", [x, constant([1, -1, N_HEADS, 64], np.int64)])], perm=order))

    x = "mel"
    for name, stride in (("conv1", 1), ("conv2", 2)):
        kernel = [constant(weights[f"{name}.{kind}"]) for kind in ("weight", "bias")]
        x = gelu(node("Conv", [x, *kernel], kernel_shape=[3], pads=[1, 1], strides=[stride]))
    x = node("Transpose", [x], perm=[0, 2, 1])
    n_steps = node("Slice", [node("Shape", [x]), constant([1], np.int64), constant([2], np.int64)])
    x = node("Add", [x, node("Slice", [constant(weights["positions"]), constant([0], np.int64), n_steps])])
    for layer in range(N_LAYERS):
        at = f"layers.{layer}"
        joined = linear(norm(x, f"{at}.attention_norm"), f"{at}.attention_in")
        query, key, value = node("Split", [joined, constant([WIDTH] * 3, np.int64)], n_out=3, axis=2)
        scores = node("MatMul", [heads(query, [0, 2, 1, 3]), heads(key, [0, 2, 3, 1])])
        shares = node("Softmax", [node("Mul", [scores, constant(64**-0.5)])], axis=-1)
        heard = node("Transpose", [node("MatMul", [shares, heads(value, [0, 2, 1, 3])])], perm=[0, 2, 1, 3])
        heard = node("Reshape", [heard, constant([1, -1, WIDTH], np.int64)])
        x = node("Add", [x, linear(heard, f"{at}.attention_out")])
        hidden = gelu(linear(norm(x, f"{at}.mlp_norm"), f"{at}.mlp_in"))
        x = node("Add", [x, linear(hidden, f"{at}.mlp_out")], output=f"layer_{layer + 1}")
    outputs = [
        helper.make_tensor_value_info(f"layer_{layer + 1}", TensorProto.FLOAT, [1, "n_steps", WIDTH])
        for layer in range(N_LAYERS)
    ]
    inputs = [helper.make_tensor_value_info("mel", TensorProto.FLOAT, [1, 80, "n_frames"])]
    graph = helper.make_graph(nodes, "whisper", inputs, outputs, initializer=constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    serialised: bytes = model.SerializeToString()
    return serialised


def run_torch(weights: Mapping[str, torch.Tensor], mel: torch.Tensor) -> list[torch.Tensor]:
    """Return what the graph of `build_onnx` gives, layer by layer, of mel (1, 80, n_frames) on its device."""
    from torch.nn import functional

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (WIDTH,), weights[f"{name}.weight"], weights[f"{name}.bias"], _EPSILON)

    x = mel
    for name, stride in (("conv1", 1), ("conv2", 2)):
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        x = functional.gelu(functional.conv1d(x, kernel, bias, stride=stride, padding=1))
    x = x.transpose(1, 2)
    x = x + weights["positions"][: x.shape[1]]
    layers = []
    for layer in range(N_LAYERS):
        at = f"layers.{layer}"
        parts = linear(norm(x, f"{at}.attention_norm"), f"{at}.attention_in").chunk(3, dim=2)
        query, key, value = (part.view(1, -1, N_HEADS, 64).transpose(1, 2) for part in parts)
        heard = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(1, -1, WIDTH)
        x = x + linear(heard, f"{at}.attention_out")
        x = x + linear(functional.gelu(linear(norm(x, f"{at}.mlp_norm"), f"{at}.mlp_in")), f"{at}.mlp_out")
        layers.append(x)
    return layers
