"""Made once for all reliability tests; nobody may change any of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import SHORTER, Scanner, assert_sound, make_corpus, results
from repository import REPOSITORY

from ser_batch.run.layout import TABLES


@pytest.fixture(scope="session")
def scanner():
    process = Scanner()
    yield process
    process.close()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def reference(scanner: Scanner, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed run."""
    run = tmp_path_factory.mktemp("reference") / "run"
    answer = scanner.scan(corpus, run)
    assert answer["code"] == 1, answer
    assert_sound(run)
    # All tables, and what is heard in segments, take part in what is compared with this run.
    for table in TABLES:
        assert len(results(run, table)), table
    assert results(run, "segments")["embeddings"].notna().any()
    return run


@pytest.fixture(scope="session")
def shorter(scanner: Scanner, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a new run with shorter windows comes to."""
    run = tmp_path_factory.mktemp("shorter") / "run"
    assert scanner.scan(corpus, run, config=SHORTER)["code"] == 1
    return run


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    """Two recordings of the samples; these may be changed."""
    folder = tmp_path / "audio"
    folder.mkdir()
    for name in ("low_slow", "high_fast"):
        shutil.copy(next((REPOSITORY / "data/samples/voices").glob(f"{name}.*")), folder)
    return folder
