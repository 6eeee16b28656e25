"""A real S3 server on this machine, moto's, and something in front of it that fails as stores and networks do."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit

import pytest

#: Must be found nowhere but in the environment.
ACCESS_KEY, SECRET_KEY = "AKIAOFTHETESTS", "secret-of-the-tests"


class Front(ThreadingHTTPServer):
    """Passes requests on to a server, unless it is told to answer by itself."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = behind
        #: (method, path with query) of all requests.
        self.seen: list[tuple[str, str]] = []
        self.behave()

    def behave(self) -> None:
        """Pass on all that comes."""
        #: Method and path -> a status to answer with, or None to pass the request on.
        self.answer: Callable[[str, str], int | None] = lambda method, path: None
        #: Method and path of a request that was passed on -> a status to answer with in place of the true one; 0 for no
        #: answer at all.
        self.then: Callable[[str, str], int | None] = lambda method, path: None
        #: Whether the store knows nothing of If-Match and If-None-Match.
        self.ignores_conditions = False

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients of these tests are killed while they wait."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Front

    def _pass_on(self) -> None:
        self.server.seen.append((self.command, self.path))
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        status = self.server.answer(self.command, path)
        headers, body = {}, b""
        if status is None:
            left_out = {"host", *(("if-match", "if-none-match") if self.server.ignores_conditions else ())}
            given = {name: value for name, value in self.headers.items() if name.lower() not in left_out}
            if self.command == "PUT":
                given.setdefault("Content-Type", "application/octet-stream")
            sent = data if self.command == "PUT" else data or None
            request = urllib.request.Request(self.server.behind + self.path, sent, given, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    status, headers, body = answer.status, dict(answer.headers), answer.read()
            except HTTPError as error:
                status, headers, body = error.code, dict(error.headers), error.read()
            instead = self.server.then(self.command, path)
            if instead == 0:
                self.close_connection = True
                return
            if instead is not None:
                status, headers, body = instead, {}, b""
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("connection", "content-length", "date", "server", "transfer-encoding"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, format: str, *args: object) -> None:
        pass


class Store:
    """One bucket of the server, as its owner sees it."""

    def __init__(self, front: Front, bucket: str) -> None:
        self.front, self.bucket, self.url = front, bucket, f"s3://{bucket}"
        self._request("PUT", "")

    def _request(self, method: str, key: str, data: bytes | None = None) -> None:
        url = f"{self.front.behind}/{self.bucket}/{quote(key)}"
        # A server of tests does not look at the signature, but at whose it is.
        headers = {"Content-Type": "application/octet-stream", "Authorization": f"AWS {ACCESS_KEY}:signature"}
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30):
            pass

    def put(self, key: str, data: bytes) -> None:
        self._request("PUT", key, data)

    def delete(self, key: str) -> None:
        self._request("DELETE", key)

    def objects(self) -> dict[str, bytes]:
        """Return all objects."""
        url = f"{self.front.behind}/{self.bucket}?list-type=2"
        headers = {"Authorization": f"AWS {ACCESS_KEY}:signature"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            names = re.findall(r"<Key>(.*?)</Key>", answer.read().decode())
        return {name: self.get(name) for name in names}

    def get(self, key: str) -> bytes:
        url = f"{self.front.behind}/{self.bucket}/{quote(key)}"
        headers = {"Authorization": f"AWS {ACCESS_KEY}:signature"}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            data: bytes = answer.read()
        return data

    def put_folder(self, folder: Path, prefix: str) -> None:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())


@contextmanager
def s3_server(log: Path) -> Iterator[Front]:
    """Run the server; the environment points to it."""
    with log.open("wb") as output:
        command = [sys.executable, "-c", _SERVE]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, text=True)
        front = None
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            front = Front(f"http://127.0.0.1:{port}")
            Thread(target=front.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("AWS_ENDPOINT_URL", front.url)
                environment.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
                environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
                environment.setenv("AWS_REGION", "us-east-1")
                yield front
        finally:
            if front is not None:
                front.shutdown()
                front.server_close()
            process.terminate()
            process.wait(10)
            process.stdout.close()


#: Says its port, and ends with whoever started it.
_SERVE = """
import os, threading, time
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.server_port, flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(0.2)
"""


def wait_until(is_so: Callable[[], bool], within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
