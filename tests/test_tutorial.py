"""The plugin tutorial, followed word for word: its files are written, its commands run, its output comes."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from repository import REPOSITORY

from ser_batch.cli.main import main

STEP = re.compile(r"(?:^`(?P<file>[\w./-]+)`:\n\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


def run(line: str, folder: Path) -> str:
    """Run one command of the page; what it would install or find in an environment goes through `folder`/site."""
    words = shlex.split(line)
    if words[0] == "ser-batch" and not installed(folder):
        # Nothing that this process could not load.
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
            patch.chdir(folder)
            assert main(words[1:]) == 0, out.getvalue()
        return out.getvalue()
    programs = {
        "ser-batch": [sys.executable, "-m", "ser_batch"],
        "python": [sys.executable],
        # The page's own command, without the network and into a folder of its own.
        "pip": [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"],
        "mv": ["mv"],
    }
    options = ["--no-deps", "--no-build-isolation", "--target", "site"] if words[:2] == ["pip", "install"] else []
    done = subprocess.run(
        [*programs[words[0]], *words[1:], *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "site"), "SER_BATCH_PLUGINS": installed(folder)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def installed(folder: Path) -> str:
    """Leave out whatever plugins this machine has besides."""
    return "ser-batch-crest" if (folder / "site").is_dir() else ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole page was followed."""
    folder = tmp_path_factory.mktemp("tutorial")
    shutil.copytree(REPOSITORY / "data/samples", folder / "data/samples")
    for step in STEP.finditer((REPOSITORY / "docs/plugin-tutorial.md").read_text()):
        if step["file"]:
            path = folder / step["file"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(step["text"])
            continue
        assert step["language"] == "console"
        output = ""
        for line in step["text"].splitlines():
            if line.startswith("$ "):
                output = run(line[2:], folder)
            else:
                assert line.strip() in output, f"the page promises {line!r}, but came:\n{output}"
    return folder


@pytest.mark.parametrize("run_name", ["run1", "run2"])
def test_the_column_is_in_the_parquet(folder: Path, run_name: str) -> None:
    files = pd.read_parquet(folder / run_name / "files").set_index("clip_id")
    windows = pd.read_parquet(folder / run_name / "windows")
    assert len(files) == 2
    crest_db = {clip_id.rsplit("/", 1)[-1]: value for clip_id, value in files["crest__factor_db"].items()}
    assert 0 < crest_db["clipped.flac"] < crest_db["low_slow.flac"] - 3
    assert windows["crest__factor_db"].notna().all()
    assert len(windows) > len(files)


def test_the_page_has_the_steps_that_it_promises() -> None:
    steps = list(STEP.finditer((REPOSITORY / "docs/plugin-tutorial.md").read_text()))
    assert [step["file"] for step in steps if step["file"]] == [
        "crest.py",
        "ser-batch-crest/pyproject.toml",
        "ser-batch-crest/tests/test_crest.py",
    ]
    assert sum(step["language"] == "console" for step in steps) == 5
