"""``ser-batch plugins``: what is installed, what it offers, and whether it keeps its promises."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from ser_batch import hooks
from ser_batch.cli.options import json_option, plugin_option
from ser_batch.config import Config
from ser_batch.errors import ExitCode, PluginError
from ser_batch.plugins import PluginInfo, PluginRecipe, describe_plugins

__all__ = ["command"]


@click.command("plugins")
@plugin_option
@click.option("--check", "check", metavar="NAME", help="Try an extractor, or all those of a plugin, on unkind audio.")
@json_option
def command(plugins: tuple[str, ...], check: str | None, as_json: bool) -> int:
    """List plugins, hooks and columns; check an extractor.

    Lists every plugin that a scan would load: its version, the package that installed it, the hooks that it implements,
    and the columns that its extractors add to the results.

    With --check, one extractor is tried on silence, 20 ms, noise, clipping and the like, in pieces and in a worker
    process; the exit code is 5 if it breaks a promise.
    """
    recipe = PluginRecipe(files=plugins)
    if check is not None:
        return _check(recipe, check, as_json)
    manager = recipe.build()
    found = describe_plugins(manager, hooks.register_extractors(manager, Config()))
    if as_json:
        click.echo(json.dumps([_as_json(plugin) for plugin in found], indent=2))
    else:
        click.echo("\n".join(_as_text(plugin) for plugin in found))
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


def _as_text(plugin: PluginInfo) -> str:
    lines = [f"{plugin.name}  ({' '.join(part for part in (plugin.package, plugin.version) if part)})"]
    lines.append(f"  hooks: {', '.join(plugin.hooks) or 'none'}")
    for spec in plugin.extractors:
        tensor = f", tensor {' x '.join(map(str, spec.tensor_shape))} per window" if spec.tensor_shape else ""
        lines.append(f"  extractor {spec.extractor}, version {spec.version}: {len(spec.columns)} columns{tensor}")
        lines += [f"    {column}" for column in spec.columns]
    return "\n".join(lines)


def _check(recipe: PluginRecipe, name: str, as_json: bool) -> int:
    from ser_batch.testing import check_extractor  # noqa: PLC0415 - only the check needs psutil and signals

    config = Config()
    offered = hooks.register_extractors(recipe.build(), config)
    chosen = {key: value for key, value in offered.items() if name in (key, value[0])}
    if not chosen:
        raise PluginError(
            f"No extractor or plugin with extractors is called {name!r}. Extractors: {', '.join(offered) or 'none'}."
        )
    reports = [
        check_extractor(extractor.inner, config=config, plugin=plugin, recipe=recipe)
        for plugin, extractor in chosen.values()
    ]
    if as_json:
        click.echo(json.dumps([{**asdict(report), "ok": report.ok} for report in reports], indent=2))
    else:
        click.echo("\n".join(map(str, reports)))
    return ExitCode.OK if all(report.ok for report in reports) else ExitCode.PLUGIN
