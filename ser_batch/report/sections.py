"""Sections that plugins add to the report."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ser_batch import hooks
from ser_batch.errors import PluginError, SerBatchError
from ser_batch.plugins import PluginRecipe

__all__ = ["plugin_sections"]


def plugin_sections(
    run_dir: Path, recipe: PluginRecipe | None = None, step: Callable[[str], None] = lambda _: None
) -> list[dict[str, Any]]:
    """Return the sections of all plugins; one that fails says so in its place and costs nothing else.

    Parameters
    ----------
    run_dir : Path
        Handed to the hook ``report_sections``.
    recipe : PluginRecipe, optional
        The plugins to ask; by default all installed ones.
    step : callable, optional
        Is told what comes next.

    Returns
    -------
    list of dict
        ``id``, ``title``, ``plugin``, ``html`` and ``error``; one of the last two is empty.
    """
    step("while its plugins were loaded")
    try:
        # Built-in plugins add no sections, and loading them would load the whole engine.
        manager = replace(recipe or PluginRecipe(), built_in=()).build()
    except PluginError as error:
        return [_section(0, "Plugins", "plugins", error=str(error))]
    sections: list[dict[str, Any]] = []
    for plugin, found in hooks.report_sections(
        manager, run_dir, lambda name: step(f"in the section of plugin {name!r}")
    ):
        if isinstance(found, SerBatchError):
            sections.append(_section(len(sections), plugin, plugin, error=str(found)))
            continue
        for title, html in found:
            sections.append(_section(len(sections), title, plugin, html=html))
    return sections


def _section(number: int, title: str, plugin: str, html: str = "", error: str = "") -> dict[str, Any]:
    anchor = f"plugin-{number}-{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}"
    return {"id": anchor, "title": title, "plugin": plugin, "html": Markup(html), "error": error}
