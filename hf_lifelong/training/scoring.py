"""Answers of whole data sets, and the scores of them.

Members never change once they are committed, so the answer of a group to a row is kept: after a later task only the
routing is done again, and only rows that go elsewhere are run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from tqdm.auto import tqdm

from ..adapter import knowledge_of, lifelong_of, predict, trunk_features
from ..adapter.decoding import decode_answers
from ..adapter.generation import answer_prompts, likeliest_labels
from ..knowledge import KnowledgeBase
from ..objectives import head_objective, kinds_alike
from ..objectives.base import MODEL_INPUTS
from .modules import with_module
from .tasks import PreparedTask, Split


@dataclass
class Scored:
    """Scores of one data set.

    Args:
        metrics (`dict[str, float]`): The kind's metrics, and those of the task's module.
        retrieval (`float`): Share of the rows that went to the task's own group.
        groups (`list[str]`): Group that answered each row.
    """

    metrics: dict[str, float]
    retrieval: float
    groups: list[str]


def kinds_in_question(knowledge: KnowledgeBase, kind: str) -> tuple[str, ...] | None:
    """The kinds that inputs of the form of those of `kind` are of; `None` where no such task is known."""
    kinds = kinds_alike(kind)
    return kinds if any(task.kind in kinds for task in knowledge.tasks) else None


def spread_over(count: int, limit: int | None) -> list[int]:
    """Rows of a data set of `count` rows: all, or `limit` evenly spread over it where it is longer."""
    if limit is None or count <= limit:
        return list(range(count))
    return np.linspace(0, count - 1, limit).astype(int).tolist()


class Scorer:
    """Scores tasks with a model that has a lifelong adapter.

    Args:
        model (`nn.Module`): The model.
        accelerator (`accelerate.Accelerator`): Shares rows among processes.
        batch_size (`int`): Rows of a batch.
        quiet (`bool`): No progress bars.
    """

    def __init__(self, model: torch.nn.Module, accelerator: Any, batch_size: int, quiet: bool) -> None:
        self.model, self.accelerator, self.batch_size, self.quiet = model, accelerator, batch_size, quiet
        self._features: dict[int, torch.Tensor] = {}
        self._answers: dict[tuple[int, str], dict[int, Any]] = defaultdict(dict)
        self._splits: list[Split] = []  # keeps the splits alive whose ids are keys

    def clear(self) -> None:
        """Forgets answers; needed where a task may be learned again under the same name."""
        self._features.clear()
        self._answers.clear()
        self._splits.clear()

    def forget(self, task: str) -> None:
        """Forgets the answers of a task's members."""
        for key in [key for key in self._answers if key[1] == task]:
            del self._answers[key]

    @property
    def knowledge(self) -> KnowledgeBase:
        return knowledge_of(self.model)

    def features(self, prepared: PreparedTask, rows: Any, limit: int | None = None) -> torch.Tensor:
        """Trunk features of a data set's rows, `[rows, D]`, on the CPU; of `limit` rows evenly spread over it where it
        is longer."""
        index = spread_over(len(rows), limit)
        found = dict(
            self._batches(prepared, rows, index, "Signature", lambda b, i: trunk_features(self.model, b).cpu())
        )
        return torch.stack([found[i] for i in index])

    def oracle(self, prepared: PreparedTask, split: Split, task: str) -> dict[str, float]:
        """Metrics when the newest members of `task` answer every row."""
        rows = range(len(split.features))
        answers = self._answers_of(prepared, split, {task: list(rows)})
        return self._metrics(prepared, split, [task] * len(rows), answers)

    def probabilities(self, prepared: PreparedTask, split: Split, task: str) -> torch.Tensor:
        """Probabilities of the labels when the newest members of `task` answer every row, `[rows, C]`, of a task of
        text classification."""
        rows = range(len(split.features))
        answers = self._answers_of(prepared, split, {task: list(rows)})
        return torch.tensor(np.stack([answers[row, task][0, : len(prepared.labels)] for row in rows]))

    def score(self, prepared: PreparedTask, split: Split, policy: str | None = None) -> Scored:
        """Metrics without being told the task, under a policy (the configuration's where it is `None`). What the form
        of the inputs shows is known: whether they are texts, words or questions on a context."""
        config = lifelong_of(self.model).config[lifelong_of(self.model).active_adapters[0]]
        if (policy or config.retrieval) == "signature" and config.answer == "merged" and not config.per_batch:
            chosen = self._route(prepared, split)
            wanted: dict[str, list[int]] = defaultdict(list)
            for row, task in enumerate(chosen):
                wanted[task].append(row)
            answers = self._answers_of(prepared, split, wanted)
        else:
            chosen, answers = self._run(prepared, split, policy)
        metrics = self._metrics(prepared, split, chosen, answers, module=True)
        group_of = {task.name: task.group for task in self.knowledge.tasks}
        groups = [group_of[task] for task in chosen]
        own = group_of.get(prepared.name)
        return Scored(metrics, float(np.mean([group == own for group in groups])), groups)

    def _route(self, prepared: PreparedTask, split: Split) -> list[str]:
        """The newest task of the group that the signature chooses for each row."""
        if id(split) not in self._features:
            self._features[id(split)] = self.features(prepared, split.features)
            self._splits.append(split)
        root, knowledge = lifelong_of(self.model), self.knowledge
        newest = [knowledge.tasks[task].name for task in knowledge.newest]
        posterior = root.posterior(self._features[id(split)], kinds_in_question(self.knowledge, prepared.kind))
        return [newest[g] for g in posterior.argmax(1).tolist()]

    def _answers_of(
        self, prepared: PreparedTask, split: Split, wanted: dict[str, list[int]]
    ) -> dict[tuple[int, str], Any]:
        """What `_ask` gives for (row, task) pairs; those known are not run again."""
        missing = [
            (row, task) for task, rows in wanted.items() for row in rows if row not in self._answers[id(split), task]
        ]
        if missing:
            self._splits.append(split)
            group_of = {task: self.knowledge.group_index(task) for task in wanted}
            index = [row for row, _ in missing]
            groups = torch.tensor([group_of[task] for _, task in missing])

            def answer(batch: dict[str, torch.Tensor], places: list[int]) -> list[Any]:
                return [result for _, result in self._ask(prepared, batch, "oracle", groups[places], "merged")]

            # A row may be asked for by several tasks, so answers are told apart by place, not by row.
            places = self._batches(
                prepared, split.features, index, f"Answering {prepared.name}", answer, by_place=True
            )
            for place, result in places:
                row, task = missing[place]
                self._answers[id(split), task][row] = result
        return {(row, task): self._answers[id(split), task][row] for task, rows in wanted.items() for row in rows}

    def _run(
        self, prepared: PreparedTask, split: Split, policy: str | None
    ) -> tuple[list[str], dict[tuple[int, str], Any]]:
        def answer(batch: dict[str, torch.Tensor], places: list[int]) -> list[tuple[int, Any]]:
            return self._ask(prepared, batch, policy)

        rows = range(len(split.features))
        names = self.knowledge.names
        found = dict(self._batches(prepared, split.features, rows, f"Answering {prepared.name}", answer))
        chosen = [names[found[row][0]] for row in rows]
        return chosen, {(row, chosen[row]): found[row][1] for row in rows}

    def _ask(
        self,
        prepared: PreparedTask,
        batch: dict[str, torch.Tensor],
        policy: str | None,
        group: torch.Tensor | None = None,
        answer: str | None = None,
    ) -> list[tuple[int, Any]]:
        """Per row the position of the task that answered, and its scores `[D, C]`, or the text that it gave and, where
        it has labels, the likeliest of them."""
        if not prepared.generates:
            kinds = kinds_in_question(self.knowledge, prepared.kind) if group is None else None
            out = predict(self.model, batch, policy, group, answer, kinds=kinds)
            return list(zip(out.task.tolist(), out.scores.cpu().numpy(), strict=True))  # type: ignore[union-attr]
        texts = answer_prompts(self.model, batch, prepared.tokenizer, policy=policy, group=group)
        group_of = torch.tensor(self.knowledge.group_of_task)
        groups = group_of[[text["task"] for text in texts]]
        labels = likeliest_labels(self.model, batch, prepared.tokenizer, texts, groups)
        rows = zip(texts, labels, strict=True)
        return [(text["task"], {"answer": text["answer"], "label": label["answer"]}) for text, label in rows]

    def _batches(
        self, prepared: PreparedTask, rows: Any, index: Any, title: str, function: Any, by_place: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """Runs `function(batch, places)`, which gives one result on the CPU for each row, over rows in order of
        length, shared among processes; yields (row, result)."""
        inputs = rows.select_columns([c for c in MODEL_INPUTS if c in rows.column_names]).with_format(None)
        inputs = inputs.select([int(i) for i in index])[:]
        order = np.argsort([-len(ids) for ids in inputs["input_ids"]], kind="stable").tolist()
        batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
        results: list[tuple[int, Any]] = []
        with self.accelerator.split_between_processes(batches) as share:
            for places in tqdm(share, desc=title, disable=self.quiet or len(share) < 2, leave=False):
                batch = {name: [values[p] for p in places] for name, values in inputs.items()}
                results.extend(zip(places, function(prepared.pad(batch), places), strict=True))
        if self.accelerator.num_processes > 1:
            results = gather_object(results)
        for place, result in results:
            yield (place if by_place else int(index[place])), result

    def _metrics(
        self,
        prepared: PreparedTask,
        split: Split,
        chosen: list[str],
        answers: dict[tuple[int, str], Any],
        module: bool = False,
    ) -> dict[str, float]:
        results = [answers[row, task] for row, task in enumerate(chosen)]
        references = prepared.objective.references(split.examples, prepared.columns, prepared.labels)
        if prepared.generates:
            given = [result["answer"] for result in results]
        else:
            given = self._decoded(prepared, split, chosen, results)
        metrics = prepared.objective.score(given, references)
        if prepared.generates and prepared.labels:
            right = [result["label"] in gold["text"] for result, gold in zip(results, references, strict=True)]
            metrics["accuracy"] = float(np.mean(right))
        return with_module(metrics, prepared, given, references) if module else metrics

    def _decoded(self, prepared: PreparedTask, split: Split, chosen: list[str], results: list[Any]) -> list[Any]:
        """What the heads' scores say, row by row."""
        objective = head_objective(prepared.kind)
        knowledge = self.knowledge
        place = {name: i for i, name in enumerate(knowledge.names)}
        rows = split.features.with_format(None)[:]
        found = decode_answers(
            knowledge,
            [place[task] for task in chosen],
            results,
            {name: rows[name] for name in objective.extras},
            objective.sources_of(split.examples, prepared.columns),
        )
        # An answer of another kind cannot be right, even where its words are those of a right one.
        same = [knowledge.tasks[answer["task"]].kind == prepared.kind for answer in found]
        return [answer["answer"] if ok else None for answer, ok in zip(found, same, strict=True)]
