"""Passes of a model without numbers: which tensors live at once is seen by running them, not by a formula.

Everything runs under `FakeTensorMode`, where a tensor has a shape, a dtype and a storage of a known size, but no
memory. Fake tensors are on the CPU, because autograd refuses a GPU that is not there; what CUDA does otherwise is put
in its place ([`LikeCuda`]), and what kernels of the CPU take inside is added ([`LikeCpu`]).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..adapter.calls import Request
from ..adapter.heads import active_config, knowledge_of, lifelong_of
from ..adapter.passes import asking
from ..adapter.planning import Choice, Tables
from ..knowledge.signatures import ROWS_AT_ONCE, ROWS_AT_ONCE_GPU


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of some tensors; those that share memory count once."""
    return sum({storage._cdata: storage.nbytes() for storage in (t.untyped_storage() for t in tensors)}.values())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that live at once, of those that are made while it is on.

    Attributes:
        now (`int`): Bytes that live.
        peak (`int`): Most bytes that have lived at once.
    """

    def __init__(self, resident: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in resident}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


class LikeCuda(TorchFunctionMode):
    """What CUDA's kernels keep where those of the CPU keep something else: fused attention with dropout, one byte for
    each element of a dropout, and norms and softmax in float32 under autocast."""

    def __init__(self, autocast: bool) -> None:
        super().__init__()
        self.in_float32 = (functional.layer_norm, functional.softmax) if autocast else ()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            kwargs["dropout_p"] = 0.0
        elif func is functional.dropout and kwargs["training"] and kwargs["p"]:
            return torch.native_dropout(args[0], kwargs["p"], True)[0]
        elif func in self.in_float32:
            args, kwargs = tree_map_only(Tensor, Tensor.float, (args, kwargs))
        return func(*args, **kwargs)


class LikeCpu(TorchFunctionMode):
    """What the CPU's kernels take beside tensors: in half precision, texts whose tokens do not lie side by side (of
    which a language model's head is given the last) are multiplied one by one, each with a copy of the weight."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, copies = kwargs or {}, None
        if func is functional.linear:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            rows, weight = given["input"], given["weight"]
            apart = rows.dim() == 3 and rows.stride(0) != rows.stride(1) * rows.shape[1]
            if apart and rows.element_size() == 2 and (given.get("bias") is None or not rows.is_contiguous()):
                copies = weight.new_empty(len(rows), *weight.shape)
        out = func(*args, **kwargs)
        del copies  # not before: they live while the product is computed
        return out


