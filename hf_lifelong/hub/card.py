"""The model card: what an adapter has learned, how well it keeps it, and how it is used.

Pure: the same manifest, configuration and facts give the same bytes, and nothing is asked of a disk or a network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..evaluation import AccuracyMatrix
from ..knowledge import KnowledgeBase
from .markdown import clean, distinct, public
from .sections import card_text, stream_metrics

TAGS = ["hf_lifelong", "continual-learning", "lifelong-learning", "peft"]
# Kinds of tasks are called as the Hub calls its own; a manifest of elsewhere may hold others.
HUB_TASKS = ("text-classification", "question-answering", "token-classification", "text-generation")


@dataclass(frozen=True)
class TaskFacts:
    """What is known of one task beside the manifest. All may be missing; what is missing is not mentioned.

    Args:
        dataset (`str`, *optional*): Name of the data, for people. Needed only where there is no `dataset_id`.
        dataset_id (`str`, *optional*): Id of the data set on the Hub, which is linked and put into the metadata.
        dataset_config (`str`, *optional*): Configuration of that data set, such as `"sst2"` of GLUE.
        rows (`int`, *optional*): Rows that were trained on.
        license (`str`, *optional*): Licence of the data.
        scored_on (`str`, *optional*): The part that the scores are of: `"test"` or `"validation"`.
        size (`int`, *optional*): Bytes that the task's members, head and signature take.
    """

    dataset: str | None = None
    dataset_id: str | None = None
    dataset_config: str | None = None
    rows: int | None = None
    license: str | None = None
    scored_on: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class CardFacts:
    """What is known of an adapter beside its manifest. All may be missing; what is missing is not mentioned.

    Args:
        repo_id (`str`, *optional*): Where the adapter lives on the Hub. Without it the card speaks of its own folder.
        base_model (`str`, *optional*): Id of the base model on the Hub; `None` for a base from a folder.
        tasks (`Mapping[str, TaskFacts]`): Facts of tasks, by name.
        confusion (`Mapping[str, Mapping[str, float]]`, *optional*): Task → group → share of the task's inputs that
            the group answered.
        training (`Mapping[str, Any]`): Training arguments by name, such as `num_train_epochs` and `gradient_noise`.
        command (`str`, *optional*): What to run to get this adapter again. Folders and tokens in it are not shown.
        hardware (`str`, *optional*): What it was trained on.
        seconds (`float`, *optional*): How long training took.
        versions (`Mapping[str, str]`): Package → version.
        base_size (`int`, *optional*): Bytes of the base model's weights.
        adapter_size (`int`, *optional*): Bytes of the adapter's weights.
        picture (`bool`): Whether `accuracy_matrix.png` lies beside the card.
        language (`list[str]`): ISO 639 codes of the languages of the data.
        license (`str`, *optional*): Licence of the adapter, as an id of the Hub.
    """

    repo_id: str | None = None
    base_model: str | None = None
    tasks: Mapping[str, TaskFacts] = field(default_factory=dict)
    confusion: Mapping[str, Mapping[str, float]] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    hardware: str | None = None
    seconds: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    base_size: int | None = None
    adapter_size: int | None = None
    picture: bool = False
    language: list[str] = field(default_factory=list)
    license: str | None = None


def model_card(knowledge: KnowledgeBase, config: Mapping[str, Any], facts: CardFacts | None = None) -> ModelCard:
    """Writes the model card of a lifelong adapter.

    Args:
        knowledge ([`KnowledgeBase`]): What was learned, with the accuracy matrix where one was measured.
        config (`Mapping[str, Any]`): The adapter's configuration (`DriftAdapterConfig.to_dict()`).
        facts ([`CardFacts`], *optional*): What else is known.

    Returns:
        `huggingface_hub.ModelCard`: `str(card)` is the text of `README.md`.

    Raises:
        ValueError: when the accuracy matrix of the manifest is damaged.
    """
    facts = checked(facts or CardFacts())
    matrix = AccuracyMatrix.from_dict(knowledge.scores) if knowledge.scores else None
    matrix = matrix if matrix is not None and matrix.tasks else None
    data = metadata(knowledge, config, facts, matrix)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(knowledge, config, facts, matrix)}\n")


def hub_id(name: str | None) -> str | None:
    """A name if it can be an id on the Hub; a path cannot, and must not be shown."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return None
    return name


