"""Which inputs a target depends on: a selector in scikit-learn's manners that says when it does not know."""

from __future__ import annotations

import math
import numbers
import warnings
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.feature_selection import SelectorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from .cuts import Bools, Floats, cut, mixture_cut, top_cut
from .proximal import check_penalty
from .stability import stability_of
from .training import Problem, Trained, draw_rows, penalty_shares, refine, train_path

_FEWEST = 10  # rows
_SURE = 2.0  # standard errors by which networks must be better than a constant


@dataclass(frozen=True)
class SelectionPath:
    """What was found along the path of L penalties, in R repeats.

    Args:
        lam: `[L]`, penalties as shares of the one that leaves no input, falling.
        loss: `[L]`, on rows left out: half the squared error in units of the target's variance, or cross-entropy in
            nats.
        gain: `[L]`, by how much that is less than the loss of a constant answer.
        gain_error: `[L]`, standard error of the gain.
        importances: `[L, R, p]`, of every network.
    """

    lam: Floats
    loss: Floats
    gain: Floats
    gain_error: Floats
    importances: Floats


class InputSelector(SelectorMixin, BaseEstimator):
    """Selects the inputs that a target depends on, in any non-linear way, by two-layer ReLU networks whose first layer
    is penalised (Li, Wang and Ding, "Provable Identifiability of Two-Layer ReLU Neural Networks via LASSO
    Regularization", IEEE Transactions on Information Theory, 2023).

    Every repeat is a network with first weights of its own, trained on four fifths of the rows and measured on the
    others; all repeats at all penalties are trained as one tensor. Inputs are put on one scale first. At the penalty
    that predicts best, training goes on under an adaptive penalty (Zou, 2006), which all repeats share: it is the
    lower, the more important an input was, so that those that matter are hardly shrunk and the others get to zero. The
    importance of an input is the length of its weights over the neurons, median over the repeats: 0 where half of the
    networks do not see it.

    ```python
    selector = InputSelector(random_state=0).fit(X, y)
    selector.found_, selector.reason_  # False, and why, where the data does not say which inputs matter
    selector.transform(X)  # the columns of `support_`
    ```

    The theorem behind it asks for independent Gaussian inputs, few neurons and many rows. Of inputs that say the same,
    any may be taken: then `stability_` is low.

    Args:
        hidden (`int`): Neurons of each network.
        penalty (`str`): `"l1"`, as published, or `"group"`, which takes or leaves all weights of an input at once.
        lam (`str` or `float`): The penalty as a share of the one that leaves no input, between 0 and 1; `"validate"`
            takes the one of a path that predicts left-out rows best.
        cut (`str`, `int` or `float`): Which inputs are kept. `"mixture"`: those of the high component of a mixture of
            two normal distributions over the importances; none where `found_` is false. An `int`: so many, the most
            important ones (fewer where fewer have any importance), without the adaptive penalty, which may leave
            fewer. A `float` below 1: those with at least this share of the greatest importance.
        repeats (`int`): Networks at each penalty, at least 2.
        max_iter (`int`): Training steps along the path, and each time at its best penalty.
        min_stability (`float`): Least `stability_score_` of a set that counts as found.
        target (`str`): `"regression"`, `"classification"`, or `"auto"`, which goes by `y` as scikit-learn's
            `type_of_target` does.
        random_state (`int`, `RandomState`, *optional*): For first weights, subsamples and batches.

    Attributes:
        importances_: `[p]`, float64.
        support_: `[p]`, bool.
        stability_: `[p]`, the share of the repeats in which an input is among the most important ones, as many as the
            cut keeps, before they share a penalty. Repeats differ in first weights and in the rows drawn.
        stability_score_ (`float`): Agreement of the repeats' sets beyond chance, 1 at most (`stability_of`).
        path_ (`SelectionPath`): Losses and importances along the path.
        lam_ (`float`): The penalty that was taken.
        found_ (`bool`): Whether the inputs predict the target, the cut separates them, and the repeats agree.
        reason_ (`str`, *optional*): Why not.
        classes_: `[K]`, of a classification.
        n_iter_ (`int`): Training steps along the path.
    """

    def __init__(
        self,
        hidden: int = 50,
        penalty: str = "l1",
        lam: str | float = "validate",
        cut: str | int | float = "mixture",
        repeats: int = 20,
        *,
        max_iter: int = 300,
        min_stability: float = 0.5,
        target: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.hidden = hidden
        self.penalty = penalty
        self.lam = lam
        self.cut = cut
        self.repeats = repeats
        self.max_iter = max_iter
        self.min_stability = min_stability
        self.target = target
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> InputSelector:
        """Selects among the columns of a table.

        Args:
            X (array or data frame): `[n, p]`, numbers, n ≥ 10. Constant columns are never kept.
            y (array): `[n]`, numbers or classes.

        Raises:
            ValueError: for arguments out of range; for fewer than 10 rows, strings, NaN or infinity in `X`; for a
                target that is constant.
        """
        self._check()
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=_FEWEST)
        if _is_count(self.cut) and self.cut > X.shape[1]:
            raise ValueError(f"`cut` asks for {self.cut} inputs, `X` has {X.shape[1]}.")
        target = self._targets(y)
        x, varies = _standardised(X)
        if not varies.any():
            raise ValueError("All columns of `X` are constant, so there is no input to select. Check the data.")
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        generator = torch.Generator().manual_seed(seed)
        problem = Problem(
            torch.from_numpy(x[:, varies].astype(np.float32)),
            torch.from_numpy(target.astype(np.float32)),
            hasattr(self, "classes_"),
            draw_rows(len(x), self.repeats, generator),
        )
        shares = penalty_shares(*problem.x.shape) if self.lam == "validate" else torch.tensor([float(self.lam)])
        with torch.no_grad():
            trained = train_path(problem, shares, self.penalty, self.hidden, self.max_iter, generator)
            self.path_ = _path_of(trained, shares, varies)
            best = int(self.path_.loss.argmin())
            self.lam_ = float(self.path_.lam[best])
            # The adaptive penalty leaves few inputs, which may be fewer than are asked for.
            adapt = not _is_count(self.cut)
            at = (best, self.lam_, self.penalty, self.max_iter)
            refined = refine(problem, trained, *at, generator, adapt)
        self.n_iter_ = self.max_iter
        self._select(best, *(_among(value, varies) for value in refined))
        return self

    def _select(self, best: int, alone: Floats, together: Floats) -> None:
        """Sets what is known after training, of importances `[R, p]` of each repeat for itself, and under the penalty
        that all of them shape."""
        path = self.path_
        self.importances_ = np.median(together, axis=0)
        self.support_ = cut(self.importances_, self.cut)
        sets = top_cut(alone, int(self.support_.sum()))
        self.stability_, self.stability_score_ = sets.mean(0), stability_of(sets)
        mixed, separate = mixture_cut(self.importances_)
        self.reason_ = self._doubt(path.gain[best], path.gain_error[best], bool(separate))
        self.found_ = self.reason_ is None
        if not self.found_:
            if self.cut == "mixture":
                self.support_ = np.zeros_like(self.support_)
            warnings.warn(f"It is not known which inputs matter: {self.reason_}.", UserWarning, stacklevel=3)
        elif _is_count(self.cut) and mixed.sum() > self.cut:
            warnings.warn(
                f"`cut` asks for {self.cut} inputs, but {mixed.sum()} stand out from the others.",
                UserWarning,
                stacklevel=3,
            )

    def _doubt(self, gain: float, error: float, separate: bool) -> str | None:
        """Why the support may not be what matters."""
        if not gain > _SURE * error:
            return (
                f"on rows left out, networks are better than a constant answer by {gain:.3g} with a standard error of "
                f"{error:.2g}, which may be chance"
            )
        if self.cut == "mixture" and not separate:
            return "the importances do not fall into two parts (give a number as `cut` to take the greatest)"
        if self.stability_score_ < self.min_stability:
            return (
                f"the sets of the {self.repeats} repeats agree by {self.stability_score_:.2f}, less than "
                f"`min_stability` = {self.min_stability}, as they do for inputs that say the same"
            )
        return None

    def _targets(self, y: NDArray) -> Floats:
        """`y` as `[n, K]`: numbers of mean 0 and variance 1, or one-hot classes, which `classes_` then names."""
        self.__dict__.pop("classes_", None)
        if self.target == "regression" or (self.target == "auto" and type_of_target(y) == "continuous"):
            try:
                numeric = np.asarray(y, dtype=np.float64)
            except (TypeError, ValueError) as error:
                raise ValueError('`y` must be numbers for `target="regression"`.') from error
            spread = numeric.std()
            if not spread > 0:
                raise ValueError("`y` is the same in all rows, so that no input can matter to it.")
            return ((numeric - numeric.mean()) / spread)[:, None]
        check_classification_targets(y)
        classes, index = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError("`y` has one class only, so that no input can matter to it.")
        if len(classes) > len(y) / 2:
            raise ValueError(
                f'`y` has {len(classes)} classes in {len(y)} rows. For numbers give `target="regression"`; of '
                "classes, more rows are needed."
            )
        self.classes_ = classes
        return np.eye(len(classes))[index]

    def _get_support_mask(self) -> Bools:
        check_is_fitted(self)
        return self.support_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def _check(self) -> None:
        """Refuses arguments out of range (`ValueError`)."""
        for name, least in (("hidden", 1), ("repeats", 2), ("max_iter", 1)):
            value = getattr(self, name)
            if not _is_count(value) or value < least:
                raise ValueError(f"`{name}` must be a whole number of at least {least}, not {value!r}.")
        check_penalty(self.penalty)
        if self.lam != "validate" and not _is_share(self.lam):
            raise ValueError(f'`lam` must be "validate" or a number between 0 and 1, not {self.lam!r}.')
        if self.cut != "mixture" and not _is_share(self.cut) and not (_is_count(self.cut) and self.cut > 0):
            raise ValueError(
                '`cut` must be "mixture", a whole number of inputs, or a share of the greatest importance between 0 '
                f"and 1, not {self.cut!r}."
            )
        if not isinstance(self.min_stability, int | float) or not self.min_stability <= 1:
            raise ValueError(f"`min_stability` must be a number of at most 1, not {self.min_stability!r}.")
        if self.target not in ("auto", "regression", "classification"):
            raise ValueError(f'`target` must be "auto", "regression" or "classification", not {self.target!r}.')


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_share(value: object) -> TypeGuard[float]:
    return isinstance(value, float | np.floating) and bool(0 < value < 1)


def _standardised(X: Floats) -> tuple[Floats, Bools]:
    """Columns of mean 0 and variance 1, and which columns vary by more than their rounding."""
    mean, scale = X.mean(0), X.std(0)
    varies = np.ptp(X, axis=0) > 10 * np.finfo(X.dtype).eps * np.abs(mean)
    return np.divide(X - mean, scale, out=np.zeros_like(X), where=varies), varies


def _path_of(trained: Trained, shares: torch.Tensor, varies: Bools) -> SelectionPath:
    gains = (trained.constant - trained.losses).double().numpy()
    error = gains.std(1) / math.sqrt(gains.shape[1])
    loss = trained.losses.double().mean(1).numpy()
    return SelectionPath(shares.double().numpy(), loss, gains.mean(1), error, _among(trained.importances, varies))


def _among(importances: torch.Tensor, varies: Bools) -> Floats:
    """Importances `[..., p]` of all inputs: 0 of those that do not vary."""
    everything = np.zeros((*importances.shape[:-1], len(varies)))
    everything[..., varies] = importances.numpy()
    return everything
