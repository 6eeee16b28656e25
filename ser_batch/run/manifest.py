"""``run.json``: what a run is made of, where, and how far it has come."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch import hooks
from ser_batch._version import __version__
from ser_batch.atomic import read_file
from ser_batch.config import Config
from ser_batch.errors import InputError, RunError
from ser_batch.kinds import problem_with, read_json
from ser_batch.plugins import describe_plugins
from ser_batch.run.fields import FIELDS
from ser_batch.run.layout import tables_of
from ser_batch.stages.discover import FileList, read_file_list
from ser_batch.storage.address import Address, is_url
from ser_batch.storage.places import bucket_of

if TYPE_CHECKING:
    import pluggy

    from ser_batch.stages.ingredients import Ingredients

__all__ = [
    "config_of_run",
    "inputs_of_run",
    "library_versions",
    "manifest_so_far",
    "new_manifest",
    "read_manifest",
]

#: Libraries whose versions a run records.
_LIBRARIES = ("joblib", "numpy", "onnxruntime", "pluggy", "pyarrow", "scipy", "soundfile", "soxr", "torch")


_CURE = (
    "Restore it from a copy, or delete it: pandas reads the parts without it, and `ser-batch scan … --recompute "
    "changed` makes it anew and keeps what is sound of them."
)


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
        "tables": list(tables_of(ingredients.n_embedding, ingredients.has_segments)),
        "segments": {"note": "" if ingredients.has_segments else "segments.source is none"},
        "embeddings": {"n_numbers": ingredients.n_embedding, "note": _why_no_embeddings(ingredients)},
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
            "versions": library_versions(),
        },
        "counts": old.get("counts", {}),
        "audio_s": old.get("audio_s", 0.0),
        "wall_s": old.get("wall_s", 0.0),
        "stage_s": old.get("stage_s", {}),
        **{key: old[key] for key in ("metadata", "replaces") if old.get(key)},
    }


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """Return ``run.json`` of a run; what it holds is as `ser_batch.run.fields.FIELDS` says.

    Raises
    ------
    RunError
        The folder is no run; ``run.json`` is damaged or was edited into something else; or the run was written with a
        newer schema.
    """
    from ser_batch.run.schema import SCHEMA_VERSION  # noqa: PLC0415 - loads pyarrow

    path, where = run_dir / "run.json", "Point to the folder that `ser-batch scan … -o FOLDER` wrote."
    try:
        if not run_dir.is_dir():
            raise RunError(f"There is no run folder {run_dir}. {where}")
        manifest = read_json(read_file(path))
    except FileNotFoundError:
        raise RunError(f"{run_dir} is not a run: it has no run.json. {where}") from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}. {_CURE}") from None
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        raise RunError(f"{run_dir} is not a run of ser-batch: its run.json is of something else. {where}")
    if problem := problem_with(manifest, FIELDS):
        raise RunError(f"{path} cannot be read: {problem}. {_CURE}")
    if manifest["schema_version"] > SCHEMA_VERSION:
        raise RunError(
            f"{run_dir} was written by ser-batch {manifest.get('tool_version', '?')} with results schema "
            f"{manifest['schema_version']}; this version reads schemas up to {SCHEMA_VERSION}. Upgrade ser-batch, or "
            f"read its Parquet files with pandas."
        )
    return manifest


def manifest_so_far(run_dir: Path) -> dict[str, Any]:
    """Return ``run.json`` of a folder that may be a run, {} where it has none yet. Raises as `read_manifest`."""
    return read_manifest(run_dir) if (run_dir / "run.json").exists() else {}


def _why_no_embeddings(ingredients: Ingredients) -> str:
    if ingredients.n_embedding:
        return ""
    if not ingredients.model:
        return "there is no model"
    wanted = ingredients.config.predict.embeddings
    return f"the model {ingredients.model['name']!r} gives none" if wanted else "predict.embeddings is off"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries on which results depend, of those that are installed."""
    return {name: version for name in _LIBRARIES if (version := _version(name))}


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def config_of_run(manifest: Mapping[str, Any]) -> Config:
    """Return the configuration that a run was made with.

    Raises
    ------
    ConfigError
        This version does not know a setting of it.
    """
    config = Config()
    if "tables" not in manifest:
        # Of a version that stored no embeddings.
        config = config.with_values({"predict": {"embeddings": False}})
    if "segments" not in manifest:
        # Of a version that knew no segments.
        config = config.with_values({"segments": {"source": "none"}})
    return config.with_values(manifest.get("config", {}), source="run.json")


def inputs_of_run(manifest: Mapping[str, Any]) -> list[str] | FileList:
    """Return the inputs that a run was made from.

    Raises
    ------
    RunError
        ``run.json`` names none.
    InputError
        The list of files cannot be read.
    """
    if "files_from" in manifest:
        source = manifest["files_from"]
        return _kept_list(source) if is_url(source) else read_file_list(Path(source))
    if not manifest.get("inputs"):
        raise RunError("The run.json of the run names no inputs. Give the scan command with its inputs instead.")
    return list(manifest["inputs"])


def _kept_list(url: str) -> FileList:
    """Return the list of files that was piped to the scan of a run in a bucket, and kept with it."""
    address = Address.of(url)
    with tempfile.NamedTemporaryFile() as file:
        try:
            file.write(bucket_of(address).read(address.key))
        except OSError as error:
            raise InputError(f"The list of files {address.url} cannot be read: {error}.") from None
        file.flush()
        return replace(read_file_list(Path(file.name)), source="-")
