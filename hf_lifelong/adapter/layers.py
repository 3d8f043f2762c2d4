"""The injected layer: a linear layer with one trainable working pair and a frozen bank of members."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.nn import functional as F

from ..storage import LAYER, TensorSpec, specs_at
from .forward.context import Context, Factors, Pass
from .forward.plan import Plan

# Number of mixtures of groups whose merged factors and heads are cached. Beyond it, the oldest is dropped.
MOST_MERGED = 4
# What layers do outside of passes: use the working pair while a task is open, otherwise act as the base.
AT_REST = {True: Pass("working"), False: Pass("base")}


class Gathered(dict[tuple[int, ...], tuple[tuple[Tensor, ...], list[int], tuple[Tensor, Tensor]]]):
    """A cache of what plans gather from the tensors of all members, by the plans' keys. An entry is valid while these
    tensors are the same and unchanged."""

    def of(
        self, plan: Plan, tensors: tuple[Tensor, ...], gather: Callable[[Plan], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """`gather(plan)`, cached if the plan has a key."""
        if plan.key is None:
            return gather(plan)
        # Tensors created in inference mode have no version counter.
        versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
        entry = self.get(plan.key)
        if entry is None or entry[1] != versions or any(a is not b for a, b in zip(entry[0], tensors, strict=True)):
            self.pop(plan.key, None)
            # In steps that other threads may take at the same time.
            for oldest in list(self)[: max(0, len(self) - MOST_MERGED + 1)]:
                self.pop(oldest, None)
            entry = self[plan.key] = (tensors, versions, gather(plan))
        return entry[2]

    def __reduce__(self) -> tuple[type[Gathered], tuple[()]]:
        return Gathered, ()  # a copy of a model starts with an empty cache


class Bank(nn.ParameterDict):
    """Tensors by adapter name. They move with the model, except those of the adapters in `resting`. They stay float32
    when the model is cast, because rounding would change the members."""

    def __init__(self) -> None:
        super().__init__()
        self.resting: set[str] = set()

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.resting.discard(name)

    def _apply(self, fn: Any, recurse: bool = True) -> Bank:
        def moved(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            return result if result.dtype == tensor.dtype else tensor.to(result.device)

        resting = {name: self._parameters.pop(name) for name in self.resting & self._parameters.keys()}
        try:
            return super()._apply(moved, recurse)
        finally:
            self._parameters.update(resting)


def names_of(specs: Iterable[TensorSpec], trained: bool) -> tuple[str, ...]:
    """Names of the tensors of the working adapter, or of all others."""
    return tuple(spec.name for spec in specs if (spec.per is None) == trained)


class DriftTunerLayer(nn.Module, BaseTunerLayer):
    """Base of the injected layers and the root: has a container for each of its `specs`, keyed by adapter name."""

    specs: tuple[TensorSpec, ...] = ()
    tensors: tuple[str, ...] = ()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context
        self.sizes: dict[str, int] = {}  # the sizes of its tensors that differ between layers
        for name in self.tensors:
            setattr(self, name, Bank())
        self.register_load_state_dict_pre_hook(size_from_file)

    def holds(self, adapter_name: str) -> bool:
        """Whether an adapter has tensors here. The adapters of a model may have different targets."""
        return adapter_name in getattr(self, self.tensors[0])

    def held(self, adapter_name: str) -> dict[str, nn.Parameter]:
        """The tensors of an adapter by their containers' names."""
        banks = {name: getattr(self, name) for name in self.tensors}
        return {name: bank[adapter_name] for name, bank in banks.items() if adapter_name in bank}

    def create(
        self, adapter_name: str, sizes: Mapping[str, int], device: torch.device | None, rests: bool = False
    ) -> None:
        """Adds the tensors of one adapter. Tensors that will be loaded start without memory.

        Args:
            sizes (`Mapping[str, int]`): The size of each symbol in `specs`.
            rests (`bool`): Whether the adapter's learned tensors stay off the device.
        """
        for spec in self.specs:
            bank = getattr(self, spec.name)
            if spec.per is None:
                bank[adapter_name] = nn.Parameter(torch.zeros(spec.shape(sizes), device=device))
            elif not spec.is_absent(sizes):
                if rests:
                    bank.resting.add(adapter_name)
                bank[adapter_name] = empty_bank(spec.shape(sizes), "cpu" if rests else device, spec.torch_dtype)

    def make_room(self, adapter_name: str, sizes: Mapping[str, int]) -> None:
        """Before a file is loaded, adds the optional stacks that it has and drops those that it lacks, because PEFT
        loads only tensors that a model has."""
        for spec in self.specs:
            bank = getattr(self, spec.name)
            if spec.is_absent(sizes) and adapter_name in bank:
                del bank[adapter_name]
            elif adapter_name not in bank and not spec.is_absent(sizes):
                bank[adapter_name] = empty_bank(spec.shape(sizes), self.where(), spec.torch_dtype)

    def freeze(self, adapter_name: str) -> None:
        """Freezes all tensors except the working ones, however the adapter was loaded."""
        for name, tensor in self.held(adapter_name).items():
            if name not in self.adapter_layer_names:
                tensor.requires_grad_(False)

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Makes one adapter active. It can be trained only while a task is open.

        Raises:
            ValueError: when several names are given.
        """
        if not isinstance(adapter_names, str) and len(adapter_names) > 1:
            raise ValueError(
                f"`adapter_name` is {adapter_names!r}; of the lifelong adapters of a model one is active at a time, "
                "and it chooses among its tasks itself. Give one name."
            )
        super().set_adapter(adapter_names, inference_mode=inference_mode or not self.context.learning)

    def set_requires_grad(self, adapter_names: str | Sequence[str], requires_grad: bool = True) -> None:
        super().set_requires_grad(adapter_names, requires_grad and self.context.learning)

    def unmerge(self) -> None:
        """Nothing to do: an adapter is never merged."""

    def where(self) -> Any:
        """The device of the tensors that have memory."""
        return next((p.device for p in self.parameters() if p.device.type != "meta"), None)

    def _move_adapter_to_device_of_base_layer(self, adapter_name: str, device: torch.device | None = None) -> None:
        # PEFT's own version also casts to the dtype of the base, which would round members on a bf16 base.
        device = device or self.where()
        for container in (getattr(self, name) for name in self.tensors):
            if device is None or adapter_name not in container or adapter_name in container.resting:
                continue
            if container[adapter_name].device.type != "meta":
                container[adapter_name].data = container[adapter_name].data.to(device)


class DriftLayer(DriftTunerLayer):
    """A linear layer with low-rank members.

    `drift_A [r, in]` and `drift_B [out, r]` are trained. `drift_bank_A [members, r, in]` and
    `drift_bank_B [members, r, out]` are not; their layout lets members stack without a copy. All are float32, whatever
    the base's dtype.
    """

    specs = specs_at(LAYER)
    tensors = tuple(spec.name for spec in specs)
    adapter_layer_names = names_of(specs, trained=True)
    other_param_names = (*names_of(specs, trained=False), "drift_dropout", "scaling")
    base_layer: Any
    drift_A: Bank
    drift_B: Bank
    drift_bank_A: Bank
    drift_bank_B: Bank

    def __init__(self, base_layer: nn.Module, context: Context) -> None:
        super().__init__(context)
        self.base_layer = base_layer
        self.drift_dropout = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.mixtures = Gathered()

    def update_layer(
        self, adapter_name: str, config: Any, sizes: Mapping[str, int], fan_in: int, fan_out: int
    ) -> None:
        """Adds the tensors of one adapter. Their sizes come from the base and, in `sizes`, from the manifest."""
        if config.r > max(fan_in, fan_out):
            # Checked here for every way of loading: a configuration may come from anyone, and determines the memory.
            raise ValueError(
                f"`r` is {config.r}, but a layer with {fan_in} inputs and {fan_out} outputs has no use for a rank "
                f"above {max(fan_in, fan_out)}. Give a smaller one."
            )
        self.sizes = {"in": fan_in, "out": fan_out}
        rests = config.resident_groups is not None
        self.create(adapter_name, {"r": config.r, **self.sizes, **sizes}, self.where(), rests)
        self.drift_dropout[adapter_name] = nn.Dropout(config.lora_dropout)
        self.scaling[adapter_name] = config.lora_alpha / config.r
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def reset(self, adapter_name: str, closed: bool = False) -> None:
        """Resets the working pair to a fresh one, whose update is zero, or to all zeros if `closed`, which leaves no
        trace of training."""
        with torch.no_grad():
            for working in (self.drift_A[adapter_name], self.drift_B[adapter_name]):
                if working.dtype != torch.float32:  # PEFT's `cast_mixed_precision_params` casts what is not trained
                    working.data = working.data.float()
            self.drift_B[adapter_name].zero_()
            if closed:
                self.drift_A[adapter_name].zero_()
            else:
                nn.init.kaiming_uniform_(self.drift_A[adapter_name], a=math.sqrt(5))

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        current = self.context.current
        if current is None:
            current = AT_REST[self.context.learning]
        if current.mode == "base" or self.disable_adapters:
            return result
        name, plan = self.active_adapters[0], current.plan
        if not self.holds(name):
            return result
        if plan is not None:
            a, b = self._factors(name, plan, current.factors)
            if a.device != x.device:
                a, b = a.to(x.device), b.to(x.device)
            scale = self.scaling[name] / (plan.members.shape[1] if plan.weights is None else 1)
        else:
            x = self.drift_dropout[name](x.to(self.drift_A[name].dtype))
            a, b, scale = self.drift_A[name], self.drift_B[name].T, self.scaling[name]
        return with_update(result, x, a, b, scale)

    def _factors(self, name: str, plan: Plan, shared: Factors | None) -> tuple[Tensor, Tensor]:
        """The factors of each row. The passes of one answer share them in `shared`."""
        if shared is not None and self in shared:
            return shared[self]
        a, b = self._merged(name, plan)
        if plan.index is not None:
            a, b = a[plan.index.to(a.device)], b[plan.index.to(b.device)]
            if shared is not None:
                shared[self] = a, b
        return a, b

    def _merged(self, name: str, plan: Plan) -> tuple[Tensor, Tensor]:
        bank_a, bank_b = self.drift_bank_A[name], self.drift_bank_B[name]
        return self.mixtures.of(plan, (bank_a, bank_b), partial(self._mean, bank_a, bank_b))

    def _mean(self, bank_a: Tensor, bank_b: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
        members = plan.members
        if plan.seats is not None:
            members, (bank_a, bank_b) = plan.seats.place, plan.seats.stacks[self]
        weights = plan.weights if plan.weights is None else plan.weights.to(bank_a.device)
        return member_factors(bank_a, bank_b, members.to(bank_a.device), weights)

    def where(self) -> Any:
        return self.base_layer.weight.device


def with_update(result: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`result + scale · x aᵀ b` in the dtype of `result`.

    Args:
        result (`Tensor`): `[…, out]`.
        x (`Tensor`): `[…, in]`.
        a, b (`Tensor`): `[r, in]` and `[r, out]` for all rows, or `[N, r, in]` and `[N, r, out]` for N blocks of rows.
    """
    # One row takes some forty such sums, each of microseconds, so conversions are called only where they do something.
    x = x if x.dtype == a.dtype else x.to(a.dtype)
    blocks = a.dim() == 3
    if blocks:
        inner = x.reshape(len(a), -1, x.shape[-1]) @ a.mT
        rows = result.reshape(len(a), -1, result.shape[-1])
    else:
        inner = F.linear(x, a).flatten(0, -2)
        rows = result.flatten(0, -2)
    is_plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled(result.device.type)
    if is_plain and result.dtype == inner.dtype == b.dtype:
        add_in_place = rows.baddbmm_ if blocks else rows.addmm_  # the layer's output is nobody else's
        return add_in_place(inner, b, alpha=scale).view(result.shape)
    if torch.promote_types(result.dtype, inner.dtype) != inner.dtype:
        # Under autocast, a base may still answer in float32 (as in 4 bits). The sum must not round its result.
        return torch.add(result, (inner @ b).view(result.shape), alpha=scale).to(result.dtype)
    # Otherwise the product itself adds, which saves a tensor of the size of the layer's output.
    add_product = torch.baddbmm if blocks else torch.addmm
    return add_product(rows.to(inner.dtype), inner, b, alpha=scale).view(result.shape).to(result.dtype)