def checked(facts: CardFacts) -> CardFacts:
    """Facts whose ids are ids: they go into links, code and metadata, where the Hub would refuse a wrong one."""
    tasks = {name: replace(task, dataset_id=hub_id(task.dataset_id)) for name, task in facts.tasks.items()}
    return replace(facts, repo_id=hub_id(facts.repo_id), base_model=hub_id(facts.base_model), tasks=tasks)


def metadata(
    knowledge: KnowledgeBase, config: Mapping[str, Any], facts: CardFacts, matrix: AccuracyMatrix | None
) -> ModelCardData:
    """What the Hub reads: the YAML at the top of the card."""
    kinds = {task.kind for task in knowledge.tasks}
    kind = "text-generation" if config.get("task_type") == "CAUSAL_LM" else kinds.pop() if len(kinds) == 1 else None
    known = [facts.tasks[name].dataset_id for name in knowledge.names if name in facts.tasks]
    base = facts.base_model
    name = facts.repo_id.rpartition("/")[2] if facts.repo_id else "lifelong adapter"
    license, license_name = _license(facts.license)
    return ModelCardData(
        language=[code for code in facts.language if re.fullmatch("[a-z]{2,3}|multilingual", code)] or None,
        library_name="peft",
        base_model=base,
        tags=[*TAGS, *([f"base_model:adapter:{base}"] if base else [])],
        pipeline_tag=kind if kind in HUB_TASKS else None,
        datasets=list(dict.fromkeys(filter(None, known))) or None,
        metrics=list(dict.fromkeys(clean(metric, 60) for metric in matrix.metrics)) if matrix else None,
        model_name=name if matrix else None,
        eval_results=_results(knowledge, facts, matrix) if matrix else None,
        license=license,
        license_name=license_name,
    )


def _license(given: str | None) -> tuple[str | None, str | None]:
    """A licence as the Hub takes it: an id, or `other` with a name."""
    name = re.sub(r"[^a-z0-9.]+", "-", (given or "").lower()).strip("-.")
    if given is None or not name:
        return None, None
    return (name, None) if name == given.lower() and len(name) <= 60 else ("other", name[:60])


def _results(knowledge: KnowledgeBase, facts: CardFacts, matrix: AccuracyMatrix) -> list[EvalResult]:
    """One result for every task that was scored last, then the metrics of the stream."""
    kinds = {task.name: task.kind for task in knowledge.tasks}
    shown = distinct(matrix.tasks)
    tasks = [
        _result(kinds.get(name, "other"), shown[i], matrix.metrics[i], score, facts.tasks.get(name, TaskFacts()))
        for i, (name, score) in enumerate(zip(matrix.tasks, matrix.scores[-1], strict=True))
        if score is not None
    ]
    whole = TaskFacts(dataset=f"stream of {len(matrix.tasks)} tasks")
    stream = [
        _result("continual-learning", "all tasks", metric, found, whole)
        for metric, found in stream_metrics(matrix).items()
    ]
    return tasks + stream


def _result(kind: str, name: str, metric: str, score: float, task: TaskFacts) -> EvalResult:
    data = task.dataset_id or clean(public(task.dataset or name), 60)
    return EvalResult(
        task_type=clean(kind, 60),
        dataset_type=task.dataset_id or "other",
        dataset_name=data,
        # Results of one kind and data set are merged into one unless their configurations differ.
        dataset_config=name,
        dataset_split=clean(task.scored_on, 60) if task.scored_on else None,
        metric_type=clean(metric, 60),
        metric_value=round(score, 6),
        metric_name=clean(metric, 60).replace("_", " "),
    )
