"""A client of federated lifelong learning: answers each step with sums over its own rows. Knows no Flower."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from ..adapter import close_task, knowledge_of, lifelong_of, open_task, set_tasks_after
from ..knowledge import KnowledgeBase, class_sums, loss_sums, nearer_count, nearness
from ..training import (
    DriftTrainer,
    PreparedTask,
    Split,
    TaskLearner,
    fitted_statistics,
    newest_commit,
    restore,
    task_folder,
    write_commit,
)
from .declared import triangle
from .errors import ClientError
from .state import same_base, state_digest
from .tensors import load_trained, trained_tensors

# Training texts that are compared with learned tasks to find the nearest one, as `TaskLearner` does.
COMPARED = 256
KIND = "text-classification"


class Participant:
    """One client's learner. What it has learned lies in the `output_dir` of its trainer; whatever else a step needs
    comes with the message, so a client may be started anew for each.

    Args:
        trainer ([`DriftTrainer`]): With the client's share of the data of all tasks.
    """

    def __init__(self, trainer: DriftTrainer) -> None:
        self.trainer, self.model = trainer, trainer.model
        trainer.snapshots.members = 1  # a round is one cycle of the learning rate
        commit = newest_commit(trainer.output_dir)
        if commit is not None:
            restore(self.model, commit)
        self._ready: set[str] = set()

    @property
    def knowledge(self) -> KnowledgeBase:
        return knowledge_of(self.model)

    def task(self, name: str, labels: Sequence[str]) -> PreparedTask:
        """The client's data of a task, checked and encoded.

        Raises:
            ClientError: when it has none, or of another kind or with other labels.
        """
        task = next((task for task in self.trainer.tasks if task.name == name), None)
        if task is None:
            raise ClientError("It has no data of this task.")
        prepared = self.trainer.prepared(task)
        if prepared.kind != KIND or list(prepared.labels) != list(labels):
            raise ClientError(
                f"Its data of this task is {prepared.kind} with {len(prepared.labels)} labels; the federation learns "
                f"{KIND} with {len(labels)} labels of the same names and order."
            )
        if name not in self._ready and name not in self.knowledge.names:
            TaskLearner(self.trainer).prepare([prepared])
            self._ready.add(name)
        return prepared

    def check_state(self, digest: int) -> None:
        """Refuses to go on from another state than the server's (`ClientError`)."""
        if state_digest(self.model) != digest:
            raise ClientError("It has learned something else than the server; it gets the rest with the next task.")

    def take_over(self, start: int, manifest: str, tensors: Mapping[str, Tensor]) -> None:
        """Puts the server's tasks after the first `start` in place of the client's.

        Raises:
            ClientError: when the server's adapter is of another base.
        """
        knowledge = KnowledgeBase.from_dict(json.loads(manifest))
        if not same_base(knowledge, self.knowledge):
            raise ClientError("Its base model or trunk is not the server's; all must load the same base.")
        set_tasks_after(self.model, start, knowledge, tensors)
        for task in knowledge.tasks[start:]:
            self.trainer.evaluator.forget(task.name)

    @contextmanager
    def trying(self, start: int, manifest: str, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """The server's newest task, for one step only."""
        before = self.knowledge
        try:
            self.take_over(start, manifest, tensors)
            yield
        finally:
            for name in self.knowledge.names[start:]:
                self.trainer.evaluator.forget(name)
            set_tasks_after(self.model, start, before, {})

    def hello(self) -> dict[str, Tensor]:
        return {"digest": torch.tensor(state_digest(self.model)), "tasks": torch.tensor(len(self.knowledge.tasks))}

    def commit(self, start: int, manifest: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Takes over what the server learned, and writes it, whole or not at all.

        Raises:
            ClientError: when the client has learned tasks that the server has not, which would be lost.
        """
        own, server = self.knowledge.names, KnowledgeBase.from_dict(json.loads(manifest)).names
        if server[: len(own)] != own:
            raise ClientError(
                "It has learned other tasks than the server, which would be lost; give it an empty folder."
            )
        self.take_over(start, manifest, tensors)
        write_commit(self.trainer.output_dir, self.trainer.save_adapter)
        return {"digest": torch.tensor(state_digest(self.model))}

    def train(self, task: PreparedTask, arrays: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
        """Trains the working adapter for a round: one run of the trainer, as its arguments say."""
        args = self.trainer.args
        own_seed = args.seed
        try:
            open_task(self.model, task.kind, task.labels, task.width)
            load_trained(self.model, arrays)
            args.seed = seed
            set_seed(seed)
            self.trainer.train_task(task, None)
            return trained_tensors(self.model)
        finally:
            args.seed = own_seed
            close_task(self.model)
            shutil.rmtree(task_folder(self.trainer.output_dir, task.name), ignore_errors=True)

    def survey(self, task: PreparedTask) -> dict[str, Tensor]:
        """What the server must know before training. All of it is of the frozen trunk, so it holds afterwards."""
        samples, classes = self.trainer.args.signature_samples, len(task.labels)
        features, labels = self._signed(task)
        sums = class_sums(features, labels, classes)
        validation = self._features(task, task.validation, samples)
        alike = any((old.kind, old.labels) == (task.kind, task.labels) for old in self.knowledge.tasks)
        forward = self._right(self.trainer.evaluator.score(task, task.test).metrics, task.test) if alike else [0, 0]
        splits = [split["labels"][:] for split in (task.train, task.validation.features, task.test.features)]
        counts = [torch.bincount(torch.tensor(values), minlength=classes) for values in splits]
        return {
            "labels": torch.stack(counts),
            "has_test": torch.tensor(int(task.task.test is not None)),
            "counts": sums.counts,
            "means": sums.means,
            "scatter": triangle(sums.scatter),
            "near_training": self._near(self.trainer.evaluator.features(task, task.asked, min(COMPARED, samples))),
            "near_validation": self._near(validation),
            "forward": torch.tensor(forward),
        }

    def weigh(self, task: PreparedTask, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """How well closed-form logits do beside the members on the validation rows."""
        evaluator, split = self.trainer.evaluator, task.validation
        members = evaluator.probabilities(task, split, task.name)
        closed = evaluator.features(task, split.features) @ given["weight"].T + given["bias"]
        logarithms = members.clamp_min(torch.finfo(members.dtype).tiny).log()
        sums = loss_sums(logarithms, closed, torch.tensor(split.features["labels"]))
        return {"rows": torch.tensor(sums.rows), "losses": sums.losses, "squares": sums.squares}

    def group(self, task: PreparedTask, start: int, candidates: Sequence[int]) -> dict[str, Tensor]:
        """How the new members, and those of groups that the task may repeat, answer the validation rows."""
        evaluator, split = self.trainer.evaluator, task.validation
        features = self._features(task, split, self.trainer.args.signature_samples)
        root, tasks = lifelong_of(self.model), self.knowledge.tasks[:start]
        before = KnowledgeBase(tasks=tasks)
        likelihood = root.index.likelihood(features.to(root.where()))
        right, nearer = torch.zeros(2, len(before.groups), dtype=torch.int64)
        for group in candidates:
            old = [index for index, of_task in enumerate(before.group_of_task) if of_task == group]
            nearer[group] = nearer_count(likelihood, start, old)
            metrics = evaluator.oracle(task, split, tasks[before.newest[group]].name)
            right[group] = self._right(metrics, split)[0]
        new = self._right(evaluator.oracle(task, split, task.name), split)
        return {
            "new": torch.tensor(new),
            "compared": torch.tensor(len(features)),
            "old_right": right,
            "nearer": nearer,
        }

    def statistics(self, task: PreparedTask) -> dict[str, Tensor]:
        fitted = fitted_statistics(self.trainer, task, self._signed(task)[0])
        return {
            f"{statistic.name}/{name}": tensor
            for statistic, values in fitted.items()
            for name, tensor in values.items()
        }

    def measure(self) -> dict[str, Tensor]:
        """How the test rows of all learned tasks are answered, whose data this client has."""
        evaluator, knowledge = self.trainer.evaluator, self.knowledge
        counts = torch.zeros(3, len(knowledge.tasks), dtype=torch.int64)
        routed = torch.zeros(len(knowledge.tasks), len(knowledge.groups), dtype=torch.int64)
        at_hand = {task.name: task for task in self.trainer.tasks}
        for index, learned in enumerate(knowledge.tasks):
            if learned.name not in at_hand:
                continue
            task = self.task(learned.name, learned.labels)
            scores = evaluator.score(task, task.test)
            newest = knowledge.tasks[knowledge.newest[knowledge.group_of_task[index]]].name
            right, rows = self._right(scores.metrics, task.test)
            oracle = self._right(evaluator.oracle(task, task.test, newest), task.test)[0]
            counts[:, index] = torch.tensor([rows, right, oracle])
            groups = torch.tensor([knowledge.groups.index(name) for name in scores.groups])
            routed[index] = torch.bincount(groups, minlength=len(knowledge.groups))
        rows_of, right_of, oracle_of = counts
        return {"rows": rows_of, "right": right_of, "oracle": oracle_of, "routed": routed}

    def _signed(self, task: PreparedTask) -> tuple[Tensor, Tensor]:
        """Features and classes of the rows that the signature is fitted on."""
        samples = self.trainer.args.signature_samples
        classes: Any = task.asked_classes(samples)
        return self.trainer.evaluator.features(task, task.asked, samples), classes

    def _features(self, task: PreparedTask, split: Split, samples: int) -> Tensor:
        return self.trainer.evaluator.features(task, split.features, samples)

    def _near(self, features: Tensor) -> Tensor:
        """How near inputs are to each learned group, `[groups]`, float64."""
        router = lifelong_of(self.model).index.router
        if router is None:
            return torch.zeros(0, dtype=torch.float64)
        return nearness(self.knowledge, router, features).cpu().double()

    def _right(self, metrics: Mapping[str, float], split: Split) -> list[int]:
        """Rows that are answered right, and all rows, of an accuracy."""
        rows = len(split.examples)
        return [round(metrics["accuracy"] * rows), rows]
