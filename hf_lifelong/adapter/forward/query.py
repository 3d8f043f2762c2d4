"""What a forward pass is asked, and for which inputs: the checked arguments of a caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...knowledge import KnowledgeBase
from ...objectives import MODEL_INPUTS
from ...retrieval import Oracle, PolicyLike, RetrievalPolicy, policy_of
from ...storage import ANSWERS, UNCERTAINTIES, UNKNOWNS
from ..heads import lifelong_of

if TYPE_CHECKING:
    from ..config import DriftAdapterConfig

TARGETS = ("labels", "start_positions", "end_positions")


@dataclass(frozen=True, eq=False)
class Query:
    """What a caller asks of one forward pass, with all defaults resolved.

    Args:
        policy ([`~retrieval.RetrievalPolicy`]): Chooses the groups.
        uncertainty (`str`): `"entropy"` or `"variance"`.
        answer (`str`): `"merged"` or `"ensemble"`.
        per_batch (`bool`): Choose one group for the whole batch.
        group (`Tensor`, *optional*): `[B]`, the group of each row, for the oracle.
        novelty (`bool`): Also measure how far each input lies from the task that answers.
        leaves_unknown (`bool`): Whether inputs far from that task are answered by the base.
        kinds (`tuple[str, ...]`, *optional*): Only groups of these kinds may answer.
        groups (`tuple[int, ...]`, *optional*): Only these groups may answer.
        only_features (`bool`): Stop at the trunk's end and return its features.
        states (`bool`): Also return the members' last hidden states, pooled.
        only_vote (`bool`): For a language model, only ask its members which group is least uncertain.
    """

    policy: RetrievalPolicy
    uncertainty: str
    answer: str
    per_batch: bool
    group: Tensor | None = None
    novelty: bool = False
    kinds: tuple[str, ...] | None = None
    groups: tuple[int, ...] | None = None
    only_features: bool = False
    states: bool = False
    only_vote: bool = False
    leaves_unknown: bool = False

    @property
    def each_member(self) -> bool:
        """Whether members run one by one instead of as their mean."""
        variance_decides = self.policy.asks_members and self.uncertainty == "variance"
        return self.answer == "ensemble" or self.policy.every_member or variance_decides

    @property
    def needs_features(self) -> bool:
        """Whether the trunk's hidden states are pooled."""
        return self.only_features or self.novelty or self.leaves_unknown or not self.policy.every_member


def query_of(config: DriftAdapterConfig, knowledge: KnowledgeBase, only_features: bool = False) -> Query:
    """The query of a plain forward pass, from the configuration."""
    policy = policy_of(config.retrieval, "retrieval", constants=knowledge.constants)
    return Query(
        policy,
        config.uncertainty,
        config.answer,
        config.per_batch,
        only_features=only_features,
        leaves_unknown=leaves_to_base(config),
    )


def leaves_to_base(config: DriftAdapterConfig, unknown: str | None = None) -> bool:
    """Whether the base answers unknown inputs, by a caller's `unknown` or else by the configuration.

    Raises:
        ValueError: when the configuration was changed to something else.
    """
    if config.unknown not in UNKNOWNS:
        raise ValueError(f"`unknown` of the configuration is {config.unknown!r}; set one of {list(UNKNOWNS)}.")
    return (unknown or config.unknown) == "base"


