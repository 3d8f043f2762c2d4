"""Runs passes of a model without numbers, to count the tensors that live at the same time instead of using a formula.

Everything runs under `FakeTensorMode`, where a tensor has a shape, a dtype and a storage of a known size, but no
memory. Fake tensors are on the CPU, because autograd refuses a GPU that is not present. [`LikeCuda`] imitates what
CUDA's kernels do differently, and [`LikeCpu`] adds the memory that the CPU's kernels use internally.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
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

from ..adapter import Index, Lifelong, Tables, active_config, knowledge_of, lifelong_of
from ..adapter.forward import CausalConductor, Decisions, Pass, Plan, Planner, Query, asking, query_of
from ..compat import cache_argument, cache_of
from ..knowledge import ROWS_AT_ONCE
from ..retrieval import Cascade, Evidence, LeastUncertain, NearestSignature, Oracle, RetrievalPolicy, Routing


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of tensors. Memory that several of them share counts once."""
    return sum({storage._cdata: storage.nbytes() for storage in (t.untyped_storage() for t in tensors)}.values())


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors among those created while the mode is active.

    Args:
        resident (`Iterable[Tensor]`): Tensors that exist already and are not counted.

    Attributes:
        now (`int`): Bytes of the live tensors.
        peak (`int`): Largest value of `now` so far.
    """

    def __init__(self, resident: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.storages = {tensor.untyped_storage()._cdata for tensor in resident}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.storages:
            return
        self.storages.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self.storages.discard(key)
        self.now -= size


class LikeCuda(TorchFunctionMode):
    """Imitates what CUDA's kernels keep where the CPU's differ: fused attention with dropout, one byte per element of
    a dropout, and norms and softmax in float32 under autocast."""

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
    """Adds the memory that the CPU's kernels use besides tensors. In half precision they multiply texts one by one if
    the texts' tokens are not contiguous (as at a language model's head, which gets the last tokens), each with a copy
    of the weight."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, copies = kwargs or {}, None
        if func is functional.linear:
            arguments = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            rows, weight = arguments["input"], arguments["weight"]
            apart = rows.dim() == 3 and rows.stride(0) != rows.stride(1) * rows.shape[1]
            if apart and rows.element_size() == 2 and (arguments.get("bias") is None or not rows.is_contiguous()):
                copies = weight.new_empty(len(rows), *weight.shape)
        out = func(*args, **kwargs)
        del copies  # only here: they live while the product is computed
        return out


@dataclass(frozen=True)
class Steps:
    """The size and precision of one step.

    Args:
        batch_size (`int`): Rows.
        length (`int`): Tokens of a row; in answering, of its prompt. Of images, pixels along a side.
        new_tokens (`int`): Tokens that a language model answers with.
        autocast (`bool`): Whether training runs under autocast to bfloat16.
        cuda (`bool`): Whether CUDA's kernels are assumed.
        channels (`int`): Of images; 0 for texts.
    """

    batch_size: int
    length: int
    new_tokens: int
    autocast: bool
    cuda: bool
    channels: int = 0

    def rows(self, tokens: int, past: int = 0) -> dict[str, Tensor]:
        """Images, or padded rows of `tokens` tokens after `past` earlier ones."""
        if self.channels:
            return {"pixel_values": torch.ones(self.batch_size, self.channels, tokens, tokens)}
        ids = torch.ones(self.batch_size, tokens, dtype=torch.long)
        mask = torch.ones(self.batch_size, past + tokens, dtype=torch.long)
        return {"input_ids": ids, "attention_mask": mask}

    def labels(self, batch: dict[str, Tensor], of_tokens: bool) -> Tensor:
        """A label for each row, or for each of its tokens."""
        if self.channels:
            return torch.ones(self.batch_size, dtype=torch.long)
        return batch["input_ids"] if of_tokens else batch["input_ids"][:, 0]


