"""Builds plugin managers: in the parent and, from the same picklable recipe, in every worker."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pluggy

from ser_batch import hookspecs
from ser_batch._version import __version__
from ser_batch.errors import PluginError
from ser_batch.hookspecs import ENTRY_POINT_GROUP
from ser_batch.records import Extractor, FeatureBlock, FeatureSpec

if TYPE_CHECKING:
    from ser_batch.config import Config

__all__ = [
    "BUILT_IN",
    "ENTRY_POINT_GROUP",
    "PluginInfo",
    "PluginRecipe",
    "attributed_results",
    "check_block",
    "check_spec",
    "collect_extractors",
    "describe_plugins",
    "hook_names",
]

#: Built-in plugins: name -> module. Loaded by name so that no floor imports upwards.
BUILT_IN = {
    "ser_batch.audio": "ser_batch.audio",
    "ser_batch.mel": "ser_batch.extractors.mel",
    "ser_batch.prosodic": "ser_batch.extractors.prosodic",
    "ser_batch.voice_quality": "ser_batch.extractors.voice_quality",
    "ser_batch.quality": "ser_batch.extractors.quality",
    "ser_batch.classifier": "ser_batch.classifier.loader",
    "ser_batch.corpora": "ser_batch.corpora.builtin",
}


@dataclass(frozen=True, slots=True)
class PluginRecipe:
    """How to build the same plugin manager anywhere: small, picklable, no live objects.

    Attributes
    ----------
    files : tuple of str
        Paths given by ``--plugin``.
    entry_points : tuple of str or None
        Names of installed plugins to load; None loads all. ``SER_BATCH_PLUGINS`` (a comma-separated list, empty for
        none) overrides None.
    built_in : tuple of str
        Names out of `BUILT_IN`.
    """

    files: tuple[str, ...] = ()
    entry_points: tuple[str, ...] | None = None
    built_in: tuple[str, ...] = tuple(BUILT_IN)

    def build(self) -> pluggy.PluginManager:
        """Load all plugins and check that every hook they implement exists.

        Raises
        ------
        PluginError
            A plugin cannot be imported, is missing, or implements an unknown hook or argument.
        """
        manager = pluggy.PluginManager("ser_batch")
        manager.add_hookspecs(hookspecs)
        for name in self.built_in:
            _register(manager, name, partial(importlib.import_module, BUILT_IN[name]))
        for name, load in self._installed():
            _register(manager, name, load)
        for path in dict.fromkeys(self.files):
            _register(manager, Path(path).name, partial(_load_file, Path(path)))
        _check_hooks_exist(manager)
        return manager

    def _installed(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        wanted = self.entry_points
        if wanted is None and "SER_BATCH_PLUGINS" in os.environ:
            wanted = tuple(name for name in os.environ["SER_BATCH_PLUGINS"].split(",") if name)
        found = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
        for name in sorted(found) if wanted is None else wanted:
            if name not in found:
                installed = ", ".join(sorted(found)) or "none"
                raise PluginError(f"Plugin {name!r} is not installed. Installed plugins: {installed}.")
            yield name, found[name].load


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"Plugin file {path} does not exist.")
    # The stem alone would let two files of one name replace each other in sys.modules.
    module_name = f"ser_batch_plugin_file_{zlib.crc32(str(path.resolve()).encode()):08x}_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"Plugin file {path} is not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _register(manager: pluggy.PluginManager, name: str, load: Callable[[], Any]) -> None:
    if manager.has_plugin(name):
        raise PluginError(f"Two plugins are called {name!r}; rename one, or leave one out.")
    try:
        manager.register(load(), name=name)
    except PluginError:
        raise
    except pluggy.PluginValidationError as error:
        raise PluginError(f"Plugin {name!r} does not fit a hook: {error}") from error
    except Exception as error:
        raise PluginError(
            f"Plugin {name!r} could not be loaded: {type(error).__name__}: {error}. "
            f"Mend it, uninstall it, or leave it out with SER_BATCH_PLUGINS."
        ) from error


def hook_names() -> tuple[str, ...]:
    """Names of all hooks, in the order of `ser_batch.hookspecs`."""
    return tuple(name for name, value in vars(hookspecs).items() if hasattr(value, "ser_batch_spec"))


def _check_hooks_exist(manager: pluggy.PluginManager) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        plugin = manager.get_name(error.plugin) or "?"
        hook = str(error).split("'")[1] if "'" in str(error) else "?"
        near = difflib.get_close_matches(hook, hook_names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else f" Hooks: {', '.join(hook_names())}."
        raise PluginError(f"Plugin {plugin!r} implements a hook {hook!r} that does not exist.{hint}") from error


def attributed_results(manager: pluggy.PluginManager, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
    """Call `hook` plugin by plugin, in the order of their names, yielding (plugin name, result).

    Raises
    ------
    PluginError
        An implementation raised; the message names its plugin. Errors of `ser_batch.errors` pass as they are.
    """
    caller = getattr(manager.hook, hook)
    for implementation in sorted(caller.get_hookimpls(), key=lambda item: item.plugin_name):
        accepted = {name: arguments[name] for name in implementation.argnames}
        try:
            result = implementation.function(**accepted)
        except Exception as error:
            if type(error).__module__ == "ser_batch.errors":
                raise
            raise PluginError(
                f"Plugin {implementation.plugin_name!r} failed in {hook}: {type(error).__name__}: {error}"
            ) from error
        yield implementation.plugin_name, result


def collect_extractors(manager: pluggy.PluginManager, config: Config) -> dict[str, tuple[str, Extractor]]:
    """Return all extractors on offer: name -> (plugin name, extractor), sorted by name.

    Raises
    ------
    PluginError
        A plugin returned something else than extractors, or took a name or a column that is taken.
    """
    found: dict[str, tuple[str, Extractor]] = {}
    columns: dict[str, str] = {}
    for plugin, extractors in attributed_results(manager, "register_extractors", config=config):
        if not isinstance(extractors, Sequence | None):
            raise PluginError(
                f"Plugin {plugin!r}: register_extractors must return a list of extractors, not {extractors!r}."
            )
        for extractor in extractors or ():
            spec = check_spec(plugin, extractor)
            if spec.extractor in found:
                raise PluginError(
                    f"Plugin {plugin!r} offers an extractor named {spec.extractor!r}, which plugin "
                    f"{found[spec.extractor][0]!r} already offers. Give it another name."
                )
            for column in spec.columns:
                if column in columns:
                    raise PluginError(f"Plugin {plugin!r} redefines column {column!r} of plugin {columns[column]!r}.")
                columns[column] = plugin
            found[spec.extractor] = (plugin, extractor)
    return dict(sorted(found.items()))


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """What is known of one loaded plugin."""

    name: str
    #: The distribution that installed it; for a single file, its path.
    package: str
    #: Version of that distribution; ``""`` for a single file.
    version: str
    #: Hooks it implements, in the order of `hook_names`.
    hooks: tuple[str, ...]
    #: Specs of the extractors it offers.
    extractors: tuple[FeatureSpec, ...]


def describe_plugins(manager: pluggy.PluginManager, config: Config) -> list[PluginInfo]:
    """Return what each plugin of `manager` is, where it comes from and what it offers, sorted by name.

    Raises
    ------
    PluginError
        An extractor breaks its contract (see `collect_extractors`).
    """
    points = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)}
    offered = collect_extractors(manager, config)
    found = []
    for name, plugin in sorted(manager.list_name_plugin()):
        package, version = str(getattr(plugin, "__file__", None) or "?"), ""
        if name in BUILT_IN:
            package, version = "ser-batch", __version__
        elif name in points and (distribution := points[name].dist) is not None:
            package, version = distribution.name, distribution.version
        implemented = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
        hooks = tuple(hook for hook in hook_names() if hook in implemented)
        specs = tuple(extractor.spec for owner, extractor in offered.values() if owner == name)
        found.append(PluginInfo(name, package, version, hooks, specs))
    return found


def check_spec(plugin: str, extractor: object) -> FeatureSpec:
    """Return the spec of `extractor` if it is an extractor whose name, version and columns are well formed.

    Raises
    ------
    PluginError
        It is not; the message names the plugin and says what was expected.
    """
    spec = getattr(extractor, "spec", None)
    if not isinstance(spec, FeatureSpec) or not callable(getattr(extractor, "extract", None)):
        raise PluginError(
            f"Plugin {plugin!r} registered {extractor!r}, which is not an extractor: an instance with a `spec` "
            f"(FeatureSpec) and a method `extract(clip, windows_s)`."
        )
    where = f"Plugin {plugin!r}: extractor {spec.extractor!r}"
    if not spec.extractor.isidentifier() or "__" in spec.extractor:
        raise PluginError(f"{where}: the name must be a Python identifier without a double underscore.")
    if not isinstance(spec.version, int) or spec.version < 1:
        raise PluginError(f"{where}: version must be a whole number from 1, not {spec.version!r}.")
    for scalar in spec.scalars:
        if len(scalar) != 2 or not f"{scalar[0]}_{scalar[1]}".isidentifier():
            raise PluginError(f'{where}: scalars must be pairs (name, unit) such as ("f0_mean", "hz"), not {scalar!r}.')
    twice = sorted({column for column in spec.columns if spec.columns.count(column) > 1})
    if twice:
        raise PluginError(f"{where} declares column {twice[0]!r} twice.")
    return spec


def check_block(plugin: str, spec: FeatureSpec, block: object, n_windows: int) -> FeatureBlock:
    """Return `block` if it keeps the promise of `spec`: shapes, float32, and NaN (never infinity) for undefined.

    Raises
    ------
    PluginError
        It does not; the message names plugin, extractor and column, and what was expected.
    """
    where = f"Plugin {plugin!r}: extractor {spec.extractor!r}"
    if not isinstance(block, FeatureBlock):
        raise PluginError(f"{where} must return a FeatureBlock, not {type(block).__name__}.")
    if block.extractor != spec.extractor:
        raise PluginError(f"{where} returned a block named {block.extractor!r}; name it after the extractor.")
    n_scalars = len(spec.scalars)
    _check_array(where, "scalars", block.scalars, (n_windows, n_scalars))
    _check_array(where, "clip_scalars", block.clip_scalars, (n_scalars,))
    infinite = np.isinf(np.vstack([block.scalars, block.clip_scalars])).any(axis=0)
    if infinite.any():
        column = spec.columns[int(np.argmax(infinite))]
        raise PluginError(f"{where} gave infinity in column {column!r}; use NaN where a number is undefined.")
    if spec.tensor_shape is None:
        if block.tensor is not None:
            raise PluginError(f"{where} returned a tensor, but its spec declares none (tensor_shape=None).")
        return block
    if block.tensor is None:
        raise PluginError(f"{where} returned no tensor, but its spec declares one of shape {spec.tensor_shape}.")
    _check_array(where, "tensor", block.tensor, (n_windows, *spec.tensor_shape))
    if np.isinf(block.tensor).any():
        raise PluginError(f"{where} gave infinity in its tensor; limit it, or use NaN where a number is undefined.")
    return block


def _check_array(where: str, name: str, value: object, shape: tuple[int, ...]) -> None:
    if not isinstance(value, np.ndarray):
        raise PluginError(f"{where}: {name} must be a numpy array, not {type(value).__name__}.")
    if value.dtype != np.float32 or value.shape != shape:
        raise PluginError(
            f"{where}: {name} must be float32 of shape {shape}, not {value.dtype} of shape {value.shape}."
        )
