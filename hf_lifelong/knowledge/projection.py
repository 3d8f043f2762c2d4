"""The fixed random projection of wide features. A rule gives its signs, the same on every machine.

Multiplying by scaled random signs nearly preserves distances (Achlioptas, *Database-friendly random projections*,
2003).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from xxhash import xxh3_128

# SplitMix64 (Steele, Lea, Flood, *Fast splittable pseudorandom number generators*, 2014) in two's complement.
_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15 - 2**64, 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64


def splitmix64(count: int) -> Tensor:
    """The first numbers of the generator with seed 0, int64, `[count]`. It uses integer operations only, so no version
    of a library changes them."""
    state = torch.arange(1, count + 1, dtype=torch.int64, device="cpu") * _STEP
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(state: Tensor, bits: int) -> Tensor:
    """Shifts to the right and fills with zeros from the left."""
    return (state >> bits) & (2 ** (64 - bits) - 1)


def _by_splitmix64(rows: int, columns: int) -> Tensor:
    count = rows * columns
    words = splitmix64(-(-count // 64))
    octets = ((words[:, None] >> torch.arange(0, 64, 8, device="cpu")) & 255).to(torch.uint8)
    bits = (octets[..., None] >> torch.arange(8, dtype=torch.uint8, device="cpu")) & 1
    return bits.view(-1)[:count].view(rows, columns)


def _by_torch(rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 2, (rows, columns), generator=generator, dtype=torch.float32, device="cpu").to(torch.uint8)


# Rules that draw the signs row by row: 0 (minus) and 1 (plus). `"torch"` is for adapters whose format states no rule.
RULES: Mapping[str, Callable[[int, int], Tensor]] = {"splitmix64": _by_splitmix64, "torch": _by_torch}


def projection_matrix(rule: str, rows: int, columns: int) -> Tensor:
    """The matrix that projects `rows` features to `columns`, `[rows, columns]`, float32, on the CPU."""
    return (RULES[rule](rows, columns).float() * 2 - 1) / columns**0.5


def checksum(rule: str, rows: int, columns: int) -> str:
    """Checksum of a projection's signs. It shows whether a rule still gives an adapter's projection."""
    return xxh3_128(RULES[rule](rows, columns).numpy().tobytes()).hexdigest()
