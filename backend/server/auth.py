"""The gate in front of every route: Host, then token, then size, before a byte of the body is read.

A web page in the artist's browser can reach a loopback port. It cannot know the token; and with DNS rebinding, where
its own host name points at 127.0.0.1, the Host header gives it away. There is no CORS, so it could not read answers.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.contract.errors import Failure
from backend.contract.messages import to_json
from backend.server.settings import Settings

logger = logging.getLogger(__name__)

DRAIN_BYTES = 16 * 1024 * 1024
DRAIN_SECONDS = 2.0
"""What a refused sender may still send before its connection is closed: enough for honest mistakes."""


class HttpFailure(Exception):
    """A failure with the HTTP status that carries it."""

    def __init__(self, status: int, failure: Failure) -> None:
        super().__init__(failure.message)
        self.status = status
        self.failure = failure


class Gate:
    """ASGI middleware that answers 403 (Host), 401 (token) and 413 (size) itself."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._hosts = {f"{name}:{settings.port}".encode() for name in ("127.0.0.1", "localhost")}
        self._authorization = f"Bearer {settings.token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        problem = self._problem(scope)
        if problem is not None:
            await _answer(receive, send, problem)
            return
        await self._app(scope, _capped(receive, self._limit(scope)), send)

    def _problem(self, scope: Scope) -> HttpFailure | None:
        hosts = _header(scope, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return HttpFailure(403, Failure("bad_input", "This backend only answers this computer."))
        tokens = _header(scope, b"authorization")
        if len(tokens) != 1 or not hmac.compare_digest(tokens[0], self._authorization):
            return HttpFailure(401, Failure("bad_input", "The token is missing or wrong. Restart the backend."))
        lengths = _header(scope, b"content-length")
        if lengths and int(lengths[0]) > self._limit(scope):  # the HTTP parser lets only digits through
            return too_large(self._limit(scope))
        return None

    def _limit(self, scope: Scope) -> int:
        return self._settings.blob_limit if scope["path"].startswith("/blobs/") else self._settings.json_limit


def too_large(limit: int) -> HttpFailure:
    """The 413 for a body above `limit` bytes."""
    return HttpFailure(413, Failure("bad_input", f"This is larger than {limit} bytes. Send something smaller."))


def error_body(failure: Failure) -> bytes:
    """The body of every error answer: {"error": Failure}."""
    return json.dumps({"error": to_json(failure)}).encode()


def _capped(receive: Receive, limit: int) -> Receive:
    """`receive` that raises the 413 once more than `limit` bytes came (chunked bodies announce no length)."""
    taken = 0

    async def receive_capped() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            if message.get("more_body", False):
                await drain(receive)
            raise too_large(limit)
        return message

    return receive_capped


def _header(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


async def drain(receive: Receive) -> None:
    """Drop the rest of a body, within bounds: closing on unread bytes resets the connection, and the answer is lost."""

    async def drop() -> None:
        left = DRAIN_BYTES
        while left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            if not message.get("more_body", False):
                return

    try:
        await asyncio.wait_for(drop(), DRAIN_SECONDS)
    except TimeoutError:
        logger.info("a refused sender did not finish")


async def _answer(receive: Receive, send: Send, problem: HttpFailure) -> None:
    """Answer at once, then let the sender finish; the connection carries no further request."""
    body = error_body(problem.failure)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
               (b"connection", b"close")]  # fmt: skip
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    await drain(receive)
    await send({"type": "http.response.body", "body": b""})
