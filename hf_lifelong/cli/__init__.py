"""The `hf-lifelong` command. Its subcommands are implemented in separate modules that programs can call too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..utils.lazy import lazily

if TYPE_CHECKING:
    from .learning import base_dtype, learn, parse, use_all_cores

__all__ = ["base_dtype", "learn", "main", "parse", "use_all_cores"]

__getattr__ = lazily(__name__, dict.fromkeys(("base_dtype", "learn", "parse", "use_all_cores"), ".learning"))


def main() -> None:
    """Runs the command."""
    from .app import main as run  # imported here because it takes a second

    run()
