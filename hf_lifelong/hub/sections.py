"""The text of the model card, section by section. Sections without content are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..evaluation import AccuracyMatrix, format_score
from ..knowledge import CHANCE, KnowledgeBase, LearnedTask, TaskData
from ..objectives import find_kind
from .facts import CardFacts
from .markdown import (
    clean,
    code,
    distinct,
    duration,
    escape,
    fence,
    fold,
    listing,
    plain,
    public,
    settings,
    size,
    table,
    value,
)
from .saved import CONFUSION, PICTURE
from .usage import CITATION, limits, quickstart

MANY = 3  # tables of more tasks are folded
MOST = 40  # with more tasks only the last row is shown, with more groups no confusion

METRICS = {
    "average_accuracy": ("average accuracy ↑", "mean score over the tasks after the last one, no task named"),
    "learning_accuracy": ("learning accuracy ↑", "mean score of each task just after it was learned"),
    "bwt": ("BWT ↑", "backward transfer: mean change of a task's score since it was learned; negative = forgetting"),
    "forgetting": ("forgetting ↓", "mean drop from a task's best earlier score to its last one"),
    "fwt": ("FWT ↑", "forward transfer: mean score on a task before it is learned, above the majority class"),
    "retrieval_accuracy": (
        "retrieval accuracy ↑",
        "share of inputs that their own task's group answers, mean over tasks",
    ),
    "oracle_accuracy": ("oracle accuracy ↑", "average accuracy when the right group is given"),
}
ADAPTER = ("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "trunk_depth", "members")
INPUTS = ("max_length", "stride", "max_new_tokens")
SIGNATURE = ("signature_rank", "signature_size", "signature_shrinkage")
RETRIEVAL = ("retrieval", "uncertainty", "answer", "per_batch", *SIGNATURE)
DRIFT = ("gradient_noise", "input_noise", "drift_dropout", "cyclic_learning_rate", "first_cycle")
GROUPING = ("grouping", "grouping_tolerance", "start_from", "validation_share", "signature_samples")


def card_text(
    knowledge: KnowledgeBase, config: Mapping[str, Any], facts: CardFacts, matrix: AccuracyMatrix | None
) -> str:
    """The card without its metadata."""
    sections = {
        "Quickstart": quickstart(knowledge, config, facts),
        "What it learned": learned(knowledge, matrix),
        "How well it keeps it": scores(knowledge, facts, matrix),
        "Which group answered": confusion(knowledge, facts, matrix),
        "What was measured of each task": statistics(knowledge, matrix),
        "Size": sizes(knowledge, facts),
        "Adapter": adapter(knowledge, config),
        "Training": training(knowledge, facts),
        "Limits": limits(knowledge, config, matrix),
        "Citation": CITATION,
    }
    opening = [f"# {title(facts)}", summary(knowledge, config, facts)]
    return "\n\n".join([*opening, *(f"## {name}\n\n{text}" for name, text in sections.items() if text)])


def naming_passages(knowledge: KnowledgeBase, config: Mapping[str, Any], facts: CardFacts) -> list[str]:
    """The passages of a card that name the repository of the adapter or of its base."""
    return [f"# {title(facts)}\n", summary(knowledge, config, facts), quickstart(knowledge, config, facts)]


def title(facts: CardFacts) -> str:
    if facts.repo_id:
        return escape(facts.repo_id.rpartition("/")[2], 100)
    base = facts.base_model.rpartition("/")[2] if facts.base_model else None
    return f"Lifelong adapter for {escape(base, 100)}" if base else "Lifelong adapter"


def summary(knowledge: KnowledgeBase, config: Mapping[str, Any], facts: CardFacts) -> str:
    """What the adapter is, in a few sentences."""
    model = "language model" if config.get("task_type") == "CAUSAL_LM" else "encoder"
    base = f"[{escape(facts.base_model, 200)}](https://huggingface.co/{facts.base_model})" if facts.base_model else ""
    kind = knowledge.base.get("model_type")
    local = f"a frozen {model}{f' ({escape(kind)})' if isinstance(kind, str) else ''} that came from a local folder"
    above = f"the frozen {model} {base}" if base else local
    adapter = f"A [PEFT](https://huggingface.co/docs/peft) adapter for lifelong learning on {above}."
    count = len(knowledge.tasks)
    if not count:
        return f"{adapter} It has learned no task yet."
    if count == 1:
        return f"{adapter} It has learned **one task**, and can go on with the next without losing it."
    return (
        f"{adapter} It has learned **{count} tasks**, one after another, each on its own data only. Nobody has to say "
        "which task an input belongs to: it finds out, and says how sure it is. It can go on learning, and forget a "
        "task as if it had never been there."
    )


def learned(knowledge: KnowledgeBase, matrix: AccuracyMatrix | None) -> str:
    """A table with one row for each task, and warnings."""
    shown = dict(zip(knowledge.names, distinct(knowledge.names), strict=True))
    is_joined = len(knowledge.groups) < len(knowledge.tasks)
    starts = [task.started_from for task in knowledge.tasks]
    score, of_task = _score_column(knowledge, matrix)
    rows = [
        [
            f"**{escape(shown[task.name], 80)}**",
            escape(task.kind),
            listing(_own_labels(task)),
            escape(shown[task.extends], 80) if task.extends else "",
            escape(shown.get(task.group, task.group), 80) if is_joined else "",
            str(task.members),
            _data(task.data),
            escape(shown.get(start, start), 80) if start else "fresh" if any(starts) else "",
            code(task.template) if task.template else "",
            of_task.get(task.name, ""),
        ]
        for task, start in zip(knowledge.tasks, starts, strict=True)
    ]
    head = ["task", "kind", "labels", "added to", "group", "members", "training data", "started from", "prompt", score]
    tasks = fold(f"{len(rows)} tasks", table(head, rows), when=len(rows) > 20)
    return "\n\n".join([tasks, *_at_chance(knowledge, shown)])


def _own_labels(task: LearnedTask) -> Sequence[str]:
    """The task's label names; none if its kind fixes them."""
    kind = find_kind(task.kind)
    return () if kind is not None and kind.fixed_labels else task.labels


