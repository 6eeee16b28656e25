"""What the pages say is what the code does: every hook, setting, command, exit code and link."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from dataclasses import fields
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
from repository import REPOSITORY

from ser_batch import hookspecs
from ser_batch.cli.main import COMMANDS
from ser_batch.config import Config
from ser_batch.errors import ExitCode
from ser_batch.plugins import PluginRecipe, hook_names
from ser_batch.stages.ingredients import gather

DOCS = REPOSITORY / "docs"
PAGES = sorted(
    [*REPOSITORY.glob("*.md"), *DOCS.glob("*.md"), *REPOSITORY.glob("plugins/*/*.md"), REPOSITORY / "data/README.md"]
)


def test_hooks_page_has_every_hook_with_its_arguments_and_no_other() -> None:
    headings = re.findall(r"^## (.+)$", (DOCS / "hooks.md").read_text(), re.MULTILINE)
    expected = [f"{name}({', '.join(inspect.signature(getattr(hookspecs, name)).parameters)})" for name in hook_names()]
    assert headings == expected


def test_every_hook_section_says_where_it_runs_what_it_returns_and_who_uses_it() -> None:
    for section in (DOCS / "hooks.md").read_text().split("\n## ")[1:]:
        for word in ("**Runs in**", "**Returns**", "**Used by**"):
            assert word in section, f"{section.splitlines()[0]} lacks {word}"


@cache
def implemented_hooks(folder: Path) -> set[str]:
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and any("hookimpl" in ast.dump(item) for item in node.decorator_list):
                found.add(node.name)
    return found


def test_every_hook_is_used_by_a_built_in_or_an_example() -> None:
    used = implemented_hooks(REPOSITORY / "ser_batch") | implemented_hooks(REPOSITORY / "plugins")
    assert set(hook_names()) == used


def test_the_hooks_page_names_those_who_use_each_hook() -> None:
    for section in (DOCS / "hooks.md").read_text().split("\n## ")[1:]:
        hook = section.split("(")[0]
        used_by = section.split("**Used by**")[1].split("\n\n")[0]
        for plugin in re.findall(r"plugins/(ser-batch-\w+)", used_by):
            assert hook in implemented_hooks(REPOSITORY / "plugins" / plugin), f"{plugin} does not use {hook}"
        assert ("built-in" in used_by) == (hook in implemented_hooks(REPOSITORY / "ser_batch")), used_by


def test_the_example_on_the_hooks_page_works(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.+?)```", (DOCS / "hooks.md").read_text(), re.DOTALL)
    (tmp_path / "peak.py").write_text(code)
    command = [sys.executable, "-m", "ser_batch", "plugins", "--plugin", "peak.py", "--check", "peak", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (report,) = json.loads(done.stdout)
    assert report["ok"]
    assert (report["kind"], report["name"]) == ("extractor", "peak")


def test_configuration_page_has_every_key_with_its_default_and_no_other() -> None:
    rows = dict(re.findall(r"^\| `(\w+\.\w+)` \| `(.+?)` \|", (DOCS / "configuration.md").read_text(), re.MULTILINE))
    defaults = {
        f"{section}.{key}": json.dumps(value)
        for section, part in Config().as_dict().items()
        for key, value in part.items()
    }
    assert rows == defaults


def test_configuration_page_marks_what_changes_results() -> None:
    marked = set(
        re.findall(r"^\| `(\w+\.\w+)` \| `.+?` \| R \|", (DOCS / "configuration.md").read_text(), re.MULTILINE)
    )
    assert marked == {name for name in all_keys() if changes_results(name)}


def all_keys() -> list[str]:
    return [f"{section.name}.{key}" for section in fields(Config) for key in Config().as_dict()[section.name]]


def changes_results(name: str) -> bool:
    section, key = name.split(".")
    value = Config().as_dict()[section][key]
    others = {
        "audio.window_hop_s": 1.0,
        "audio.n_mel_bands": 64,
        "predict.device": "cpu",
        "predict.model": "ser7",
        "predict.labels": ["anger", "fear"],
        "predict.embeddings": False,
        "segments.source": "none",
        "extract.channels": "split",
    }
    other = others.get(name, ["mel"] if isinstance(value, list) else value + 1 if isinstance(value, int) else 0)
    if isinstance(value, float) and name not in others:
        other = value + 0.5
    # A model brings the extractors that it needs; without one, a scan has those that are named.
    base = Config().with_values({"predict": {"model": ""}} if section == "extract" else {})
    return fingerprint(base.with_values({section: {key: other}})) != fingerprint(base)


@cache
def fingerprint(config: Config) -> str:
    recipe = PluginRecipe(entry_points=())
    return gather(recipe.build(), recipe, config).fingerprint()


def command_page() -> ModuleType:
    sys.path.insert(0, str(DOCS))
    try:
        import build_cli  # noqa: PLC0415 - a script beside the pages
    finally:
        sys.path.pop(0)
    return build_cli


def test_command_page_is_what_the_commands_say() -> None:
    # In a process of its own: click remembers the help option of a command that another test called without its group.
    script = "import sys; sys.path.insert(0, sys.argv[1]); import build_cli; print(build_cli.page())"
    told = subprocess.run([sys.executable, "-c", script, str(DOCS)], capture_output=True, text=True, check=True).stdout
    # Line breaks are click's own business and differ between its versions.
    expected = told.split()
    assert (DOCS / "cli.md").read_text().split() == expected, "docs/cli.md is stale: run python docs/build_cli.py"
    assert set(COMMANDS) <= {
        words[1] for words in re.findall(r"^## (ser-batch) (\w+)", (DOCS / "cli.md").read_text(), re.M)
    }


def test_every_exit_code_has_a_meaning() -> None:
    assert len(list(command_page().exit_codes())) == len(ExitCode)
    assert all(not row.endswith("|  |") for row in command_page().exit_codes())


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page.name} links to {target}"
