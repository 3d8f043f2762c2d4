"""Keeps only the members of the most recently used groups on the device that answers.

With `resident_groups` in the configuration, banks stay where they were loaded: in CPU memory, or in the file itself
(`low_cpu_mem_usage=True` maps it). The members that a batch needs are copied to seats on the device, for all layers at
once. The least recently used seats are given away first.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ..layers import MemberKind
from .context import LOCK
from .plan import Seats

# The seats of passes under way. Other threads may begin passes in the meantime.
_IN_USE: WeakSet[Seats] = WeakSet()


class Residence:
    """Seats for members on the devices of their layers.

    Args:
        model (`nn.Module`): The base model with its injected layers.
        adapter (`str`): Name of the adapter.
        seats (`int`): Number of seats.
    """

    def __init__(self, model: nn.Module, adapter: str, seats: int) -> None:
        self.adapter, self.seats = adapter, seats
        self.seat_of: dict[int, int] = {}  # the least recently used member comes first
        self.stacks: dict[MemberKind, tuple[Tensor, ...]] = {}
        # Not inference tensors: the first pass may run in inference mode, but later passes outside of it write seats.
        with torch.inference_mode(False):
            for layer in model.modules():
                if isinstance(layer, MemberKind) and layer.holds(adapter):
                    self.stacks[layer] = tuple(
                        torch.empty(seats, *bank.shape[1:], device=layer.where()) for bank in layer.banks(adapter)
                    )

    @torch.compiler.disable
    def seats_of(self, members: Tensor, key: tuple[int, ...] | None) -> Seats | None:
        """Seats for the members of a plan, reserved while the plan holds them. `None` if the members need more seats
        than are free; each layer then reads its bank.

        Args:
            members (`Tensor`), key (`tuple`, *optional*): As in [`Plan`].
        """
        taken = tuple(dict.fromkeys(key or members.unique().tolist()))
        with LOCK:
            table = self._places(taken)
            if table is None:
                return None
            table, seated = table.to(members.device), torch.tensor(taken, device=members.device)
            order = seated.argsort()
            place = table[order][torch.searchsorted(seated[order], members)]
            seats = Seats(self, taken, place, self.stacks)
            _IN_USE.add(seats)
            return seats

    def _places(self, members: tuple[int, ...]) -> Tensor | None:
        """The seats of members; `None` if passes under way hold too many."""
        held = {member for seats in _IN_USE if seats.residence is self for member in seats.taken}
        if len(held.union(members)) > self.seats:
            return None
        for member in [*held, *members]:  # moved to the end, so that these seats are not given away
            if member in self.seat_of:
                self.seat_of[member] = self.seat_of.pop(member)
        missing = [member for member in members if member not in self.seat_of]
        if missing:
            self._bring(missing)
        return torch.tensor([self.seat_of[member] for member in members])

    def _bring(self, members: list[int]) -> None:
        seats = [seat for seat in range(self.seats) if seat not in set(self.seat_of.values())][: len(members)]
        while len(seats) < len(members):
            seats.append(self.seat_of.pop(next(iter(self.seat_of))))
        for layer, stacks in self.stacks.items():
            banks: Any = layer.banks(self.adapter)
            for stack, bank in zip(stacks, banks, strict=True):
                stack[seats] = bank[members].to(stack.device)
        self.seat_of.update(zip(members, seats, strict=True))
