"""The README of an exported folder: a description, and code that loads it and answers without this package."""

from __future__ import annotations

from ..objectives import get_kind
from .export_report import ExportReport, StockForm

HEAD_FILE = "head.safetensors"

_CODE = """\
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import {auto_class}, {auto}

torch.set_grad_enabled(False)
base, folder = {base!r}, "."  # this folder
{processor} = {auto}.from_pretrained(base)
model = {auto_class}.from_pretrained(base{options})
model = PeftModel.from_pretrained(model, folder).eval()
"""
_WHOLE = {  # of a whole model
    "from peft import PeftModel\n": "",
    "from_pretrained(base{options})\nmodel = PeftModel.from_pretrained(model, folder).eval()": (
        "from_pretrained(folder).eval()"
    ),
}
_UNWRAP = "model = model.get_base_model()  # with the LoRA, without PEFT's wrapper\n"
_HEAD_LOGITS = f"""\
head = load_file(f"{{folder}}/{HEAD_FILE}")
logits = torch.nn.functional.linear(%s, head["weight"], head["bias"])
"""
_TOKENS = "model(**batch).last_hidden_state"


def _head_logits(form: StockForm) -> str:
    if form.positions is None:
        return _HEAD_LOGITS % _TOKENS
    patches, share = f"hidden[:, {form.positions.specials}:].mean(1)", form.positions.class_share
    read = f"{1 - share} * {patches} + {share} * hidden[:, 0]" if share else patches
    return f"hidden = {_TOKENS}\n" + _HEAD_LOGITS % read


def reading_note(form: StockForm, kind: str) -> str:
    """How to read the logits of the stock model."""
    use = get_kind(kind).stock
    note = use.note
    if form.is_bare:
        read = "its last hidden states into one row of logits per token"
        if form.positions is not None:
            read = "the mean of its last hidden states, as the code below takes it, into logits"
        note = f"The linear layer in `{HEAD_FILE}` turns {read}."
    return " ".join(filter(None, [note, use.reading]))


def _code(report: ExportReport, base: str, dtype: str | None) -> str:
    """Python code that loads the folder and answers. It defines `batch` and `logits`."""
    form, use, template = report.form, get_kind(report.kind).stock, _CODE
    for adapted, whole in _WHOLE.items() if report.rank is None else ():
        template = template.replace(adapted, whole)
    options = f', dtype="{dtype}"' if dtype else ""
    options += f", num_labels={len(report.labels)}" if form.head else ""
    modality = get_kind(report.kind).modality
    made_by = {"auto": modality.auto_class, "processor": modality.processor}
    code = use.imports + template.format(auto_class=form.auto_class, base=base, options=options, **made_by)
    logits = _head_logits(form)
    if not form.is_bare:
        code, logits = code.replace("from safetensors.torch import load_file\n", ""), use.logits
        code += _UNWRAP if use.unwrapped and report.rank is not None else ""
    if "id2label" in use.answers:
        code += f"id2label = {dict(enumerate(report.labels))!r}\n"
    return "".join([code, "\n", use.batch, logits, use.answers])


def write_readme(report: ExportReport, base: str | None, dtype: str | None) -> str:
    """The text of the README.

    Args:
        base (`str`, *optional*): Name of the base model.
        dtype (`str`, *optional*): Dtype of the base model in training.
    """
    which = f"member {report.members[0]}" if len(report.members) == 1 else f"the mean of {len(report.members)} members"
    labels = [f"- Labels: `id2label = {dict(enumerate(report.labels))!r}`"] if report.labels else []
    what, needs, facts = "A model", "`transformers`", []
    if report.rank is not None:
        what, needs = "A PEFT LoRA adapter", "`peft` and `transformers`"
        facts = [f"- Rank: {report.rank}; relative error of the updates: {report.error:.2e}"]
    lines = [
        f"# {report.task}",
        "",
        f"{what} for {report.kind}, exported from a lifelong adapter: {which} of the task `{report.task}` (group "
        f"`{report.group}`). It needs {needs}, not `hf_lifelong`.",
        "",
        f"- Base model: `{base}`",
        f"- Model class: `{report.form.auto_class}`. {report.note}",
        *labels,
        *facts,
        "- Licence: none is chosen here. Whoever publishes the adapter chooses one that the base model's allows.",
        *(f"- Serving: {problem}" for problem in report.problems),
        "",
        "```python",
        _code(report, base or "the base model", dtype) + "```",
        "",
    ]
    return "\n".join(lines)
