"""Writes the folder of an adapter that a command has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import PeftModel

from ..adapter import active_config, knowledge_of
from ..hub import CARD, TENSORS, CardFacts, model_card, public_base, task_sizes


def check_new(folder: Path) -> None:
    """Refuses a folder that has files (`ValueError`)."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ValueError(f"`target` is {str(folder)!r}, which exists and is not an empty folder; give a new one.")


def write_adapter(model: PeftModel, processor: Any, folder: Path) -> None:
    """Writes adapter, tokenizer or image processor, and a new card."""
    model.save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    config, knowledge, tensors = active_config(model), knowledge_of(model), folder / TENSORS
    facts = CardFacts(
        base_model=public_base(config.base_model_name_or_path),
        adapter_size=tensors.stat().st_size,
        task_sizes=task_sizes(tensors, knowledge),
    )
    (folder / CARD).write_text(str(model_card(knowledge, config.to_dict(), facts)), encoding="utf-8")
