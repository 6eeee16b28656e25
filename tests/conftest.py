"""Fixtures that all tests share."""

from __future__ import annotations

import os
import signal
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


@pytest.fixture(scope="session", autouse=True)
def _heed_ctrl_c() -> None:
    """Tests of Ctrl-C hold in the background, too, where shells let programs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
