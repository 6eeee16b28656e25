"""Azure's and Google's stores as their emulators are: an archive read from there, a run written there.

`azurite-blob` is had by `npm install azurite`, `fake-gcs-server` from its makers. The latter lists and gives objects as
Google does, but takes them in its own way, so that no run can be written there.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import json
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pytest
from drivers import CONFIG, Driver, assert_same, make_archive, tables

from ser_batch import load_results
from ser_batch.cli.main import main
from ser_batch.config import Config
from ser_batch.engine import scan
from ser_batch.errors import InputError, RunError
from ser_batch.run.schema import TIMING_COLUMNS
from ser_batch.stages.discover import FileList
from ser_batch.storage import places

PLAIN = Config().with_values({"predict": {"model": ""}, "extract": {"extractors": ["quality"], "jobs": 1}})
#: What every Azurite knows.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
#: Of one object, no two scans, or no two places.
APART = ["modified", "etag", "segments_key", *TIMING_COLUMNS]


@contextmanager
def serving(*command: str) -> Iterator[int]:
    """Run a server; in its command ``{port}`` stands for the port."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not on the PATH")
    pytest.importorskip("obstore", reason='buckets need the extra: pip install "ser-batch[cloud]"')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [word.format(port=port) for word in command]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, f"{words[0]} does not begin"
                time.sleep(0.05)
        places._bucket.cache_clear()
        yield port
    finally:
        places._bucket.cache_clear()
        process.terminate()
        process.wait(30)


def _make_container(port: int, name: str) -> None:
    at = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    about = {"x-ms-date": at, "x-ms-version": "2021-08-06"}
    told = "\n".join(f"{key}:{value}" for key, value in about.items())
    text = "PUT" + 12 * "\n" + f"{told}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), text.encode(), hashlib.sha256)).decode()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    headers = {**about, "Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
    connection.request("PUT", f"/{ACCOUNT}/{name}?restype=container", headers=headers)
    assert connection.getresponse().status == 201
    connection.close()


@pytest.fixture(scope="module")
def azure() -> Iterator[None]:
    """A container `box`; the environment points to it."""
    options = ("--blobHost", "127.0.0.1", "--inMemoryPersistence", "--skipApiVersionCheck", "--silent")
    with serving("azurite-blob", "--blobPort", "{port}", *options) as port, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
        patch.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
        patch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{port}/{ACCOUNT}")
        _make_container(port, "box")
        yield


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    """A bucket `box`; the environment points to it."""
    options = ("-scheme", "http", "-host", "127.0.0.1", "-backend", "memory", "-public-host", "127.0.0.1:{port}")
    with serving("fake-gcs-server", "-port", "{port}", *options) as port, pytest.MonkeyPatch.context() as patch:
        url = f"http://127.0.0.1:{port}"
        account = {"gcs_base_url": url, "disable_oauth": True, "client_email": "", "private_key": ""}
        patch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", json.dumps(account | {"private_key_id": ""}))
        # The file of an account cannot say that its store does without TLS; that of any store says it for all.
        patch.setenv("AWS_ENDPOINT_URL", url)
        _post(f"{url}/storage/v1/b?project=tests", b'{"name": "box"}')
        yield url


def _post(url: str, data: bytes) -> None:
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(request, timeout=30):
        pass


def put_folder(folder: Path, url: str, prefix: str) -> None:
    from obstore import put  # noqa: PLC0415 - an extra

    bucket = places._bucket(*url.split("://"))
    for path in (path for path in folder.rglob("*") if path.is_file()):
        put(bucket._patient, f"{prefix}/{path.relative_to(folder).as_posix()}", path)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive") / "tapes", 5)


def rows(run: str | Path, table: Any) -> pd.DataFrame:
    frame = load_results(run, table)
    return frame.drop(columns=[name for name in APART if name in frame])


def is_read_as_from_a_disk(archive: Path, url: str, folder: Path) -> None:
    scan(url, folder / "run", config=PLAIN, report=False)
    scan(archive, folder / "disk", config=PLAIN, report=False)
    for table in ("files", "windows", "segments"):
        pd.testing.assert_frame_equal(rows(folder / "run", table), rows(folder / "disk", table))
    # Whether found by a listing or looked up one by one, it is the same version.
    found = load_results(folder / "run")
    assert found["etag"].str.fullmatch('"[^"]+"').all()
    listed = FileList(tuple(f"{url}/{name}" for name in found["clip_id"]), "-")
    assert scan(listed, folder / "run", config=PLAIN, report=False).n_processed == 0


def test_a_container_of_azure_is_read_as_a_folder_is(azure: None, archive: Path, tmp_path: Path) -> None:
    put_folder(archive, "az://box", "tapes")
    is_read_as_from_a_disk(archive, "az://box/tapes", tmp_path)
    with pytest.raises(InputError, match="there is no such bucket"):
        scan("az://other/tapes", tmp_path / "other", config=PLAIN, report=False)


def test_a_run_in_a_container_of_azure_survives_kills(azure: None, archive: Path, tmp_path: Path) -> None:
    driver = Driver()
    try:
        assert driver.scan(archive, str(tmp_path / "run"))["code"] == 1
        reference = tables(tmp_path / "run")
        for step in ("files-staged", "journal-appended", "windows-renamed"):
            answer = driver.scan(archive, "az://box/run", config=CONFIG, kill_at=[step, 1])
            assert answer["code"] == -signal.SIGKILL, (step, answer)
        assert driver.scan(archive, "az://box/run")["code"] == 1
        assert driver.scan(archive, "az://box/run")["n_processed"] == 0
    finally:
        driver.close()
    assert_same("az://box/run", reference)
    assert main(["verify", "az://box/run"]) == 0


def test_a_bucket_of_google_is_read_as_a_folder_is(google: str, archive: Path, tmp_path: Path) -> None:
    for path in (path for path in archive.rglob("*") if path.is_file()):
        name = quote(f"tapes/{path.relative_to(archive).as_posix()}", safe="")
        _post(f"{google}/upload/storage/v1/b/box/o?uploadType=media&name={name}", path.read_bytes())
    is_read_as_from_a_disk(archive, "gs://box/tapes", tmp_path)
    with pytest.raises(RunError, match=r"^gs://box/run cannot be used for a run: the store refuses \(400\)\.$"):
        scan(archive, "gs://box/run", config=PLAIN, report=False)
