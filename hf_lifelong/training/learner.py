"""`TaskLearner`: the life cycle of one task, from its data to a commit.

    prepare → open → train → fit → group → fit statistics → measure → commit, or roll back

The learner knows neither a list of tasks nor `Trainer`. The caller hands in the data of a task, and [`TaskTrainer`] is
the interface to whatever trains it.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from transformers import set_seed
from transformers.trainer_utils import TrainOutput

from ..adapter import (
    Snapshot,
    active_config,
    add_task,
    close_task,
    forget,
    knowledge_of,
    lifelong_of,
    open_task,
    set_closed_form,
    set_knowledge,
)
from ..knowledge import (
    CHANCE,
    KnowledgeBase,
    LearnedTask,
    Router,
    best_weight,
    candidate_groups,
    fit_closed_form,
    fit_signature,
    joins,
    loss_sums,
    measure_tail,
    nearer_count,
    nearness,
    told_apart,
)
from .checkpoints import newest_checkpoint, task_folder, write_commit
from .checks import check_stream
from .data import PreparedTask
from .measuring import majority, measure
from .protocol import TaskTrainer
from .statistics import fit_statistics, measure_overall

logger = logging.getLogger(__name__)

# Number of training texts that are compared with learned tasks to find the nearest one.
COMPARED_TEXTS = 256


@dataclass(repr=False, eq=False)
class Visit:
    """The state of one task on its way through [`TaskLearner`]. Each step reads what earlier steps wrote here. A field
    does not exist before the step that sets it.

    Args:
        task ([`PreparedTask`]): The task.
        before ([`KnowledgeBase`]): The model's knowledge before the task, which a rollback restores.
        forward (`float`, *optional*): Score on the task before it is learned, for FWT.

    Attributes:
        started_from (`str`, *optional*): From `open`: the learned task whose newest member training starts from.
        members (`list[Snapshot]`): From `train`: the snapshots that become the task's members.
        output (`TrainOutput`): From `train`: steps, loss and metrics.
        features (`Tensor`): From `fit`: `[n, D]`, float32, trunk features of `n` texts spread evenly over the training
            data.
        classes (`Tensor`, *optional*): From `fit`: `[n]`, int64, the class of each text; `None` if texts have no
            class.
        router (`Router`, *optional*): From `fit`: tells earlier tasks apart; `None` if there are none, or if every
            task opens a group.
        learned ([`LearnedTask`]): From `fit`, completed by `group`: the task's record in the manifest.
        scores (`dict[str, float]`): From `measure`: the scores of all measured tasks.
    """

    task: PreparedTask
    before: KnowledgeBase
    forward: float | None = None
    started_from: str | None = None
    members: list[Snapshot] = field(init=False)
    output: TrainOutput = field(init=False)
    features: torch.Tensor = field(init=False)
    classes: torch.Tensor | None = None
    router: Router | None = None
    learned: LearnedTask = field(init=False)
    scores: dict[str, float] = field(init=False)


class TaskLearner:
    """Takes tasks through their life cycle, one at a time. Each step is a separate method.

    `prepare` comes first and checks all available tasks. `learn` runs all steps up to the commit, and rolls back if
    one fails. `commit` writes the adapter.

    Args:
        trainer ([`TaskTrainer`]): Trains the working adapter and keeps the model.
    """

    def __init__(self, trainer: TaskTrainer) -> None:
        self.trainer = trainer

    @property
    def knowledge(self) -> KnowledgeBase:
        """What the model has learned."""
        return knowledge_of(self.trainer.model)

    def prepare(self, tasks: Sequence[PreparedTask]) -> None:
        """Refuses tasks that could not be trained to the end, or not be read again, before any task is trained.

        Args:
            tasks (`list[PreparedTask]`): All available tasks that this model is to learn.

        Raises:
            ValueError: says what is wrong, and with which task if it concerns one.
        """
        if len(tasks) > 1 and self.trainer.is_sharded:
            raise ValueError(
                f"`tasks` holds {len(tasks)} tasks to learn, but under FSDP and DeepSpeed a launch learns one, "
                "because a sharded model cannot grow. Give one task per launch, each time with the adapter of the "
                "previous launch."
            )
        check_stream(self.trainer, tasks)

    def learn(
        self,
        task: PreparedTask,
        at_hand: Sequence[PreparedTask] = (),
        resume: bool = False,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Visit:
        """Learns a task in memory: all steps except `prepare` and `commit`.

        Args:
            task ([`PreparedTask`]): The task, which `prepare` must have accepted.
            at_hand (`list[PreparedTask]`): Tasks whose data is available, in the order in which they are scored
                afterwards; tasks that are not learned by then are skipped. By default the task alone.
            resume (`bool`): Whether training resumes from the task's newest complete checkpoint.
            ignore_keys_for_eval (`list[str]`, *optional*): As in `Trainer.train`.

        Returns:
            [`Visit`], for `commit`.

        Raises:
            Exception: whatever a step raises, after the model is rolled back to its state before the task.
        """
        visit = Visit(task, self.knowledge, self.score_before(task))
        try:
            self.open(visit)
            self.train(visit, resume, ignore_keys_for_eval)
            self.fit(visit)
            self.group(visit)
            self.fit_statistics(visit)
            self.measure(visit, at_hand or [task])
        except BaseException:
            self.roll_back(visit)
            raise
        self.trainer.log({f"eval_{key}": value for key, value in visit.scores.items()})
        learned = visit.learned
        logger.info(f"Task `{learned.name}` is kept in group `{learned.group}` with {learned.members} members")
        return visit

    def open(self, visit: Visit) -> None:
        """Chooses what the task starts from, and opens the working adapter for it."""
        task, seed = visit.task, self.trainer.args.seed + visit.task.seed
        set_seed(seed)
        start = self.starting_point(task)
        visit.started_from = start.name if start is not None else None
        same_head = start is not None and is_alike(start, task)
        set_seed(seed)
        open_task(self.trainer.model, task.kind, task.labels, task.width, visit.started_from, same_head)

    def train(self, visit: Visit, resume: bool = False, ignore_keys_for_eval: list[str] | None = None) -> None:
        """Trains the working adapter; with `resume`, from the task's newest complete checkpoint."""
        task, folder = visit.task, task_folder(str(self.trainer.args.output_dir), visit.task.name)
        checkpoint = newest_checkpoint(folder, task.name, visit.before.names) if resume else None
        visit.members, visit.output = self.trainer.train_task(task, checkpoint, ignore_keys_for_eval)

    def fit(self, visit: Visit) -> None:
        """Adds the task to the model: its members, and the signature and closed-form head that are fitted on the trunk
        features of its training texts."""
        task, model, args = visit.task, self.trainer.model, self.trainer.args
        samples = args.signature_samples
        visit.features = self.trainer.evaluator.features(task, task.asked, samples)
        visit.classes = task.asked_classes(samples)
        if args.grouping == "performance":
            visit.router = lifelong_of(model).index.router  # saved here, because adding the task replaces it
        visit.learned = task.learned(len(visit.members), len(visit.features), visit.classes, visit.started_from)
        rank = active_config(model).signature_rank
        signature = fit_signature(
            visit.features, rank, visit.classes, visit.learned.classes, self.knowledge.constants.own
        )
        held_out = self.trainer.evaluator.features_of(task, task.validation)
        tail = measure_tail(signature, len(visit.features), held_out, self.knowledge.constants)
        visit.learned = replace(visit.learned, tail=tail)
        add_task(model, visit.learned, visit.members, signature)
        self.trainer.evaluator.forget(task.name)  # answers stored under this name came from other members
        self._fit_closed_form(visit)

    def group(self, visit: Visit) -> None:
        """Scores the task on its validation data, and puts it into the group of an earlier task that it repeats, or
        else into a new group."""
        task, model = visit.task, self.trainer.model
        metrics = self.trainer.evaluator.oracle(task, task.validation, task.name)
        group = self._matching_group(visit, metrics[task.task_kind.likeness]) or task.name
        baseline = majority(task, task.validation)
        score = metrics[task.task_kind.metric]
        learned = visit.learned = replace(visit.learned, score=score, baseline=baseline, group=group)
        set_knowledge(model, replace(self.knowledge, tasks=[*visit.before.tasks, learned]))
        close_task(model)
        if learned.at_chance:
            logger.warning(
                f"Task `{learned.name}` is kept, but its {task.task_kind.metric} on its validation data is "
                f"{score:.3f}; always giving its most frequent answer scores {baseline:.3f}. {CHANCE}"
            )

    def fit_statistics(self, visit: Visit) -> None:
        """Fits the trainer's statistics on the task and stores the results. A statistic may refuse the task."""
        fit_statistics(self.trainer, visit.task, visit.features)

    def measure(self, visit: Visit, at_hand: Sequence[PreparedTask]) -> None:
        """Scores all learned tasks whose data is at hand, extends the accuracy matrix, and asks the statistics about
        all tasks together."""
        visit.scores = measure(self.trainer.model, self.trainer.evaluator, at_hand, visit.task, visit.forward)
        visit.scores |= measure_overall(self.trainer, at_hand)

    def commit(self, visit: Visit) -> None:
        """Writes the adapter into `output_dir`, whole or not at all, then deletes the task's checkpoints. If writing
        fails, the model in memory still knows the task."""
        args = self.trainer.args
        if args.should_save:
            write_commit(str(args.output_dir), self.trainer.save_adapter)
            shutil.rmtree(task_folder(str(args.output_dir), visit.task.name), ignore_errors=True)
        self.trainer.accelerator.wait_for_everyone()

    def roll_back(self, visit: Visit) -> None:
        """Restores the model to its state before the task, whichever step failed. Checkpoints stay."""
        model = self.trainer.model
        if self.knowledge.names != visit.before.names:
            forget(model, visit.task.name)
        close_task(model)
        set_knowledge(model, visit.before)

    def score_before(self, task: PreparedTask) -> float | None:
        """The model's score on a task that it has not learned yet and is not told, for FWT. `None` if no learned task
        has the same kind and label names, because then no answer could be right; also `None` for a sharded model,
        which can be asked only after training."""
        alike = any(is_alike(learned, task) for learned in self.knowledge.tasks)
        if not alike or not task.labels or self.trainer.is_sharded:
            return None
        return self.trainer.evaluator.score(task, task.test).metrics[task.task_kind.metric]

    def starting_point(self, task: PreparedTask) -> LearnedTask | None:
        """The learned task that a new task starts from, according to `start_from`."""
        knowledge, args = self.knowledge, self.trainer.args
        if args.start_from == "fresh" or not knowledge.tasks:
            return None
        if args.start_from == "previous":
            return knowledge.tasks[-1]
        newest = [knowledge.tasks[index] for index in knowledge.newest]
        alike = [learned for learned in newest if is_alike(learned, task)]
        if not alike or not task.labels:  # free-text answers have no form in common
            return None
        if len(alike) == 1 or self.trainer.is_sharded:
            return alike[-1]  # a sharded model can be asked only after training
        texts = min(COMPARED_TEXTS, args.signature_samples)
        features = self.trainer.evaluator.features(task, task.asked, texts)
        router = cast(Router, lifelong_of(self.trainer.model).index.router)  # there are tasks
        near = nearness(knowledge, router, features)
        return newest[candidate_groups(knowledge, near, task.kind, task.labels)[0]]

    def _fit_closed_form(self, visit: Visit) -> None:
        """Adds the closed-form head of a new task, weighted on its validation data. There is none if the texts have no
        class, if their features do not predict it, or if the members were made fair, which it is not."""
        task, evaluator, split = visit.task, self.trainer.evaluator, visit.task.validation
        if visit.classes is None or self.trainer.args.trains_fair:
            return
        head = fit_closed_form(visit.features, visit.classes, len(task.labels))
        if head is None:
            return
        members = evaluator.probabilities(task, split, task.name)
        closed = evaluator.features(task, split.features) @ head[0].T + head[1]
        tiny = torch.finfo(members.dtype).tiny
        labels = torch.tensor(split.features["labels"])
        weight = best_weight(loss_sums(members.clamp_min(tiny).log(), closed, labels))
        set_closed_form(self.trainer.model, task.name, weight * head[0], weight * head[1])
        evaluator.forget(task.name)  # the stored answers were given without it

    def _matching_group(self, visit: Visit, new_score: float) -> str | None:
        """The group whose data the task repeats and which answers the task as well as the new members, whose score is
        `new_score`; `None` if there is no such group."""
        task, before, args, evaluator = visit.task, visit.before, self.trainer.args, self.trainer.evaluator
        if args.grouping != "performance" or visit.router is None:
            return None
        held_out = evaluator.features(task, task.validation.features, args.signature_samples)
        near = candidate_groups(before, nearness(before, visit.router, held_out), task.kind, task.labels)
        if not near:
            return None
        root = lifelong_of(self.trainer.model)
        likelihood = root.index.likelihood(held_out.to(root.where()))
        for group in near:
            tasks = [index for index, of_task in enumerate(before.group_of_task) if of_task == group]
            if told_apart(nearer_count(likelihood, len(before.tasks), tasks), len(held_out)):
                continue
            old = evaluator.oracle(task, task.validation, before.tasks[before.newest[group]].name)
            if joins(old[task.task_kind.likeness], new_score, args.grouping_tolerance):
                return before.groups[group]
        return None


def is_alike(learned: LearnedTask, task: PreparedTask) -> bool:
    """Whether a learned task and another task have the same kind and label names, so that either can answer both."""
    return (learned.kind, learned.labels) == (task.kind, task.labels)
