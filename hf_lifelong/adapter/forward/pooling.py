"""Pools the hidden states of all tokens of a text into one vector."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def mask_for(mask: Tensor | None, hidden: Tensor, row: Tensor | None = None) -> Tensor:
    """The mask of `hidden [N, T, H]`: the rows `row [N]` of `mask [B, T]`, or 1 for every token without a mask."""
    if mask is None:
        return torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    return mask if row is None else mask[row]


def token_shares(mask: Tensor) -> Tensor:
    """Weight of each token in the mean of its text, float32: `[B, T]` → `[B, T, 1]`."""
    weight = mask.float().unsqueeze(-1)
    return weight / weight.sum(1, keepdim=True).clamp_min(1)


def shared_mean(hidden: Tensor, shares: Tensor) -> Tensor:
    """Mean over tokens, float32: `[B, T, H]` and `[B, T, 1]` → `[B, H]`."""
    return (hidden.float() * shares).sum(1)


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that are not padding, float32: `[B, T, H]` and `[B, T]` → `[B, H]`."""
    return shared_mean(hidden, token_shares(mask))


def last_state(hidden: Tensor, mask: Tensor) -> Tensor:
    """State of each text's last token, on whichever side the padding is, float32: `[B, T, H]` and `[B, T]` →
    `[B, H]`; of the first position for a text without tokens."""
    place = torch.arange(mask.shape[1], device=mask.device).where(mask != 0, 0).amax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), place].float()


def masked_max(hidden: Tensor, mask: Tensor) -> Tensor:
    """Largest value over tokens, float32: `[B, T, H]` and `[B, T]` → `[B, H]`; 0 for a text without tokens."""
    peak = hidden.float().masked_fill((mask == 0).unsqueeze(-1), float("-inf")).amax(1)
    return peak.masked_fill(peak.isneginf(), 0.0)


def patch_mask(hidden: Tensor, specials: int) -> Tensor:
    """The mask of an image base's `hidden [N, T, H]`: 0 for the tokens in front of the patches, 1 for patches."""
    mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    mask[:, :specials] = 0
    return mask


def signature_features(states: Sequence[Tensor], peak: Tensor | None) -> Tensor:
    """The features of signatures, `[B, D]`, from the pooled hidden states at each depth and, of texts by their mean,
    the largest values at the first depth, `[B, H]` each.

    They are the first state and, for each further depth, what the layers up to it add. These differences are nearly
    uncorrelated, so a few directions and a diagonal describe their scatter. The largest values show which words a text
    has; of an image they would tell its brightest patch, which misleads more than it helps.
    """
    added = [after - before for before, after in pairwise(states)]
    return torch.cat([states[0], *added, *([] if peak is None else [peak - states[0]])], dim=1)
