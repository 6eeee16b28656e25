"""One validated configuration: what is wrong is refused, with the key, the rule and the cure."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from ser_batch.config import Config, load_config
from ser_batch.errors import ConfigError, ExitCode, ModelError
from ser_batch.plugins import PluginRecipe
from ser_batch.resources import config_path, model_path, shipped_configs, shipped_models
from ser_batch.stages.ingredients import gather


def test_a_file_is_laid_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[audio]\nwindow_hop_s = 1\n[run]\nexclude = ["*/raw/*"]\n')
    config = load_config(path)
    assert config.audio.window_hop_s == 1.0
    assert isinstance(config.audio.window_hop_s, float)
    assert config.run.exclude == ("*/raw/*",)
    assert config.audio.window_s == Config().audio.window_s
    assert load_config() == Config()


def test_as_dict_can_be_laid_over_the_defaults_again() -> None:
    config = Config().with_values({"predict": {"device": "cpu"}, "extract": {"extractors": ["mel"]}})
    assert Config().with_values(config.as_dict()) == config


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().audio.window_s = 5.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"audoi": {}}, r"unknown key 'audoi'\. Did you mean 'audio'\?"),
        ({"audio": {"windows_s": 3}}, r"unknown key 'audio\.windows_s'\. Did you mean 'window_s'\?"),
        ({"run": {"zzz": 3}}, r"unknown key 'run\.zzz'\. Known here: exclude, include, shard_size"),
        ({"audio": 3}, r"'audio' is a section, not a value"),
        ({"audio": {"window_s": "3"}}, r"'audio\.window_s' must be of type float, not '3'"),
        ({"audio": {"window_s": float("inf")}}, r"'audio\.window_s' must be a finite number"),
        ({"audio": {"window_s": float("nan")}}, r"'audio\.window_s' must be a finite number"),
        ({"extract": {"jobs": True}}, r"'extract\.jobs' must be of type int, not True"),
        ({"extract": {"jobs": 1.5}}, r"'extract\.jobs' must be of type int"),
        ({"extract": {"extractors": "mel"}}, r"'extract\.extractors' must be a list of strings"),
        ({"extract": {"extractors": [1]}}, r"must be a list of strings"),
        ({"audio": {"window_s": 0}}, r"audio\.window_s must be from 0\.01 to 3600"),
        ({"audio": {"window_hop_s": 4}}, r"audio\.window_hop_s must be from 0\.01 to window_s"),
        ({"audio": {"window_hop_s": 0}}, r"audio\.window_hop_s must be from 0\.01 to window_s"),
        ({"audio": {"piece_s": 1e9}}, r"audio\.piece_s must be from window_s to 86400"),
        ({"audio": {"window_s": 10**400}}, r"'audio\.window_s' must be a finite number"),
        ({"extract": {"jobs": 16**5000}}, r"'extract\.jobs' must be a finite number of fewer than 20 digits"),
        ({"predict": {"model": "a\0b"}}, r"'predict\.model' must be text"),
        ({"run": {"exclude": ["\ud800"]}}, r"must be a list of strings"),
        ({"audio": {"window_s": 90.0}}, r"audio\.piece_s must be from window_s to 86400"),
        ({"audio": {"sample_rate_hz": 4_000}}, r"audio\.sample_rate_hz must be between 8000 and 192000"),
        ({"extract": {"jobs": -1}}, r"extract\.jobs must be 0 \(one per core\) or more"),
        ({"extract": {"timeout_s": -1}}, r"extract\.timeout_s must be 0 \(none\) or more"),
        ({"extract": {"memory_limit_mb": -1}}, r"extract\.memory_limit_mb must be 0 \(none\) or more"),
        ({"predict": {"device": "tpu"}}, r"predict\.device must be one of auto, cuda, mps, cpu"),
        ({"predict": {"batch_size": 0}}, r"predict\.batch_size must be 1 or more"),
        ({"predict": {"abstain": 1.0}}, r"predict\.abstain must be from 0 to below 1"),
        ({"run": {"shard_size": -1}}, r"run\.shard_size must be 0 or more"),
    ],
)
def test_a_wrong_value_is_refused_with_the_rule(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Config().with_values(values, source="mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    assert caught.value.exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[audio\n", "is not valid TOML"),
        (b"\xff\xfe", "is not valid TOML"),
        (b"x = " + b"9" * 5000, "is not valid TOML"),
        (b"x = " + b"[" * 100_000, "is nested too deeply"),
        (None, "does not exist"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"mine\.toml {message}"):
        load_config(path)


def fingerprint(config: Config) -> str:
    recipe = PluginRecipe(entry_points=())
    return gather(recipe.build(), recipe, config).fingerprint()


def test_what_does_not_change_results_is_not_in_their_key() -> None:
    base = Config()
    same = base.with_values(
        {
            "extract": {
                "jobs": 3,
                "timeout_s": 5.0,
                "memory_limit_mb": 100,
                "extractors": list(base.extract.extractors),
            },
            "predict": {"device": "cpu", "batch_size": 2},
            "run": {"shard_size": 7, "include": ["*.wav"]},
        }
    )
    assert fingerprint(same) == fingerprint(base)


@pytest.mark.parametrize(
    "values",
    [
        {"audio": {"window_hop_s": 1.5}},
        {"audio": {"sample_rate_hz": 16_000}},
        {"audio": {"piece_s": 30.0}},
        {"predict": {"abstain": 0.5}},
        {"predict": {"labels": ["anger", "fear"]}},
        {"predict": {"model": ""}, "extract": {"extractors": ["prosodic"]}},
    ],
)
def test_what_changes_results_changes_their_key(values: dict[str, Any]) -> None:
    assert fingerprint(Config().with_values(values)) != fingerprint(Config())


def test_shipped_names_resolve_and_paths_too(tmp_path: Path) -> None:
    for name in shipped_configs():
        assert config_path(name).is_file()
    for name in shipped_models():
        assert model_path(name).suffix == ".safetensors"
    mine = tmp_path / "mine.toml"
    mine.touch()
    assert config_path(str(mine)) == mine
    with pytest.raises(ConfigError, match=r"No configuration 'nowhere'\. Shipped: "):
        config_path("nowhere")


def test_a_pickled_model_is_never_opened(tmp_path: Path) -> None:
    pickled = tmp_path / "model.pth"
    pickled.touch()
    with pytest.raises(ModelError, match="can run code"):
        model_path(str(pickled))
    with pytest.raises(ModelError, match=r"No model 'ser99'\. Did you mean 'ser\d'\? Shipped models: "):
        model_path("ser99")
