"""Forward passes that ask something of an adapter: answers, and the trunk's features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .config import ANSWERS, POLICIES, UNCERTAINTIES
from .heads import Lifelong, Request, lifelong_of
from .hooks import TARGETS, LifelongOutput, TrunkDone


@contextmanager
def _asking(model: nn.Module, root: Lifelong, request: Request) -> Iterator[None]:
    was_training = model.training
    model.eval()
    root.request = request
    try:
        with torch.no_grad():
            yield
    finally:
        root.request = None
        model.train(was_training)


def predict(
    model: nn.Module,
    batch: dict[str, Tensor],
    policy: str | None = None,
    group: int | str | Tensor | None = None,
    answer: str | None = None,
    uncertainty: str | None = None,
    per_batch: bool | None = None,
    novelty: bool = False,
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
        novelty (`bool`, *optional*, defaults to `False`): Also measure how new each input is; above 1 it is unknown.

    Returns:
        [`LifelongOutput`] with `scores [B, D, C]`, `group [B]`, `task [B]`, `uncertainty [B]`, `margin [B]` and, if
        asked for, `novelty [B]`.

    Raises:
        ValueError: when the model knows no task yet, or an argument is none of the choices.
    """
    root = lifelong_of(model)
    name = root.name
    if name is None or not root.knowledge[name].tasks:
        raise ValueError("The adapter knows no task yet (or is disabled). Train it with `DriftTrainer` first.")
    for key, value, choices in (
        ("policy", policy, (*POLICIES, "oracle")),
        ("answer", answer, ANSWERS),
        ("uncertainty", uncertainty, UNCERTAINTIES),
    ):
        if value is not None and value not in choices:
            raise ValueError(f"`{key}` is {value!r}; choose one of {list(choices)}.")
    if (policy == "oracle") != (group is not None):
        raise ValueError('`group` and `policy="oracle"` go together: give both or neither.')
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in batch.items() if isinstance(v, Tensor) and k not in TARGETS}
    if group is not None and not isinstance(group, Tensor):
        group = torch.full((len(next(iter(batch.values()))),), root.knowledge[name].group_index(group))
    given = group.to(device) if group is not None else None
    request = Request(policy, given, answer, uncertainty, per_batch, novelty)
    with _asking(model, root, request):
        output: Any = model(**batch)
    output.last_hidden_state = None
    return output


def trunk_features(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Pooled hidden states of the trunk, which signatures are made of: `[B, D]`, float32. Stops at the trunk's end."""
    root = lifelong_of(model)
    device = next(model.parameters()).device
    request = Request("features")
    with _asking(model, root, request):
        try:
            model(**{k: v.to(device) for k, v in batch.items() if k not in TARGETS})
        except TrunkDone:
            pass
    return request.features  # type: ignore[return-value]
