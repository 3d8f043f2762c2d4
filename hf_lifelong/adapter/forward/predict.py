"""Forward passes that ask an adapter for answers or for the trunk's features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...retrieval import Evidence, PolicyLike
from ..heads import Lifelong, active_config, knowledge_of, lifelong_of
from .answer import LifelongOutput
from .conductor import TrunkDone
from .context import Call, in_eval_mode
from .decisions import evidence_of
from .finite import broken_rows, refuse_broken, without_broken
from .pooling import mask_for
from .query import Query, checked_query, model_inputs, query_of

# Largest number of tokens per pass, summed over members, if every member answers. With more, hidden states exceed the
# processor's cache, which is slower, or fill a GPU.
MOST_TOKENS, MOST_TOKENS_GPU = 2**12, 2**19


@dataclass(frozen=True)
class Routed:
    """Where B inputs would go.

    Args:
        group (`Tensor`): `[B]`, int64, the group that would answer.
        margin (`Tensor`): `[B]`, float32, by how much it is preferred to the next group.
        runner_up (`Tensor`): `[B]`, int64, the next group; -1 if no other group may answer.
        posterior (`Tensor`): `[B, groups]`, float32, the probabilities of the groups.
        novelty (`Tensor`, *optional*): `[B]`, as in `LifelongOutput`.
    """

    group: Tensor
    margin: Tensor
    runner_up: Tensor
    posterior: Tensor
    novelty: Tensor | None = None


@contextmanager
def asking(model: nn.Module, root: Lifelong, query: Query) -> Iterator[Call]:
    """Makes passes of this thread inside the context follow a query, in eval mode and without gradients."""
    with in_eval_mode(model, root.context), root.context.asking(query) as call, torch.no_grad():
        yield call


def predict(
    model: nn.Module,
    batch: Mapping[str, Any],
    policy: PolicyLike | None = None,
    group: int | str | Tensor | None = None,
    answer: str | None = None,
    uncertainty: str | None = None,
    per_batch: bool | None = None,
    novelty: bool = False,
    kinds: Sequence[str] | None = None,
    states: bool = False,
) -> LifelongOutput:
    """Answers a batch of tokenised texts, or of processed images, without being told their tasks.

    Args:
        model (`nn.Module`): A model with a lifelong adapter, however it was loaded.
        batch (`dict[str, Tensor]`): The padded output of the tokenizer, `[B, T]`, or that of the image processor.
            Targets in it are ignored.
        policy (`str`, `type` or [`RetrievalPolicy`], *optional*): `"signature"`, `"uncertainty"`, `"cascade"`, or your
            own policy; by default the configuration's. `"oracle"` answers with the given `group`.
        group (`int`, `str` or `Tensor`, *optional*): For `"oracle"`: one group for all rows (index, or the name of one
            of its tasks), or one group per row, `[B]`. For the name of a task that others extend, the configuration's
            policy chooses between its groups.
        answer (`str`, *optional*): `"merged"` or `"ensemble"`; by default the configuration's.
        uncertainty (`str`, *optional*): `"entropy"` or `"variance"`; by default the configuration's.
        per_batch (`bool`, *optional*): Whether to choose one group for the whole batch.
        novelty (`bool`, *optional*, defaults to `False`): Also measure how new each input is; above 1 it is unknown.
            Inputs for which the model gives NaN or infinite numbers then also count as unknown.
        kinds (`list[str]`, *optional*): Kinds of tasks that may answer, if the form of the inputs restricts them, such
            as `["question-answering"]`; all by default.
        states (`bool`, *optional*, defaults to `False`): Also return the members' last hidden states, pooled over
            tokens; not for language models.

    Returns:
        [`LifelongOutput`] with `scores [B, D, C]`, `group [B]`, `task [B]`, `uncertainty [B]`, `margin [B]` and, if
        requested, `novelty [B]` and `states [B, H]`. A language model gives `logits [B, T, V]` instead of scores, and
        `uncertainty` only if the policy used it; its answers come from [`generate`].

    Raises:
        ValueError: when the model knows no task yet, an argument is not one of the choices, a batch for an encoder is
            padded on the left, or the model gives NaN or infinite numbers (unless `novelty` is requested).
    """
    root, inputs, query = question(model, batch, policy, group, answer, uncertainty, per_batch, novelty, kinds, states)
    rows, step = len(next(iter(inputs.values()))), rows_at_once(root, query, inputs)
    with asking(model, root, query) as call:
        outputs: list[Any] = [
            model(**{name: tensor[i : i + step] for name, tensor in inputs.items()}, **root.conductor.without_cache)
            for i in range(0, max(rows, 1), step)
        ]
    if call.answer is None:
        whole = joined(outputs)
        broken = broken_rows((whole.scores, whole.uncertainty, whole.margin, whole.novelty), rows)
        return without_broken(whole, broken)
    logits = outputs[0].logits
    whole = LifelongOutput(logits=logits, **vars(call.answer))
    # If any logit is NaN or infinite, so is the largest one. Logits of padding do not count.
    largest = logits.amax(-1).where(mask_for(inputs.get("attention_mask"), logits) != 0, 0.0)
    return without_broken(whole, broken_rows((largest, whole.uncertainty, whole.margin, whole.novelty), rows))


def rows_at_once(root: Lifelong, query: Query, inputs: Mapping[str, Tensor]) -> int:
    """Number of rows that run in one pass: the whole batch, or fewer if every member answers."""
    config, first = root.config[root.active_adapters[0]], next(iter(inputs.values()))
    if not query.policy.every_member or query.per_batch or config.task_type == "CAUSAL_LM":
        return max(1, len(first))
    members = root.knowledge[root.active_adapters[0]].member_offsets[-1]
    most = MOST_TOKENS if first.device.type == "cpu" else MOST_TOKENS_GPU
    positions = root.conductor.positions
    tokens = first.shape[1] if positions is None else positions.count(*first.shape[-2:])
    return max(1, most // (members * tokens))


def joined(outputs: Sequence[LifelongOutput]) -> LifelongOutput:
    """Joins the outputs for consecutive rows of a batch, with scores zero padded to the largest."""
    first = outputs[0]
    if len(outputs) == 1:
        return first
    values: dict[str, Any] = {key: [output[key] for output in outputs] for key in first if first[key] is not None}
    if "scores" in values:
        d, c = (max(scores.shape[axis] for scores in values["scores"]) for axis in (1, 2))
        values["scores"] = [
            nn.functional.pad(scores, (0, c - scores.shape[2], 0, d - scores.shape[1])) for scores in values["scores"]
        ]
    whole: dict[str, Any] = {key: torch.cat(tensors) for key, tensors in values.items()}
    return LifelongOutput(**whole)


def trunk_features(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """The features of signatures, pooled from the trunk's hidden states: `[B, D]`, float32. The pass stops at the
    trunk's end.

    Raises:
        ValueError: when features are NaN or infinite, or the adapter is disabled.
    """
    root = lifelong_of(model)
    query = query_of(active_config(model), knowledge_of(model), only_features=True)
    with asking(model, root, query):
        try:
            model(**model_inputs(model, batch), **root.conductor.without_cache)
        except TrunkDone as done:
            features = done.features
        else:
            raise ValueError("The adapter is disabled, so its trunk gives no features; enable it first.")
    refuse_broken(broken_rows([features], len(features)))
    return features


def route(
    model: nn.Module, batch: Mapping[str, Any], kinds: Sequence[str] | None = None, novelty: bool = False
) -> Routed:
    """Chooses the group of each input, as `predict` and `generate` would, without answering. The pass stops at the
    trunk's end.

    Args:
        model, batch, kinds, novelty: As in [`predict`].

    Raises:
        ValueError: as `predict`, and when the configuration's policy asks members before it chooses a group.
    """
    root, _, query = question(model, batch, None, None, None, None, False, novelty, kinds)
    if query.policy.asks_members or query.policy.every_member:
        raise ValueError(
            f"The retrieval policy `{query.policy.name}` asks members before it chooses a group, so the group is not "
            "known before an input is answered. Answer it, or set `retrieval` of the adapter to `signature`."
        )
    features = trunk_features(model, batch)
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        evidence = evidence_of(query, root.index, root.index.tables(features.device), features, len(features))
        routing = query.policy.route(evidence)
        group: Any = routing.group
        runner_up = _next_best(query.policy.likelihood(evidence), evidence, group)
        far = root.index.novelty(features, group) if novelty else None
    routed = Routed(group, routing.margin, runner_up, routing.posterior, far)  # type: ignore[arg-type]
    return without_broken(routed, broken_rows((routed.margin, far), len(features)))


def _next_best(likelihood: Tensor, evidence: Evidence, group: Tensor) -> Tensor:
    """The likeliest group but `group [B]`, `[B]`, by the likelihoods of tasks, `[B, tasks]`. Not by probabilities:
    all but the largest may round to 0."""
    of_task = evidence.group_of_task.expand_as(likelihood)
    best = likelihood.new_full((evidence.rows, evidence.groups), float("-inf"))
    best = best.scatter_reduce(1, of_task, likelihood, "amax").scatter(1, group[:, None], float("-inf"))
    if evidence.allowed is not None:
        best = best.masked_fill(~evidence.allowed, float("-inf"))
    return best.argmax(1).masked_fill(best.amax(1).isneginf(), -1)


def question(model: nn.Module, batch: Mapping[str, Any], *options: Any) -> tuple[Lifelong, dict[str, Tensor], Query]:
    """The root of a model, the inputs in a batch, and the query. `options` are the options of `checked_query`.

    Raises:
        ValueError: when the model knows no task yet, or an argument cannot be used.
    """
    root = lifelong_of(model)
    name = root.name
    if name is None or not root.knowledge[name].tasks:
        raise ValueError("The adapter knows no task yet (or is disabled). Train it with `DriftTrainer` first.")
    inputs = model_inputs(model, batch)
    rows = next(iter(inputs.values()))
    return root, inputs, checked_query(root.config[name], root.knowledge[name], rows, *options)
