"""The packages in plugins/ install by pip, are found, keep the contract, and their columns come and go with them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from repository import REPOSITORY

from ser_batch.cli.main import main
from ser_batch.config import Config
from ser_batch.contracts import check_block
from ser_batch.hooks import register_extractors
from ser_batch.plugins import PluginRecipe
from ser_batch.records import Clip
from ser_batch.testing import check_extractor, check_signals
from ser_batch.windows import plan_windows

#: Package -> (its extractor, "" for none, and the library that it wraps).
PACKAGES = {
    "ser-batch-template": ("pauses", "numpy"),
    "ser-batch-praat": ("praat", "parselmouth"),
    "ser-batch-opensmile": ("opensmile", "opensmile"),
    "ser-batch-whisper": ("whisper_mel", "onnxruntime"),
    "ser-batch-vad": ("", "silero_vad"),
}


@pytest.mark.parametrize("name", ["mel", "prosodic", "voice_quality", "quality"])
def test_the_built_in_extractors_keep_the_contract(name: str) -> None:
    recipe = PluginRecipe(entry_points=())
    plugin, extractor = register_extractors(recipe.build(), Config())[name]
    report = check_extractor(extractor, plugin=plugin, recipe=recipe, in_worker=name == "voice_quality")
    assert report.ok, str(report)


@pytest.mark.parametrize("name", ["mel", "prosodic", "voice_quality", "quality"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_the_built_in_extractors_survive_samples_that_are_no_numbers(name: str, bad: float) -> None:
    # The reader replaces them, but other plugins may read too.
    plugin, extractor = register_extractors(PluginRecipe(entry_points=()).build(), Config())[name]
    samples = check_signals()["voice"]
    samples[20_000:20_100] = bad
    windows_s = plan_windows(len(samples) / 22_050)
    block = extractor.extract(Clip(samples, 22_050, 22_050, 1), windows_s)
    check_block(plugin, extractor.spec, block, len(windows_s))
    assert np.isfinite(block.clip_scalars).sum() > 0.8 * len(block.clip_scalars) - 1


def test_all_packages_are_tried() -> None:
    assert {path.parent.name for path in REPOSITORY.glob("plugins/*/pyproject.toml")} == set(PACKAGES)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip installed all packages, without the network and without what they depend on."""
    folder = tmp_path_factory.mktemp("plugins")
    sources = folder / "sources"
    # A build leaves files beside its source, and the checkout is not ours to write to.
    shutil.copytree(
        REPOSITORY / "plugins", sources, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__", ".*")
    )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    where = ["--no-build-isolation", "--target", str(folder / "site"), *(str(sources / name) for name in PACKAGES)]
    done = subprocess.run([*command, *where], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def ser_batch(site: Path, cwd: Path, *arguments: str, plugins: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "ser_batch", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(site), "SER_BATCH_PLUGINS": plugins},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def available(package: str) -> bool:
    return importlib.util.find_spec(PACKAGES[package][1]) is not None


def test_installed_packages_are_listed_with_version_hooks_and_columns(site: Path, tmp_path: Path) -> None:
    names = ",".join(PACKAGES)
    listed = {item["name"]: item for item in json.loads(ser_batch(site, tmp_path, "plugins", "--json", plugins=names))}
    for package, (extractor, _) in PACKAGES.items():
        assert (listed[package]["package"], listed[package]["version"]) == (package, "0.1.0")
        offered = listed[package]["extractors"]
        assert [item["name"] for item in offered] == ([extractor] if extractor else [])
        assert all(column.startswith(f"{extractor}__") for item in offered for column in item["columns"])
    assert set(listed["ser-batch-template"]["hooks"]) == {
        *("register_extractors", "clip_finished", "report_sections", "register_commands")
    }
    assert "validate_config" in listed["ser-batch-opensmile"]["hooks"]


@pytest.fixture(scope="module")
def measured(site: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A run with the extractors of all packages whose library is here, and the names of these packages."""
    folder = tmp_path_factory.mktemp("measured")
    packages = [name for name in ("ser-batch-template", "ser-batch-praat", "ser-batch-opensmile") if available(name)]
    sample = str(REPOSITORY / "data/samples/voices/low_slow.flac")
    chosen = [word for name in packages for word in ("--extractor", PACKAGES[name][0])]
    ser_batch(site, folder, "scan", sample, "-o", "run", "--jobs", "1", *chosen, plugins=",".join(packages))
    return folder / "run", packages


def test_columns_come_with_the_packages(measured: tuple[Path, list[str]]) -> None:
    run, packages = measured
    (row,) = pd.read_parquet(run / "files").to_dict("records")
    for extractor in (PACKAGES[name][0] for name in packages):
        columns = [name for name in row if name.startswith(f"{extractor}__")]
        assert len(columns) >= 3
        assert sum(pd.notna(row[name]) for name in columns) > len(columns) / 2


def test_the_template_adds_a_section_to_the_report_and_a_command(
    site: Path, measured: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = measured
    assert "<th>Share of pauses</th>" in (run / "report.html").read_text(encoding="utf-8")
    assert "low_slow.flac" in ser_batch(site, run.parent, "pauses", "run", plugins="ser-batch-template")
    assert "pauses" in ser_batch(site, run, "--help", plugins="ser-batch-template")
    assert main(["--help"]) == 0
    assert "pauses" not in capsys.readouterr().out


def test_a_scan_takes_the_model_of_a_package_by_its_name(site: Path, tmp_path: Path) -> None:
    sample = str(REPOSITORY / "data/samples/voices/low_slow.flac")
    arguments = ["scan", sample, "--no-report", "--jobs", "1", "--device", "cpu", "-o", "run", "--model", "ser6-large"]
    ser_batch(site, tmp_path, *arguments, plugins="ser-batch-whisper")
    (row,) = pd.read_parquet(tmp_path / "run/files").to_dict("records")
    assert row["status"] == "ok"
    assert row[f"p_{row['emotion']}"] == pytest.approx(row["confidence"])


def test_a_plugin_file_adds_a_section_to_the_report_of_its_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "section.py").write_text(
        "from ser_batch import hookimpl\n"
        "@hookimpl\n"
        "def report_sections(run_dir):\n"
        "    return [('Mine', f'<p>counted {len(list(run_dir.glob(\"files/*\")))} parts</p>')]\n"
    )
    sample = str(REPOSITORY / "data/samples/odd/twenty_milliseconds.wav")
    assert main(["features", sample, "-o", "run", "--plugin", "section.py", "--jobs", "1"]) == 0
    assert "<p>counted 1 parts</p>" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
