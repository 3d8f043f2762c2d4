"""The `hf-lifelong` command. What its subcommands do is in modules of their own, for programs to call."""

from __future__ import annotations


def main() -> None:
    """Runs the command."""
    from .app import main as run  # whose imports take a second

    run()
