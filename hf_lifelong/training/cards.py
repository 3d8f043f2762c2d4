"""Collects what a trainer knows about an adapter for its model card, and writes the card."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch

from ..adapter import active_config
from ..hub import CARD, PICTURE, TENSORS, CardFacts, model_card, public, public_base, task_sizes
from ..knowledge import KnowledgeBase
from .arguments import DriftTrainingArguments

SETTINGS = (
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("warmup_steps", "seed", "bf16", "fp16", "cyclic_learning_rate", "first_cycle", "gradient_noise", "input_noise"),
    *("drift_dropout", "start_from", "grouping", "grouping_tolerance", "signature_samples"),
    *("fairness", "fairness_weight"),
)
PACKAGES = ("hf_lifelong", "torch", "transformers", "peft", "accelerate", "datasets")


class CardTrainer(Protocol):
    """The attributes of a trainer that a card reports; [`DriftTrainer`] has them.

    Attributes:
        args ([`DriftTrainingArguments`]): How the tasks of the session were learned.
        session (`list[str]`): Names of the tasks that were learned with these arguments.
        model (`nn.Module`): The model with the lifelong adapter.
        knowledge ([`KnowledgeBase`]): What it has learned.
        output_dir (`str`): Where the adapter is written.
    """

    args: DriftTrainingArguments
    session: list[str]

    @property
    def model(self) -> torch.nn.Module: ...

    @property
    def knowledge(self) -> KnowledgeBase: ...

    @property
    def output_dir(self) -> str: ...


def write_card(trainer: CardTrainer, folder: str | os.PathLike[str], **user_facts: Any) -> None:
    """Writes the model card into a saved adapter's folder. `user_facts` are facts that only the user knows (`license`,
    `language`)."""
    config = active_config(trainer.model).to_dict()
    card = model_card(trainer.knowledge, config, facts_of(trainer, Path(folder), **user_facts))
    (Path(folder) / CARD).write_text(str(card), encoding="utf-8")


def adapter_record(trainer: CardTrainer, **user_facts: Any) -> dict[str, Any]:
    """The record of an adapter from which its card can be rendered again without the model.

    Args:
        user_facts: Facts that the trainer does not know, such as `base_model` or `seconds`; see [`CardFacts`].

    Returns:
        `dict` for JSON: `config` (`DriftAdapterConfig.to_dict` with the manifest) and `facts` (`CardFacts.to_dict`).
        It contains no paths of the machine.
    """
    facts = facts_of(trainer, Path(trainer.output_dir), **user_facts)
    config = active_config(trainer.model).to_dict() | {"base_model_name_or_path": facts.base_model}
    return {"config": config, "facts": facts.to_dict()}


def facts_of(trainer: CardTrainer, folder: Path, **user_facts: Any) -> CardFacts:
    """Facts about an adapter beyond its manifest. Times are left out, because a resumed run must write the same
    card."""
    base = trainer.args.hub_base_model or active_config(trainer.model).base_model_name_or_path
    tensors = folder / TENSORS
    facts = {
        "repo_id": getattr(trainer, "hub_model_id", None) or trainer.args.hub_model_id,
        "base_model": public_base(base),
        "base_size": _bytes(p for n, p in trainer.model.named_parameters() if "drift_" not in n),
        "adapter_size": tensors.stat().st_size if tensors.exists() else None,
        "task_sizes": task_sizes(tensors, trainer.knowledge) if tensors.exists() else {},
        "picture": (folder / PICTURE).exists(),
        **session_of(trainer),
    }
    return CardFacts(**{**facts, **{name: value for name, value in user_facts.items() if value is not None}})


def session_of(trainer: CardTrainer) -> dict[str, Any]:
    """How this trainer learned its tasks; empty if it has learned none of the adapter's tasks."""
    learned = [name for name in trainer.session if name in trainer.knowledge.names]
    if not learned:
        return {}
    overruled = ["num_train_epochs" if trainer.args.max_steps > 0 else "max_steps"]
    overruled += ["fairness", "fairness_weight"] if trainer.args.fairness is None else []
    return {
        "session": learned,
        "training": {name: getattr(trainer.args, name) for name in SETTINGS if name not in overruled},
        "command": command(sys.argv),
        "hardware": hardware(),
        "versions": {name: installed for name in PACKAGES if (installed := _version(name))},
    }


def command(argv: list[str]) -> str | None:
    """The command line of a script or of `hf-lifelong`, without folders and tokens; `None` in a notebook or a shell,
    where `argv` does not say what was run."""
    script = Path(argv[0]) if argv else Path()
    if script.stem == "hf-lifelong":
        return public(shlex.join(["hf-lifelong", *argv[1:]]))
    if script.name == "__main__.py":
        return public(shlex.join(["python", "-m", script.parent.name, *argv[1:]]))
    if script.suffix != ".py" or "ipykernel" in script.name:
        return None
    return public(shlex.join(["python", *argv]))


def hardware() -> str:
    """The first GPU, or the number of CPU cores."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _bytes(parameters: Iterable[torch.Tensor]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
