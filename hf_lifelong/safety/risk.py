"""What a backdoor costs and how well it works, before anybody trains: the two risks of a poisoned learner.

The setting is that of Wang et al., "Demystifying Poisoning Backdoor Attacks from a Statistical Perspective" (ICLR
2024, arXiv 2310.10780): a share rho of the training rows gets a trigger and the target's label. With f(x) the
probability that x is not of the target class, w(x) = rho μ_bd / ((1 - rho) μ_cl + rho μ_bd) is the probability that x
is one of the triggered rows, and the best rule on the poisoned data is f (1 - w). It differs from the best rule on
clean data by B_cl = E_cl[f w], and from always answering the target on triggered data by B_bd = E_bd[f (1 - w)]. Both
are one overlap: (1 - rho) B_cl = rho B_bd. A learner whose excess risk on the poisoned data is r is within
r / (1 - rho) of the first and within r / rho of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import checks
from .domains import domain_scores

# The share of a trigger's energy that must be one and the same shift for the theory to say something of it.
CONSTANT = 0.5


@dataclass(frozen=True)
class Biases:
    """The two risks that no learner on the poisoned data can help, for each rho.

    Args:
        rho (`Tensor`): float64, share of poisoned rows; a scalar or `[R]`.
        clean_bias (`Tensor`): float64 like `rho`, B_cl, what clean inputs lose.
        backdoor_bias (`Tensor`): float64 like `rho`, B_bd, the share of triggered inputs that escape the target.
        overlap (`Tensor`): float64 like `rho`, (1 - rho) B_cl = rho B_bd.
    """

    rho: Tensor
    clean_bias: Tensor
    backdoor_bias: Tensor
    overlap: Tensor


@dataclass(frozen=True)
class BackdoorRisk(Biases):
    """[`Biases`] estimated from pairs of rows.

    Args:
        clean_interval, backdoor_interval (`Tensor`): float64 `[2]` or `[R, 2]`, bootstrap intervals of the biases;
            NaN without bootstraps.
        auc (`float`): Of the classifier that tells triggered from clean rows, on rows that it was not fitted on.
        constant_shift (`float`): ‖mean δ‖² / mean ‖δ‖² for δ = triggered - clean: 1 when the trigger moves all inputs
            alike, near 0 when it does not, and then the theory says nothing of it.
    """

    clean_interval: Tensor
    backdoor_interval: Tensor
    auc: float
    constant_shift: float

    @property
    def is_constant(self) -> bool:
        """Whether the trigger is mostly (by half of its energy) a constant shift, which the theory assumes."""
        return self.constant_shift >= CONSTANT


@dataclass(frozen=True)
class RiskCurve:
    """[`Biases`] over the magnitude of a constant trigger and over rho.

    Args:
        magnitudes (`Tensor`): float64 `[M]`, lengths of the trigger.
        rho (`Tensor`): float64 `[R]`.
        clean_bias, backdoor_bias, overlap (`Tensor`): float64 `[M, R]`.
    """

    magnitudes: Tensor
    rho: Tensor
    clean_bias: Tensor
    backdoor_bias: Tensor
    overlap: Tensor

    def smallest_magnitude(self, alpha: float) -> Tensor:
        """The smallest of the magnitudes with B_bd <= alpha for each rho, float64 `[R]`; infinite where none is."""
        works = self.backdoor_bias <= checks.share("alpha", alpha)
        return torch.where(works, self.magnitudes.unsqueeze(-1), torch.inf).amin(0)


def biases_of_ratio(log_ratio: Any, not_target: Any, rho: float | Sequence[float] | Tensor) -> Biases:
    """The two biases where the densities are known.

    Args:
        log_ratio (`Tensor`): `[n]`, log μ_bd(x) / μ_cl(x) of rows drawn from the clean data; may be infinite.
        not_target (`Tensor`): `[n]`, probability that each row is not of the target class, or 0 and 1.
        rho (`float` or `[R]`): Share of poisoned rows.

    Raises:
        ValueError: for a `log_ratio` that is NaN, for bad shapes and shares, and when all rows are of the target.

    Source: the identity of this module, B_bd = B_cl (1 - rho) / rho, so that clean rows suffice.
    """
    ratio = torch.as_tensor(log_ratio, dtype=torch.float64)
    checks.numbers("log_ratio", ratio.clamp(-1.0, 1.0), 1)
    shares, chances = _shares(rho), _chances(not_target, len(ratio))
    return Biases(**_both(_overlap(ratio, chances, shares), shares))


def backdoor_risk(
    clean: Any,
    triggered: Any,
    not_target: Any,
    rho: float | Sequence[float] | Tensor,
    bootstraps: int = 200,
    confidence: float = 0.95,
    seed: int = 0,
) -> BackdoorRisk:
    """How much a trigger would cost on clean inputs, and how often it would fail, if a share rho were poisoned.

    Args:
        clean (`Tensor`): `[n, D]`, features of clean rows, any real dtype: pixels, hidden states, what a model reads.
        triggered (`Tensor`): `[n, D]`, features of the same rows with the trigger.
        not_target (`Tensor`): `[n]`, probability that each clean row is not of the target class, or 0 and 1.
        rho (`float` or `[R]`): Share of poisoned rows, between 0 and 1.
        bootstraps (`int`): Samples for the intervals, 0 for none. They take 8 n R bytes each.
        confidence (`float`): Of the intervals.
        seed (`int`): Of the halves that the classifier is fitted on and asked about, and of the bootstrap.

    Raises:
        ValueError: for bad shapes, NaN, features that are constant, fewer than 8 rows, a trigger that changes nothing,
            and when all rows are of the target class.

    Source: Wang et al. 2024 for the setting; w is estimated by a classifier of the two domains, quadratic in at most
    8 whitened directions.
    """
    x, f, shares = _features(clean), _chances(not_target, len(clean)), _shares(rho)
    z = checks.numbers("triggered", triggered, 2)
    if x.shape != z.shape:
        raise ValueError(
            f"`triggered` has the shape {list(z.shape)}, `clean` {list(x.shape)}: give the same rows in the same "
            "order, with the same kind of features."
        )
    shift = z - x
    if not bool(shift.any()):
        raise ValueError("The trigger changes nothing: `triggered` equals `clean` in every feature of every row.")
    checks.count("bootstraps", bootstraps, 0)
    tails = (1 - checks.share("confidence", confidence)) / 2
    scores = domain_scores(x, z, f, bootstraps, seed)
    f = f[scores.rows]
    samples = _overlap(scores.resampled.flatten(-2), (scores.counts * f).flatten(-2), shares)
    bounds = shares.new_full((2, *shares.shape), torch.nan)
    if bootstraps:
        bounds = samples.quantile(shares.new_tensor([tails, 1 - tails]), 0)
    return BackdoorRisk(
        **_both(_overlap(scores.clean.flatten(), f.flatten(), shares), shares),
        clean_interval=(bounds / (1 - shares)).movedim(0, -1),
        backdoor_interval=(bounds / shares).movedim(0, -1),
        auc=float(scores.auc()),
        constant_shift=float(shift.mean(0).square().sum() / shift.square().sum(1).mean()),
    )


def risk_curve(
    clean: Any,
    direction: Any,
    magnitudes: Sequence[float] | Tensor,
    not_target: Any,
    rho: Sequence[float] | Tensor,
    seed: int = 0,
) -> RiskCurve:
    """The biases of a constant trigger of every length in `magnitudes` along a direction, for every rho.

    Args:
        clean (`Tensor`): `[n, D]`, features of clean rows, any real dtype.
        direction (`Tensor`): `[D]`, any length but 0.
        magnitudes (`[M]`): Lengths of the trigger, above 0, in the unit of the features.
        not_target (`Tensor`): `[n]`, probability that each clean row is not of the target class, or 0 and 1.
        rho (`[R]`): Shares of poisoned rows, between 0 and 1.
        seed (`int`): Of the halves that the classifiers are fitted on and asked about.

    Raises:
        ValueError: as [`backdoor_risk`], and for a direction of another size or of zeros.

    Source: as [`backdoor_risk`].
    """
    x, f, shares = _features(clean), _chances(not_target, len(clean)), _shares(rho).reshape(-1)
    lengths, along = checks.numbers("magnitudes", magnitudes, 1), checks.numbers("direction", direction, 1)
    if len(along) != x.shape[1] or not bool(along.any()):
        raise ValueError(f"`direction` must have {x.shape[1]} numbers, one for each feature, that are not all 0.")
    if bool((lengths <= 0).any()):
        raise ValueError("`magnitudes` must be above 0: the way of a trigger is in its `direction`.")
    triggered = x + lengths.view(-1, 1, 1) * along / along.norm()
    scores = domain_scores(x.expand_as(triggered), triggered, f, 0, seed)
    return RiskCurve(lengths, **_both(_overlap(scores.clean.flatten(-2), f[scores.rows].flatten(), shares), shares))


def _overlap(log_ratio: Tensor, weight: Tensor, rho: Tensor) -> Tensor:
    """(1 - rho) E_cl[f w] from `[..., m]` rows and their f (times how often they count): `[..., R]`, or `[...]`.

    It is at most rho, which densities keep by themselves and estimates of them may not.
    """
    w = torch.sigmoid(log_ratio.unsqueeze(-1) + torch.logit(rho.reshape(-1)))
    mean = (weight.unsqueeze(-1) * w).sum(-2) / log_ratio.shape[-1]
    return ((1 - rho) * mean.reshape((*mean.shape[:-1], *rho.shape))).minimum(rho)


def _both(overlap: Tensor, rho: Tensor) -> dict[str, Tensor]:
    return {"rho": rho, "clean_bias": overlap / (1 - rho), "backdoor_bias": overlap / rho, "overlap": overlap}


def _features(clean: Any) -> Tensor:
    found = checks.numbers("clean", clean, 2)
    checks.varying("clean", found)
    if len(found) < 8:
        raise ValueError(f"`clean` has {len(found)} rows; telling two sets of inputs apart needs at least 8.")
    return found


def _chances(not_target: Any, rows: int) -> Tensor:
    found = checks.numbers("not_target", not_target, 1)
    checks.same_length(clean=rows, not_target=len(found))
    if bool(((found < 0) | (found > 1)).any()):
        raise ValueError("`not_target` must hold probabilities, or 0 and 1.")
    if not bool(found.any()):
        raise ValueError(
            "`not_target` is 0 in all rows: all are of the target class already, and no trigger can move any there. "
            "Give rows of other classes too."
        )
    return found


def _shares(rho: float | Sequence[float] | Tensor) -> Tensor:
    found = torch.as_tensor(rho, dtype=torch.float64)
    if found.dim() > 1 or found.numel() == 0 or not bool(((found > 0) & (found < 1)).all()):
        raise ValueError(f"`rho` must be one share or a list of shares between 0 and 1, both excluded, not {rho!r}.")
    return found
