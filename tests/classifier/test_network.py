"""The network: independent of level, deaf to padding, honest about missing features, of the promised size."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from ser_batch.classifier.network import HybridCNN
from ser_batch.classifier.network_config import N_DENSE, NetworkConfig
from ser_batch.errors import ModelError

CONFIG = NetworkConfig()
N_BANDS, N_FRAMES = CONFIG.n_bands, CONFIG.n_frames


@pytest.fixture(scope="module")
def network() -> HybridCNN:
    torch.manual_seed(0)
    network = HybridCNN(CONFIG).eval()
    network.mel_norm.band_mean.uniform_(-40, -10)
    network.mel_norm.band_std.uniform_(5, 15)
    network.dense_norm.mean.uniform_(-5, 5)
    network.dense_norm.std.uniform_(1, 5)
    return network


def inputs(n: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, N_BANDS, N_FRAMES, generator=generator) * 60 - 80, torch.randn(n, N_DENSE, generator=generator)


def answer(network: HybridCNN, mel: Tensor, features: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(mel, features)


def test_it_has_one_to_two_million_parameters_and_fits_in_eight_megabytes(network: HybridCNN) -> None:
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    assert 1_000_000 <= n_parameters <= 2_000_000
    assert 4 * n_parameters < 8_000_000


def test_the_level_of_a_recording_does_not_matter(network: HybridCNN) -> None:
    mel, features = inputs()
    torch.testing.assert_close(answer(network, mel - 17.0, features), answer(network, mel, features), atol=1e-4, rtol=0)


def test_the_second_view_is_deaf_to_the_colour_of_a_microphone(network: HybridCNN) -> None:
    mel, _ = inputs()
    # All frames audible, the loudest band left alone, so that nothing but the colour changes.
    mel = mel.clamp(min=mel.amax() - CONFIG.audible_range_db)
    mel[:, 64] = mel.amax()
    colour = -torch.linspace(0, 10, N_BANDS)[:, None]
    colour[64] = 0
    views, audible = network.mel_norm(mel)
    others, _ = network.mel_norm(mel + colour)
    assert audible.all()
    torch.testing.assert_close(views[:, 1], others[:, 1], atol=1e-4, rtol=0)
    assert (views[:, 0] - others[:, 0]).abs().max() > 0.5


def test_what_lies_below_the_dynamic_range_does_not_matter(network: HybridCNN) -> None:
    mel, features = inputs()
    mel[:, :, 60:] = mel.amax() - CONFIG.dynamic_range_db - 1
    quieter = mel.clone()
    quieter[:, :, 60:] = -100.0
    torch.testing.assert_close(answer(network, mel, features), answer(network, quieter, features), atol=1e-5, rtol=0)


def test_attention_gives_nothing_to_inaudible_steps(network: HybridCNN) -> None:
    steps = torch.randn(2, 17, network.attention.score.out_features)
    audible = torch.ones(2, 17)
    audible[:, 9:] = 0
    changed = steps.clone()
    changed[:, 9:] += 100.0
    with torch.inference_mode():
        torch.testing.assert_close(network.attention(steps, audible), network.attention(changed, audible))


def test_a_missing_feature_counts_as_its_mean_and_is_told(network: HybridCNN) -> None:
    features = network.dense_norm.mean.repeat(2, 1)
    features[1, 4] = float("nan")
    with torch.inference_mode():
        normalised = network.dense_norm(features)
    assert torch.equal(normalised[:, :N_DENSE], torch.zeros(2, N_DENSE))
    assert normalised[0, N_DENSE:].sum() == 0
    assert normalised[1, N_DENSE + 4] == 1 and normalised[1, N_DENSE:].sum() == 1


def test_silence_and_no_feature_at_all_still_give_numbers(network: HybridCNN) -> None:
    mel = torch.full((1, N_BANDS, N_FRAMES), -100.0)
    assert torch.isfinite(answer(network, mel, torch.full((1, N_DENSE), float("nan")))).all()


def test_windows_of_a_batch_do_not_see_each_other(network: HybridCNN) -> None:
    mel, features = inputs()
    together = answer(network, mel, features)
    alone = torch.cat([answer(network, mel[i : i + 1], features[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_no_convolution_is_grouped(network: HybridCNN) -> None:
    assert {m.groups for m in network.modules() if isinstance(m, torch.nn.Conv2d)} == {1}


@pytest.mark.parametrize("n_frames", [80, 97, 130])
def test_shorter_windows_are_taken_in_training(network: HybridCNN, n_frames: int) -> None:
    mel, features = inputs()
    assert answer(network, mel[:, :, :n_frames], features).shape == (3, 6)


def test_the_configuration_survives_json() -> None:
    config = NetworkConfig(n_labels=7, channels=(16, 32, 48, 64))
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


def test_a_file_from_before_there_were_two_views_has_one() -> None:
    values = {key: value for key, value in CONFIG.as_dict().items() if key != "n_views"}
    assert NetworkConfig.from_dict(values).n_views == 1
    with pytest.raises(ModelError, match="1 or 2 views"):
        NetworkConfig(n_views=3)


def test_an_unknown_setting_asks_for_an_upgrade() -> None:
    with pytest.raises(ModelError, match="unknown to this version: depth"):
        NetworkConfig.from_dict({"depth": 9})


def test_four_convolutions_need_four_of_everything() -> None:
    with pytest.raises(ModelError, match="four"):
        NetworkConfig(channels=(8, 8))
