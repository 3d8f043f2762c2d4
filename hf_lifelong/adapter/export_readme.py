"""The README of an exported folder: what it is, and the code that loads it and answers without this package."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .export import ExportReport, StockForm

HEAD_FILE = "head.safetensors"

_CODE = """\
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import {auto_class}, AutoTokenizer

torch.set_grad_enabled(False)
base, folder = {base!r}, "."  # this folder
tokenizer = AutoTokenizer.from_pretrained(base)
model = {auto_class}.from_pretrained(base{options})
model = PeftModel.from_pretrained(model, folder).eval()
"""
_UNWRAP = "model = model.get_base_model()  # with the LoRA; PEFT's own wrapper for questions drops `token_type_ids`\n"
_TEXTS = """\
batch = tokenizer(["A short text.", "Another text, a bit longer."], padding=True, return_tensors="pt")
"""
_PROMPT = 'batch = tokenizer("Once upon a time", return_tensors="pt")\n'
_PAIRS = """\
questions = ["Who wrote it?", "When was it?"]
contexts = ["Ada Lovelace wrote it.", "It was in the summer of 1843, they say."]
batch = tokenizer(questions, contexts, padding=True, return_tensors="pt")
"""
_LOGITS = "logits = model(**batch).logits\n"
_SPAN_LOGITS = """\
output = model(**batch)
logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
"""
_HEAD_LOGITS = f"""\
head = load_file(f"{{folder}}/{HEAD_FILE}")
logits = torch.nn.functional.linear(model(**batch).last_hidden_state, head["weight"], head["bias"])
"""
_ANSWERS = {
    "text-classification": """\
mask = batch["attention_mask"].unsqueeze(-1)
logits = (logits * mask).sum(1) / mask.sum(1)
print([id2label[i] for i in logits.argmax(-1).tolist()])
""",
    "token-classification": """\
print([[id2label[i] for i in row] for row in logits.argmax(-1).tolist()])
""",
    "question-answering": """\
for tokens, (first, last) in zip(batch["input_ids"], logits.argmax(1).tolist()):
    print(tokenizer.decode(tokens[first : last + 1]))
""",
    "text-generation": """\
print(tokenizer.batch_decode(model.generate(**batch, max_new_tokens=32), skip_special_tokens=True))
""",
}


def reading_note(form: StockForm, kind: str) -> str:
    """How the logits of the stock model are read."""
    mean = (
        " Averaged over the attention mask they are the logits of the text, as the members see it; the closed-form "
        "head, which counts beside them in `hf_lifelong`, is no part of a LoRA."
        if kind == "text-classification"
        else ""
    )
    if form.task_type == "FEATURE_EXTRACTION":
        return (
            f"The linear layer in `{HEAD_FILE}` turns its last hidden states into one row of logits per token.{mean}"
        )
    if mean:
        return f"It classifies tokens: one row of logits per token.{mean}"
    if form.task_type == "QUESTION_ANS":
        return "Ask what `PeftModel.get_base_model()` gives: PEFT's own wrapper for questions drops `token_type_ids`."
    if form.task_type == "CAUSAL_LM":
        return (
            "It is asked as in training: in a user's turn of the tokenizer's chat template, else with the bare prompt."
        )
    return "Its logits are the task's."


def _code(report: ExportReport, base: str, dtype: str | None) -> str:
    """Python that loads the folder and answers; it leaves `batch` and `logits`."""
    form, kind = report.form, report.kind
    options = f', dtype="{dtype}"' if dtype else ""
    options += f", num_labels={len(report.labels)}" if form.head else ""
    code = _CODE.format(auto_class=form.auto_class, base=base, options=options)
    logits = {"FEATURE_EXTRACTION": _HEAD_LOGITS, "QUESTION_ANS": _SPAN_LOGITS}.get(form.task_type, _LOGITS)
    if form.task_type != "FEATURE_EXTRACTION":
        code = code.replace("from safetensors.torch import load_file\n", "")
    if form.task_type == "QUESTION_ANS":
        code += _UNWRAP
    if kind in ("text-classification", "token-classification"):
        code += f"id2label = {dict(enumerate(report.labels))!r}\n"
    inputs = {"question-answering": _PAIRS, "text-generation": _PROMPT}.get(kind, _TEXTS)
    return "".join([code, "\n", inputs, logits, _ANSWERS[kind]])


def write_readme(report: ExportReport, base: str | None, dtype: str | None) -> str:
    """The text of the README.

    Args:
        base (`str`, *optional*): Name of the base model.
        dtype (`str`, *optional*): The one that the adapter was trained on.
    """
    which = f"member {report.members[0]}" if len(report.members) == 1 else f"the mean of {len(report.members)} members"
    labels = [f"- Labels: `id2label = {dict(enumerate(report.labels))!r}`"] if report.labels else []
    lines = [
        f"# {report.task}",
        "",
        f"A PEFT LoRA adapter for {report.kind}, exported from a lifelong adapter: {which} of the task "
        f"`{report.task}` (group `{report.group}`). It needs `peft` and `transformers`, not `hf_lifelong`.",
        "",
        f"- Base model: `{base}`",
        f"- Model class: `{report.form.auto_class}`. {report.note}",
        *labels,
        f"- Rank: {report.rank}; relative error of the updates: {report.error:.2e}",
        "- Licence: none is chosen here; whoever publishes the adapter does, as the licence of the base model allows.",
        *(f"- Serving: {problem}" for problem in report.problems),
        "",
        "```python",
        _code(report, base or "the base model", dtype) + "```",
        "",
    ]
    return "\n".join(lines)