@dataclass(frozen=True)
class Steps:
    """What one step is of.

    Args:
        batch_size (`int`): Rows.
        length (`int`): Tokens of a row; in answering, of its prompt.
        new_tokens (`int`): Tokens that a language model answers with.
        autocast (`bool`): Whether training runs under autocast to bfloat16.
        cuda (`bool`): Whether CUDA's kernels are assumed.
    """

    batch_size: int
    length: int
    new_tokens: int
    autocast: bool
    cuda: bool

    def rows(self, tokens: int, past: int = 0) -> dict[str, Tensor]:
        """Padded rows of `tokens` tokens that follow `past` others."""
        ids = torch.ones(self.batch_size, tokens, dtype=torch.long)
        mask = torch.ones(self.batch_size, past + tokens, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": mask}


@contextmanager
def without_memory(model: Any) -> Iterator[FakeTensorMode]:
    """Makes a model on the meta device one that can be run inside.

    Raises:
        ValueError: when the base does something that depends on numbers.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model.to_empty(device="cpu")
            lifelong_of(model).conductor.check_mask = lambda mask: None  # there are no numbers to check
            model.get_base_model().tie_weights()
            yield mode
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise ValueError(
            f"`model`: `{type(model.get_base_model()).__name__}` cannot be run without numbers, because what it does "
            f"depends on them (`{error}`), so it cannot be estimated."
        ) from error


def training_pass(model: Any, steps: Steps) -> tuple[int, int]:
    """Runs one training step of the open task (text classification or generation), without the optimiser.

    Args:
        model (`PeftModel`): On the meta device.

    Returns:
        `tuple[int, int]`: Bytes that the forward pass keeps for the backward pass, and the most that either takes
        (gradients are in it).
    """
    model.train()
    with ExitStack() as stack:
        stack.enter_context(without_memory(model))
        live = stack.enter_context(LiveBytes(resident_tensors(model)))
        if steps.cuda:
            stack.enter_context(LikeCuda(steps.autocast))
        batch = steps.rows(steps.length)
        labels = batch["input_ids"] if generates(model) else batch["input_ids"][:, 0]
        with torch.autocast("cpu", torch.bfloat16, enabled=steps.autocast):
            loss = model(**batch, labels=labels, **lifelong_of(model).conductor.without_cache).loss
        kept = live.now - size_of([*batch.values(), loss])
        loss.backward()
    return kept, live.peak


def answering_pass(model: Any, steps: Steps) -> tuple[int, int]:
    """Answers one batch: the prefill, and for a language model the pass that gives its last token.

    Args:
        model (`PeftModel`): On the meta device.

    Returns:
        `tuple[int, int]`: Bytes of the cache at the end, and the most that is taken.
    """
    root = lifelong_of(model)
    if not generates(model):
        # Scores are taken of the hidden states when all else is gone, and how many there are depends on the numbers.
        root.conductor.finish = lambda output, current: output
    with ExitStack() as stack:
        mode = stack.enter_context(without_memory(model))
        root.ready = True  # there are no numbers to check
        root.conductor.plan = _without_numbers(root.conductor.plan, knowledge_of(model), mode)
        at_once = ROWS_AT_ONCE_GPU if steps.cuda else ROWS_AT_ONCE
        root.likelihood = partial(_all_in_question, root, at_once)  # type: ignore[method-assign]
        live = stack.enter_context(LiveBytes(resident_tensors(model)))
        stack.enter_context(LikeCuda(False) if steps.cuda else LikeCpu())
        stack.enter_context(asking(model, root, Request()))
        _ = root.router  # computed before the first answer begins
        if not generates(model):
            model(**steps.rows(steps.length))
            return 0, live.peak
        last = {"logits_to_keep": 1} if "logits_to_keep" in root.conductor.base_names else {}
        cache = model(**steps.rows(steps.length), use_cache=True, **last).past_key_values
        if steps.new_tokens > 1:
            _fill(cache, steps.new_tokens - 2)
            past = steps.length + steps.new_tokens - 2
            cache = model(**steps.rows(1, past), past_key_values=cache, use_cache=True, **last).past_key_values
        kept = size_of(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
        return kept, live.peak


def generates(model: nn.Module) -> bool:
    """Whether a model with an adapter is a language model."""
    return bool(active_config(model).task_type == "CAUSAL_LM")


def resident_tensors(model: nn.Module) -> list[Tensor]:
    """What of a model is there before a step: weights and constants."""
    return [*model.parameters(), *model.buffers()]


def _fill(cache: Any, tokens: int) -> None:
    """Lengthens a cache as `tokens` passes of one token would."""
    for i, layer in enumerate(cache.layers):
        rows, heads, _, width = layer.keys.shape
        cache.update(
            layer.keys.new_empty(rows, heads, tokens, width),
            layer.values.new_empty(*layer.values.shape[:2], tokens, layer.values.shape[3]),
            i,
        )


def _all_in_question(root: Any, most: int, features: Tensor, kinds: Any = None) -> Tensor:
    """`Lifelong.likelihood` for fake tensors: as if all inputs were in question, `most` of them at a time."""
    router = root.router
    of_task = features.new_empty(len(features), len(router.apart))
    if router.own is not None:
        some = features[:most]
        of_class, of_group = (some.new_empty(len(some), n) for n in (len(router.weight), router.groups))
        router.own(some, of_class, of_task[:most], of_group, router.group)
    return of_task


def _without_numbers(plan: Callable[..., Any], knowledge: Any, mode: FakeTensorMode) -> Callable[..., Any]:
    """`Conductor.plan` for fake tensors: as if rows were of as many groups as they can be, and as unsure as they can
    be under `cascade`."""

    def planned(choice: Choice, tables: Tables, rows: int, likelihood: Any, group: Any) -> Any:
        with unset_fake_temporarily():
            tasks = len(knowledge.tasks)
            spread = torch.arange(rows) % tasks
            if likelihood is not None:
                far = (torch.arange(tasks) - spread[:, None]) % tasks
                unsure = knowledge.constants.most_candidates if choice.policy == "cascade" else 1
                likelihood = torch.where(far < unsure, 0.0, -torch.inf)
            real = Tables(knowledge, torch.device("cpu"))
            made = plan(choice, real, rows, likelihood, None if group is None else spread)
        tensors = {f.name: getattr(made, f.name) for f in fields(made)}
        return replace(made, **{k: mode.from_tensor(v) for k, v in tensors.items() if isinstance(v, Tensor)})

    return planned