def _at_chance(knowledge: KnowledgeBase, shown: Mapping[str, str]) -> list[str]:
    """A warning for each task whose score is no better than its most frequent answer."""
    return [
        f"**Not learned: {escape(shown[task.name], 80)}.** It scores {format_score(task.score)} on its validation "
        f"data, where always giving its most frequent answer scores {format_score(task.baseline)}. {CHANCE}"
        for task in knowledge.tasks
        if task.at_chance
    ]


def _score_column(knowledge: KnowledgeBase, matrix: AccuracyMatrix | None) -> tuple[str, dict[str, str]]:
    """A column of scores if the accuracy matrix is absent or folded: its head, and its cells by task."""
    if matrix is None:
        cells = {task.name: format_score(task.score) for task in knowledge.tasks if task.score is not None}
        return "score of its own group on validation data ↑", cells
    if len(matrix.tasks) <= MANY:
        return "", {}
    common = _common_metric(matrix)
    metrics = dict(zip(matrix.tasks, matrix.metrics, strict=True))
    return f"{common or 'score'} ↑", {
        name: format_score(score) + _remarks("" if common else metrics[name], when)
        for name, (score, when) in last_scores(matrix).items()
    }


def _remarks(*remarks: str) -> str:
    text = ", ".join(escape(remark, 80) for remark in remarks if remark)
    return f" ({text})" if text else ""


def _common_metric(matrix: AccuracyMatrix) -> str:
    """The metric of all tasks; empty if they have different metrics."""
    return escape(matrix.metrics[0]) if len(set(matrix.metrics)) == 1 else ""


def last_scores(matrix: AccuracyMatrix) -> dict[str, tuple[float, str]]:
    """Task → its newest score, and a remark that says after which task it was measured if that was not the last."""
    shown, last = distinct(matrix.tasks), len(matrix.tasks) - 1
    newest: dict[str, tuple[float, str]] = {}
    for j, name in enumerate(matrix.tasks):
        for i in range(j, last + 1):
            score = matrix.scores[i][j]
            if score is not None:
                newest[name] = (score, f"scored after {shown[i]}" if i < last else "")
    return newest


def _data(data: TaskData) -> str:
    name = escape(public(data.name)) if data.name else ""
    if data.hub_id:
        name = f"[{escape(data.hub_id, 200)}](https://huggingface.co/datasets/{data.hub_id})"
    facts = [
        name + (f" ({escape(data.config)})" if name and data.config else ""),
        f"{data.rows:,} rows" if data.rows is not None else "",
        f"licence {escape(data.license)}" if data.license else "",
    ]
    return ", ".join(filter(None, facts))


def scored_tasks(knowledge: KnowledgeBase, matrix: AccuracyMatrix) -> tuple[list[str], int]:
    """The tasks that were scored after the last one, and the number of all tasks."""
    scored = [name for name, score in zip(matrix.tasks, matrix.scores[-1], strict=True) if score is not None]
    return scored, len(set(knowledge.names) | set(matrix.tasks))


