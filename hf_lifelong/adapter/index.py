"""Quantities that are computed only from an adapter's tensors and manifest, and can be rebuilt from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor

from ..knowledge import (
    KnowledgeBase,
    Novelty,
    Router,
    Signature,
    group_posterior,
    novelty_rule,
    shared_router,
)
from ..objectives import HeadKind, get_kind
from .lasting import lasting


class Tables:
    """The manifest's contents as tensors. Lists of members are padded with -1.

    Attributes:
        groups (`int`): Number of groups.
        group_of_task (`Tensor`): `[tasks]`, the group of each task.
        task, kind, width (`Tensor`): `[groups]`: the newest task of each group, which answers for it, the position of
            this task's kind in `objectives`, and the rows of its head.
        kinds (`list[str]`): The kinds of all tasks.
        objectives (`list[HeadKind]`): One for each kind; empty for a language model.
        measures (`list[HeadKind]`): One kind for each distinct measure of uncertainty among `objectives`.
        measure (`Tensor`): `[groups]`, the position of each group's measure in `measures`.
        per_token (`bool`): Whether any kind answers for each token.
        merged (`Tensor`): `[groups, K]`, the members of each group's newest task.
        members (`Tensor`): `[groups, M]`, all members of each group.
        even, even_merged (`bool`): Whether `members` and `merged` have no padding.
        every_member, group_of_member (`Tensor`): `[members]`, all members, one group after another, and their groups.
        head_start, head_width (`Tensor`): `[members]`, first row and number of rows of each member's head.
        factor, summand (`Tensor`): `[members]`, scale and offset that map a head's outputs to the units of answers.
        unit (`Tensor`): `[groups]`, the factor of the members that answer for the group.
        numeric (`Tensor`, *optional*): `[groups]` bool, whether a group answers with numbers; `None` if none does.
        class_start, classes (`Tensor`): `[tasks]`, first class mean of each task and the number of its classes.
        widest (`int`), widest_of (`list[int]`): Rows of the widest head, overall and for each kind.
    """

    def __init__(self, knowledge: KnowledgeBase, device: torch.device) -> None:
        first, of_task, newest = knowledge.member_offsets, knowledge.group_of_task, knowledge.newest
        members: list[list[int]] = [[] for _ in newest]
        for task, group in enumerate(of_task):
            members[group].extend(range(first[task], first[task + 1]))
        merged = [list(range(first[task], first[task + 1])) for task in newest]
        counts = [len(in_group) for in_group in members]
        self.groups = len(newest)
        self.kinds = kinds = sorted({task.kind for task in knowledge.tasks})
        self.objectives = [kind for name in kinds if isinstance(kind := get_kind(name), HeadKind)]
        ways = [type(kind).uncertainty for kind in self.objectives]
        self.measures = [self.objectives[ways.index(way)] for way in dict.fromkeys(ways)]
        self.per_token = any(kind.per_token for kind in self.objectives)
        self.even, self.even_merged = (len(set(map(len, lists))) == 1 for lists in (members, merged))
        self.widest_of = [max(task.width for task in knowledge.tasks if task.kind == kind) for kind in kinds]
        self.widest = max(self.widest_of)
        head = knowledge.head_offsets

        def tensor(values: Sequence[object]) -> Tensor:
            return torch.tensor(values, device=device)

        self.group_of_task = tensor(of_task)
        self.task = tensor(newest)
        self.kind = tensor([kinds.index(knowledge.tasks[task].kind) for task in newest])
        if ways:
            self.measure = tensor([list(dict.fromkeys(ways)).index(way) for way in ways])[self.kind]
        self.width = tensor([knowledge.tasks[task].width for task in newest])
        self.merged = tensor(_padded(merged))
        self.members = tensor(_padded(members))
        self.every_member = tensor([member for in_group in members for member in in_group])
        self.group_of_member = tensor([group for group, count in enumerate(counts) for _ in range(count)])
        self.class_start = tensor(knowledge.class_offsets[:-1])
        self.classes = tensor([task.classes for task in knowledge.tasks])
        self.head_start = tensor(head[:-1])
        self.head_width = tensor([end - start for start, end in pairwise(head)])
        scalings = [get_kind(task.kind).scaling(task.constants) for task in knowledge.tasks]
        of_member = [s for s, task in zip(scalings, knowledge.tasks, strict=True) for _ in range(task.members)]
        self.factor, self.summand = (tensor([scaling[i] for scaling in of_member]) for i in (0, 1))
        self.unit = tensor([scalings[task][0] for task in newest])
        numeric = [kind.numeric for kind in self.objectives]
        self.numeric = tensor(numeric)[self.kind] if any(numeric) else None

    def allowed(self, kinds: tuple[str, ...] | None, groups: tuple[int, ...] | None = None) -> Tensor | None:
        """`[groups]` bool, the groups of these kinds, and among `groups` if given; `None` if that is all groups."""
        device, allowed = self.kind.device, None
        if kinds is not None and not set(self.kinds) <= set(kinds):
            allowed = torch.tensor([kind in kinds for kind in self.kinds], device=device)[self.kind]
        if groups is not None:
            among = torch.isin(torch.arange(self.groups, device=device), torch.tensor(groups, device=device))
            allowed = among if allowed is None else allowed & among
        return allowed


class Index:
    """Discriminants, the rule of novelty and tables of the tasks present, each computed on first use.

    Args:
        signature ([`~knowledge.Signature`]): The signatures of all tasks, `[tasks, …]`.
        knowledge ([`KnowledgeBase`]): The manifest of these tasks.
        shrinkage (`float`): `signature_shrinkage` of the configuration.
    """

    def __init__(self, signature: Signature, knowledge: KnowledgeBase, shrinkage: float) -> None:
        self.signature, self.knowledge, self.shrinkage = signature, knowledge, shrinkage
        self._router: Router | None = None
        self._novelty: Novelty | None = None
        self._tables: Tables | None = None

    @property
    def router(self) -> Router | None:
        """Discriminants of the tasks present; `None` if there are no tasks."""
        router, knowledge = self._router, self.knowledge
        if router is None and knowledge.tasks:
            counts = torch.tensor([task.examples for task in knowledge.tasks])
            classes, groups = [task.classes for task in knowledge.tasks], knowledge.group_of_task
            with self._computing():
                router = shared_router(
                    self.signature,
                    counts,
                    classes,
                    groups,
                    self.shrinkage,
                    knowledge.constants,
                    knowledge.class_counts,
                )
            self._router = router
        return router

    @property
    def novelty_rule(self) -> Novelty | None:
        """What novelty is measured by; `None` if the tasks present cannot tell."""
        router, tasks = self.router, self.knowledge.tasks
        if self._novelty is None and router is not None:
            counts, classes = torch.tensor([task.examples for task in tasks]), [task.classes for task in tasks]
            tails, constants = [task.tail for task in tasks], self.knowledge.constants
            with self._computing():
                self._novelty = novelty_rule(self.signature, router, counts, classes, tails, self.shrinkage, constants)
        return self._novelty

    @contextmanager
    def _computing(self) -> Iterator[None]:
        # The first pass may run under a trainer's autocast, which would round the covariance too much.
        with lasting(), torch.no_grad(), torch.autocast(self.signature.mean.device.type, enabled=False), _factorised():
            yield

    def tables(self, device: torch.device) -> Tables:
        """The manifest's contents as tensors on a device."""
        tables = self._tables
        if tables is None or tables.task.device != device:
            with lasting():
                tables = self._tables = Tables(self.knowledge, device)
        return tables

    def likelihood(self, features: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Log-likelihoods by signature, up to a constant per row: `[B, D]` → `[B, tasks]`.

        Args:
            allowed (`Tensor`, *optional*): `[groups]` bool; tasks of other groups get -inf.

        Raises:
            ValueError: when there is no task yet.
        """
        if self.router is None:
            raise ValueError("The adapter knows no task yet, so it has no signature to compare inputs with.")
        return self.router(features, None if allowed is None else allowed[self.tables(features.device).group_of_task])

    def posterior(self, features: Tensor, kinds: tuple[str, ...] | None = None) -> Tensor:
        """Probabilities of the groups by signature: `[B, D]` → `[B, groups]`, on the signatures' device. Groups of
        other `kinds` get 0."""
        features = features.to(self.signature.mean.device)
        tables = self.tables(features.device)
        return group_posterior(self.likelihood(features, tables.allowed(kinds)), tables.group_of_task, tables.groups)

    def novelty(self, features: Tensor, group: Tensor) -> Tensor:
        """Novelty of each row with respect to the likeliest task of its group, `[B]`; 0 without a `novelty_rule`."""
        rule, router = self.novelty_rule, self.router
        if rule is None or router is None:
            return features.new_zeros(len(features))
        in_group = self.tables(group.device).group_of_task == group[:, None]
        with torch.autocast(features.device.type, enabled=False):
            # By the discriminants alone: where groups are compared, tasks that are not near count as equally near.
            likelihood = router.by_shared_covariance(features).masked_fill(~in_group, float("-inf"))
            return rule(features, likelihood.argmax(1))


def _padded(lists: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, lists))
    return [row + [-1] * (longest - len(row)) for row in lists]


@contextmanager
def _factorised() -> Iterator[None]:
    """Turns a failed factorisation into an error that names the adapter's file."""
    try:
        yield
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            "The statistics of the tasks in the adapter's `adapter_model.safetensors` cannot be used: they give no "
            f"covariance that can be inverted ({error}). Restore the file and its `adapter_config.json` from one save."
        ) from error
