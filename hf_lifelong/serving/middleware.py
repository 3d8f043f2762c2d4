"""What surrounds every request, the page's too: a limit on its size, and a count."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from .limits import Limits, RequestError
from .metrics import Metrics
from .openai import error_of

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class BodyLimit:
    """Refuses a request that is too large: before it is read if it says so, else as soon as it is.

    Args:
        app: The application inside.
        limits ([`Limits`]): The server's limits.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        size, started = 0, False

        async def counted() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            self.limits.check_body(size)
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            stated = dict(scope["headers"]).get(b"content-length", b"0")
            self.limits.check_body(int(stated) if stated.isdigit() else 0)
            await self.app(scope, counted, noted)
        except RequestError as error:
            if started:
                raise
            await _refuse(send, error)


class Measured:
    """Counts requests and measures their time.

    Args:
        app: The application inside.
        metrics ([`Metrics`]): Where they are counted.
        paths: Paths that are counted under their own name.
    """

    def __init__(self, app: App, metrics: Metrics, paths: Collection[str]) -> None:
        self.app, self.metrics, self.paths = app, metrics, frozenset(paths)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"
        status, start = 500, time.perf_counter()

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            self.metrics.requests.labels(path, status).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - start)


async def _refuse(send: Send, error: RequestError) -> None:
    body = json.dumps(error_of(error.status, error.message)).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
