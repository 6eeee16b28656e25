"""Builds plugin managers: in the parent and, from the same picklable recipe, in every worker.

Code of plugins runs inside `blamed`, here and wherever else it is called: what it raises names its plugin.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import signal
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pluggy

from ser_batch import hookspecs
from ser_batch._version import __version__
from ser_batch.errors import PluginError, SerBatchError
from ser_batch.hookspecs import ENTRY_POINT_GROUP
from ser_batch.interrupt import Interrupted
from ser_batch.records import Extractor, FeatureSpec
from ser_batch.text import did_you_mean, message_of, shown

__all__ = [
    "BUILT_IN",
    "ENTRY_POINT_GROUP",
    "PluginInfo",
    "PluginRecipe",
    "blamed",
    "describe_plugins",
    "hook_names",
    "plugin_version",
]

#: Built-in plugins: name -> module. Loaded by name so that no floor imports upwards.
BUILT_IN = {
    "ser_batch.audio": "ser_batch.audio",
    "ser_batch.mel": "ser_batch.extractors.mel",
    "ser_batch.prosodic": "ser_batch.extractors.prosodic",
    "ser_batch.voice_quality": "ser_batch.extractors.voice_quality",
    "ser_batch.quality": "ser_batch.extractors.quality",
    "ser_batch.voice": "ser_batch.extractors.voice",
    "ser_batch.classifier": "ser_batch.classifier.loader",
    "ser_batch.corpora": "ser_batch.corpora.builtin",
}


#: Longest version that a plugin may declare.
_VERSION_CHARACTERS = 100


class blamed:
    """Run code of a plugin: whatever it raises becomes a `PluginError`, ``sys.exit()`` included.

    The working directory afterwards is what it was before, since paths of users are relative to it.

    Parameters
    ----------
    subject : str
        Begins the message: the plugin, and what it was doing.
    cure : str
        Ends it.
    passing : type of exception, or several
        Goes through as it is; by default errors that were raised on purpose, with a message of their own.

    Raises
    ------
    PluginError
        With `subject`, and type and message of what was raised.
    KeyboardInterrupt
        Ctrl-C or SIGTERM, which are nobody's fault.
    """

    __slots__ = ("_cure", "_here", "_passing", "_subject")

    def __init__(
        self,
        subject: str,
        cure: str = "",
        passing: type[Exception] | tuple[type[Exception], ...] = SerBatchError,
    ) -> None:
        self._subject, self._cure, self._passing = subject, cure, passing

    def __enter__(self) -> None:
        self._here = _working_directory()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._here and _working_directory() != self._here:
            os.chdir(self._here)
        if error is None or isinstance(error, self._passing):
            return
        if isinstance(error, KeyboardInterrupt) and _is_real(error):
            return
        raise PluginError(f"{self._subject}: {type(error).__name__}: {message_of(error)}{self._cure}") from error


def _working_directory() -> str:
    """Return it, "" where somebody has removed it."""
    try:
        return os.getcwd()  # noqa: PTH109 - for every clip and extractor
    except FileNotFoundError:
        return ""


def _is_real(error: KeyboardInterrupt) -> bool:
    """Whether an interrupt may come from outside; a scan's own handlers mark theirs, and workers ignore Ctrl-C."""
    return isinstance(error, Interrupted) or signal.getsignal(signal.SIGINT) is signal.default_int_handler


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

    @property
    def is_built_in(self) -> bool:
        """Whether all plugins are built in."""
        try:
            return not self.files and next(self._installed(), None) is None
        except PluginError:
            return False

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


