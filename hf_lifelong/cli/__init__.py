"""The `hf-lifelong` command. What its subcommands do is in modules of their own, for programs to call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazily

if TYPE_CHECKING:
    from .learning import base_dtype, learn, parse, use_all_cores

__all__ = ["base_dtype", "learn", "main", "parse", "use_all_cores"]

__getattr__ = lazily(__name__, dict.fromkeys(("base_dtype", "learn", "parse", "use_all_cores"), ".learning"))


def main() -> None:
    """Runs the command."""
    from .app import main as run  # whose imports take a second

    run()
