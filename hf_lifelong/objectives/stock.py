"""How an exported task is run without this package: the stock model, and the code of its README."""

from __future__ import annotations

from dataclasses import dataclass

TEXTS = """\
batch = tokenizer(["A short text.", "Another text, a bit longer."], padding=True, return_tensors="pt")
"""
MEAN_OF_TOKENS = """\
mask = batch["attention_mask"].unsqueeze(-1)
logits = (logits * mask).sum(1) / mask.sum(1)
"""
"""Logits `[N, T, W]` of tokens → `[N, W]` of texts. This gives what a linear head on the mean of all tokens would,
because mean and linear layer commute; no stock head for whole texts reads that mean."""


@dataclass(frozen=True)
class StockUse:
    """The stock model that can hold a task's head, and Python code that runs it.

    Args:
        batch (`str`): Code that makes `batch` with `tokenizer` or `image_processor`.
        answers (`str`): Code that prints answers, from `logits` (`[N, T, W]` where there is a head), `batch`,
            `tokenizer`, `model` and `id2label`, the task's label names.
        auto_class (`str`): The `transformers` class of the stock model.
        mapping (`str`): Name of the mapping in `transformers` from configurations to models of that class.
        task_type (`str`, *optional*): PEFT's name for what it does.
        logits (`str`): Code that makes `logits` with that model.
        imports (`str`): Code that imports what `batch` needs.
        unwrapped (`bool`): Whether the model is called without PEFT's wrapper.
        note (`str`): How it is called.
        reading (`str`): How logits of tokens are read; shown even where no stock model has a head that fits.
    """

    batch: str
    answers: str
    auto_class: str = "AutoModelForTokenClassification"
    mapping: str = "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING"
    task_type: str | None = "TOKEN_CLS"
    logits: str = "logits = model(**batch).logits\n"
    imports: str = ""
    unwrapped: bool = False
    note: str = "It classifies tokens: one row of logits per token."
    reading: str = ""
