"""Made once for all reliability tests; nobody may change any of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import Scanner, assert_sound, make_corpus


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
    return run
