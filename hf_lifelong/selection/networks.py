"""Many two-layer ReLU networks, all in one tensor: f(x) = Σⱼ aⱼ ReLU(wⱼ·x + bⱼ) + c.

The output weights aⱼ have length 1, ±1 for one output, as in Li, Wang and Ding, 2023: a ReLU passes a positive factor
through, so that nothing is lost by it, and without it a network would escape a penalty on w by growing a.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Networks:
    """R × L networks of r hidden neurons and K outputs, float32. The L networks of a repeat see the same inputs.

    Args:
        weight (`Tensor`): `[R, p, L, r]`, of the inputs that a repeat sees. The last one is 1 in all rows, so that its
            weights are the biases.
        out (`Tensor`): `[R, L, r, K]`, of length 1 along K.
        offset (`Tensor`): `[R, L, K]`.
    """

    weight: Tensor
    out: Tensor
    offset: Tensor

    @classmethod
    def random(cls, inputs: int, repeats: int, hidden: int, outputs: int, generator: torch.Generator) -> Networks:
        """One network a repeat, whose hidden values are of the order of `1 / √hidden` on standardised inputs.

        Args:
            inputs (`int`): Without the constant one.
        """

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        weight = normal(repeats, inputs + 1, 1, hidden) / hidden**0.5
        weight[:, :-1] /= inputs**0.5
        return cls(weight, normalize(normal(repeats, 1, hidden, outputs), dim=-1), torch.zeros(repeats, 1, outputs))

    @property
    def importances(self) -> Tensor:
        """`[R, L, p - 1]`: length of each input's weights over the neurons; 0 where the network does not see it."""
        return torch.linalg.vector_norm(self.weight[:, :-1], dim=3).mT

    def fanned(self, times: int) -> Networks:
        """Each network `times` times, within its repeat."""
        return Networks(
            self.weight.repeat_interleave(times, 2),
            self.out.repeat_interleave(times, 1),
            self.offset.repeat_interleave(times, 1),
        )

    def at(self, place: int) -> Networks:
        """One network of each repeat."""
        one = slice(place, place + 1)
        return Networks(self.weight[:, :, one], self.out[:, one], self.offset[:, one])

    def on_inputs(self, kept: Tensor) -> Networks:
        """The networks on a part of their inputs, of each repeat its own (int64 positions `[R, a]`)."""
        return Networks(self.weight.take_along_dim(kept[:, :, None, None], 1), self.out, self.offset)

    def among(self, inputs: Tensor, count: int) -> Networks:
        """The networks on `count` inputs, of which they have seen those at `inputs` (int64 positions `[R, a]`)."""
        weight = self.weight.new_zeros(len(inputs), count, *self.weight.shape[2:])
        return Networks(
            weight.scatter_(1, inputs[:, :, None, None].expand_as(self.weight), self.weight), self.out, self.offset
        )

    def hidden(self, x: Tensor) -> Tensor:
        """Hidden values `[R, n, L · r]` after the ReLU, of inputs `[R, p, n]`."""
        return torch.bmm(x.mT, self.weight.flatten(2)).relu_()

    def scores(self, hidden: Tensor) -> Tensor:
        """Outputs `[R, n, L, K]`."""
        return torch.bmm(hidden, self._blocks()).unflatten(2, self.offset.shape[1:]) + self.offset[:, None]

    def row_losses(self, x: Tensor, target: Tensor, classes: bool) -> Tensor:
        """Loss `[R, n, L]` of every network on every row, of inputs `[R, p, n]` and targets `[n, K]`."""
        return row_losses(self.scores(self.hidden(x)), target[:, None], classes)

    def slopes(self, hidden: Tensor, target: Tensor, shares: Tensor, classes: bool) -> tuple[Tensor, Tensor]:
        """Gradients of the weighted mean losses by the outputs `[R, n, L, K]` and by the hidden values before the ReLU
        `[R, n, L · r]`.

        Args:
            hidden (`Tensor`): `[R, n, L · r]`.
            target (`Tensor`): `[n, K]`.
            shares (`Tensor`): `[R, n]`, the weight of each row in a repeat's mean.
            classes (`bool`): Whether the outputs are logits.
        """
        slope = (expected(self.scores(hidden), classes) - target[:, None]) * shares[:, :, None, None]
        # One pass over the hidden values, which are what costs time; a product with `hidden > 0` makes three.
        back = torch.ops.aten.threshold_backward(torch.bmm(slope.flatten(2), self._blocks().mT), hidden, 0)
        return slope, back

    def gradients(self, x: Tensor, target: Tensor, shares: Tensor, classes: bool) -> list[Tensor]:
        """Gradients of the weighted mean losses by weight, out and offset; arguments as in `slopes`.

        Args:
            x (`Tensor`): `[R, p, n]`.
        """
        hidden = self.hidden(x)
        slope, back = self.slopes(hidden, target, shares, classes)
        _, points, neurons, outputs = self.out.shape
        across = torch.bmm(hidden.mT, slope.flatten(2)).view(-1, points, neurons, points, outputs)
        out = across.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)
        return [torch.bmm(x, back).view_as(self.weight), out, slope.sum(1)]

    def _blocks(self) -> Tensor:
        """Output weights `[R, L · r, L · K]`, zero between networks: one product then serves all of a repeat."""
        repeats, points, neurons, outputs = self.out.shape
        blocks = self.out.new_zeros(repeats, points, neurons, points, outputs)
        blocks.diagonal(dim1=1, dim2=3).copy_(self.out.permute(0, 2, 3, 1))
        return blocks.view(repeats, points * neurons, points * outputs)


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
