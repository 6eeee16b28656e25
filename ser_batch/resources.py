"""Finds shipped configurations and models by name, and users' own by path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ser_batch.errors import ConfigError, ModelError

__all__ = ["config_path", "model_path", "shipped_configs", "shipped_models"]


def _folder(package: str) -> Path:
    return Path(str(resources.files(package)))


def shipped_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(path.stem for path in _folder("ser_batch.models").glob("*.safetensors")))


def shipped_configs() -> tuple[str, ...]:
    """Names of the configurations that come with the package."""
    return tuple(sorted(path.stem for path in _folder("ser_batch.configs").glob("*.toml")))


def model_path(name: str) -> Path:
    """Return the weights file for a shipped name or a path.

    Raises
    ------
    ModelError
        Neither a shipped name nor an existing ``.safetensors`` file.
    """
    path = _folder("ser_batch.models") / f"{name}.safetensors"
    if "/" not in name and path.is_file():
        return path
    path = Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        return path
    if path.is_file():
        raise ModelError(f"Model {name} is not a .safetensors file; other formats can run code when they are opened.")
    raise ModelError(
        f"No model {name!r}. Shipped models: {', '.join(shipped_models()) or 'none'}; or give a .safetensors path."
    )


def config_path(name: str) -> Path:
    """Return the TOML file for a shipped name or a path.

    Raises
    ------
    ConfigError
        Neither a shipped name nor an existing file.
    """
    path = _folder("ser_batch.configs") / f"{name}.toml"
    if "/" not in name and path.is_file():
        return path
    if Path(name).is_file():
        return Path(name)
    raise ConfigError(f"No configuration {name!r}. Shipped: {', '.join(shipped_configs()) or 'none'}; or give a path.")
