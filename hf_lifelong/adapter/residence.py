"""Members that rest off the device that answers: those of the groups used last are kept on it.

With `resident_groups` in the configuration, banks stay where they were loaded: in the CPU's memory, or in the file
itself (`low_cpu_mem_usage=True` maps it). What a batch needs is copied to seats on the device, for all layers at once;
the seats used longest ago are given away first.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .calls import LOCK, Pass
from .layers import DriftLayer, Plan

# The members that passes under way answer with, from the seats of a model. Other threads begin passes meanwhile.
_IN_USE: WeakKeyDictionary[Pass, tuple[Residence, list[int]]] = WeakKeyDictionary()


class Residence:
    """Seats for members on the devices of their layers.

    Args:
        model (`nn.Module`): The base model with its injected layers.
        adapter (`str`): Name of the adapter.
        seats (`int`): Members that have a seat at a time.
    """

    def __init__(self, model: nn.Module, adapter: str, seats: int) -> None:
        self.adapter, self.seats = adapter, seats
        self.seat_of: dict[int, int] = {}  # the member used longest ago comes first
        self.stacks: dict[DriftLayer, tuple[Tensor, Tensor]] = {}
        # The first pass may run in inference mode, and a later one that does not must be able to change seats.
        with torch.inference_mode(False):
            for layer in model.modules():
                if isinstance(layer, DriftLayer) and layer.holds(adapter):
                    banks = layer.drift_bank_A[adapter], layer.drift_bank_B[adapter]
                    a, b = (torch.empty(seats, *bank.shape[1:], device=layer.where()) for bank in banks)
                    self.stacks[layer] = a, b

    @torch.compiler.disable
    def seat(self, plan: Plan, current: Pass) -> None:
        """Gives the members of a pass seats until it ends; a plan of more members than seats are free takes them out
        of the banks itself, layer by layer."""
        members = list(dict.fromkeys(plan.key or plan.members.unique().tolist()))
        with LOCK:
            table = self._places(members, current)
        if table is None:
            plan.stacks = plan.seats = None
            return
        table = table.to(plan.members.device)
        known = torch.tensor(members, device=plan.members.device)
        order = known.argsort()
        plan.seats = table[order][torch.searchsorted(known[order], plan.members)]
        plan.stacks = self.stacks

    def _places(self, members: list[int], current: Pass) -> Tensor | None:
        """The seats of members, which a pass has from here on; `None` where others hold too many."""
        held = {member for where, used in _IN_USE.values() if where is self for member in used}
        if len(held.union(members)) > self.seats:
            return None
        for member in [*held, *members]:  # those that stay are not given away for those that come
            if member in self.seat_of:
                self.seat_of[member] = self.seat_of.pop(member)
        missing = [member for member in members if member not in self.seat_of]
        if missing:
            self._bring(missing)
        _IN_USE[current] = self, members
        return torch.tensor([self.seat_of[member] for member in members])

    def _bring(self, members: list[int]) -> None:
        seats = [seat for seat in range(self.seats) if seat not in set(self.seat_of.values())][: len(members)]
        while len(seats) < len(members):
            seats.append(self.seat_of.pop(next(iter(self.seat_of))))
        for layer, stacks in self.stacks.items():
            banks: Any = layer.drift_bank_A[self.adapter], layer.drift_bank_B[self.adapter]
            for stack, bank in zip(stacks, banks, strict=True):
                stack[seats] = bank[members].to(stack.device)
        self.seat_of.update(zip(members, seats, strict=True))
