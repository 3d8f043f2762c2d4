"""The published loop: train, measure, prune, rewind the survivors, and train again."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import TrainerCallback, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from ..utils.files import read_json, read_tensors, write_json, write_tensors
from ..utils.renewal import Renewal
from .calibration import Batches
from .masks import Masks
from .once import check_rule, prune_further
from .progress import (
    Step,
    check_limits,
    check_trainer,
    draw_steps,
    kept_step,
    metric_of,
    model_index,
    orders_of,
    stop_reason,
)
from .rules import SAP, Rule
from .targets import prunable

logger = logging.get_logger(__name__)
_MARK = "pruning_round.json"


@dataclass(frozen=True)
class PruningRun:
    """What [`prune_iteratively`] gives back.

    Args:
        steps (`list[Step]`): One per round; round 0 is the dense model.
        kept (`int`): The round whose weights the model has now.
        masks ([`Masks`]): Of that round.
        reason (`str`, *optional*): Why it ended before the last round.
    """

    steps: list[Step]
    kept: int
    masks: Masks
    reason: str | None = None


def prune_iteratively(
    trainer: Any,
    rounds: int,
    rule: Rule | None = None,
    *,
    targets: str | None = None,
    calibration: Batches | None = None,
    tolerance: float = 0.02,
    rise: float = 0.1,
    rewind_to: int = 0,
    resume: bool = False,
) -> PruningRun:
    """Trains and prunes a model in turns, as Diao et al. (ICLR 2023) publish SAP.

    Round 0 trains the dense model. Each further round prunes by the rule, sets every trained parameter that is left
    back to its value before training, and trains again as the trainer's arguments say, with a fresh optimizer and
    schedule. Of the rounds whose validation score is within `tolerance` of the best, the model gets the weights of
    the one with the fewest left.

    Under `output_dir` it leaves `pruning.json`, `pruning.png` (the three curves) and `_pruning/`, which only
    `resume=True` needs. After each round, PQ Index, remaining weights and score go to `report_to`, with the round as
    their step.

    Args:
        trainer (`Trainer`): Ready to train and evaluate; one process or DDP. Not a `DriftTrainer`: prune the base
            first.
        rounds (`int`): Prunings, so that there are `rounds + 1` trainings.
        rule (*optional*, defaults to `SAP()`): What goes. `Magnitude` makes it lottery-ticket pruning.
        targets, calibration: As in [`SAPCallback`].
        tolerance (`float`): How far the validation metric (`metric_for_best_model`) may fall below its best, in its
            own unit; pruning ends when it falls further. Infinity: no limit, and the last round is kept.
        rise (`float`): Pruning ends when the PQ Index of the trained model rises more than this above its lowest.
        rewind_to (`int`): Optimizer step of round 0 to whose weights the survivors go back; 0: before training.
        resume (`bool`): Goes on where an earlier call with the same `output_dir` was killed, also inside a round when
            the trainer saves checkpoints; starts from the beginning where nothing was saved.

    Raises:
        ValueError: for arguments out of range, and settings in which masks cannot hold.
    """
    rule = rule if rule is not None else SAP()
    _check(trainer, rounds, rule, calibration, tolerance, rise, rewind_to)
    masks = Masks.of_zeros(prunable(trainer.model, targets))
    run = _Run(trainer, rounds, rule, masks, tolerance, rise, rewind_to, calibration)
    run.begin(resume)
    with run.holding():
        for number in tqdm(
            range(len(run.steps), rounds + 1), desc="Pruning rounds", disable=trainer.args.disable_tqdm
        ):
            if run.reason is not None:
                break
            run.train(number)
            run.commit()
    return run.finish()


class _Round(TrainerCallback):
    """Holds the masks in one training, marks its checkpoints as whole, and saves the weights to go back to."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.hooks: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.release()
        if self.run.rewind_to > state.max_steps:
            raise ValueError(
                f"`rewind_to` is step {self.run.rewind_to}, but a round has {state.max_steps} steps; "
                "give an earlier one."
            )
        self.run.masks.apply()
        self.hooks = self.run.masks.hold(optimizer)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self.run.steps and state.global_step == self.run.rewind_to:
            self.run.write("early", self.run.parameters())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.run.main:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_json(folder / _MARK, {"round": len(self.run.steps)})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.release()

    def release(self) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []


