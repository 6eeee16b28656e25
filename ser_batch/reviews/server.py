"""The page of a review on 127.0.0.1: for one person, on this machine, with a token in its address.

Nothing is served but the page and what `Session` and `Excerpts` give of a question by its number: no request names a
path. Every request needs the token, the host and, where it changes something, the origin of the page itself, so that no
other page in the browser can answer or listen.
"""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ser_batch.errors import InputError, SerBatchError
from ser_batch.kinds import read_json
from ser_batch.reviews.excerpts import Excerpts
from ser_batch.reviews.session import Session
from ser_batch.text import printable

__all__ = ["HOST", "application", "listening", "serve"]

HOST = "127.0.0.1"

_PAGE = {
    "": ("index.html", "text/html"),
    "review.js": ("review.js", "text/javascript"),
    "review.css": ("review.css", "text/css"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self'; media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_LARGEST_BODY_BYTES = 20_000

_Endpoint = Callable[[Request], Awaitable[Response]]


def listening(port: int) -> socket.socket:
    """Return a socket that listens on a port of this machine alone; 0 takes any that is free.

    Raises
    ------
    InputError
        The port is in use or may not be used.
    """
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise InputError(f"Port {port} {reason}. Give another by --port, or 0 for any that is free.") from None


def new_token() -> str:
    """Return what nobody can guess."""
    return secrets.token_urlsafe(16)


def application(session: Session, excerpts: Excerpts, token: str, port: int) -> Starlette:
    """Return the application of one visit; it answers requests to `port` with `token` alone."""
    hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    def guarded(endpoint: Callable[[Request], Response], changes: bool = False) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            host, origin = request.headers.get("host", ""), request.headers.get("origin")
            if host not in hosts:
                return _refused(421, "This page is for this machine alone.")
            if not secrets.compare_digest(request.path_params["token"].encode(), token.encode()):
                return _refused(404, "There is nothing here. Take the whole address that `ser-batch review` shows.")
            if origin != f"http://{host}" and (changes or origin is not None):
                return _refused(403, "Another page may not ask for this.")
            try:
                response = endpoint(request)
            except SerBatchError as error:
                return _refused(422, printable(str(error)))
            response.headers.update(_HEADERS)
            return response

        return answer

    def page(request: Request) -> Response:
        name = request.path_params.get("file", "")
        if name not in _PAGE:
            return _refused(404, "There is nothing here.")
        file, kind = _PAGE[name]
        return Response(resources.files("ser_batch.reviews").joinpath("page", file).read_bytes(), media_type=kind)

    def state(_: Request) -> Response:
        return JSONResponse(session.state())

    def sound(request: Request) -> Response:
        task = session.task(request.path_params["number"])
        if task is None:
            return _refused(404, "There is no such clip in this review.")
        return Response(excerpts.wav(task.unit), media_type="audio/wav")

    def picture(request: Request) -> Response:
        task = session.task(request.path_params["number"])
        if task is None:
            return _refused(404, "There is no such clip in this review.")
        return JSONResponse(excerpts.picture(task.unit))

    def undo(_: Request) -> Response:
        return JSONResponse(session.undo())

    def answer(request: Request) -> Response:
        values = request.scope["ser_batch.body"]
        number, given, time_s, note = (values.get(name) for name in ("number", "answer", "time_s", "note"))
        kinds = ((number, int), (given, str), (time_s, int | float), (note, str))
        if not all(isinstance(value, kind) and not isinstance(value, bool) for value, kind in kinds):
            return _refused(400, "An answer holds number, answer, time_s and note.")
        return JSONResponse(session.answer(number, given, float(time_s), note))

    def skip(request: Request) -> Response:
        number = request.scope["ser_batch.body"].get("number")
        return JSONResponse(session.skip(number if isinstance(number, int) else -1))

    def with_body(endpoint: Callable[[Request], Response]) -> _Endpoint:
        """Read the body first: what comes after works in a thread."""

        async def read(request: Request) -> Response:
            from starlette.concurrency import run_in_threadpool  # noqa: PLC0415

            body = b""
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LARGEST_BODY_BYTES:
                    return _refused(413, "That is too long.")
            try:
                values: Any = read_json(body or b"{}")
            except ValueError:
                values = None
            if not isinstance(values, dict):
                return _refused(400, "That is no JSON object.")
            request.scope["ser_batch.body"] = values
            return await run_in_threadpool(guarded(endpoint, changes=True), request)

        return read

    return Starlette(
        routes=[
            Route("/{token}/", guarded(page)),
            Route("/{token}/state", guarded(state)),
            Route("/{token}/sound/{number:int}", guarded(sound)),
            Route("/{token}/picture/{number:int}", guarded(picture)),
            Route("/{token}/answer", with_body(answer), methods=["POST"]),
            Route("/{token}/skip", with_body(skip), methods=["POST"]),
            Route("/{token}/undo", with_body(undo), methods=["POST"]),
            Route("/{token}/{file}", guarded(page)),
        ]
    )


def _refused(status: int, text: str) -> Response:
    return JSONResponse({"problem": text}, status_code=status, headers=_HEADERS)


def serve(app: Starlette, listener: socket.socket) -> None:
    """Answer requests until a signal ends it."""
    import uvicorn  # noqa: PLC0415 - of the extra "review"

    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2)
    uvicorn.Server(config).run(sockets=[listener])
