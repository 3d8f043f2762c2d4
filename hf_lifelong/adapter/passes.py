"""Forward passes that ask something of an adapter: answers, and the trunk's features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..knowledge import KnowledgeBase
from ..objectives.base import MODEL_INPUTS
from ..settings import ANSWERS, POLICIES, UNCERTAINTIES
from .calls import Request, in_eval_mode
from .finite import broken_rows, refuse_broken, without_broken
from .heads import Lifelong, lifelong_of
from .hooks import TARGETS, LifelongOutput, TrunkDone, mask_for

# Most tokens that members answer in one pass where all of them do: with more, hidden states leave the processor's
# cache and are slower, or fill a GPU.
MOST_TOKENS, MOST_TOKENS_GPU = 2**12, 2**19

HOW_TO_TOKENISE = 'give what `tokenizer(texts, padding=True, return_tensors="pt")` gives'


@contextmanager
def asking(model: nn.Module, root: Lifelong, request: Request) -> Iterator[None]:
    """Makes the passes of this thread inside of it follow a request, in eval mode and without gradients."""
    with in_eval_mode(model, root.route), root.route.asking(request), torch.no_grad():
        yield


def predict(
    model: nn.Module,
    batch: Mapping[str, Any],
    policy: str | None = None,
    group: int | str | Tensor | None = None,
    answer: str | None = None,
    uncertainty: str | None = None,
    per_batch: bool | None = None,
    novelty: bool = False,
    kinds: Sequence[str] | None = None,
) -> LifelongOutput:
    """Answers a batch of tokenised inputs without being told their tasks.

    Args:
        model (`nn.Module`): A model with a lifelong adapter, however it was loaded.
        batch (`dict[str, Tensor]`): What the tokenizer gives, padded, `[B, T]`; targets in it are ignored.
        policy (`str`, *optional*): `"signature"`, `"uncertainty"` or `"cascade"`; by default the configuration's.
            `"oracle"` answers with the given `group`.
        group (`int`, `str` or `Tensor`, *optional*): For `"oracle"`: one group for all rows (index, or the name of one
            of its tasks) or one a row, `[B]`.
        answer (`str`, *optional*): `"merged"` or `"ensemble"`; by default the configuration's.
        uncertainty (`str`, *optional*): `"entropy"` or `"variance"`; by default the configuration's.
        per_batch (`bool`, *optional*): Whether to choose one group for the whole batch.
        novelty (`bool`, *optional*, defaults to `False`): Also measure how new each input is; above 1 it is unknown,
            which then is also an input of which the model gives NaN or infinite numbers.
        kinds (`list[str]`, *optional*): Kinds of tasks that may answer, where the form of the inputs tells, such as
            `["question-answering"]`; all by default.

    Returns:
        [`LifelongOutput`] with `scores [B, D, C]`, `group [B]`, `task [B]`, `uncertainty [B]`, `margin [B]` and, if
        asked for, `novelty [B]`. Of a language model, `logits [B, T, V]` instead of scores, and `uncertainty` only
        where it decided; its answers come from [`generate`].

    Raises:
        ValueError: when the model knows no task yet, an argument is none of the choices, a batch for an encoder is
            padded on the left, or the model gives NaN or infinite numbers (unless `novelty` is asked for).
    """
    root, request = request_of(model, batch, policy, group, answer, uncertainty, per_batch, novelty, kinds)
    inputs = model_inputs(model, batch)
    rows, step = len(next(iter(inputs.values()))), rows_at_once(root, request, inputs)
    with asking(model, root, request):
        outputs: list[Any] = [
            model(**{name: tensor[i : i + step] for name, tensor in inputs.items()}, **root.conductor.without_cache)
            for i in range(0, max(rows, 1), step)
        ]
    output = outputs[0]
    if isinstance(output, LifelongOutput):
        for part in outputs:
            part.last_hidden_state = None
        whole = joined(outputs)
        broken = broken_rows((whole.scores, whole.uncertainty, whole.margin, whole.novelty), rows)
        return without_broken(whole, broken)
    found: Any = request.found
    whole = LifelongOutput(logits=output.logits, **vars(found))
    # The largest logit is NaN or infinite when any is; those of padding do not count.
    largest = output.logits.amax(-1).where(mask_for(inputs.get("attention_mask"), output.logits) != 0, 0.0)
    return without_broken(whole, broken_rows((largest, whole.uncertainty, whole.margin, whole.novelty), rows))


def rows_at_once(root: Lifelong, request: Request, inputs: Mapping[str, Tensor]) -> int:
    """How many rows of a batch are asked in one pass: all of them, but where every member answers."""
    config = root.config[root.active_adapters[0]]
    first = next(iter(inputs.values()))
    whole = config.per_batch if request.per_batch is None else request.per_batch
    if (request.policy or config.retrieval) != "uncertainty" or whole or config.task_type == "CAUSAL_LM":
        return max(1, len(first))
    members = root.knowledge[root.active_adapters[0]].member_offsets[-1]
    most = MOST_TOKENS if first.device.type == "cpu" else MOST_TOKENS_GPU
    return max(1, most // (members * first.shape[1]))


def joined(parts: list[LifelongOutput]) -> LifelongOutput:
    """The answers to parts of a batch as one, scores zero padded to the largest."""
    if len(parts) == 1:
        return parts[0]
    if parts[0].scores is not None:
        d, c = (max(part.scores.shape[axis] for part in parts) for axis in (1, 2))  # type: ignore[union-attr]
        for part in parts:
            scores: Any = part.scores
            part.scores = nn.functional.pad(scores, (0, c - scores.shape[2], 0, d - scores.shape[1]))  # type: ignore
    found: dict[str, Any] = {
        key: torch.cat([part[key] for part in parts]) for key in parts[0] if parts[0][key] is not None
    }
    return LifelongOutput(**found)


def trunk_features(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Pooled hidden states of the trunk, which signatures are made of: `[B, D]`, float32. Stops at the trunk's end.

    Raises:
        ValueError: when they are NaN or infinite, or the adapter is disabled.
    """
    root = lifelong_of(model)
    request = Request("features")
    with asking(model, root, request), suppress(TrunkDone):
        model(**model_inputs(model, batch), **root.conductor.without_cache)
    if request.features is None:
        raise ValueError("The adapter is disabled, so its trunk gives no features; enable it first.")
    refuse_broken(broken_rows([request.features], len(request.features)))
    return request.features


