"""The optimiser subtracts matrices without preferred directions, and learns with them."""

from __future__ import annotations

import pytest
import torch

from ser_batch.training.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 9), (256, 2560), (96, 96), (128, 8)])
def test_all_singular_values_become_about_one_and_directions_stay(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    matrix = u * torch.logspace(0, -1.5, min(shape)) @ v
    result = orthogonal(matrix)
    values = torch.linalg.svdvals(result)
    # The iteration's own band, widened by its three digits.
    assert values.min() > 0.6
    assert values.max() < 1.3
    torch.testing.assert_close(result / values.mean(), u @ v, atol=0.3, rtol=0)


def test_a_step_has_the_size_that_the_learning_rate_says() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(64, 32, 3, 3))
    weight.grad = torch.randn_like(weight) * 1e-6
    Muon([weight], lr=0.1).step()
    # Root mean square 0.2 times the rate, as that of AdamW, whatever the size of the gradient.
    assert weight.square().mean().sqrt().item() == pytest.approx(0.02, rel=0.25)


def test_weights_decay_by_rate_times_decay() -> None:
    weight = torch.nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    torch.testing.assert_close(weight.data, torch.full((4, 4), 0.95))


def test_a_badly_scaled_map_is_learnt_in_all_directions() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(512, 8) * torch.logspace(0, -2, 8)
    target = torch.randn(8, 8)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimiser = Muon([weight], lr=0.05)
    for step in range(600):
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 600)
        weight.grad = None
        ((inputs @ (weight - target).T) ** 2).mean().backward()
        optimiser.step()
    # Gradient descent at its highest stable rate would have taken 1 % of the way in the last direction.
    assert (weight - target).abs().max() < 0.3


def test_its_state_goes_on_where_it_was() -> None:
    def steps(weight: torch.nn.Parameter, optimiser: Muon, numbers: range) -> None:
        for number in numbers:
            weight.grad = torch.sin(weight.detach() + number)
            optimiser.step()

    whole = torch.nn.Parameter(torch.eye(6))
    steps(whole, Muon([whole], lr=0.1), range(6))
    first = torch.nn.Parameter(torch.eye(6))
    stopped = Muon([first], lr=0.1)
    steps(first, stopped, range(3))
    second = torch.nn.Parameter(first.detach().clone())
    resumed = Muon([second], lr=0.1)
    resumed.load_state_dict(stopped.state_dict())
    steps(second, resumed, range(3, 6))
    torch.testing.assert_close(second.data, whole.data)
