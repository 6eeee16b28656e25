"""Messages lead somewhere: an option that is named is one of the command that was given, or its command is named too.

A command is taken to say every message of every module that it imports, directly or by others, at any time.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from test_layers import MODULES, module_name, runtime_imports

from ser_batch.cli.main import COMMANDS, build_cli

NAMES = {module_name(path): path for path in MODULES}


@cache
def imported(module: str) -> frozenset[str]:
    """Return the modules that a module imports when it runs."""
    found = {name if name in NAMES else name.rpartition(".")[0] for name in runtime_imports(NAMES[module])}
    return frozenset(found & set(NAMES) - {"ser_batch"})


def reached(module: str) -> set[str]:
    seen: set[str] = set()
    todo = {module}
    while todo:
        seen |= todo
        todo = {name for item in todo for name in imported(item)} - seen
    return seen


def options(command: click.Command) -> set[str]:
    """Return the options of a command and of all below it."""
    found = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    if isinstance(command, click.Group):
        found |= {name for child in command.commands.values() for name in options(child)}
    return found


@cache
def texts(module: str) -> tuple[str, ...]:
    """Return the strings of a module that may be said: neither docstrings nor what options themselves say."""
    tree = ast.parse(NAMES[module].read_text())
    passed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            passed.add(id(node.value))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("click.option", "click.argument"):
            passed |= {id(item) for item in ast.walk(node)}
        if isinstance(node, ast.JoinedStr):
            passed |= {id(item) for item in node.values}
    return tuple(_texts(item for item in ast.walk(tree) if id(item) not in passed))


def _texts(nodes: Iterator[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(item.value) if isinstance(item, ast.Constant) else "…" for item in node.values)


def named_options(text: str) -> set[str]:
    """Return the options in a message; scripts, arguments for other programs and variables of CSS are none."""
    if " " not in text or text.startswith(("#!", "… -P -m ")):
        return set()
    text = re.sub(r"ulimit -\w|\((?=-)", " ", text)
    return set(re.findall(r"(?<![\w…(-])--?[a-z]+(?:-[a-z]+)*(?![\w-])", text))


def test_an_option_in_a_message_is_found() -> None:
    assert named_options("Give -o a folder (--force), or --new-run DIR.") == {"-o", "--force", "--new-run"}
    assert named_options("var(--ink)") == named_options("--emotion-…: …;") == named_options("…-staged") == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_a_message_names_is_there(name: str) -> None:
    cli = build_cli()
    known: dict[str, set[str]] = {}
    for other in COMMANDS:
        command = cli.get_command(click.Context(cli), other)
        assert command is not None
        known[other] = options(command)
    wrong = [
        f"{Path(module.replace('.', '/')).name}: {sorted(lost)} in {text!r}"
        for module in sorted(reached(COMMANDS[name][0]))
        for text in texts(module)
        for others in [re.findall(r"(?:`|ser-batch )(?:ser-batch )?([a-z]+)", text)]
        for lost in [named_options(text) - known[name].union(*(known.get(other, ()) for other in others))]
        if lost
    ]
    assert not wrong, "\n".join(wrong)