def stream_metrics(matrix: AccuracyMatrix) -> dict[str, float]:
    """The metrics of the stream. Metrics of forgetting and retrieval are left out for a single task, for which they
    say nothing."""
    meaningless = ("bwt", "forgetting", "retrieval_accuracy") if len(matrix.tasks) == 1 else ()
    return {name: score for name, score in matrix.summary().items() if name not in meaningless}


def scores(knowledge: KnowledgeBase, facts: CardFacts, matrix: AccuracyMatrix | None) -> str:
    """The accuracy matrix and its metrics."""
    if matrix is None:
        return ""
    metrics = [
        [METRICS[name][0], format_score(score, sign=name in ("bwt", "fwt")), METRICS[name][1]]
        for name, score in stream_metrics(matrix).items()
    ]
    lines = [_what_scores_are(knowledge, matrix)]
    lines.append(table(["metric", "value", "what it is"], metrics))
    if facts.picture:
        lines.append(f"![Accuracy matrix: the score on every task after every task]({PICTURE})")
    count = len(matrix.tasks)
    lines.append(fold(f"Accuracy matrix of {count} tasks, in numbers", _matrix(matrix), when=count > MANY))
    return "\n\n".join(filter(None, lines))


def _what_scores_are(knowledge: KnowledgeBase, matrix: AccuracyMatrix) -> str:
    line = "Shares in [0, 1]; no input came with the name of its task."
    scored, count = scored_tasks(knowledge, matrix)
    if len(scored) < count:
        was, them = ("was", "it") if len(scored) == 1 else ("were", "those")
        line += (
            f" After the last task, {len(scored)} of {count} tasks {was} scored, because the data of the others was "
            f"not at hand; all means but learning accuracy are over {them}."
        )
    splits = {task.data.scored_on for task in knowledge.tasks if task.name in scored}
    split = splits.pop() if len(splits) == 1 else None
    return f"{line} All are of the {split} data." if split else line


def _matrix(matrix: AccuracyMatrix) -> str:
    names = [escape(name, 80) for name in distinct(matrix.tasks)]
    after = [(f"after {name}", row) for name, row in zip(names, matrix.scores, strict=True)]
    rows = [
        ("majority class", matrix.baseline),
        *(after if len(after) <= MOST else after[-1:]),
        ("oracle (right group given)", matrix.oracle[-1]),
        ("retrieval (right group chosen)", matrix.retrieval[-1]),
    ]
    common = _common_metric(matrix)
    head = [
        f"{common} ↑" if common else "",
        *(
            name if common else f"{name} ({escape(metric)} ↑)"
            for name, metric in zip(names, matrix.metrics, strict=True)
        ),
    ]
    # A row of the stream stays even if nothing was measured: it shows when the task was learned.
    cells = [
        [label, *map(format_score, row)]
        for label, row in rows
        if label.startswith("after ") or any(score is not None for score in row)
    ]
    return table(head, cells, numbers=len(names))


def confusion(knowledge: KnowledgeBase, facts: CardFacts, matrix: AccuracyMatrix | None) -> str:
    """A table of which groups answered the inputs of each task."""
    groups = matrix.answering_groups() if matrix is not None else []
    if matrix is None or len(groups) < 2 or len(groups) > MOST:
        return ""
    shares = matrix.confusion
    right_groups = {task.name: task.group for task in knowledge.tasks}
    head = ["inputs of", *(escape(name, 80) for name in distinct(groups))]
    rows = [
        [
            escape(shown, 80),
            *(_share(shares[name].get(group, 0.0), group == right_groups.get(name)) for group in groups),
        ]
        for name, shown in zip(shares, distinct(shares), strict=True)
    ]
    body = table(head, rows, numbers=len(groups))
    line = "Share of each task's inputs that each group answered. **Bold**: the task's own group ↑; all others ↓."
    lines = [line, fold(f"Confusion between {len(groups)} groups", body, when=len(rows) > MANY)]
    if facts.picture:
        lines.append(f"![Confusion: the share of each task's inputs that each group answered]({CONFUSION})")
    return "\n\n".join(lines)


def _share(share: float, is_right: bool) -> str:
    text = format_score(share) if share else "0"
    return f"**{text}**" if is_right else text


