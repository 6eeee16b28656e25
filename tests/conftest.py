"""Fixtures that all tests share."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from repository import REPOSITORY


@pytest.fixture(scope="session")
def corpora_dir() -> Path:
    """The real corpora: $SER_CORPORA, or ../shared/corpora beside the repository. Skips where they are absent."""
    folder = Path(os.environ.get("SER_CORPORA", REPOSITORY.parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip("the real corpora are not here; set SER_CORPORA to their folder")
    return folder


#: Without these, Chromium calls its maker at every start.
_QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required", "--mute-audio",
)  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser. Skips where there is none, or nothing to drive it by."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(_QUIET))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def no_pictures() -> Iterator[None]:
    """Train as where matplotlib is not installed: ten pictures take as long as all else of a training here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _without_installed_plugins() -> Iterator[None]:
    """What this machine has installed besides has no say, unless a test asks for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SER_BATCH_PLUGINS", "")
        yield


@pytest.fixture(scope="session", autouse=True)
def _heed_ctrl_c() -> None:
    """Tests of Ctrl-C hold in the background, too, where shells let programs ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
