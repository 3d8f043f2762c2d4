"""The injected layers: a layer of the base, the working adapter that is trained, and a frozen bank of members."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ..compat import Conv1D
from ..storage import TensorSpec, rank_sizes
from .forward.context import Context, Factors, Pass
from .forward.plan import Plan
from .lasting import lasting

# Number of mixtures of groups whose merged factors and heads are cached. Beyond it, the oldest is dropped.
MOST_MERGED = 4
# What layers do outside of passes: use the working adapter while a task is open, otherwise act as the base.
AT_REST = {True: Pass("working"), False: Pass("base")}


class Gathered(dict[tuple[int, ...], tuple[tuple[Tensor, ...], list[int], tuple[Tensor, ...]]]):
    """A cache of what plans gather from the tensors of all members, by the plans' keys. An entry is valid while these
    tensors are the same and unchanged."""

    def of(
        self, plan: Plan, tensors: tuple[Tensor, ...], gather: Callable[[Plan], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
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
            with lasting():
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


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear layer (quantised layers are `nn.Linear` too)."""
    return isinstance(module, nn.Linear | Conv1D)


class MemberKind(DriftTunerLayer):
    """A layer of the base with members. A subclass is one way to keep and apply them, by the tensors in its `specs`.

    All its tensors are float32, whatever the base's dtype.
    """

    what = ""  # what layers can have such members, in a message
    bank_names: tuple[str, ...] = ()  # of the stacks of members
    base_layer: Any

    def __init__(self, base_layer: nn.Module, context: Context) -> None:
        super().__init__(context)
        self.base_layer = base_layer
        self.drift_dropout = nn.ModuleDict()
        self.mixtures = Gathered()

    @classmethod
    @abstractmethod
    def fits(cls, module: nn.Module) -> bool:
        """Whether a module of the base can have such members."""

    @abstractmethod
    def own_sizes(self) -> dict[str, int]:
        """The sizes of its tensors that follow from the base's layer."""

    @abstractmethod
    def factors(self, banks: tuple[Tensor, ...], members: Tensor, weights: Tensor | None) -> tuple[Tensor, ...]:
        """What `answer` needs to apply the mean of the updates of each row's members.

        Args:
            banks (`tuple[Tensor, ...]`): The stacks of all members, in the order of `bank_names`.
            members (`Tensor`): `[N, K]`.
            weights (`Tensor`, *optional*): `[N, K]`; all equal by default.

        Returns:
            Tensors `[N, ...]`; for N = 1 without the first dimension, for all rows.
        """

    @abstractmethod
    def answer(
        self, name: str, plan: Plan, factors: tuple[Tensor, ...], x: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        """The layer's output for rows whose members are in `factors`."""

    @abstractmethod
    def work(self, name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output with the working adapter."""

    def update_layer(self, adapter_name: str, config: Any, sizes: Mapping[str, int]) -> None:
        """Adds the tensors of one adapter. Their sizes come from the base and, in `sizes`, from the manifest."""
        self.sizes = self.own_sizes()
        rests = config.resident_groups is not None
        self.create(adapter_name, {**rank_sizes(config.r), **self.sizes, **sizes}, self.where(), rests)
        self.drift_dropout[adapter_name] = nn.Dropout(config.lora_dropout)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def reset(self, adapter_name: str, closed: bool = False) -> None:
        """Resets the working adapter to a fresh one, whose update is zero, or to all zeros if `closed`, which leaves
        no trace of training."""
        with torch.no_grad():
            for container in self.adapter_layer_names:
                working = getattr(self, container)[adapter_name]
                if working.dtype != torch.float32:  # PEFT's `cast_mixed_precision_params` casts what is not trained
                    working.data = working.data.float()
                working.zero_()

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        current = self.context.current
        if current is None:
            current = AT_REST[self.context.learning]
        if current.mode == "base" or self.disable_adapters or not self.holds(self.active_adapters[0]):
            return self.base_layer(x, *args, **kwargs)
        name, plan = self.active_adapters[0], current.plan
        if plan is None:
            return self.work(name, x, *args, **kwargs)
        factors = self._factors(name, plan, current.factors)
        if factors[0].device != x.device:
            factors = tuple(factor.to(x.device) for factor in factors)
        return self.answer(name, plan, factors, x, *args, **kwargs)

    def banks(self, name: str) -> tuple[Tensor, ...]:
        """The stacks of all members of an adapter, in the order of `bank_names`."""
        return tuple([getattr(self, bank)[name] for bank in self.bank_names])

    def _factors(self, name: str, plan: Plan, shared: Factors | None) -> tuple[Tensor, ...]:
        """The factors of each row. The passes of one answer share them in `shared`."""
        if shared is not None and self in shared:
            return shared[self]
        banks = self.banks(name)
        factors = self.mixtures.of(plan, (*banks, *self.base_tensors), partial(self._mean, banks))
        if plan.index is not None:
            factors = tuple(factor[plan.index.to(factor.device)] for factor in factors)
            if shared is not None:
                shared[self] = factors
        return factors

    @property
    def base_tensors(self) -> tuple[Tensor, ...]:
        """The base's tensors that are part of the factors."""
        return ()

    def _mean(self, banks: tuple[Tensor, ...], plan: Plan) -> tuple[Tensor, ...]:
        members = plan.members
        if plan.seats is not None:
            members, banks = plan.seats.place, plan.seats.stacks[self]
        weights = plan.weights if plan.weights is None else plan.weights.to(banks[0].device)
        return self.factors(banks, members.to(banks[0].device), weights)

    def where(self) -> Any:
        return self.base_layer.weight.device


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