@contextmanager
def without_memory(model: Any) -> Iterator[None]:
    """Lets a model on the meta device run inside the context.

    Raises:
        ValueError: when the base's computation depends on numbers.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            model.to_empty(device="cpu")
            lifelong_of(model).conductor.decisions = WithoutNumbers(mode)
            model.get_base_model().tie_weights()
            yield
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        raise ValueError(
            f"`model`: `{type(model.get_base_model()).__name__}` cannot be run without numbers, because its "
            f"computation depends on them (`{error}`), so it cannot be estimated. Measure it with real inputs."
        ) from error


def training_pass(model: Any, steps: Steps) -> tuple[int, int]:
    """Runs one training step of the open task (classification or generation), without the optimiser.

    Args:
        model (`PeftModel`): The model on the meta device.

    Returns:
        `tuple[int, int]`: Bytes that the forward pass keeps for the backward pass, and the peak of both passes, with
        gradients.
    """
    model.train()
    with ExitStack() as stack:
        stack.enter_context(without_memory(model))
        live = stack.enter_context(LiveBytes(resident_tensors(model)))
        if steps.cuda:
            stack.enter_context(LikeCuda(steps.autocast))
        batch = steps.rows(steps.length)
        labels = steps.labels(batch, generates(model))
        with torch.autocast("cpu", torch.bfloat16, enabled=steps.autocast):
            loss = model(**batch, labels=labels, **lifelong_of(model).conductor.without_cache).loss
        activations = live.now - size_of([*batch.values(), labels, loss])
        loss.backward()
    return activations, live.peak


def answering_pass(model: Any, steps: Steps) -> tuple[int, int]:
    """Answers one batch: runs the prefill and, for a language model, the pass that gives the last token.

    Args:
        model (`PeftModel`): The model on the meta device.

    Returns:
        `tuple[int, int]`: Bytes of the cache at the end, and the peak.
    """
    root = lifelong_of(model)
    with ExitStack() as stack:
        stack.enter_context(without_memory(model))
        live = stack.enter_context(LiveBytes(resident_tensors(model)))
        stack.enter_context(LikeCuda(False) if steps.cuda else LikeCpu())
        stack.enter_context(asking(model, root, query_of(active_config(model), knowledge_of(model))))
        _ = root.index.router  # a real model computes it before its first answer
        if not generates(model):
            model(**steps.rows(steps.length))
            return 0, live.peak
        last = {"logits_to_keep": 1} if "logits_to_keep" in root.conductor.base_names else {}
        cache = cache_of(model(**steps.rows(steps.length), use_cache=True, **last))
        if steps.new_tokens > 1:
            _fill(cache, steps.new_tokens - 2)
            past = steps.length + steps.new_tokens - 2
            cache = cache_of(model(**steps.rows(1, past), use_cache=True, **{cache_argument(): cache}, **last))
        cached = size_of(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))
        return cached, live.peak


def generates(model: nn.Module) -> bool:
    """Whether a model with an adapter is a language model."""
    return bool(active_config(model).task_type == "CAUSAL_LM")


def resident_tensors(model: nn.Module) -> list[Tensor]:
    """The tensors of a model that exist before a step: weights and buffers."""
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


class WithoutNumbers(Decisions):
    """The decisions of a pass whose tensors have no numbers. They assume the worst case: rows from as many groups as
    possible, each with as many candidates as the policy allows.

    Args:
        mode (`FakeTensorMode`): The mode in which the pass runs.
    """

    def __init__(self, mode: FakeTensorMode) -> None:
        self.mode = mode

    def prepare(self, base: nn.Module, root: Lifelong) -> None:
        """Does nothing: there are no numbers to check."""

    def check_mask(self, mask: Tensor) -> None:
        """Does nothing: there are no numbers to check."""

    def fork(
        self, conductor: Planner, query: Query, tables: Tables, features: Tensor | None, rows: int
    ) -> tuple[Routing, Plan]:
        policy = _stand_in(query.policy)
        if policy.needs_likelihood and features is not None:
            _compare_all(conductor.root.index, features)
        with unset_fake_temporarily():
            real = Tables(conductor.root.index.knowledge, torch.device("cpu"))
            tasks = len(real.group_of_task)
            spread = torch.arange(rows) % tasks
            far = (torch.arange(tasks) - spread[:, None]) % tasks
            unsure = policy.most if isinstance(policy, Cascade) else 1
            likelihood = torch.where(far < unsure, 0.0, -torch.inf)
            group = None if query.group is None else spread
            evidence = Evidence(rows, real.groups, real.group_of_task, likelihood=likelihood, group=group)
            routing = policy.route(evidence)
            plan = conductor.plan(query, real, routing, rows)
        return self._faked(routing), self._faked(plan)

    def finish(self, conductor: Planner, output: Any, current: Pass) -> Any:
        # Scores are computed when only the hidden states are left, and their number depends on the tensors' numbers.
        is_answer = current.mode == "bank" and not isinstance(conductor, CausalConductor)
        return output if is_answer else super().finish(conductor, output, current)

    def _faked(self, value: Any) -> Any:
        """A copy of a dataclass with fake tensors."""
        tensors = {field.name: getattr(value, field.name) for field in fields(value)}
        return replace(value, **{k: self.mode.from_tensor(v) for k, v in tensors.items() if isinstance(v, Tensor)})


def _stand_in(policy: RetrievalPolicy) -> RetrievalPolicy:
    """A built-in policy that runs as many members. A user-defined policy cannot run here, because it may read
    numbers."""
    if isinstance(policy, NearestSignature | Cascade | LeastUncertain | Oracle):
        return policy
    return LeastUncertain() if policy.every_member else Cascade() if policy.asks_members else NearestSignature()


def _compare_all(index: Index, features: Tensor) -> None:
    """Allocates what `Router` allocates if it compares all inputs."""
    router = index.router
    if router is None or router.own_scatter is None:
        return
    some = features[:ROWS_AT_ONCE]
    classes = torch.zeros(len(some), min(router.candidates, router.groups), dtype=torch.long, device=features.device)
    router.own_scatter.among(some, classes, None)
