"""Muon: momentum whose matrices are orthogonalised before they are subtracted, so that no direction is learnt late.

torch has one for matrices alone; here the kernels of convolutions take part, as matrices (channels out, all else).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon"]

#: Of the quintic iteration that drives all singular values towards 1 (Jordan 2024, the post that introduced Muon).
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_N_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Optimiser for weights of two dimensions and more (Jordan 2024), with decoupled weight decay.

    Updates are scaled to the root mean square that AdamW's have (Liu et al. 2025, "Muon is scalable for LLM training"),
    so that one learning rate serves both.

    Parameters
    ----------
    params : iterable of Parameter
        Each of two dimensions or more.
    lr : float
        Learning rate.
    weight_decay : float
    momentum : float
        Of Nesterov's kind.
    """

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float = 0.0, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step from the gradients at hand."""
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        matrix = gradient.lerp(momentum, group["momentum"]).flatten(1)
        scale = 0.2 * max(matrix.shape) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(orthogonal(matrix).view(weight.shape), alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """Return a matrix (m, n) of the same singular vectors, with singular values between 0.7 and 1.2 or so."""
    a, b, c = _COEFFICIENTS
    # Three digits are enough here: the iteration corrects itself.
    x = matrix.bfloat16()
    if x.shape[0] > x.shape[1]:
        return orthogonal(matrix.T).T
    x = x / (x.norm() + 1e-7)
    for _ in range(_N_ITERATIONS):
        gram = x @ x.T
        # x <- a x + (b gram + c gram²) x, each sum inside a product.
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.to(matrix.dtype)