class _Run:
    """The state of the loop. Files appear whole on disk, and `pruning.json`, written last, says which count."""

    def __init__(
        self,
        trainer: Any,
        rounds: int,
        rule: Rule,
        masks: Masks,
        tolerance: float,
        rise: float,
        rewind_to: int,
        calibration: Batches | None,
    ) -> None:
        self.trainer, self.masks, self.calibration = trainer, masks, calibration
        self.rounds, self.rule = rounds, rule
        self.tolerance, self.rise, self.rewind_to = tolerance, rise, rewind_to
        self.metric, self.greater = metric_of(trainer.args, tolerance)
        self.output_dir = Path(trainer.args.output_dir)
        self.folder = self.output_dir / "_pruning"
        self.state_file = self.output_dir / "pruning.json"
        self.main = trainer.is_world_process_zero()
        self.renewal = Renewal(trainer)
        self.steps: list[Step] = []
        self.reason: str | None = None
        self.checkpoint: Path | None = None

    @property
    def kept(self) -> int:
        return kept_step(self.steps, self.greater, self.tolerance)

    def settings(self) -> dict[str, Any]:
        """What a run that is resumed must have in common with the one that was killed."""
        rule = {"name": type(self.rule).__name__, **dataclasses.asdict(self.rule)}
        names = sorted(self.masks.targets)
        return {
            "rounds": self.rounds,
            "rule": rule,
            "metric": self.metric,
            "rewind_to": self.rewind_to,
            "weights": self.masks.total,
            "targets": [len(names), names[0], names[-1]],
            "tolerance": str(self.tolerance),
            "rise": str(self.rise),
        }

    def parameters(self) -> dict[str, Tensor]:
        """What training and pruning change."""
        held, targets = self.trainer.model.named_parameters(), self.masks.targets
        return {name: p.detach() for name, p in held if p.requires_grad or name in targets}

    def begin(self, resume: bool) -> None:
        """Starts from the beginning, or reads how far a killed run had come."""
        if resume and self.state_file.exists():
            state = read_json(self.state_file)
            settings = state.get("settings") if isinstance(state, dict) else None
            if settings != self.settings():
                raise ValueError(
                    f"`resume=True`, but `{self.state_file}` is from a run with other settings: {settings}. Give "
                    "the same ones, another `output_dir`, or `resume=False`."
                )
            self.steps = [Step(**step) for step in state["steps"]]
            self.reason = state["reason"]
            if self.steps and not state["finished"]:
                self.masks.update(self.masks.unpacked(self.read(f"masks-{len(self.steps)}")))
                self.load(self.read(f"buffers-{len(self.steps)}"))
            self.checkpoint = self._newest_checkpoint(len(self.steps))
        else:
            if self.main:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.state_file.unlink(missing_ok=True)
            self.write("initial", self.parameters())
            self._write_state(finished=False)

    def train(self, number: int) -> None:
        """One training, with nothing left over from the one before."""
        trainer = self.trainer
        set_seed(trainer.args.seed + number)
        self.load(self.read("early" if number and self.rewind_to else "initial"))
        self.masks.apply()
        self.renewal.begin()
        trainer.args.output_dir = str(self._round_folder(number))
        trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
        self.checkpoint = None
        score = trainer.evaluate().get(self.metric)
        if score is None:
            raise ValueError(
                f"The evaluation gave no `{self.metric}`; name one of its metrics in `metric_for_best_model`."
            )
        if not math.isfinite(score):
            raise ValueError(
                f"`{self.metric}` is {score} after round {number}: training has diverged. Lower `learning_rate`."
            )
        index = model_index(self.masks, *orders_of(self.rule))
        self.steps.append(Step(number, self.masks.remaining, index, float(score)))

    def commit(self) -> None:
        """Saves the result of the round, and prunes for the next."""
        number = len(self.steps) - 1
        last = number == self.rounds
        self._log(self.steps[-1])
        if self.rule.ranks_dense and number == 0:
            self.write("dense", {name: self.parameters()[name] for name in self.masks.targets})
        if self.kept == number:
            masks = {f"mask/{name}": bits for name, bits in self.masks.packed().items()}
            held = self.parameters() | dict(self.trainer.model.named_buffers())
            self.write(f"kept-{number}", {f"weight/{name}": tensor for name, tensor in held.items()} | masks)
        indices, scores = [s.pq_index for s in self.steps], [s.score for s in self.steps]
        self.reason = stop_reason(indices, scores, self.greater, self.tolerance, self.rise)
        if self.reason is None and not last:
            gone = self.masks.gone
            dense = self.read("dense") if self.rule.ranks_dense else None
            prune_further(self.trainer.model, self.masks, self.rule, self.calibration, dense)
            if self.masks.gone == gone:
                self.reason = "the rule finds nothing more to prune"
        if self.reason is not None:
            logger.warning(f"Pruning has ended after round {number}: {self.reason}.")
        self.write(f"masks-{number + 1}", self.masks.packed())
        self.write(f"buffers-{number + 1}", dict(self.trainer.model.named_buffers()))
        self._write_state(finished=last or self.reason is not None)
        self._tidy(number)

    def finish(self) -> PruningRun:
        """Gives the model the weights of the round that is kept."""
        tensors = self.read(f"kept-{self.kept}")
        self.load({n.removeprefix("weight/"): t for n, t in tensors.items() if n.startswith("weight/")})
        packed = {n.removeprefix("mask/"): t for n, t in tensors.items() if n.startswith("mask/")}
        self.masks.update(self.masks.unpacked(packed))
        return PruningRun(self.steps, self.kept, self.masks, self.reason)

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Holds the masks in each round, which writes to its own folder; the trainer is as before after the block."""
        callback = _Round(self)
        self.trainer.add_callback(callback)
        for other in self.trainer.callback_handler.callbacks:
            if isinstance(other, TensorBoardCallback):  # it would write into the folder of the first round
                other.logging_dir = other.logging_dir or str(self.output_dir / "runs")
        try:
            yield
        finally:
            self.trainer.remove_callback(callback)
            self.trainer.args.output_dir = str(self.output_dir)
            self.renewal.begin()

    def write(self, name: str, tensors: dict[str, Tensor]) -> None:
        if self.main:
            held = {key: value.to("cpu", copy=True) for key, value in tensors.items()}  # tied tensors get their own
            write_tensors(self.folder / f"{name}.safetensors", held)
        self.trainer.accelerator.wait_for_everyone()

    def read(self, name: str) -> dict[str, Tensor]:
        return read_tensors(self.folder / f"{name}.safetensors")

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Sets parameters and buffers in place, by name."""
        held = dict(self.trainer.model.named_parameters()) | dict(self.trainer.model.named_buffers())
        for name, tensor in tensors.items():
            held[name].copy_(tensor)

    def _log(self, step: Step) -> None:
        state = self.trainer.state  # `report_to` takes its step from there
        trained, state.global_step = state.global_step, step.step
        names = {"pq_index": step.pq_index, "remaining": step.remaining, "score": step.score}
        self.trainer.log({f"pruning/{name}": value for name, value in names.items()})
        state.global_step = trained

    def _write_state(self, finished: bool) -> None:
        if self.main:
            steps = [dataclasses.asdict(step) for step in self.steps]
            kept = self.kept if self.steps else None
            state = {"settings": self.settings(), "steps": steps, "kept": kept}
            write_json(self.state_file, state | {"finished": finished, "reason": self.reason})
            if self.steps:
                draw_steps(self.steps, self.output_dir, self.metric, kept)
        self.trainer.accelerator.wait_for_everyone()

    def _tidy(self, number: int) -> None:
        """Drops what no later round needs."""
        if not self.main:
            return
        shutil.rmtree(self._round_folder(number), ignore_errors=True)
        needed = {"initial", "early", "dense", f"kept-{self.kept}", f"masks-{number + 1}", f"buffers-{number + 1}"}
        for file in self.folder.glob("*.safetensors"):
            if file.stem not in needed:
                file.unlink()

    def _round_folder(self, number: int) -> Path:
        return self.folder / f"round-{number}"

    def _newest_checkpoint(self, number: int) -> Path | None:
        """The newest whole checkpoint of a round."""
        whole = [mark.parent for mark in self._round_folder(number).glob(f"{PREFIX_CHECKPOINT_DIR}-*/{_MARK}")]
        return max(whole, key=lambda path: int(path.name.rsplit("-", 1)[-1]), default=None)


