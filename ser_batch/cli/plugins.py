"""``ser-batch plugins``: what is installed, what it offers, and whether it keeps its promises."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ser_batch import hooks
from ser_batch.cli.options import json_option, plugin_option
from ser_batch.cli.streams import as_far_as_read
from ser_batch.config import Config
from ser_batch.errors import ExitCode, ModelError, PluginError
from ser_batch.plugins import PluginInfo, PluginRecipe, describe_plugins
from ser_batch.text import printable

if TYPE_CHECKING:
    from ser_batch.testing import CheckReport

__all__ = ["command"]


@click.command("plugins")
@plugin_option
@click.option("--check", "check", metavar="NAME", help="Try an extractor, a model or all of a plugin on unkind audio.")
@click.option(
    "--file", "files", multiple=True, metavar="FILE", help="For --check of a reader: try it on this recording."
)
@json_option
def command(plugins: tuple[str, ...], check: str | None, files: tuple[str, ...], as_json: bool) -> int:
    """List plugins, hooks and columns; check one.

    Lists every plugin that a scan would load: its version, the package that installed it, the hooks that it implements,
    and the columns that its extractors add to the results.

    With --check, an extractor is tried on silence, 20 ms, noise, clipping and the like, in pieces and in a worker
    process; a model on the same; a reader on a WAV or on each --file, whole and in pieces. The exit code is 5 if one
    breaks a promise.
    """
    recipe = PluginRecipe(files=plugins)
    if check is not None:
        return _check(recipe, check, files, as_json)
    manager = recipe.build()
    found = describe_plugins(manager, hooks.register_extractors(manager, Config()))
    if as_json:
        click.echo(json.dumps([_as_json(plugin) for plugin in found], indent=2))
    else:
        click.echo("\n".join(printable(line) for plugin in found for line in _as_text(plugin)))
    return ExitCode.OK


def _as_json(plugin: PluginInfo) -> dict[str, object]:
    extractors = [
        {
            "name": spec.extractor,
            "version": spec.version,
            "columns": list(spec.columns),
            "tensor_shape": spec.tensor_shape,
        }
        for spec in plugin.extractors
    ]
    return {**asdict(plugin), "extractors": extractors}


def _as_text(plugin: PluginInfo) -> list[str]:
    lines = [f"{plugin.name}  ({' '.join(part for part in (plugin.package, plugin.version) if part)})"]
    lines.append(f"  hooks: {', '.join(plugin.hooks) or 'none'}")
    for spec in plugin.extractors:
        tensor = f", tensor {' x '.join(map(str, spec.tensor_shape))} per window" if spec.tensor_shape else ""
        lines.append(f"  extractor {spec.extractor}, version {spec.version}: {len(spec.columns)} columns{tensor}")
        lines += [f"    {column}" for column in spec.columns]
    return lines


def _check(recipe: PluginRecipe, name: str, files: tuple[str, ...], as_json: bool) -> int:
    reports = _reports(recipe, name, files)
    with as_far_as_read():
        if as_json:
            click.echo(json.dumps([{**asdict(report), "ok": report.ok} for report in reports], indent=2))
        else:
            click.echo("\n".join(printable(line) for report in reports for line in str(report).splitlines()))
    return ExitCode.OK if all(report.ok for report in reports) else ExitCode.PLUGIN


def _reports(recipe: PluginRecipe, name: str, files: tuple[str, ...]) -> list[CheckReport]:
    """Try what is called `name`: an extractor, all that a plugin has, or a model."""
    from ser_batch.testing import check_classifier, check_extractor, check_reader  # noqa: PLC0415 - slow to import

    config, manager = Config(), recipe.build()
    offered = hooks.register_extractors(manager, config)
    reports = [
        check_extractor(extractor.inner, config=config, plugin=plugin, recipe=recipe)
        for key, (plugin, extractor) in offered.items()
        if name in (key, plugin)
    ]
    if name in hooks.reader_versions(manager):
        reports.append(check_reader(manager.get_plugin(name), files, config=config, name=name))
    if reports:
        return reports
    try:
        model = hooks.load_classifier(manager, name, "cpu")
    except ModelError as error:
        raise PluginError(
            f"Nothing that can be tried is called {name!r}: no extractor ({', '.join(offered) or 'none'}), no plugin "
            f"with extractors or a reader, and no model: {error}"
        ) from error
    return [check_classifier(model.inner, config=config, plugin=model.plugin, recipe=recipe)]
