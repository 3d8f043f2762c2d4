"""Runs a server until it is stopped."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

try:
    import uvicorn
except ImportError as error:
    raise ImportError('A server needs uvicorn: run `pip install "hf_lifelong[serve]"`.') from error

from .app import create_app
from .engine import Engine
from .limits import Limits
from .page import Teacher, mount

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]")
GRACE = 60  # seconds for the requests that are under way when the server is stopped


def serve(
    adapter: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    page: bool = True,
    teacher: Teacher | None = None,
    revision: str | None = None,
    load_in_4bit: bool = False,
) -> None:
    """Serves an adapter over HTTP until SIGINT or SIGTERM; requests under way are then answered first.

    Args:
        adapter (`str` or `Path`): A folder, or an id on the Hub.
        host (`str`): Address to listen on; by default only this machine can connect.
        port (`int`): Port; 0 for any that is free.
        limits ([`Limits`], *optional*): Limits of requests.
        page (`bool`): Whether there is a page at `/`.
        teacher ([`~serving.page.Teacher`], *optional*): Teaches and forgets tasks in the adapter's folder when the
            page is told to; without it, the page can do neither.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.
        load_in_4bit (`bool`): Whether the base is quantised to 4 bits.

    Raises:
        OSError: when the port cannot be listened on, or as [`Engine`].
        ValueError: as [`Engine`].
    """
    listening = listen(host, port)
    with listening:
        engine = Engine(adapter, limits, revision=revision, load_in_4bit=load_in_4bit)
        app = create_app(engine, LOOPBACK if host in LOOPBACK else None)
        inner = mount(app, engine, teacher) if page else None
        engine.watch()
        shown = f"[{host}]" if ":" in host else host
        print(
            f"Serving `{engine.served.name}` on http://{shown}:{listening.getsockname()[1]}",
            file=sys.stderr,
            flush=True,
        )
        make_server(app, inner).run([listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, opened before the adapter is loaded: a port that is taken is known at once.

    Raises:
        OSError: says which port.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(f"`port` {port} of {host} cannot be listened on ({error.strerror}); choose another.") from error


def make_server(app: Any, page: Any = None) -> uvicorn.Server:
    """A server of an application, and of the page that is mounted in it."""
    config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=GRACE)
    return _Server(config, page)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, page: Any) -> None:
        super().__init__(config)
        self.page = page

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.page is not None:
            self.page.stop_event.set()  # or its open connections would be waited for
        await super().shutdown(sockets)
