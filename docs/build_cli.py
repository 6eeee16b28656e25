"""Writes docs/cli.md from the commands themselves: ``python docs/build_cli.py``. A test fails when it is stale."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path

import click

from ser_batch.cli.main import build_cli
from ser_batch.errors import ExitCode

PAGE = Path(__file__).with_name("cli.md")

HEAD = """\
# Command line

Written by `python docs/build_cli.py` from the commands themselves; change those, not this page.

## Exit codes

| code | meaning |
|---|---|
"""


def exit_codes() -> Iterator[str]:
    """Yield one row per exit code; the meaning is the comment above its line in the source."""
    comments: list[str] = []
    for line in inspect.getsource(ExitCode).splitlines():
        if match := re.match(r"\s*#: (.+)", line):
            comments.append(match[1])
        elif match := re.match(r"\s*([A-Z_]+) = \d+", line):
            yield f"| {ExitCode[match[1]]:d} | {' '.join(comments) or 'All is well.'} |"
            comments = []


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Yield (name, help text) of a command and of all below it."""
    with click.Context(command, info_name=name, parent=parent, terminal_width=100) as context:
        yield context.command_path, command.get_help(context)
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                found = command.get_command(context, child)
                assert found is not None, child
                yield from commands(found, child, context)


def page() -> str:
    """Return the whole page. Commands of installed plugins are not in it."""
    os.environ["SER_BATCH_PLUGINS"] = ""
    sections = [f"## {path}\n\n```text\n{text}\n```\n" for path, text in commands(build_cli(), "ser-batch")]
    return HEAD + "\n".join(exit_codes()) + "\n\n" + "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
