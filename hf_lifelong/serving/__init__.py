"""An HTTP server for one adapter: answers with their tasks, OpenAI's completions for language models, and a page.

It needs the extra `serve`; without it, only the import of a name fails.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazily

__all__ = ["Engine", "Limits", "create_app", "listen", "make_server", "serve"]

if TYPE_CHECKING:
    from .app import create_app
    from .engine import Engine
    from .limits import Limits
    from .server import listen, make_server, serve

__getattr__ = lazily(
    __name__,
    {
        "Engine": ".engine",
        "Limits": ".limits",
        "create_app": ".app",
        "listen": ".server",
        "make_server": ".server",
        "serve": ".server",
    },
)
