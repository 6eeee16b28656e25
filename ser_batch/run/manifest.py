"""``run.json``: what a run is made of, where, and how far it has come."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch import hooks
from ser_batch._version import __version__
from ser_batch.config import Config
from ser_batch.errors import RunError
from ser_batch.plugins import describe_plugins
from ser_batch.stages.discover import FileList, read_file_list

if TYPE_CHECKING:
    import pluggy

    from ser_batch.stages.ingredients import Ingredients

__all__ = [
    "config_of_run",
    "inputs_of_run",
    "new_manifest",
    "read_manifest",
]

#: Libraries whose versions a run records.
_LIBRARIES = ("joblib", "numpy", "onnxruntime", "pluggy", "pyarrow", "scipy", "soundfile", "soxr", "torch")


def new_manifest(ingredients: Ingredients, manager: pluggy.PluginManager, old: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``run.json`` says at the start of a visit; identity and times of an earlier visit stay."""
    from ser_batch.run.schema import SCHEMA_VERSION  # noqa: PLC0415 - loads pyarrow

    now = _now()
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": old.get("run_id") or uuid.uuid4().hex,
        "tool_version": __version__,
        "created": old.get("created") or now,
        "updated": now,
        "state": "running",
        "config": ingredients.config.as_dict(),
        "fingerprint": ingredients.fingerprint(),
        "settings": ingredients.settings(),
        "labels": list(ingredients.labels),
        "model": dict(ingredients.model),
        "plugins": [
            {
                "name": plugin.name,
                "package": plugin.package,
                "version": plugin.version,
                "extractors": [spec.extractor for spec in plugin.extractors if spec in ingredients.specs],
            }
            for plugin in describe_plugins(manager, hooks.register_extractors(manager, ingredients.config))
        ],
        "plugin_files": [os.path.abspath(file) for file in ingredients.recipe.files],  # noqa: PTH100
        "host": {
            "platform": platform.platform(),
            "machine": platform.machine(),
            "cpu_count": os.cpu_count(),
            "python": platform.python_version(),
            "versions": {name: version for name in _LIBRARIES if (version := _version(name))},
        },
        "counts": old.get("counts", {}),
        "audio_s": old.get("audio_s", 0.0),
        "wall_s": old.get("wall_s", 0.0),
        "stage_s": old.get("stage_s", {}),
    } | ({"metadata": old["metadata"]} if "metadata" in old else {})


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """Return ``run.json`` of a run.

    Raises
    ------
    RunError
        The folder is no run, or ``run.json`` is damaged.
    """
    path = run_dir / "run.json"
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{run_dir} is not a run: it has no run.json.") from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{path} cannot be read ({error}). Restore it, or delete it and give `ser-batch scan --recompute changed`."
        ) from error
    return manifest


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def config_of_run(manifest: Mapping[str, Any]) -> Config:
    """Return the configuration that a run was made with."""
    return Config().with_values(manifest["config"], source="run.json")


def inputs_of_run(manifest: Mapping[str, Any]) -> list[str] | FileList:
    """Return the inputs that a run was made from."""
    if "files_from" in manifest:
        return read_file_list(Path(manifest["files_from"]))
    return list(manifest["inputs"])