def member_factors(bank_a: Tensor, bank_b: Tensor, members: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The factors whose product is the sum of the updates of each row's members: `x @ a.mT @ b`.

    `Σ_k weights[n, k] · B_k A_k x_n` is one product of rank K·r. The members' factors are stacked, not summed, so the
    sum of the updates is exact.

    Args:
        bank_a (`Tensor`): `[members, r, in]`.
        bank_b (`Tensor`): `[members, r, out]`.
        members (`Tensor`): `[N, K]`.
        weights (`Tensor`, *optional*): `[N, K]`; all 1 by default.

    Returns:
        `a [N, K·r, in]` and `b [N, K·r, out]`; for N = 1 without the first dimension, for all rows.
    """
    # On a CPU `index_select` copies whole members; indexing would copy number by number.
    a, b = (bank.index_select(0, members.flatten()).unflatten(0, members.shape) for bank in (bank_a, bank_b))
    if weights is not None:
        b = b * weights[..., None, None].to(b.dtype)
    a, b = a.flatten(1, 2), b.flatten(1, 2)
    return (a[0], b[0]) if len(members) == 1 else (a, b)


def empty_bank(shape: tuple[int, ...], device: torch.device | str | None, dtype: torch.dtype) -> nn.Parameter:
    """A frozen stack of the size in the manifest. It has no memory until a matching file is read."""
    return nn.Parameter(
        torch.empty(shape, device="meta" if math.prod(shape) else device, dtype=dtype), requires_grad=False
    )


def size_from_file(module: Any, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Load hook that gives each tensor of an adapter its size in the file.

    Trainer may load a checkpoint into a model that has learned fewer tasks than the file. `checks.check_tensors`
    checks the file against the manifest before this.
    """
    for container in module.tensors:
        for name, parameter in getattr(module, container).items():
            loaded = state_dict.get(f"{prefix}{container}.{name}")
            if loaded is None or (loaded.shape == parameter.shape and parameter.device.type != "meta"):
                continue
            rests = name in getattr(module, container).resting
            device = "cpu" if rests else module.where() or loaded.device
            fresh = torch.empty(loaded.shape, dtype=parameter.dtype, device=device)
            getattr(module, container)[name] = nn.Parameter(fresh, requires_grad=parameter.requires_grad)
