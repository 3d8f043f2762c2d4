"""Many two-layer ReLU networks on the same inputs, all in one tensor: f(x) = Σⱼ aⱼ ReLU(wⱼ·x + bⱼ) + c.

The output weights aⱼ have length 1, ±1 for one output, as in Li, Wang and Ding, 2023: a ReLU passes a positive factor
through, so that nothing is lost by it, and without it a network would escape a penalty on w by growing a.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import normalize

_ROWS = 1024  # that are answered at once, so that memory does not grow with the data


@dataclass(frozen=True)
class Networks:
    """M networks of p inputs, r hidden neurons and K outputs, float32.

    Args:
        weight (`Tensor`): `[p, M, r]`: with the inputs in front, one matrix product serves all networks.
        bias (`Tensor`): `[M, r]`.
        out (`Tensor`): `[M, r, K]`, of length 1 along K.
        offset (`Tensor`): `[M, K]`.
    """

    weight: Tensor
    bias: Tensor
    out: Tensor
    offset: Tensor

    @classmethod
    def random(cls, inputs: int, count: int, hidden: int, outputs: int, generator: torch.Generator) -> Networks:
        """Networks whose hidden values are of the order of `1 / √hidden` on standardised inputs."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        return cls(
            normal(inputs, count, hidden) / (inputs * hidden) ** 0.5,
            normal(count, hidden) / hidden**0.5,
            normalize(normal(count, hidden, outputs), dim=-1),
            torch.zeros(count, outputs),
        )

    @property
    def importances(self) -> Tensor:
        """`[M, p]`: length of each input's weights over the neurons; 0 where the network does not see the input."""
        return torch.linalg.vector_norm(self.weight, dim=2).T

    def tensors(self) -> list[Tensor]:
        """Weight, bias, out and offset."""
        return [getattr(self, field.name) for field in fields(self)]

    def repeated(self, times: int) -> Networks:
        """Each network `times` times, the copies behind one another."""
        axes = (1, 0, 0, 0)
        return Networks(*(t.repeat_interleave(times, a) for t, a in zip(self.tensors(), axes, strict=True)))

    def on_inputs(self, kept: Tensor) -> Networks:
        """The networks on a part of their inputs (int64 positions)."""
        return Networks(self.weight[kept], self.bias, self.out, self.offset)

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden values `[n, M, r]` before the ReLU, of inputs `[n, p]`."""
        flat = x @ self.weight.flatten(1)
        return flat.view(len(x), *self.bias.shape).add_(self.bias)

    def scores(self, hidden: Tensor) -> Tensor:
        """Outputs `[n, M, K]`, of hidden values after the ReLU."""
        return torch.einsum("nmr,mrk->nmk", hidden, self.out) + self.offset

    def row_losses(self, x: Tensor, target: Tensor, classes: bool) -> Tensor:
        """Loss `[n, M]` of every network on every row."""
        parts = zip(x.split(_ROWS), target.split(_ROWS), strict=True)
        return torch.cat([row_losses(self.scores(self.hidden(a).relu_()), b[:, None], classes) for a, b in parts])

    def gradients(self, x: Tensor, target: Tensor, shares: Tensor, classes: bool) -> list[Tensor]:
        """Gradients of the weighted mean loss, one for each of `tensors()`.

        Args:
            x (`Tensor`): `[n, p]`.
            target (`Tensor`): `[n, K]`.
            shares (`Tensor`): `[n, M]`, the weight of each row in each network's mean.
            classes (`bool`): Whether the outputs are logits.
        """
        hidden = self.hidden(x)
        live = hidden > 0
        hidden.relu_()
        slope = (expected(self.scores(hidden), classes) - target[:, None]) * shares[:, :, None]
        back = torch.einsum("nmk,mrk->nmr", slope, self.out) * live
        weight = (x.T @ back.reshape(len(x), -1)).view_as(self.weight)
        return [weight, back.sum(0), torch.einsum("nmr,nmk->mrk", hidden, slope), slope.sum(0)]


def expected(scores: Tensor, classes: bool) -> Tensor:
    """What outputs say of the target: themselves, or probabilities of classes. What the target differs from it by is
    the negative gradient of both losses."""
    return scores.softmax(-1) if classes else scores


def row_losses(scores: Tensor, target: Tensor, classes: bool) -> Tensor:
    """Half the squared error, or the cross-entropy in nats, summed over the last axis.

    Args:
        scores (`Tensor`): `[..., K]`.
        target (`Tensor`): Broadcasts to `[..., K]`: numbers, or the probabilities of classes (one-hot).
        classes (`bool`): Whether the outputs are logits.
    """
    if classes:
        return -(scores.log_softmax(-1) * target).sum(-1)
    return (scores - target).square().sum(-1) / 2
