"""The sections of a card on using the adapter: code that loads and asks it, its limits, and the citation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..evaluation import AccuracyMatrix
from ..knowledge import KnowledgeBase
from ..objectives import find_kind, modality_named
from .facts import CardFacts
from .markdown import fence

TEXT = '"A joy from start to end."'  # example input for kinds that take texts
LOAD = """\
import hf_lifelong  # registers the method with PEFT, and the pipeline
from peft import {loader}
from transformers import {names}

folder = {folder}
{processor} = {auto}.from_pretrained(folder)
{load}
"""
OWN_FOLDER = '"."  # the folder of this card'
LOCAL_BASE = "The base model came from a local folder, so its name is not known here: write in where you have it.\n\n"

CITATION = """\
DriftNet is the method of "Drift to Remember" (Du et al., [arXiv 2409.13997](https://arxiv.org/abs/2409.13997)). \
This adapter was made with `hf_lifelong`, a reimplementation from the published abstract and claims; it does not \
claim to reproduce the paper's numbers. Retrieval by signature and the cascade are variants of `hf_lifelong`, not the \
paper's. A related US patent application, 2026/0065155 A1, is published (an application, not a grant); look at it \
before commercial use.

```bibtex
@article{drifttoremember,
  title   = {Drift to Remember},
  author  = {Du and others},
  journal = {arXiv preprint arXiv:2409.13997},
  year    = {2024}
}
```"""


def quickstart(knowledge: KnowledgeBase, config: Mapping[str, Any], facts: CardFacts) -> str:
    """Code that loads the adapter and asks it about one input of every kind that it has learned."""
    modality = modality_named(knowledge.modality)
    names = [modality.auto_class, *(["pipeline"] if knowledge.tasks else [])]
    dtype = knowledge.base.get("dtype")
    options = f', dtype="{dtype}"' if dtype in ("float32", "bfloat16", "float16") else ""
    is_language_model = config.get("task_type") == "CAUSAL_LM"
    # In a local folder the adapter's configuration names the base; on the Hub, the base must have an id.
    base_unknown = facts.repo_id is not None and facts.base_model is None
    if base_unknown:
        model, loader = "AutoModelForCausalLM" if is_language_model else "AutoModel", "PeftModel"
        names.insert(0, model)
        load = f'base = {model}.from_pretrained("path/to/the/base"{options})\n'
        load += "model = PeftModel.from_pretrained(base, folder)"
    else:
        loader = f"AutoPeftModelFor{'CausalLM' if is_language_model else 'FeatureExtraction'}"
        load = f"model = {loader}.from_pretrained(folder{options})"
    folder = json.dumps(facts.repo_id) if facts.repo_id else OWN_FOLDER
    made_by = {"processor": modality.processor, "auto": modality.auto_class}
    text = LOAD.format(loader=loader, names=", ".join(names), folder=folder, load=load, **made_by)
    return (LOCAL_BASE if base_unknown else "") + fence(text + _questions(knowledge), "python")


def _questions(knowledge: KnowledgeBase) -> str:
    if not knowledge.tasks:
        return ""
    # A manifest from elsewhere may have kinds that are not registered here.
    kinds = [find_kind(name) for name in dict.fromkeys(task.kind for task in knowledge.tasks)]
    examples = dict.fromkeys(kind.example for kind in kinds if kind is not None)
    processor = modality_named(knowledge.modality).processor
    shown = TEXT if processor == "tokenizer" else next(iter(examples), TEXT)
    lines = [f'answer = pipeline("lifelong", model=model, {processor}={processor})']
    lines += [f"print(answer({example}))" for example in examples or [TEXT]]
    if any(task.labels and not task.width for task in knowledge.tasks):
        lines.append(f"print(answer({TEXT}, labels=True))  # the likeliest label, not a text")
    if tells_unknown(knowledge):
        lines.append(f"print(answer({shown}, abstain=True))  # `unknown` for inputs of no task it knows")
    return "\n".join(lines)


def tells_unknown(knowledge: KnowledgeBase) -> bool:
    """Whether there is anything in which an unknown input could differ: two classes, of one task or of several."""
    return sum(task.classes for task in knowledge.tasks) > 1


def limits(knowledge: KnowledgeBase, config: Mapping[str, Any], matrix: AccuracyMatrix | None) -> str:
    """The limits that apply to this adapter."""
    tells, to_base = tells_unknown(knowledge), config.get("unknown") == "base"
    on_validation = matrix is not None and any(task.data.scored_on == "validation" for task in knowledge.tasks)
    trunk = f"The bottom {knowledge.trunk} layers are" if knowledge.trunk else "The base model is"
    limits = [
        (matrix is not None, "The scores are of one training run; how much they vary with the seed is not known."),
        (on_validation, "Scores on validation data are a little too good: tasks were put into groups by that data."),
        (
            True,
            "A task is found by where its inputs lie. Tasks that ask different things of the *same* texts cannot be "
            "told apart.",
        ),
        (
            tells and not to_base,
            "Inputs unlike those of their task can go to another. `abstain=True` calls what is unlike everything "
            "learned `unknown`; its limit was set on text data with MiniLM.",
        ),
        (
            tells and to_base,
            "Prompts unlike everything learned are answered by the base model as it was, and some prompts of the "
            "tasks on other subjects too; where the limit lies was set on text data with MiniLM.",
        ),
        (not tells, "It answers every input, whatever it is about: `unknown` needs two classes or two tasks."),
        (
            config.get("retrieval") == "uncertainty",
            "Groups are chosen by uncertainty alone, which is often wrong where tasks differ in difficulty.",
        ),
        (bool(config.get("per_batch")), "One group answers a whole batch, whose inputs are taken to be of one task."),
        (
            config.get("task_type") == "CAUSAL_LM",
            "The group is chosen once, on the whole prompt: in a chat, give all turns in one prompt.",
        ),
        (True, f"{trunk} frozen: a task that needs other features there is learned less well."),
        (True, "What is wrong or unfair in the base model or in the data is in the answers too; nothing removes it."),
        (True, "`import hf_lifelong` is needed before it can be loaded."),
    ]
    return "\n".join(f"- {text}" for applies, text in limits if applies)