def _check(
    trainer: Any, rounds: int, rule: Any, calibration: Any, tolerance: float, rise: float, rewind_to: int
) -> None:
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise ValueError(f"`rounds` must be an integer of at least 1, not {rounds!r}.")
    if isinstance(rewind_to, bool) or not isinstance(rewind_to, int) or rewind_to < 0:
        raise ValueError(f"`rewind_to` must be a step of round 0 (0: before training), not {rewind_to!r}.")
    check_trainer(trainer)
    check_rule(rule, calibration)
    check_limits(tolerance, rise)
    if hasattr(trainer, "tasks"):
        raise ValueError(
            "`trainer` is a `DriftTrainer`, whose `train()` learns a stream of tasks. Prune the base with a plain "
            "`Trainer` (or `prune(base, rule)`) before it gets its adapter."
        )
    if trainer.optimizer is not None:
        raise ValueError(
            "`trainer` already has an optimizer, given or from an earlier `train()`; each round needs its own. Give a "
            "new trainer without `optimizers`."
        )
    if trainer.model_init is not None:
        raise ValueError("`model_init` makes a new model in every round, without what was pruned; give `model`.")
    if trainer.eval_dataset is None:
        raise ValueError(
            "`trainer` has no `eval_dataset`; which round is kept is decided on validation data. Split a part off the "
            "training data."
        )
    metric_of(trainer.args, tolerance)
