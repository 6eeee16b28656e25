"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from repository import REPOSITORY


@pytest.fixture(scope="session")
def corpora_dir() -> Path:
    """The real corpora: $SER_CORPORA, or ../shared/corpora beside the repository. Skips where they are absent."""
    folder = Path(os.environ.get("SER_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip("the real corpora are not here; set SER_CORPORA to their folder")
    return folder
