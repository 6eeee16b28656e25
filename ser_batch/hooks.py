"""Calls of the hooks: typed, in one order everywhere, checked; whoever breaks the contract is named.

Plugins are asked in the order of their names, so that results never depend on the order of installation. Where the
first answer wins (`read_clip`, `load_classifier`) the order is pluggy's: ``tryfirst``, then what was loaded last, then
``trylast``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch.contracts import CheckedExtractor, check_clips, check_corpus, check_segments
from ser_batch.contracts_models import CheckedClassifier
from ser_batch.errors import ModelError, PluginError, SerBatchError
from ser_batch.plugins import blamed, plugin_version
from ser_batch.records import Clip, ClipOutcome, ClipRef, Corpus, Segment
from ser_batch.text import shown

if TYPE_CHECKING:
    import click
    import pluggy
    from pluggy import HookImpl

    from ser_batch.config import Config

__all__ = [
    "clip_finished",
    "find_segments",
    "finder_versions",
    "load_classifier",
    "read_clip",
    "reader_versions",
    "register_commands",
    "register_corpora",
    "register_extractors",
    "report_sections",
    "validate_config",
]


def _by_name(manager: pluggy.PluginManager, hook: str) -> list[HookImpl]:
    return sorted(getattr(manager.hook, hook).get_hookimpls(), key=lambda item: item.plugin_name)


def _call(implementation: HookImpl, hook: str, passing: type[Exception] = SerBatchError, **arguments: Any) -> Any:
    accepted = {name: arguments[name] for name in implementation.argnames}
    with blamed(f"Plugin {implementation.plugin_name!r} failed in {hook}", passing=passing):
        return implementation.function(**accepted)


def _first(
    manager: pluggy.PluginManager, hook: str, passing: type[Exception] = SerBatchError, **arguments: Any
) -> tuple[str, Any] | None:
    """Return (plugin, answer) of the first plugin that has one."""
    for implementation in reversed(getattr(manager.hook, hook).get_hookimpls()):
        answer = _call(implementation, hook, passing, **arguments)
        if answer is not None:
            return implementation.plugin_name, answer
    return None


def _listed(plugin: str, hook: str, answer: Any, what: str) -> Sequence[Any]:
    if answer is None:
        return ()
    if not isinstance(answer, Sequence) or isinstance(answer, str):
        raise PluginError(f"Plugin {plugin!r}: {hook} must return a list of {what}, not {shown(answer)}.")
    return answer


def register_extractors(manager: pluggy.PluginManager, config: Config) -> dict[str, tuple[str, CheckedExtractor]]:
    """Return all extractors on offer: name -> (plugin name, extractor), sorted by name.

    Raises
    ------
    PluginError
        A plugin failed, returned something else than extractors, or took a name or a column that is taken.
    """
    found: dict[str, tuple[str, CheckedExtractor]] = {}
    columns: dict[str, str] = {}
    for implementation in _by_name(manager, "register_extractors"):
        plugin = implementation.plugin_name
        answer = _call(implementation, "register_extractors", config=config)
        for extractor in _listed(plugin, "register_extractors", answer, "extractors"):
            checked = CheckedExtractor(plugin, extractor)
            spec = checked.spec
            if spec.extractor in found:
                raise PluginError(
                    f"Plugin {plugin!r} offers an extractor named {spec.extractor!r}, which plugin "
                    f"{found[spec.extractor][0]!r} already offers. Give it another name."
                )
            for column in spec.columns:
                if column in columns:
                    raise PluginError(f"Plugin {plugin!r} redefines column {column!r} of plugin {columns[column]!r}.")
                columns[column] = plugin
            found[spec.extractor] = (plugin, checked)
    return dict(sorted(found.items()))


def read_clip(
    manager: pluggy.PluginManager, ref: ClipRef, sample_rate_hz: int, piece_s: float, overlap_s: float
) -> Iterator[Clip]:
    """Decode one file by the first reader that takes it; return its pieces.

    Raises
    ------
    PluginError
        No plugin takes the file; or a piece, when it is its turn, is not what was asked for.
    Exception
        What the reader raises, here or between pieces: its type and message say why the file cannot be decoded.
    """
    found = _first(
        manager,
        "read_clip",
        passing=Exception,
        ref=replace(ref),  # a copy, of which a plugin may do what it likes
        sample_rate_hz=sample_rate_hz,
        piece_s=piece_s,
        overlap_s=overlap_s,
    )
    if found is None:
        raise PluginError("No plugin could read the file.")
    plugin, pieces = found
    return check_clips(plugin, pieces, sample_rate_hz, piece_s, overlap_s)


def reader_versions(manager: pluggy.PluginManager) -> dict[str, str | int]:
    """Return plugin -> version of all that read audio, sorted by name.

    The version is the attribute ``READER_VERSION`` of the plugin, else that of its package, else a hash of its file.
    """
    readers = [implementation.plugin_name for implementation in _by_name(manager, "read_clip")]
    return {name: plugin_version(manager, name, "READER_VERSION") for name in readers}


def find_segments(manager: pluggy.PluginManager, clip: Clip) -> Sequence[Segment]:
    """Find the segments in a recording, or in a piece of one, by the first plugin that does.

    Raises
    ------
    PluginError
        The plugin failed, or what it returned are no segments of this piece.
    """
    found = _first(manager, "find_segments", clip=clip)
    return check_segments(*found, clip) if found else ()


def finder_versions(manager: pluggy.PluginManager) -> dict[str, str | int]:
    """Return plugin -> version of all that find segments, sorted by name; versions as in `reader_versions`."""
    finders = [implementation.plugin_name for implementation in _by_name(manager, "find_segments")]
    return {name: plugin_version(manager, name, "FINDER_VERSION") for name in finders}


def load_classifier(
    manager: pluggy.PluginManager, name: str, device: str, among: Sequence[str] = ()
) -> CheckedClassifier:
    """Load a model by the first plugin that knows it, to answer `among` some of its labels or, with none, all.

    What it gives later is checked too.

    Raises
    ------
    ModelError
        No plugin knows it, it cannot be used, or it lacks a label that it is to answer among.
    PluginError
        A plugin failed, or what it returned is no classifier.
    """
    found = _first(manager, "load_classifier", name=name, device=device)
    if found is None:
        raise ModelError(f"No plugin could load the model {name!r}.")
    return CheckedClassifier(*found, among=among)


def register_corpora(manager: pluggy.PluginManager) -> list[Corpus]:
    """Return all readers of labelled corpora; what they raise later names their plugin too.

    Raises
    ------
    PluginError
        A plugin failed, returned something else than corpora, or took a name that is taken.
    """
    owners: dict[str, str] = {}
    corpora = []
    for implementation in _by_name(manager, "register_corpora"):
        plugin = implementation.plugin_name
        for item in _listed(plugin, "register_corpora", _call(implementation, "register_corpora"), "corpora"):
            corpus = check_corpus(plugin, item)
            if corpus.name in owners:
                raise PluginError(
                    f"Plugin {plugin!r} offers a corpus named {corpus.name!r}, which plugin {owners[corpus.name]!r} "
                    f"already offers. Give it another name."
                )
            owners[corpus.name] = plugin
            corpora.append(corpus)
    return corpora


def register_commands(manager: pluggy.PluginManager, cli: click.Group) -> dict[str, str]:
    """Let plugins add commands to the command line; return command -> plugin.

    Raises
    ------
    PluginError
        A plugin failed.
    """
    owners: dict[str, str] = {}
    for implementation in _by_name(manager, "register_commands"):
        before = dict(cli.commands)
        _call(implementation, "register_commands", cli=cli)
        for name, command in list(cli.commands.items()):
            if name in before and command is before[name]:
                continue
            if not isinstance(name, str) or not callable(getattr(command, "invoke", None)):
                del cli.commands[name]
                raise PluginError(
                    f"Plugin {implementation.plugin_name!r}: register_commands must add commands of click, not "
                    f"{shown(command)} as {shown(name)}."
                )
            owners[name] = implementation.plugin_name
    return owners


def validate_config(manager: pluggy.PluginManager, config: Config) -> None:
    """Ask plugins whether they can work under `config`.

    Raises
    ------
    ConfigError, ModelError
        One cannot; the message has the cure.
    PluginError
        A plugin failed.
    """
    for implementation in _by_name(manager, "validate_config"):
        _call(implementation, "validate_config", config=config)


def clip_finished(
    manager: pluggy.PluginManager, outcomes: Sequence[ClipOutcome]
) -> Iterator[tuple[str, SerBatchError]]:
    """Show finished files to plugins, one after the other; yield (plugin, error) for each failure and go on."""
    for implementation in _by_name(manager, "clip_finished"):
        for outcome in outcomes:
            try:
                _call(implementation, "clip_finished", outcome=outcome)
            except SerBatchError as error:
                yield implementation.plugin_name, error


def report_sections(
    manager: pluggy.PluginManager, run_dir: Path, asking: Callable[[str], None] = lambda _: None
) -> Iterator[tuple[str, list[tuple[str, str]] | SerBatchError]]:
    """Yield (plugin, sections) for each plugin that has any, or (plugin, error) for one that failed.

    A section is (title, HTML). `asking` is told each plugin before it is asked, which may be the last that is heard.
    """
    for implementation in _by_name(manager, "report_sections"):
        plugin = implementation.plugin_name
        asking(plugin)
        try:
            answer = _call(implementation, "report_sections", run_dir=run_dir)
            yield plugin, [_section(plugin, item) for item in _listed(plugin, "report_sections", answer, "sections")]
        except SerBatchError as error:
            yield plugin, error


def _section(plugin: str, item: object) -> tuple[str, str]:
    if isinstance(item, tuple | list) and len(item) == 2 and all(isinstance(text, str) for text in item):
        return item[0], item[1]
    raise PluginError(
        f"Plugin {plugin!r}: report_sections must return (title, HTML) pairs of strings, not {shown(item)}."
    )
