"""The model card: what an adapter has learned, how well it keeps it, and how to use it.

Pure: the same manifest, configuration and facts give the same bytes, without access to disk or network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..evaluation import AccuracyMatrix
from ..knowledge import KnowledgeBase, TaskData
from ..objectives import find_kind, kinds_on
from .facts import CardFacts
from .markdown import clean, distinct, public
from .saved import hub_id, manifest_of
from .sections import card_text, last_scores, naming_passages, scored_tasks, stream_metrics

TAGS = ["hf_lifelong", "continual-learning", "lifelong-learning", "peft"]


def model_card(knowledge: KnowledgeBase, config: Mapping[str, Any], facts: CardFacts | None = None) -> ModelCard:
    """Writes the model card of a lifelong adapter.

    Args:
        knowledge ([`KnowledgeBase`]): What was learned, with the accuracy matrix if one was measured.
        config (`Mapping[str, Any]`): The adapter's configuration (`DriftAdapterConfig.to_dict()`).
        facts ([`CardFacts`], *optional*): Further facts about the adapter.

    Returns:
        `huggingface_hub.ModelCard`: `str(card)` is the text of `README.md`.

    Raises:
        ValueError: when the manifest's accuracy matrix is damaged.
    """
    knowledge, facts = checked(knowledge, facts or CardFacts())
    matrix = AccuracyMatrix.from_dict(knowledge.scores) if knowledge.scores else None
    matrix = matrix if matrix is not None and matrix.tasks else None
    data = metadata(knowledge, config, facts, matrix)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{card_text(knowledge, config, facts, matrix)}\n")


def addressed(card: str, config: Mapping[str, Any], repo_id: str, base_model: str | None = None) -> str:
    """A card rewritten for another repository: the new repository and base model replace the old ones. All other text
    stays, including manual changes.

    Args:
        card (`str`): Text of the card, from a folder or a repository.
        config (`Mapping[str, Any]`): Contents of the adapter's `adapter_config.json`.
        repo_id (`str`): The repository that the card is for.
        base_model (`str`, *optional*): Id of the base model on the Hub; by default the one that the card names.

    Returns:
        `str`: Text of the card.

    Raises:
        ValueError: when the metadata of the card or the manifest cannot be read.
    """
    parsed = ModelCard(card)
    data: Any = parsed.data
    line = re.search(r'^folder = "(.*?)".*$', parsed.text, flags=re.MULTILINE)
    before = CardFacts(repo_id=hub_id(line[1]) if line else None, base_model=hub_id(data.base_model))
    after = CardFacts(repo_id=hub_id(repo_id), base_model=hub_id(base_model) or before.base_model)
    knowledge = manifest_of(config) or KnowledgeBase()
    old_texts, new_texts = (naming_passages(knowledge, config, facts) for facts in (before, after))
    for old, new in zip(old_texts, new_texts, strict=True):
        parsed.text = parsed.text.replace(old, new, 1)
    if line:  # still there if somebody changed the code around it
        parsed.text = parsed.text.replace(line[0], f"folder = {json.dumps(repo_id)}")
    if data.model_name == _model_name(before):
        data.model_name = _model_name(after)
    if after.base_model != before.base_model:
        data.base_model = after.base_model
        data.tags = [tag for tag in data.tags or [] if tag not in _base_tags(before)] + _base_tags(after)
    return str(parsed)


def checked(knowledge: KnowledgeBase, facts: CardFacts) -> tuple[KnowledgeBase, CardFacts]:
    """The same without ids that are not valid on the Hub. Ids go into links, code and metadata, where the Hub refuses
    invalid ones."""
    tasks = [replace(task, data=replace(task.data, hub_id=hub_id(task.data.hub_id))) for task in knowledge.tasks]
    facts = replace(facts, repo_id=hub_id(facts.repo_id), base_model=hub_id(facts.base_model))
    return replace(knowledge, tasks=tasks), facts


def metadata(
    knowledge: KnowledgeBase, config: Mapping[str, Any], facts: CardFacts, matrix: AccuracyMatrix | None
) -> ModelCardData:
    """The metadata that the Hub reads: the YAML at the top of the card."""
    # Before the first task, the kinds that the base can learn.
    names = [task.kind for task in knowledge.tasks] or kinds_on(config.get("task_type"))
    tasks = {_hub_task(name) for name in names}
    dataset_ids = [task.data.hub_id for task in knowledge.tasks]
    license, license_name = _license(facts.license)
    return ModelCardData(
        language=[code for code in facts.language if re.fullmatch("[a-z]{2,3}|multilingual", code)] or None,
        library_name="peft",
        base_model=facts.base_model,
        tags=[*TAGS, *_base_tags(facts)],
        pipeline_tag=tasks.pop() if len(tasks) == 1 else None,
        datasets=list(dict.fromkeys(filter(None, dataset_ids))) or None,
        metrics=list(dict.fromkeys(clean(metric, 60) for metric in matrix.metrics)) if matrix else None,
        model_name=_model_name(facts) if matrix else None,
        eval_results=_results(knowledge, matrix) if matrix else None,
        license=license,
        license_name=license_name,
    )


def _hub_task(name: str) -> str | None:
    """The Hub's name of a kind; `None` for a kind that is not registered, which a manifest from elsewhere may have."""
    kind = find_kind(name)
    return None if kind is None else kind.hub_task


def _model_name(facts: CardFacts) -> str:
    return facts.repo_id.rpartition("/")[2] if facts.repo_id else "lifelong adapter"


def _base_tags(facts: CardFacts) -> list[str]:
    return [f"base_model:adapter:{facts.base_model}"] if facts.base_model else []


def _license(text: str | None) -> tuple[str | None, str | None]:
    """A licence in the Hub's form: an id, or `other` with a name."""
    name = re.sub(r"[^a-z0-9.]+", "-", (text or "").lower()).strip("-.")
    if text is None or not name:
        return None, None
    return (name, None) if name == text.lower() and len(name) <= 60 else ("other", name[:60])


def _results(knowledge: KnowledgeBase, matrix: AccuracyMatrix) -> list[EvalResult]:
    """The newest score of every task, followed by the metrics of the stream."""
    task_info = {task.name: (_hub_task(task.kind) or task.kind, task.data) for task in knowledge.tasks}
    newest = last_scores(matrix)
    results = [
        _result(*task_info.get(name, ("other", TaskData())), name, shown, metric, *newest[name])
        for name, shown, metric in zip(matrix.tasks, distinct(matrix.tasks), matrix.metrics, strict=True)
        if name in newest
    ]
    scored, count = scored_tasks(knowledge, matrix)
    stream = f"stream of {count} tasks"
    over = "all tasks" if len(scored) == count else f"{len(scored)} of {count} tasks"
    for metric, score in stream_metrics(matrix).items():
        results.append(_result("continual-learning", TaskData(), stream, over, metric, score))
    return results


def _result(
    kind: str, data: TaskData, name: str, config: str, metric: str, score: float, remark: str = ""
) -> EvalResult:
    shown = clean(metric, 60).replace("_", " ")
    return EvalResult(
        task_type=clean(kind, 60),
        dataset_type=data.hub_id or "other",
        dataset_name=data.hub_id or clean(public(data.name or name), 60),
        # The Hub merges results of the same kind and data set unless their configurations differ.
        dataset_config=config,
        dataset_split=data.scored_on,
        metric_type=clean(metric, 60),
        metric_value=round(score, 6),
        metric_name=f"{shown} ({remark})" if remark else shown,
    )
