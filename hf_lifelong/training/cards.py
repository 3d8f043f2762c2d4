"""What a trainer knows of an adapter for its model card, and where the card is written."""

from __future__ import annotations

import os
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME

from ..adapter import lifelong_of
from ..adapter.bank import drift_modules
from ..adapter.heads import active_config
from ..hub import CardFacts, TaskFacts, model_card
from .tasks import PreparedTask

if TYPE_CHECKING:
    from .trainer import DriftTrainer

CARD = "README.md"
SETTINGS = (
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate"),
    *("warmup_steps", "seed", "bf16", "fp16", "cyclic_learning_rate", "first_cycle", "gradient_noise", "input_noise"),
    *("drift_dropout", "start_from", "grouping", "grouping_tolerance", "signature_samples"),
)
PACKAGES = ("hf_lifelong", "torch", "transformers", "peft", "accelerate", "datasets")


def write_card(trainer: DriftTrainer, folder: str | os.PathLike[str], **given: Any) -> None:
    """Writes the model card into a saved adapter's folder; `given` are facts that only the user knows (`license`,
    `language`, `repo_id`)."""
    config = active_config(trainer.model).to_dict()
    card = model_card(trainer.knowledge, config, facts_of(trainer, Path(folder), **given))
    (Path(folder) / CARD).write_text(str(card), encoding="utf-8")


def facts_of(trainer: DriftTrainer, folder: Path, **given: Any) -> CardFacts:
    """What is known of an adapter beside its manifest; no times, because a resumed run writes the same card."""
    base = trainer.args.hub_base_model or active_config(trainer.model).base_model_name_or_path
    tensors = folder / SAFETENSORS_WEIGHTS_NAME
    known = {
        "repo_id": getattr(trainer, "hub_model_id", None) or trainer.args.hub_model_id,
        # A folder of this machine means nothing elsewhere.
        "base_model": None if base is None or Path(base).exists() else base,
        "tasks": {
            task.name: task_facts(trainer, trainer.prepared(task))
            for task in trainer.tasks
            if task.name in trainer.knowledge.names
        },
        "confusion": trainer.confusion,
        "training": {name: getattr(trainer.args, name) for name in SETTINGS},
        "command": command(sys.argv),
        "hardware": hardware(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "base_size": _bytes(p for n, p in trainer.model.named_parameters() if "drift_" not in n),
        "adapter_size": tensors.stat().st_size if tensors.exists() else None,
        "picture": (folder / "accuracy_matrix.png").exists(),
    }
    return CardFacts(**{**known, **{name: value for name, value in given.items() if value is not None}})


def task_facts(trainer: DriftTrainer, prepared: PreparedTask) -> TaskFacts:
    """What is known of a task's data, from what `datasets` noted when it was loaded."""
    info = prepared.task.train.info
    sources = " ".join(info.download_checksums or {})
    found = re.search(r"hf://datasets/([\w.-]+/[\w.-]+)@", sources)
    return TaskFacts(
        dataset=getattr(info, "dataset_name", None),
        dataset_id=found.group(1) if found else None,
        dataset_config=info.config_name if info.config_name != "default" else None,
        rows=len(prepared.train_examples),
        license=info.license or None,
        scored_on="validation" if prepared.task.test is None else "test",
        size=task_size(trainer, prepared.name),
    )


def task_size(trainer: DriftTrainer, name: str) -> int:
    """Bytes that a task takes in the adapter's file: members, heads and signature."""
    task = trainer.knowledge.tasks[trainer.knowledge.index(name)]
    root = lifelong_of(trainer.model)
    adapter = root.active_adapters[0]
    layers = [module for _, module in drift_modules(trainer.model) if module is not root]
    member = sum(getattr(m, part)[adapter].numel() for m in layers for part in ("drift_A", "drift_B"))
    head = task.width * (root.hidden_size + 1)
    signature = sum(tensor[0].numel() for tensor in vars(root.signature).values())
    return 4 * (task.members * (member + head) + signature)


def command(argv: list[str]) -> str | None:
    """The command line of a script; `None` in a notebook or a shell, whose own says nothing."""
    script = Path(argv[0]) if argv else Path()
    if script.suffix != ".py" or "ipykernel" in script.name:
        return None
    return f"python {shlex.join(argv)}"


def hardware() -> str:
    """The first GPU, or the number of CPU cores."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _bytes(parameters: Any) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