class _FromSource(importlib.machinery.SourceFileLoader):
    """Loads what the file says now, and leaves nothing beside it.

    Byte code in a ``__pycache__`` is told from other byte code by the second and the size of its source alone: it may
    be of what was there before, or of somebody else, and the version of a plugin is a hash of its source.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise PluginError(f"Plugin file {path} does not exist.")
    # The stem alone would let two files of one name replace each other in sys.modules.
    module_name = f"ser_batch_plugin_file_{zlib.crc32(str(path.resolve()).encode()):08x}_{path.stem}"
    if path.suffix not in importlib.machinery.SOURCE_SUFFIXES:
        raise PluginError(f"Plugin file {path} is not a Python file; its name must end in .py.")
    loader = _FromSource(module_name, str(path))
    spec = importlib.util.spec_from_file_location(module_name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def _register(manager: pluggy.PluginManager, name: str, load: Callable[[], Any]) -> None:
    if manager.has_plugin(name):
        raise PluginError(f"Two plugins are called {name!r}; rename one, or leave one out.")
    cure = ". Mend it, uninstall it, or leave it out with SER_BATCH_PLUGINS."
    with blamed(f"Plugin {name!r} could not be loaded", cure, passing=PluginError):
        plugin = load()
    try:
        manager.register(plugin, name=name)
    except pluggy.PluginValidationError as error:
        raise PluginError(f"Plugin {name!r} does not fit a hook: {error}") from error
    for caller in manager.get_hookcallers(plugin) or ():
        if any(item.plugin is plugin and (item.wrapper or item.hookwrapper) for item in caller.get_hookimpls()):
            raise PluginError(f"Plugin {name!r} implements {caller.name} as a wrapper; make it a plain function.")


def hook_names() -> tuple[str, ...]:
    """Names of all hooks, in the order of `ser_batch.hookspecs`."""
    return tuple(name for name, value in vars(hookspecs).items() if hasattr(value, "ser_batch_spec"))


def _check_hooks_exist(manager: pluggy.PluginManager) -> None:
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        plugin = manager.get_name(error.plugin) or "?"
        hook = str(error).split("'")[1] if "'" in str(error) else "?"
        hint = did_you_mean(hook, hook_names()) or f" Hooks: {', '.join(hook_names())}."
        raise PluginError(f"Plugin {plugin!r} implements a hook {hook!r} that does not exist.{hint}") from error


def _package(name: str) -> tuple[str, str] | None:
    """Return name and version of the distribution that a plugin comes from; None for a single file."""
    if name in BUILT_IN:
        return "ser-batch", __version__
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=name):
        if point.dist is not None:
            return point.dist.name, point.dist.version
    return None


def plugin_version(manager: pluggy.PluginManager, name: str, attribute: str) -> str | int:
    """Return what tells the code of a plugin from other states of it.

    That is what it declares as `attribute`, else the version of its package, else a hash of its file.

    Raises
    ------
    PluginError
        It declares something that is neither a whole number nor text.
    """
    plugin = manager.get_plugin(name)
    with blamed(f"Plugin {name!r}: {attribute} cannot be read"):
        declared = getattr(plugin, attribute, None)
    if declared is not None:
        if isinstance(declared, str | int) and len(str(declared)) <= _VERSION_CHARACTERS:
            return declared
        raise PluginError(f"Plugin {name!r}: {attribute} must be a whole number or text, not {shown(declared)}.")
    if package := _package(name):
        return package[1]
    file = getattr(plugin, "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] if file else ""


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


def describe_plugins(manager: pluggy.PluginManager, offered: Mapping[str, tuple[str, Extractor]]) -> list[PluginInfo]:
    """Return what each plugin of `manager` is, where it comes from and what it offers, sorted by name.

    Parameters
    ----------
    manager : pluggy.PluginManager
    offered : mapping
        As `ser_batch.hooks.register_extractors` returns it: name -> (plugin, extractor).
    """
    found = []
    for name, plugin in sorted(manager.list_name_plugin()):
        package, version = _package(name) or (str(getattr(plugin, "__file__", None) or "?"), "")
        implemented = {caller.name for caller in manager.get_hookcallers(plugin) or ()}
        hooks = tuple(hook for hook in hook_names() if hook in implemented)
        specs = tuple(extractor.spec for owner, extractor in offered.values() if owner == name)
        found.append(PluginInfo(name, package, version, hooks, specs))
    return found
