"""The floors of docs/architecture.md hold: imports go down only, and heavy libraries live where they are said to."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from repository import REPOSITORY

PACKAGE = REPOSITORY / "ser_batch"
MODULES = sorted(PACKAGE.rglob("*.py"))

#: Library -> where it may be imported, as paths relative to the package; a folder means all within.
HOMES = {
    "torch": ("classifier/network.py", "classifier/torch_*.py", "training/"),
    "joblib": ("stages/processes.py",),
    "pyarrow": ("tables/", "run/", "export/", "report/", "heads/"),
    "click": ("cli/",),
    "distributed": ("nodes/dask.py",),
    "onnxruntime": ("classifier/",),
    "onnx": ("classifier/",),
    "jinja2": ("report/",),
    "librosa": ("training/",),
    "parselmouth": (),
    "av": ("audio/media.py",),
    "praatio": ("segments/",),
    "webvtt": ("segments/",),
    "obstore": ("storage/objects.py", "storage/reasons.py"),
    "starlette": ("reviews/server.py",),
    "uvicorn": ("reviews/server.py",),
    "krippendorff": ("reviews/agreement.py",),
    "boto3": (),
}

HEAVY = (
    "torch",
    "librosa",
    "pandas",
    "numba",
    "scipy",
    "pyarrow",
    "onnxruntime",
    "joblib",
    "soundfile",
    "av",
    "obstore",
    "boto3",
)


def floors() -> dict[str, int]:
    """Read the table of docs/architecture.md: module or package below ser_batch -> floor."""
    found: dict[str, int] = {}
    for row in re.findall(r"^\| (\d) \| (.+?) \|", (REPOSITORY / "docs/architecture.md").read_text(), re.MULTILINE):
        found |= {name.strip("/"): int(row[0]) for name in re.findall(r"`([^`]+)`", row[1])}
    return found


def room(path: Path) -> str:
    """Name by which the table knows a module: its package below ser_batch, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


@cache
def runtime_imports(path: Path) -> tuple[str, ...]:
    """Return the dotted names of everything that `path` imports when it runs, at any depth."""
    return tuple(_runtime_imports(path))


def _runtime_imports(path: Path) -> Iterator[str]:
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if is_type_checking(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        todo.extend(ast.iter_child_nodes(node))


def test_every_module_has_a_floor() -> None:
    rooms = {room(path) for path in MODULES} - {"__init__", "_version"}
    assert rooms == set(floors())


@pytest.mark.parametrize("room", ["stages", "run"])
def test_the_page_names_every_module_of_the_rooms_that_it_lists(room: str) -> None:
    (row,) = re.findall(rf"^\|.*`{room}/`.*$", (REPOSITORY / "docs/architecture.md").read_text(), re.MULTILINE)
    modules = {path.stem for path in (PACKAGE / room).glob("*.py")} - {"__init__"}
    assert not modules - set(re.findall(r"\w+", row))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    table = floors() | {"__init__": 9, "_version": 0}
    own = table[room(path)]
    above = {
        name
        for name in runtime_imports(path)
        if name.startswith("ser_batch.") and table.get(name.split(".")[1], 0) > own
    }
    assert not above, f"floor {own} may not import {above}"


def module_name(path: Path) -> str:
    return ".".join(("ser_batch", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def test_no_two_modules_import_each_other_in_whatever_way() -> None:
    names = {module_name(path) for path in MODULES}
    graph = {}
    for path in MODULES:
        imported = {name if name in names else name.rpartition(".")[0] for name in runtime_imports(path)}
        # What the package offers by name is imported when asked for, by its users.
        graph[module_name(path)] = (imported & names) - {"ser_batch", module_name(path)}
    graph["ser_batch"] = set()
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_at_home(library: str) -> None:
    strays = set()
    for path in MODULES:
        relative = path.relative_to(PACKAGE)
        at_home = any(
            str(relative).startswith(home) if home.endswith("/") else relative.match(home) for home in HOMES[library]
        )
        if not at_home and any(name.split(".")[0] == library for name in runtime_imports(path)):
            strays.add(str(relative))
    assert not strays


@pytest.mark.parametrize(
    "statement",
    [
        "import ser_batch",
        "import ser_batch.plugins, ser_batch.config, ser_batch.records, ser_batch.resources",
        "from ser_batch.cli.main import main; main(['--help'])",
        "from ser_batch.cli.main import main; main(['--version'])",
    ],
)
def test_light_entrances_load_nothing_heavy(statement: str) -> None:
    code = f"import sys; {statement}; print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stderr.strip() == "[]"


def test_a_run_stores_and_neither_computes_nor_chooses_where() -> None:
    computing = ("ser_batch.classifier", "ser_batch.stages.pool", "ser_batch.stages.predict")
    strays = {
        (path.name, name)
        for path in (PACKAGE / "run").glob("*.py")
        for name in runtime_imports(path)
        if name.startswith(computing)
    }
    assert not strays
