"""Parses the arguments of `hf-lifelong learn`: a settings file, one-line errors, and a help that can be read."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..compat import string_to_bool
from ..training import DriftTrainingArguments
from ..utils.texts import suggestion

EVERYTHING = "--help-all"
# Transformers' training arguments that `--help` shows beside our own; `--help-all` shows every one.
COMMON = (
    "output_dir",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "per_device_train_batch_size",
    "per_device_eval_batch_size",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "seed",
    "use_cpu",
    "bf16",
    "save_strategy",
    "report_to",
    "resume_from_checkpoint",
    "push_to_hub",
    "hub_model_id",
    "hub_private_repo",
    "disable_tqdm",
)


def rank(text: str) -> int | str:
    """`r` of a `DriftAdapterConfig`, which checks it, from the command line."""
    return int(text) if text.removeprefix("-").isdecimal() else text


# Names of argument types in `--help`.
KINDS = {int: "INTEGER", float: "NUMBER", string_to_bool: "TRUE|FALSE", rank: "INTEGER|full"}


def read_yaml(text: str, where: str) -> Any:
    """Reads YAML or JSON; anything else raises `ValueError`."""
    try:
        return yaml.safe_load(text)
    except RecursionError as error:
        raise ValueError(f"`{where}` is YAML that nests too deeply.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"`{where}` is not YAML: {' '.join(str(error).split())}") from error


class Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each argument under one name, with the type of its value, and its default unless that is `None`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        choices = list(action.choices or [])
        kind: Any = action.type
        value = action.metavar or "|".join(map(str, choices if len(choices) < 5 else [])) or KINDS.get(kind, "TEXT")
        return action.option_strings[-1 if action.nargs == 0 else 0] + ("" if action.nargs == 0 else f" {value}")

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


class Brief(Formatter):
    """Leaves most arguments out that are transformers' own."""

    left_out = TrainingArguments.__dataclass_fields__.keys() - {*DriftTrainingArguments.__annotations__, *COMMON}

    def add_argument(self, action: argparse.Action) -> None:
        if action.dest not in self.left_out:
            super().add_argument(action)


class Parser(HfArgumentParser):
    """An `HfArgumentParser` with a settings file and one-line errors."""

    @property
    def names(self) -> list[str]:
        return [f.name for cls in self.dataclass_types for f in fields(cls) if f.init]

    def error(self, message: str) -> Any:
        self.exit(2, f"Error: {message} (`{self.prog} --help` lists the arguments)\n")

    @staticmethod
    def file_of(argv: Sequence[str]) -> str | None:
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        first.add_argument("--config")
        return first.parse_known_args(argv)[0].config

    def read(self, path: str) -> list[str]:
        """Returns the settings of a file as an equivalent command line. Settings that have none, such as lists, are
        set as defaults."""
        try:
            loaded = read_yaml(Path(path).read_text(encoding="utf-8"), path) or {}
        except (OSError, ValueError) as error:
            self.error(f"--config: {error}")
        if not isinstance(loaded, dict):
            self.error(f"--config: `{path}` must hold `key: value` lines, not a {type(loaded).__name__}")
        hints = {name: str(hint) for cls in self.dataclass_types for name, hint in get_type_hints(cls).items()}
        line = []
        for name, value in loaded.items():
            if name not in self.names:
                self.error(f"--config: `{path}` has the unknown key `{name}`{suggestion(name, self.names)}")
            if isinstance(value, list | dict) and not any(many in hints[name] for many in ("list", "dict")):
                self.error(f"--config: `{name}` is {value!r:.100}, but takes one value")
            if value is None or isinstance(value, list | dict):
                self.set_defaults(**{name: value})
            else:
                line.append(f"--{name}={value}")
        return line
