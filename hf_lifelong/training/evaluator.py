"""Answers of a model to whole data sets, and their scores.

Committed members never change, so the answer of a group to a row is stored. After a later task only routing is
repeated, and only rows that are routed to another group are run again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from datasets import Dataset
from tqdm.auto import tqdm

from ..adapter import (
    active_config,
    answer_prompts,
    decode_answers,
    knowledge_of,
    lifelong_of,
    likeliest_labels,
    predict,
    trunk_features,
)
from ..knowledge import KnowledgeBase
from ..objectives import head_kind, kinds_alike
from ..retrieval import NearestSignature, policy_of
from .data import PreparedTask, Split
from .modules import with_module
from .parts import spread_over

Batch = dict[str, torch.Tensor]
# A group's answer to a row: scores `[D, C]`; for a language model its text (`answer`) and likeliest label (`label`).
RowAnswer = np.ndarray | dict[str, Any]


@dataclass
class Scores:
    """Scores of one data set.

    Args:
        metrics (`dict[str, float]`): Metrics of the kind and of the task's module.
        retrieval (`float`): Share of the rows that were routed to the task's own group.
        groups (`list[str]`): The group that answered each row.
    """

    metrics: dict[str, float]
    retrieval: float
    groups: list[str]


def kinds_in_question(knowledge: KnowledgeBase, kind: str) -> tuple[str, ...] | None:
    """The kinds whose inputs have the same form as those of `kind`; `None` if no task of such a kind is learned."""
    kinds = kinds_alike(kind)
    return kinds if any(task.kind in kinds for task in knowledge.tasks) else None


class Evaluator:
    """Scores tasks with a model that has a lifelong adapter.

    Args:
        model (`nn.Module`): The model.
        accelerator (`accelerate.Accelerator`): Splits rows between processes.
        batch_size (`int`): Rows per batch.
        quiet (`bool`): Whether to hide progress bars.
    """

    def __init__(self, model: torch.nn.Module, accelerator: Accelerator, batch_size: int, quiet: bool) -> None:
        self.model, self.accelerator, self.batch_size, self.quiet = model, accelerator, batch_size, quiet
        self._features: WeakKeyDictionary[Split, torch.Tensor] = WeakKeyDictionary()
        # Split → learned task → row → answer of the task's newest members.
        self._answers: WeakKeyDictionary[Split, dict[str, dict[int, RowAnswer]]] = WeakKeyDictionary()

    def clear(self) -> None:
        """Drops all stored answers; needed after the adapter's tensors were changed from outside."""
        self._features.clear()
        self._answers.clear()

    def forget(self, name: str) -> None:
        """Drops the stored answers of a task's members."""
        for answers in self._answers.values():
            answers.pop(name, None)

    def features(self, task: PreparedTask, rows: Dataset, limit: int | None = None) -> torch.Tensor:
        """Trunk features of a data set's rows, `[rows, D]`, on the CPU; of `limit` rows spread evenly over it if it is
        longer."""
        index = spread_over(len(rows), limit)
        of_row = self._run(task, rows, index, "Signature", lambda batch, _: trunk_features(self.model, batch).cpu())
        return torch.stack([of_row[row] for row in index])

    def answers(self, task: PreparedTask, split: Split, names: Sequence[str]) -> list[RowAnswer]:
        """Answers of learned tasks to the rows of a split. Rows whose answer is stored are not run again.

        Args:
            task ([`PreparedTask`]): The task to which the split belongs.
            split ([`Split`]): The rows.
            names (`list[str]`): For each row, the learned task whose newest members answer it.

        Returns:
            `list`: For each row its scores `[D, C]`; for a language model a dict with the text (`answer`) and the
            likeliest label (`label`).
        """
        stored = self._answers.setdefault(split, defaultdict(dict))
        missing = [row for row, name in enumerate(names) if row not in stored[name]]
        if missing:
            group_of = {name: knowledge_of(self.model).group_index(name) for name in set(names)}
            groups = torch.tensor([group_of[name] for name in names])

            def ask(batch: Batch, rows: list[int]) -> list[RowAnswer]:
                return [answer for _, answer in self._ask(task, batch, "oracle", groups[rows], "merged")]

            for row, answer in self._run(task, split.features, missing, f"Answering {task.name}", ask).items():
                stored[names[row]][row] = answer
        return [stored[name][row] for row, name in enumerate(names)]

    def oracle(self, task: PreparedTask, split: Split, name: str) -> dict[str, float]:
        """Metrics when the newest members of the learned task `name` answer every row."""
        names = [name] * len(split.features)
        return self._metrics(task, split, names, self.answers(task, split, names))

    def probabilities(self, task: PreparedTask, split: Split, name: str) -> torch.Tensor:
        """Label probabilities of a text classification task when the newest members of the learned task `name` answer
        every row, `[rows, C]`."""
        scores: list[Any] = self.answers(task, split, [name] * len(split.features))
        return torch.tensor(np.stack([of_row[0, : len(task.labels)] for of_row in scores]))

    def states(self, task: PreparedTask, rows: Dataset, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Label probabilities `[rows, C]` and pooled last hidden states `[rows, H]` of the newest members of the
        learned task `name`, in one pass over any rows of a text classification task. Nothing is stored."""
        group = knowledge_of(self.model).group_index(name)

        def ask(batch: Batch, _: list[int]) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
            out: Any = predict(self.model, batch, "oracle", group, "merged", states=True)
            return zip(out.scores[:, 0, : len(task.labels)].cpu(), out.states.cpu(), strict=True)

        of_row = self._run(task, rows, range(len(rows)), f"Asking {task.name}", ask)
        scores, states = zip(*(of_row[row] for row in range(len(rows))), strict=True)
        return torch.stack(scores), torch.stack(states)

    def score(self, task: PreparedTask, split: Split, policy: str | None = None) -> Scores:
        """Scores when the model is not told the task, under a policy (by default the configuration's). The model does
        see the form of the inputs: texts, words, or questions on a context."""
        if self._routes_alone(policy):
            names = self._route(task, split)
            answers = self.answers(task, split, names)
        else:
            names, answers = self._ask_untold(task, split, policy)
        metrics = self._metrics(task, split, names, answers, module=True)
        group_of = {learned.name: learned.group for learned in knowledge_of(self.model).tasks}
        groups = [group_of[name] for name in names]
        right_group = group_of.get(task.name)
        return Scores(metrics, float(np.mean([group == right_group for group in groups])), groups)

    def routed(self, task: PreparedTask, split: Split) -> list[str]:
        """The learned task whose members answer each row of a split when the model is not told the task."""
        return self._route(task, split) if self._routes_alone() else self._ask_untold(task, split)[0]

    def features_of(self, task: PreparedTask, split: Split) -> torch.Tensor:
        """Trunk features of a split's rows, as `features` gives them, computed once."""
        if split not in self._features:
            self._features[split] = self.features(task, split.features)
        return self._features[split]

    def keep_features(self, split: Split, features: torch.Tensor) -> None:
        """Keeps the trunk features of a split's rows where they are known already."""
        self._features[split] = features

    def _routes_alone(self, policy: str | None = None) -> bool:
        """Whether the rows' groups are chosen from trunk features alone, and one task's members answer each."""
        config = active_config(self.model)
        by_signature = type(policy_of(policy or config.retrieval)) is NearestSignature
        return by_signature and config.answer == "merged" and not config.per_batch

    def _route(self, task: PreparedTask, split: Split) -> list[str]:
        """The newest task of the group that the signature chooses for each row."""
        root, knowledge = lifelong_of(self.model), knowledge_of(self.model)
        newest = [knowledge.tasks[index].name for index in knowledge.newest]
        posterior = root.index.posterior(self.features_of(task, split), kinds_in_question(knowledge, task.kind))
        return [newest[group] for group in posterior.argmax(1).tolist()]

    def _ask_untold(
        self, task: PreparedTask, split: Split, policy: str | None = None
    ) -> tuple[list[str], list[RowAnswer]]:
        """For each row the learned task that answers it under a policy, and its answer."""
        rows, learned = range(len(split.features)), knowledge_of(self.model).names
        of_row = self._run(
            task, split.features, rows, f"Answering {task.name}", lambda batch, _: self._ask(task, batch, policy)
        )
        return [learned[of_row[row][0]] for row in rows], [of_row[row][1] for row in rows]

    def _ask(
        self,
        task: PreparedTask,
        batch: Batch,
        policy: str | None,
        group: torch.Tensor | None = None,
        answer: str | None = None,
    ) -> list[tuple[int, RowAnswer]]:
        """For each row the index of the task that answered, and its scores `[D, C]`; for a language model its text
        and, if the task has labels, the likeliest label. Never the base's: it is what was learned that is scored."""
        knowledge = knowledge_of(self.model)
        if not task.generates:
            kinds = kinds_in_question(knowledge, task.kind) if group is None else None
            out = predict(self.model, batch, policy, group, answer, kinds=kinds)
            return list(zip(out.task.tolist(), out.scores.cpu().numpy(), strict=True))  # type: ignore[union-attr]
        texts = answer_prompts(self.model, batch, task.tokenizer, policy=policy, group=group, unknown="nearest")
        groups = torch.tensor(knowledge.group_of_task)[[text["task"] for text in texts]]
        labels = likeliest_labels(self.model, batch, task.tokenizer, texts, groups)
        rows = zip(texts, labels, strict=True)
        return [(text["task"], {"answer": text["answer"], "label": label["answer"]}) for text, label in rows]

    def _run(
        self,
        task: PreparedTask,
        features: Dataset,
        rows: Sequence[int],
        title: str,
        function: Callable[[Batch, list[int]], Iterable[Any]],
    ) -> dict[int, Any]:
        """Runs `function(batch, row numbers)` over batches of rows in their best order, split between processes, and
        returns the result of each row. The function returns one result per row, on the CPU."""
        modality = task.task_kind.modality
        columns = [name for name in modality.inputs if name in features.column_names]
        inputs = features.select_columns(columns).with_format(None).select(rows)
        order = modality.order(inputs, len(rows))
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        results: list[tuple[int, Any]] = []
        with self.accelerator.split_between_processes(batches) as share:
            for places in tqdm(share, desc=title, disable=self.quiet or len(share) < 2, leave=False):
                batch = task.batch(inputs[places])
                of_batch = [rows[place] for place in places]
                results.extend(zip(of_batch, function(batch, of_batch), strict=True))
        if self.accelerator.num_processes > 1:
            results = gather_object(results)
        return dict(results)

    def _metrics(
        self,
        task: PreparedTask,
        split: Split,
        names: Sequence[str],
        answers: Sequence[RowAnswer],
        module: bool = False,
    ) -> dict[str, float]:
        """The kind's metrics for the answers to a split; with `module`, also the metrics of the task's module."""
        references = task.task_kind.references(split.examples, task.columns, task.labels)
        texts: list[Any] = list(answers)
        answered = [text["answer"] for text in texts] if task.generates else self._decoded(task, split, names, texts)
        metrics = task.task_kind.score(answered, references)
        if task.generates and task.labels:
            right = [text["label"] in gold["text"] for text, gold in zip(texts, references, strict=True)]
            metrics["accuracy"] = float(np.mean(right))
        return with_module(metrics, task.task, task.labels, answered, references) if module else metrics

    def _decoded(
        self, task: PreparedTask, split: Split, names: Sequence[str], scores: Sequence[np.ndarray]
    ) -> list[Any]:
        """The answer to each example, decoded from the heads' scores."""
        kind, knowledge = head_kind(task.kind), knowledge_of(self.model)
        position = {name: i for i, name in enumerate(knowledge.names)}
        rows = split.features.select_columns(list(kind.extras)).with_format(None)[:]
        decoded = decode_answers(
            knowledge,
            [position[name] for name in names],
            scores,
            {name: rows[name] for name in kind.extras},
            kind.sources_of(split.examples, task.columns),
        )
        # An answer of another kind is wrong, even if its text equals the right answer.
        same = [knowledge.tasks[answer["task"]].kind == task.kind for answer in decoded]
        return [answer["answer"] if ok else None for answer, ok in zip(decoded, same, strict=True)]
