"""A penalty on the first layer of any model, inside one run of a `Trainer`."""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from .proximal import check_penalty, shrunk

_LIVE = "selection/live_inputs"


class FirstLayerPenalty(TrainerCallback):
    """Puts a proximal step on one matrix after every step of the optimizer, so that the weights of inputs that the
    training does not need become exactly zero.

    ```python
    trainer.add_callback(FirstLayerPenalty(trainer, r"pre_classifier\\.weight$", lam=0.01, penalty="group"))
    ```

    The training then minimises loss + `lam` × norm. Where the optimizer scales its steps by the size of gradients, as
    Adam does, the proximal step has the same scale, so that `lam` means the same under all: an input stays at zero
    while the gradients of its weights are below it. The loss that is logged is the one without the penalty. Clipping
    shortens the gradient of the loss and not the penalty, which weighs more where every step is clipped.

    How many inputs are live goes to `report_to` with the lines of the loss, as `selection/live_inputs`. The callback
    keeps nothing of its own: a resumed run goes on from the weights.

    Args:
        trainer (`Trainer`): The trainer that it is added to. Any subclass; one process or DDP.
        weight (`str`): Regular expression over the full names of the model's parameters that one trainable matrix
            matches, also an adapter's (`r"layer\\.0.*query\\.lora_A"`).
        lam (`float`): Strength of the penalty, above 0.
        penalty (`str`): `"l1"`, on every weight, or `"group"`, on the length of the weights of each input, which
            then have one scale of the step, by their mean squared gradient.
        axis (`int`): Axis of the inputs: 1 in `nn.Linear` and in LoRA's A, 0 in GPT-2's `Conv1D`.

    Raises:
        ValueError: at once for arguments out of range; at the start of training when not exactly one matrix matches,
            or it is frozen, sharded or in half precision, in which steps this small are rounded away; at the first
            step for other optimizers than SGD, Adam and their kin.
    """

    def __init__(self, trainer: Any, weight: str, lam: float, penalty: str = "l1", axis: int = 1) -> None:
        if not isinstance(trainer, Trainer):
            raise ValueError(f"`trainer` must be a `Trainer`, not {trainer!r:.60}.")
        try:
            self.pattern = re.compile(weight)
        except (TypeError, re.error) as error:
            raise ValueError(f"`weight` is no regular expression: {weight!r} ({error}).") from error
        if isinstance(lam, bool) or not isinstance(lam, int | float) or not 0 < lam < math.inf:
            raise ValueError(f"`lam` must be a number above 0, not {lam!r}.")
        check_penalty(penalty)
        if axis not in (0, 1):
            raise ValueError(f"`axis` must be 0 or 1, the axis of the inputs in the matrix, not {axis!r}.")
        self.trainer: Any = trainer
        self.lam, self.penalty, self.axis = lam, penalty, axis
        self._parameter: nn.Parameter | None = None
        self._hook: Any = None

    @property
    def live(self) -> Tensor:
        """bool `[inputs]`: which inputs have a weight that is not zero.

        Raises:
            RuntimeError: before training.
        """
        if self._parameter is None:
            raise RuntimeError("Which inputs are live is known once training has begun.")
        return (self._parameter.detach() != 0).any(1 - self.axis)

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, optimizer: Any = None, **kwargs: Any
    ) -> None:
        self._release()
        for used, name in ((self.trainer.is_fsdp_enabled, "FSDP"), (self.trainer.is_deepspeed_enabled, "DeepSpeed")):
            if used:
                raise ValueError(
                    f"`FirstLayerPenalty` under {name} is not supported: a process holds a part of the matrix only. "
                    "Train in one process or under DDP."
                )
        optimizer = getattr(optimizer, "optimizer", optimizer)
        self._parameter = parameter = self._find()
        group = next((g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), None)
        if group is None:
            raise ValueError(f"`weight` = {self.pattern.pattern!r} names a matrix that the optimizer does not train.")

        across = 1 - self.axis if self.penalty == "group" else None

        @torch.no_grad()
        def shrink(*_: Any) -> None:
            reach = step_sizes(optimizer, group, parameter, across)
            parameter.copy_(shrunk(parameter, reach * self.lam, self.penalty, dim=1 - self.axis))

        self._hook = optimizer.register_step_post_hook(shrink)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_log:
            self._log(control)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._release()
        self._log(control)

    def _find(self) -> nn.Parameter:
        """The matrix that the expression names."""
        found = {n: p for n, p in self.trainer.model.named_parameters() if self.pattern.search(n) and p.dim() == 2}
        what = f"`weight` = {self.pattern.pattern!r}"
        if len(found) != 1:
            raise ValueError(
                f"{what} matches {len(found)} matrices of `{type(self.trainer.model).__name__}`, not one: "
                f"{sorted(found)[:5] or 'check its `named_parameters()`'}."
            )
        ((name, parameter),) = found.items()
        if not parameter.requires_grad:
            raise ValueError(f"{what} names `{name}`, which is frozen; its weights must be trained.")
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"{what} names `{name}`, whose {parameter.dtype} would round away steps this small. Load the model in "
                "float32 and train with `bf16=True`."
            )
        return parameter

    def _log(self, control: TrainerControl) -> None:
        asked = control.should_log
        self.trainer.log({_LIVE: int(self.live.sum())})
        control.should_log = asked  # logging would otherwise count as the one that Trainer was about to do

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None


def step_sizes(
    optimizer: Any, group: dict[str, Any], parameter: nn.Parameter, across: int | None = None
) -> Tensor | float:
    """By how much an optimizer moves each weight in the end for a gradient of 1: the learning rate, which the momentum
    of SGD multiplies, and Adam and its kin divide by the root of the mean squared gradient.

    Args:
        optimizer (`Optimizer`): After a step.
        group (`dict`): The group of the parameter.
        parameter (`nn.Parameter`): Any shape.
        across (`int`, *optional*): Axis along which weights share the mean of their squared gradients.

    Raises:
        ValueError: for an optimizer that scales its steps otherwise.
    """
    state = optimizer.state.get(parameter, {})
    if state.keys() <= {"momentum_buffer"}:
        momentum = group["momentum"]
        return float(group["lr"]) * ((1 - group["dampening"]) / (1 - momentum) if momentum else 1.0)
    squares = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
    if squares is None or squares.shape != parameter.shape or not squares.is_floating_point():
        raise ValueError(
            f"`FirstLayerPenalty` does not know how `{type(optimizer).__name__}` scales its steps. Train with SGD or "
            'AdamW (`optim="adamw_torch"`).'
        )
    if across is not None:
        squares = squares.mean(across, keepdim=True)
    return group["lr"] / ((squares / (1 - group["betas"][1] ** state["step"])).sqrt() + group["eps"])
