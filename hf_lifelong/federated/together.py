"""`learn_together`: the server of federated lifelong learning. It holds the adapter, adds up sums, and decides."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from transformers import set_seed

from ..adapter import (
    Snapshot,
    active_adapter,
    active_config,
    add_task,
    check_usable,
    close_task,
    knowledge_of,
    lifelong_of,
    open_task,
    set_closed_form,
    set_knowledge,
    set_statistics,
    set_tasks_after,
    take_snapshot,
    tensors_after,
)
from ..evaluation import AccuracyMatrix, is_name
from ..knowledge import (
    WEIGHTS,
    ClassSums,
    KnowledgeBase,
    LearnedTask,
    LossSums,
    TaskData,
    best_weight,
    candidate_groups,
    closed_form_of_sums,
    joins,
    merge_sums,
    signature_of_sums,
    told_apart,
)
from ..statistics import TaskStatistic, get_statistics
from ..training import DriftTrainingArguments, write_commit
from .asking import Clients
from .declared import square
from .flower import ArrayRecord, ConfigRecord, FedAvg, Grid
from .participant import KIND
from .state import state_digest
from .strategy import CheckedAvg
from .tensors import load_trained, trained_tensors

logger = logging.getLogger(__name__)

Totals = Mapping[str, Tensor]
# Steps that are of what a client has learned already; with the others goes what the server has.
BEFORE_TRAINING = ("hello", "survey")


@dataclass(frozen=True)
class SharedTask:
    """A text classification task that clients learn together.

    Args:
        name (`str`): Name of the task, as in the clients' `Task`.
        labels (`tuple[str, ...]`): Label names, in the order of the clients' data.
    """

    name: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"`name` of a task is {self.name!r:.100}; give only printable characters, at least one.")
        object.__setattr__(self, "labels", tuple(self.labels))
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"`labels` of task `{self.name}` are {self.labels!r:.100}; give at least two, each once.")


def learn_together(
    grid: Grid,
    model: nn.Module,
    tasks: Iterable[SharedTask],
    args: DriftTrainingArguments,
    *,
    rounds: int = 8,
    strategy: FedAvg | None = None,
    statistics: Iterable[TaskStatistic | type[TaskStatistic] | str] = (),
    timeout: float = 3600.0,
) -> KnowledgeBase:
    """Has clients learn tasks together, one task after another. In the end the model and all clients hold the same
    adapter, to the bit.

    Of each task the working adapter is averaged over the clients in each round; the averages of the last rounds are
    its members. Signature and closed-form head are those of the pooled rows, from the clients' sums, and so are the
    group of the task and all scores. A client that fails is left out of the step, and gets what it missed before the
    next task.

    Args:
        grid (`flwr.serverapp.Grid`): Flower's grid, or an [`InProcessGrid`]; clients run [`lifelong_client`].
        model (`PeftModel`): The base with a lifelong adapter, new or loaded. Nothing runs through it, so a CPU does.
        tasks (`list[SharedTask]`): The tasks, in order. Those that the model knows are skipped.
        args ([`DriftTrainingArguments`]): `seed`, `start_from`, `grouping` and `grouping_tolerance` count; each commit
            is written into `output_dir`.
        rounds (`int`): Rounds of each task, at least `members` of the adapter's configuration.
        strategy (`FedAvg`, *optional*): How working adapters are averaged; a [`CheckedAvg`] by default. Clients are
            not evaluated in a round, so it has `fraction_evaluate=0`.
        statistics (`list`, *optional*): Statistics to store with each task, merged from the clients'; those of their
            trainers must be the same.
        timeout (`float`): Seconds to wait for the replies to a step.

    Returns:
        [`KnowledgeBase`]: What the model has learned.

    Raises:
        ValueError: for arguments that do not fit; nothing is trained then.
        RuntimeError: when no client gave a usable reply to a step. The task is then rolled back.
    """
    strategy = strategy if strategy is not None else CheckedAvg(fraction_evaluate=0.0)
    listed, used = list(tasks), get_statistics(statistics)
    check_setup(model, listed, args, rounds, strategy, used)
    server = Server(grid, model, args, strategy, used, rounds, timeout)
    for task in listed:
        if task.name not in knowledge_of(model).names:
            server.learn(task)
    return knowledge_of(model)


def check_setup(
    model: nn.Module,
    tasks: Sequence[SharedTask],
    args: Any,
    rounds: Any,
    strategy: Any,
    statistics: Sequence[TaskStatistic],
) -> None:
    """Refuses what could not be learned to the end (`ValueError`)."""
    check_usable(model, active_adapter(model))
    if not tasks or not all(isinstance(task, SharedTask) for task in tasks):
        raise ValueError(f"`tasks` is {tasks!r:.60}; give a list of `SharedTask`, at least one.")
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise ValueError(f"`tasks` are named {names}; give each task its own name.")
    if not isinstance(args, DriftTrainingArguments):
        raise ValueError(f"`args` must be `DriftTrainingArguments`, not `{type(args).__name__}`.")
    members = active_config(model).members
    if not isinstance(rounds, int) or isinstance(rounds, bool) or rounds < members:
        raise ValueError(
            f"`rounds` is {rounds!r}, but the averages of the last {members} rounds become the members of a task; "
            "give at least as many, or lower `members` in `DriftAdapterConfig`."
        )
    if not isinstance(strategy, FedAvg) or strategy.fraction_evaluate:
        raise ValueError(
            "`strategy` must be a `FedAvg` with `fraction_evaluate=0`, because clients are scored at the end of a "
            "task. `FairAvg` is for other trainings: `client_app`."
        )
    for statistic in statistics:
        if type(statistic).merge is TaskStatistic.merge:
            raise ValueError(
                f"`statistics`: `{statistic.name}` is of one client alone and cannot be merged (it has no `merge`)."
            )


class Server:
    """Takes tasks through their life cycle, as [`~hf_lifelong.training.TaskLearner`] does for one process."""

    def __init__(
        self,
        grid: Grid,
        model: nn.Module,
        args: DriftTrainingArguments,
        strategy: FedAvg,
        statistics: Sequence[TaskStatistic],
        rounds: int,
        timeout: float,
    ) -> None:
        self.grid, self.model, self.args, self.strategy = grid, model, args, strategy
        self.statistics, self.rounds, self.timeout = statistics, rounds, timeout
        self.clients = Clients(grid, statistics, timeout)

    def learn(self, task: SharedTask) -> None:
        """Learns a task and commits it, or rolls it back."""
        before = knowledge_of(self.model)
        self.task, self.start, self.digest = task, len(before.tasks), state_digest(self.model)
        try:
            self.meet()
            surveys = self.ask("survey")
            sums = merge_sums([class_sums_of(survey) for survey in surveys])
            total = added(surveys, "labels", "near_training", "near_validation", "forward")
            members, started_from = self.train(total["near_training"])
            self.fit(members, started_from, sums, total, all(survey["has_test"] for survey in surveys))
            self.group(total)
            self.fit_statistics()
            self.measure(total)
        except BaseException:
            close_task(self.model)
            set_tasks_after(self.model, self.start, before, {})
            raise
        self.commit()

    def meet(self) -> None:
        """Brings clients that missed earlier tasks up to date."""
        self.clients.wait(self.strategy.min_available_nodes)
        behind = []
        for node, reply in self.replies("hello").items():
            if int(reply["digest"]) == self.digest:
                continue
            if int(reply["tasks"]) > self.start:
                logger.warning(
                    f"Node {node} knows {int(reply['tasks'])} tasks and the server {self.start}; it is left out. Give "
                    "`learn_together` the adapter that it has."
                )
                continue
            behind.append(node)
        if behind:
            logger.info(f"Nodes {behind} get the {self.start} tasks that were learned so far")
            self.replies("commit", nodes=behind, start=0)

    def train(self, near: Tensor) -> tuple[list[Snapshot], str | None]:
        """Averages the working adapter over rounds; returns the members and the task that it started from."""
        task, model = self.task, self.model
        seed = self.args.seed + zlib.crc32(task.name.encode()) % 2**20  # as `PreparedTask.seed`
        start = self.starting_point(near)
        set_seed(seed)
        same_head = start is not None and (start.kind, start.labels) == (KIND, task.labels)
        open_task(model, KIND, task.labels, len(task.labels), start.name if start else None, same_head)
        members: list[Snapshot] = []

        def note(server_round: int, arrays: ArrayRecord) -> None:
            if server_round > self.rounds - active_config(model).members:
                load_trained(model, arrays.to_torch_state_dict())
                members.append(take_snapshot(model))

        self.strategy.start(
            self.grid,
            ArrayRecord(trained_tensors(model)),
            num_rounds=self.rounds,
            timeout=self.timeout,
            train_config=ConfigRecord(self.config()),
            evaluate_fn=note,
        )
        return members, start.name if start else None

    def starting_point(self, near: Tensor) -> LearnedTask | None:
        """As `TaskLearner.starting_point`, by how near the clients' inputs are to the learned groups."""
        knowledge = knowledge_of(self.model)
        if self.args.start_from == "fresh" or not knowledge.tasks:
            return None
        if self.args.start_from == "previous":
            return knowledge.tasks[-1]
        groups = candidate_groups(knowledge, near, KIND, self.task.labels, most=1)
        return knowledge.tasks[knowledge.newest[groups[0]]] if groups else None

    def fit(
        self, members: list[Snapshot], started_from: str | None, sums: ClassSums, total: Totals, has_test: bool
    ) -> None:
        """Adds the task to the model, with its signature and closed-form head."""
        task, model = self.task, self.model
        signature = signature_of_sums(*sums, active_config(model).signature_rank, knowledge_of(model).constants.own)
        learned = LearnedTask(
            name=task.name,
            kind=KIND,
            labels=task.labels,
            width=len(task.labels),
            members=len(members),
            group=task.name,
            examples=int(sums.counts.sum()),
            classes=len(task.labels),
            class_examples=tuple(sums.counts.tolist()),
            started_from=started_from,
            data=TaskData(rows=int(total["labels"][0].sum()), scored_on="test" if has_test else "validation"),
        )
        add_task(model, learned, members, signature)
        head = closed_form_of_sums(sums)
        if head is None:
            return
        losses = added(self.ask("weigh", given={"weight": head[0], "bias": head[1]}), "rows", "losses", "squares")
        weight = best_weight(LossSums(int(losses["rows"]), losses["losses"], losses["squares"]))
        set_closed_form(model, task.name, weight * head[0], weight * head[1])

    def group(self, total: Totals) -> None:
        """Puts the task into the group of an earlier task that it repeats, or else into a new group."""
        task, tasks = self.task, knowledge_of(self.model).tasks
        before = replace(knowledge_of(self.model), tasks=tasks[:-1])
        near: list[int] = []
        if self.args.grouping == "performance" and before.tasks:
            near = candidate_groups(before, total["near_validation"], KIND, task.labels)
        asked = self.ask("group", candidates=near)
        found = added(asked, "new", "compared", "old_right", "nearer")
        right, rows = found["new"].tolist()
        score, compared = right / rows, int(found["compared"])
        group = task.name
        for index in near:
            repeats = not told_apart(int(found["nearer"][index]), compared)
            if repeats and joins(int(found["old_right"][index]) / rows, score, self.args.grouping_tolerance):
                group = before.groups[index]
                break
        learned = replace(tasks[-1], score=score, baseline=majority_share(total["labels"], 1), group=group)
        set_knowledge(self.model, replace(before, tasks=[*before.tasks, learned]))
        close_task(self.model)
        logger.info(f"Task `{learned.name}` is kept in group `{group}`; accuracy {score:.3f} on validation rows")

    def fit_statistics(self) -> None:
        """Stores the statistics of all clients with the task."""
        if not self.statistics:
            return
        replies, merged = self.ask("statistics"), {}
        for statistic in self.statistics:
            names = [spec.name for spec in statistic.tensors]
            values = [{name: reply[f"{statistic.name}/{name}"] for name in names} for reply in replies]
            merged[statistic] = reduce(statistic.merge, values)
        set_statistics(self.model, self.task.name, merged)

    def measure(self, total: Totals) -> None:
        """Extends the accuracy matrix by the scores of all clients' test rows."""
        knowledge = knowledge_of(self.model)
        found = added(self.ask("measure"), "rows", "right", "oracle", "routed")
        scored = {task.name: index for index, task in enumerate(knowledge.tasks) if found["rows"][index]}

        def shares(counts: Tensor) -> dict[str, float]:
            return {name: int(counts[index]) / int(found["rows"][index]) for name, index in scored.items()}

        own = found["routed"].gather(1, torch.tensor(knowledge.group_of_task)[:, None]).squeeze(1)
        confusion = {
            name: {
                group: count / int(found["rows"][index])
                for group, count in zip(knowledge.groups, found["routed"][index].tolist(), strict=True)
                if count
            }
            for name, index in scored.items()
        }
        matrix = AccuracyMatrix.from_dict(knowledge.scores) if knowledge.scores is not None else AccuracyMatrix()
        for learned in knowledge.tasks[:-1]:
            if learned.name not in matrix.tasks:  # `forget` drops all scores
                matrix.add(learned.name, "accuracy", None, {})
        right, rows = total["forward"].tolist()
        matrix.add(
            self.task.name,
            "accuracy",
            majority_share(total["labels"], 2),
            shares(found["right"]),
            oracle=shares(found["oracle"]),
            retrieval=shares(own),
            confusion=confusion,
            forward=right / rows if rows else None,
        )
        set_knowledge(self.model, replace(knowledge, scores=matrix.to_dict()))

    def commit(self) -> None:
        """Writes the adapter, and has the clients write the same."""
        write_commit(str(self.args.output_dir), lambda folder: self.model.save_pretrained(str(folder)))  # type: ignore[operator]
        digest = state_digest(self.model)
        for node, reply in self.replies("commit").items():
            if int(reply["digest"]) != digest:
                logger.warning(f"Node {node} committed something else than the server; it gets all with the next task")

    def ask(self, step: str, given: Totals | None = None, **config: Any) -> list[dict[str, Tensor]]:
        """The usable replies of all clients to a step.

        Raises:
            RuntimeError: when there is none.
        """
        replies = self.replies(step, given, **config)
        if not replies:
            raise RuntimeError(
                f"No client gave a usable reply to the step `{step}` of task `{self.task.name}`, so the task is not "
                "learned; the log says why."
            )
        return list(replies.values())

    def replies(
        self, step: str, given: Totals | None = None, nodes: Sequence[int] | None = None, **config: Any
    ) -> dict[int, dict[str, Tensor]]:
        """Node → reply of the clients whose reply can be used."""
        settings = {**self.config(), **config}
        records = {} if given is None else {"given": given}
        if step not in BEFORE_TRAINING:
            settings["knowledge"] = json.dumps(knowledge_of(self.model).to_dict())
            records["adapter"] = tensors_after(self.model, settings["start"])
        return self.clients.ask(step, settings, self.sizes(), records, nodes)

    def config(self) -> dict[str, Any]:
        """What every message says: the task, and what a client must have learned before."""
        return {"task": self.task.name, "labels": list(self.task.labels), "digest": self.digest, "start": self.start}

    def sizes(self) -> dict[str, int]:
        """The sizes that replies must have."""
        knowledge, features = knowledge_of(self.model), lifelong_of(self.model).features
        before = replace(knowledge, tasks=knowledge.tasks[: self.start])
        return {
            "parts": 3,
            "right_and_rows": 2,
            "classes": len(self.task.labels),
            "features": features,
            "triangle": features * (features + 1) // 2,
            "weights": len(WEIGHTS),
            "tasks": len(knowledge.tasks),
            "groups": len(knowledge.groups),
            "old_groups": len(before.groups),
        }


def class_sums_of(survey: Totals) -> ClassSums:
    """The class sums of a client's reply."""
    return ClassSums(survey["counts"], survey["means"], square(survey["scatter"], survey["means"].shape[1]))


def added(replies: Sequence[Totals], *names: str) -> dict[str, Tensor]:
    """Tensors of all replies, added up in the order of the clients."""
    return {name: torch.stack([reply[name] for reply in replies]).sum(0) for name in names}


def majority_share(labels: Tensor, part: int) -> float:
    """The accuracy on a part of always giving the most frequent training label, of rows of each class `[3, C]`."""
    return int(labels[part][labels[0].argmax()]) / int(labels[part].sum())
