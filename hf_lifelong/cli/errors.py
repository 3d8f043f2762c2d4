"""Errors of the library in the words of the command line."""

from __future__ import annotations

import re
from typing import Any

_ARGUMENT = re.compile(r"`?\b(\w+)=(True|\"[^\"]*\"|\{[^}]*\})`?")


def as_options(message: str, command: Any = None) -> str:
    """An error message with Python's arguments as options: `abstain=True` becomes `--abstain`. Arguments that the
    command has not stay as they are.

    Args:
        message (`str`): The message.
        command (`click.Command`, *optional*): The command that failed; `learn` parses its own arguments, and takes
            them as `key: value` of a file too.
    """
    options = {parameter.name: parameter.opts[0] for parameter in getattr(command, "params", ())}

    def option(found: re.Match[str]) -> str:
        name, value = found[1], found[2].strip('"')
        if getattr(command, "name", None) == "learn":
            return f"`{name}: {value.replace(chr(39), '')}`" if value.startswith("{") else f"`--{name} {value}`"
        if name not in options:
            return found[0]
        return f"`{options[name]}`" if value == "True" else f"`{options[name]} {value}`"

    return _ARGUMENT.sub(option, message)
