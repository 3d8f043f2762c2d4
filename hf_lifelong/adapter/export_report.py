"""The result of an export: the stock model that loads it, and its error."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .architectures import Positions


@dataclass(frozen=True)
class StockForm:
    """The stock model that loads an exported folder.

    Args:
        auto_class (`str`): Its `transformers` class.
        task_type (`str`, *optional*): Its task type in PEFT.
        prefix (`str`): Prefix of the base model's module names in it.
        head (`str`, *optional*): Name of its head that the exported head replaces; `None` if it has none.
        halves (`bool`): Whether that head reads the class token and the mean of the patches side by side.
        positions ([`Positions`], *optional*): What the positions of an image base's hidden states are.
    """

    auto_class: str
    task_type: str | None
    prefix: str = ""
    head: str | None = None
    halves: bool = False
    positions: Positions | None = None

    @property
    def is_bare(self) -> bool:
        """Whether it has no head, so that the exported one stands in a file of its own."""
        return self.auto_class == "AutoModel"


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and its error.

    Args:
        folder (`Path`): Where it was written.
        group (`str`): Name of the group.
        task (`str`): The group's newest task, which answers for it.
        kind (`str`): Objective of the task.
        labels (`tuple[str, ...]`): Label names in the order of the logits; a language model answers with their text.
        members (`tuple[int, ...]`): Members of the task that were merged.
        form (`StockForm`): The stock model that loads the folder.
        note (`str`): How to read the logits of that model.
        rank (`int`, *optional*): Rank of the LoRA; `None` if the folder is a whole model.
        error (`float`): Relative Frobenius error of the updates over all layers; 0 unless they were compressed.
        layer_errors (`dict[str, float]`): The same error for each layer of a LoRA.
        problems (`list[str]`): What keeps vLLM and LoRAX from serving the folder (`serving_problems`).
    """

    folder: Path
    group: str
    task: str
    kind: str
    labels: tuple[str, ...]
    members: tuple[int, ...]
    form: StockForm
    note: str
    rank: int | None = None
    error: float = 0.0
    layer_errors: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        exported = f"Task `{self.task}` (members {list(self.members)}) was exported to `{self.folder}`:"
        if self.rank is None:
            return f"{exported} a whole model, `{self.form.auto_class}`. {self.note}"
        worst = max(self.layer_errors.values())
        lines = [
            f"{exported} LoRA of rank {self.rank} in {len(self.layer_errors)} layers for `{self.form.auto_class}`. "
            f"{self.note}",
            f"Relative error of the updates: {self.error:.2e} over all layers, {worst:.2e} in the worst one.",
            *self.problems,
        ]
        return "\n".join(lines)