def statistics(knowledge: KnowledgeBase, matrix: AccuracyMatrix | None) -> str:
    """The findings of each task's statistics at its commit, and what they say of all tasks together."""
    shown = dict(zip(knowledge.names, distinct(knowledge.names), strict=True))
    rows = [
        [
            escape(shown[task.name], 80),
            code(record.name),
            "; ".join(f"{escape(name, 60)} {escape(plain(finding), 200)}" for name, finding in record.shown),
        ]
        for task in knowledge.tasks
        for record in task.statistics
    ]
    found = fold(f"{len(rows)} statistics", table(["task", "statistic", "found"], rows), when=len(rows) > 20)
    numbers = matrix.numbers if matrix is not None else {}
    together = ", ".join(f"{code(name)} {plain(number)}" for name, number in numbers.items())
    return "\n\n".join(filter(None, [found, f"All tasks together: {together}." if together else ""]))


def sizes(knowledge: KnowledgeBase, facts: CardFacts) -> str:
    """A table of the sizes of base, adapter and tasks."""
    rows = [["base model", size(facts.base_size)]] if facts.base_size else []
    if facts.adapter_size:
        share = f" ({facts.adapter_size / facts.base_size:.1%} of the base)" if facts.base_size else ""
        rows.append(["adapter, all tasks", size(facts.adapter_size) + share])
    task_sizes = [
        (name, facts.task_sizes[task])
        for task, name in zip(knowledge.names, distinct(knowledge.names), strict=True)
        if task in facts.task_sizes
    ]
    if len(task_sizes) <= MANY:
        rows += [[f"of it {escape(name, 80)}", size(bytes_)] for name, bytes_ in task_sizes]
    else:
        sizes = [bytes_ for _, bytes_ in task_sizes]
        least, most = size(min(sizes)), size(max(sizes))
        rows.append(["of it each task", least if least == most else f"{least} to {most}"])
    return table(["weights", "size"], rows, numbers=1)


def adapter(knowledge: KnowledgeBase, config: Mapping[str, Any]) -> str:
    """The settings that apply to all tasks, in one line each."""
    lines = {
        "Members": _of({**config, "target_modules": _targets(config.get("target_modules"))}, ADAPTER),
        "Trunk": _trunk(knowledge),
        "Retrieval and answer": _of(config, RETRIEVAL),
        "Inputs": _of(config, [name for name in INPUTS if name != _other_length(config)]),
    }
    return _bullets(lines)


def _bullets(lines: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}:** {text}" for name, text in lines.items() if text)


def _targets(names: Any) -> Any:
    """Layer names with block numbers replaced by `N`, so that a layer of every block has one name."""
    if not isinstance(names, list | set):
        return names
    return sorted({re.sub(r"\.\d+\.", ".N.", str(name)) for name in names})


def _other_length(config: Mapping[str, Any]) -> str:
    return "stride" if config.get("task_type") == "CAUSAL_LM" else "max_new_tokens"


def _of(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return settings((name, values.get(name)) for name in names)


def _trunk(knowledge: KnowledgeBase) -> str:
    layers = knowledge.base.get("layers")
    if not isinstance(layers, int) or not knowledge.trunk:
        return ""
    return f"the bottom {knowledge.trunk} of {layers} layers carry no adapter and are shared by all tasks"


def training(knowledge: KnowledgeBase, facts: CardFacts) -> str:
    """How and on what the adapter was trained, and how to train it again."""
    arguments = facts.training
    versions = ", ".join(f"{escape(name)} {value(version)}" for name, version in facts.versions.items() if version)
    lines = {
        "Each task": _of(arguments, [name for name in arguments if name not in (*DRIFT, *GROUPING)]),
        "Drift": _of(arguments, DRIFT),
        "Grouping": _of(arguments, GROUPING),
        "Hardware": value(facts.hardware),
        "Time": duration(facts.seconds) if facts.seconds else "",
        "Versions": versions,
    }
    paragraphs = [_bullets(lines)]
    if facts.command and facts.command.strip():
        command = "\n".join(clean(line, 1000) for line in public(facts.command).splitlines() if line.strip())
        paragraphs += ["To do it again:", fence(command, "bash")]
    text = "\n\n".join(filter(None, paragraphs))
    return "\n\n".join(filter(None, [_session(knowledge, facts), text])) if text else ""


def _session(knowledge: KnowledgeBase, facts: CardFacts) -> str:
    """The tasks to which the settings apply; empty if they apply to all."""
    learned = [name for name in knowledge.names if facts.session is None or name in facts.session]
    if len(learned) == len(knowledge.tasks):
        return ""
    which = f"**{listing(learned)}**" if 0 < len(learned) <= MANY else f"{len(learned)} of its tasks"
    return f"Of the last session, which learned {which}. The other tasks may have been learned otherwise."
