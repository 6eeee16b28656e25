"""What a node must agree on with the plan before it may work on it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ser_batch import hooks
from ser_batch._version import __version__
from ser_batch.atomic import read_file
from ser_batch.errors import ConfigError, InputError, PluginError, RunError
from ser_batch.plugins import PluginRecipe
from ser_batch.run.layout import tables_of
from ser_batch.run.manifest import library_versions
from ser_batch.run.planned import PlanFile
from ser_batch.stages.ingredients import Ingredients, differences, gather
from ser_batch.stages.reach import can_be_read
from ser_batch.storage.address import is_url
from ser_batch.text import printable

if TYPE_CHECKING:
    import pluggy

__all__ = ["check_archive", "check_versions", "gather_here", "recipe_here"]

#: Libraries that neither compute nor write what is stored.
_FREE = ("joblib", "pluggy", "torch")


def check_versions(plan: PlanFile) -> None:
    """See that this node has the versions that the plan was made with.

    Raises
    ------
    RunError
        It has not; says which.
    """
    planned, here = (
        {"ser-batch": plan.tool_version, **plan.versions},
        {"ser-batch": __version__, **library_versions()},
    )
    differing = differences(*({key: of[key] for key in of if key not in _FREE} for of in (planned, here)))
    if differing:
        raise RunError(
            f"This node ({platform.node()}) has other versions than the plan of {printable(plan.run_dir)} was made "
            f"with: {'; '.join(differing)}. Install the same ones, such as by constraints.txt."
        )


def recipe_here(plan: PlanFile, given: Sequence[str], trusted: bool, scratch: Path) -> PluginRecipe:
    """Return the plugins of the plan, as this node loads them.

    Parameters
    ----------
    plan : PlanFile
    given : sequence of str
        Plugin files, which take the place of those of the same names.
    trusted : bool
        Whether code out of the plan may be executed.
    scratch : Path
        Where files are written that this node does not see.

    Raises
    ------
    ConfigError
        A file is neither given nor trusted.
    PluginError
        A file is not that of the plan.
    """
    by_name = {Path(file).name: file for file in given}
    named = {Path(file["path"]).name for file in plan.plugin_files}
    if strangers := sorted(set(by_name) - named):
        raise ConfigError(f"The plan was made without the plugin file {strangers[0]}. Leave it out, or plan with it.")
    if (left := sorted(named - set(by_name))) and not trusted:
        options = " ".join(
            f"--plugin {printable(file['path'])}" for file in plan.plugin_files if Path(file["path"]).name in left
        )
        raise ConfigError(
            f"The plan was made with plugin files, which would be executed here. If they are yours, give them again "
            f"({options}), or run `ser-batch work --trust-plugins`."
        )
    files = []
    for number, file in enumerate(plan.plugin_files):
        name = Path(file["path"]).name
        path = Path(by_name.get(name, file["path"]))
        if _sha256(path) == file["sha256"]:
            files.append(str(path))
            continue
        if name in by_name:
            raise PluginError(
                f"Plugin file {path} is not the one that the plan was made with. Give that, or plan anew."
            )
        data = file["text"].encode("utf-8", "surrogateescape")
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            raise PluginError(f"Plugin file {name} cannot be had from the plan. Give it: --plugin {name}.")
        place = scratch / f"plugin-{number}" / name
        try:
            place.parent.mkdir()
            place.write_bytes(data)
        except OSError as error:
            raise RunError(
                f"Plugin file {name} of the plan cannot be written to {place.parent}: {error.strerror}."
            ) from None
        files.append(str(place))
    return PluginRecipe(tuple(files), plan.installed_plugins, plan.built_in_plugins)


def _sha256(path: Path) -> str:
    with suppress(OSError):
        return hashlib.sha256(read_file(path)).hexdigest()
    return ""


def gather_here(plan: PlanFile, recipe: PluginRecipe) -> tuple[pluggy.PluginManager, Ingredients]:
    """Load plugins and model, and see that they are those of the plan.

    Raises
    ------
    PluginError, ModelError
        A plugin or the model is missing or does not fit; or they are others, and the message says what differs.
    """
    config, manager, of = plan.config(), recipe.build(), plan.manifest
    hooks.validate_config(manager, config)
    ingredients = gather(manager, recipe, config)
    here = {
        "fingerprint": ingredients.fingerprint(),
        "labels of the run": list(ingredients.labels),
        "tables": list(tables_of(ingredients.n_embedding, ingredients.has_segments)),
    }
    told = {"fingerprint": of["fingerprint"], "labels of the run": of["labels"], "tables": of["tables"]}
    differing = differences(json.loads(plan.promise) | told, json.loads(ingredients.promise()) | here)
    if differing:
        raise PluginError(
            f"This node ({platform.node()}) has other ingredients than the plan of {printable(plan.run_dir)}: "
            f"{'; '.join(differing)}. Install the same plugins and models here, or plan anew."
        )
    return manager, ingredients


def check_archive(plan: PlanFile) -> list[str]:
    """See that this node has the archive before it; return the paths of some of its files.

    Raises
    ------
    InputError
        It has not.
    """
    probes = plan.probes()
    there = [ref for ref in probes if can_be_read(ref.path)]
    if probes and not there:
        raise InputError(
            f"This node ({platform.node()}) does not see the archive: none of {len(probes)} files below "
            f"{printable(plan.root)} can be read, such as {printable(probes[0].clip_id)}. Is it mounted here?"
        )
    if there and not is_url(plan.root) and not any(_size(ref.path) == ref.size_bytes for ref in there):
        raise InputError(
            f"The archive at {printable(plan.root)} on this node ({platform.node()}) is another one than was planned, "
            f"or has changed: {printable(there[0].clip_id)} has {_size(there[0].path)} bytes, planned were "
            f"{there[0].size_bytes}. Mount the right one, or plan anew."
        )
    return [ref.path for ref in there]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116 - Path cannot hold every name
    except OSError:
        return -1
