"""Finds shipped configurations and models by name, and users' own by path."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection
from importlib import resources
from pathlib import Path

from ser_batch.errors import ConfigError, ModelError
from ser_batch.text import did_you_mean

__all__ = ["config_path", "lasting_name", "model_path", "shipped_configs", "shipped_models"]


def _folder(package: str) -> Path:
    return Path(str(resources.files(package)))


def shipped_models() -> tuple[str, ...]:
    """Names of the models that come with the package."""
    return tuple(sorted(path.stem for path in _folder("ser_batch.models").glob("*.safetensors")))


def shipped_configs(sections: Collection[str] | None = None) -> tuple[str, ...]:
    """Names of the configurations that come with the package, or of those that have no other sections than these."""
    paths = sorted(_folder("ser_batch.configs").glob("*.toml"))
    if sections is None:
        return tuple(path.stem for path in paths)
    return tuple(path.stem for path in paths if set(tomllib.loads(path.read_text(encoding="utf-8"))) <= set(sections))


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
    shipped = shipped_models()
    raise ModelError(
        f"No model {name!r}.{did_you_mean(name, shipped)} Shipped models: {', '.join(shipped) or 'none'}; "
        f"or give a .safetensors path."
    )


def lasting_name(model: str) -> str:
    """Return what a model is called wherever one is: a shipped name, or the path that `model` means here."""
    # os.path and not Path, which raises at what can be no name, and whose resolve() would follow links.
    is_path = model not in shipped_models() and os.path.isfile(model)  # noqa: PTH113
    return os.path.abspath(model) if is_path else model  # noqa: PTH100


def config_path(name: str, sections: Collection[str] | None = None) -> Path:
    """Return the TOML file for a shipped name or a path.

    Parameters
    ----------
    name : str
    sections : collection of str, optional
        Those that a fitting one may have: a training has others than a scan.

    Raises
    ------
    ConfigError
        Neither a shipped name that fits nor an existing file.
    """
    shipped = shipped_configs(sections)
    if name in shipped:
        return _folder("ser_batch.configs") / f"{name}.toml"
    if Path(name).is_file():
        return Path(name)
    problem = f"The configuration {name!r} is for other commands." if name in shipped_configs() else ""
    problem = problem or f"No configuration {name!r}.{did_you_mean(name, shipped)}"
    raise ConfigError(f"{problem} Shipped: {', '.join(shipped) or 'none'}; or give a path.")