def request_of(
    model: nn.Module,
    batch: Mapping[str, Any],
    policy: str | None = None,
    group: int | str | Tensor | None = None,
    answer: str | None = None,
    uncertainty: str | None = None,
    per_batch: bool | None = None,
    novelty: bool = False,
    kinds: Sequence[str] | None = None,
) -> tuple[Lifelong, Request]:
    """The root of a model and what is asked of it.

    Raises:
        ValueError: when the model knows no task yet, or an argument is none of the choices.
    """
    root = lifelong_of(model)
    name = root.name
    if name is None or not root.knowledge[name].tasks:
        raise ValueError("The adapter knows no task yet (or is disabled). Train it with `DriftTrainer` first.")
    answers = tuple(a for a in ANSWERS if a == "merged" or root.config[name].task_type != "CAUSAL_LM")
    for key, value, choices in (
        ("policy", policy, (*POLICIES, "oracle")),
        ("answer", answer, answers),
        ("uncertainty", uncertainty, UNCERTAINTIES),
    ):
        if value is not None and value not in choices:
            raise ValueError(f"`{key}` is {value!r}; choose one of {list(choices)}.")
    if (policy == "oracle") != (group is not None):
        raise ValueError('`group` and `policy="oracle"` go together: give both or neither.')
    for key, given in (("per_batch", per_batch), ("novelty", novelty)):
        if given is not None and not isinstance(given, bool):
            raise ValueError(f"`{key}` is {given!r:.60}; give `True` or `False`.")
    known = {task.kind for task in root.knowledge[name].tasks}
    if kinds is not None and (isinstance(kinds, str) or not isinstance(kinds, Iterable) or not known & set(kinds)):
        raise ValueError(f"`kinds` is {kinds!r}; give a list with kinds of learned tasks, which are {sorted(known)}.")
    groups = _group_of_rows(root.knowledge[name], group, next(iter(model_inputs(model, batch).values())))
    return root, Request(policy, groups, answer, uncertainty, per_batch, novelty, tuple(kinds) if kinds else None)


def model_inputs(model: nn.Module, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The inputs in a batch, on the model's device.

    Raises:
        ValueError: when these are no tensors, or not of one shape.
    """
    if not isinstance(batch, Mapping):
        raise ValueError(f"`batch` is {batch!r:.60}; {HOW_TO_TOKENISE}.")
    lists = [name for name in MODEL_INPUTS if name in batch and not isinstance(batch[name], Tensor)]
    if lists:
        kind = type(batch[lists[0]]).__name__
        raise ValueError(f"`{lists[0]}` of `batch` is a {kind}, no tensor; {HOW_TO_TOKENISE}.")
    device = next(model.parameters()).device
    inputs = {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor) and k not in TARGETS}
    ids = inputs.get("input_ids")
    if ids is None and "inputs_embeds" not in inputs:
        raise ValueError(f"`batch` has no `input_ids`, only {sorted(map(str, batch))}; {HOW_TO_TOKENISE}.")
    if ids is not None:
        if ids.dim() != 2 or ids.is_floating_point() or not len(ids):
            raise ValueError(
                f"`input_ids` of `batch` are {ids.dtype} of shape {tuple(ids.shape)}; give integers, a row for each "
                f"input: {HOW_TO_TOKENISE}."
            )
        other = [k for k in MODEL_INPUTS if k in inputs and inputs[k].dim() == 2 and inputs[k].shape != ids.shape]
        if other:
            raise ValueError(
                f"`{other[0]}` of `batch` has shape {tuple(inputs[other[0]].shape)}, but `input_ids` have "
                f"{tuple(ids.shape)}; give both as one call of the tokenizer gives them."
            )
    return inputs


def _group_of_rows(knowledge: KnowledgeBase, group: int | str | Tensor | None, rows: Tensor) -> Tensor | None:
    if group is None:
        return None
    if not isinstance(group, Tensor):
        return torch.full((len(rows),), knowledge.group_index(group), device=rows.device)
    known = len(knowledge.groups)
    whole = not group.is_floating_point() and group.shape == (len(rows),)
    if not whole or not bool(((group >= 0) & (group < known)).all()):
        raise ValueError(f"`group` must hold one group from 0 to {known - 1} for each of the {len(rows)} rows.")
    return group.to(rows.device)