def checked_query(
    config: DriftAdapterConfig,
    knowledge: KnowledgeBase,
    rows: Tensor,
    policy: PolicyLike | None = None,
    group: int | str | Tensor | None = None,
    answer: str | None = None,
    uncertainty: str | None = None,
    per_batch: bool | None = None,
    novelty: bool = False,
    kinds: Sequence[str] | None = None,
    states: bool = False,
    unknown: str | None = None,
) -> Query:
    """The query for the arguments of [`predict`]. Arguments that are `None` follow the configuration.

    Args:
        config ([`DriftAdapterConfig`]), knowledge ([`KnowledgeBase`]): Of the adapter that is asked.
        rows (`Tensor`): `[B, …]`, the inputs to which `group` applies.

    Raises:
        ValueError: when an argument is not one of the choices.
        KeyError: when there is no such group.
    """
    answers = tuple(a for a in ANSWERS if a == "merged" or config.task_type != "CAUSAL_LM")
    if policy is None:
        chosen = policy_of(config.retrieval, "retrieval", constants=knowledge.constants)
    else:
        chosen = policy_of(policy, oracle=True, constants=knowledge.constants)
    named = (("answer", answer, answers), ("uncertainty", uncertainty, UNCERTAINTIES), ("unknown", unknown, UNKNOWNS))
    for key, value, choices in named:
        if value is not None and value not in choices:
            raise ValueError(f"`{key}` is {value!r}; choose one of {list(choices)}.")
    if isinstance(chosen, Oracle) != (group is not None):
        raise ValueError('`group` and `policy="oracle"` go together: give both or neither.')
    for key, switch in (("per_batch", per_batch), ("novelty", novelty), ("states", states)):
        if switch is not None and not isinstance(switch, bool):
            raise ValueError(f"`{key}` is {switch!r:.60}; give `True` or `False`.")
    if states and config.task_type == "CAUSAL_LM":
        raise ValueError("`states` are those that heads read, and a language model has no heads; leave it out.")
    learned = {task.kind for task in knowledge.tasks}
    if kinds is not None and (isinstance(kinds, str) or not isinstance(kinds, Iterable) or not learned & set(kinds)):
        raise ValueError(
            f"`kinds` is {kinds!r}; give a list with kinds of learned tasks, which are {sorted(learned)}."
        )
    leaves_unknown = group is None and leaves_to_base(config, unknown)
    among = knowledge.groups_of(group) if isinstance(group, str) else []
    if len(among) > 1:  # the task got more labels later, so the configured policy chooses between its groups
        chosen, group = policy_of(config.retrieval, "retrieval", constants=knowledge.constants), None
    return Query(
        policy=chosen,
        uncertainty=uncertainty or config.uncertainty,
        answer=answer or config.answer,
        per_batch=config.per_batch if per_batch is None else per_batch,
        group=_group_of_rows(knowledge, group, rows),
        novelty=novelty,
        kinds=tuple(kinds) if kinds else None,
        groups=tuple(among) if len(among) > 1 else None,
        states=states,
        leaves_unknown=leaves_unknown,
    )


def _group_of_rows(knowledge: KnowledgeBase, group: int | str | Tensor | None, rows: Tensor) -> Tensor | None:
    if group is None:
        return None
    if not isinstance(group, Tensor):
        return torch.full((len(rows),), knowledge.group_index(group), device=rows.device)
    groups = len(knowledge.groups)
    whole = not group.is_floating_point() and group.shape == (len(rows),)
    if not whole or not bool(((group >= 0) & (group < groups)).all()):
        raise ValueError(f"`group` must hold one group from 0 to {groups - 1} for each of the {len(rows)} rows.")
    return group.to(rows.device)


def model_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inputs in a batch, on the model's device.

    Raises:
        ValueError: when inputs are not tensors, or their shapes differ.
    """
    modality = lifelong_of(model).conductor.modality
    main, how = modality.inputs[0], modality.how
    if not isinstance(batch, Mapping):
        raise ValueError(f"`batch` is {batch!r:.60}; {how}.")
    lists = [name for name in modality.inputs if name in batch and not isinstance(batch[name], Tensor)]
    if lists:
        kind = type(batch[lists[0]]).__name__
        raise ValueError(f"`{lists[0]}` of `batch` is a {kind}, no tensor; {how}.")
    device = next(model.parameters()).device
    inputs = {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor) and k not in TARGETS}
    values = inputs.get(main)
    if values is None and not (main in MODEL_INPUTS and "inputs_embeds" in inputs):
        raise ValueError(f"`batch` has no `{main}`, only {sorted(map(str, batch))}; {how}.")
    if values is not None:
        floats, dims = modality.tensor
        if values.dim() != dims or values.is_floating_point() != floats or not len(values):
            raise ValueError(
                f"`{main}` of `batch` are {values.dtype} of shape {tuple(values.shape)}; give "
                f"{'floats' if floats else 'integers'}, a row for each input: {how}."
            )
        shape = values.shape
        other = [k for k in modality.inputs if k in inputs and inputs[k].dim() == dims and inputs[k].shape != shape]
        if other:
            raise ValueError(
                f"`{other[0]}` of `batch` has shape {tuple(inputs[other[0]].shape)}, but `{main}` have "
                f"{tuple(shape)}; give both as one call of the {modality.processor_noun} gives them."
            )
    return inputs
