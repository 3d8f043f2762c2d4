"""What holds old tasks by a term in the loss: EWC, LwF and O-LoRA. Only adapters and heads train."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor, nn

from hf_lifelong.training import PreparedTask

from .shared import LORA, Result, Setting, SharedLearner, SharedModel, learn_in_turn

FISHER_ROWS = 256
TEMPERATURE = 2.0


def ewc(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """Elastic weight consolidation (Kirkpatrick et al., 2017): one LoRA whose parameters are held where old tasks
    need them.

    The loss gains `strength / 2 * sum_i F_i (theta - theta_i)^2` over all old tasks i, each with its own anchor and
    its own diagonal Fisher information.
    """
    learner = SharedLearner(tasks, setting)
    penalty = QuadraticPenalty(learner.model, setting.chosen["strength"])
    learner.model.penalty = penalty

    def learn(i: int) -> None:
        rows = learner.rows(i)
        learner.train(rows, seen=range(i + 1))
        penalty.hold(fisher(learner, rows))

    return learn_in_turn(learner, learn, stored=lambda i: penalty.bytes_of(i))


def lwf(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """Learning without forgetting (Li and Hoiem, 2017): one LoRA, held to what the model said of the new task's inputs
    before it learned the task.

    The loss gains `strength` times the sum of the divergences from those answers, at temperature 2, over the labels of
    each old task, and over spans where an old task is one of questions. The old model is kept until the task is
    learned; it stores nothing.
    """
    learner = SharedLearner(tasks, setting)

    def learn(i: int) -> None:
        if i:
            learner.model.penalty = distillation(learner.model, tasks[:i], setting.chosen["strength"])
        learner.train(learner.rows(i), seen=range(i + 1))

    return learn_in_turn(learner, learn)


def olora(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """O-LoRA (Wang et al., 2023): a new LoRA for every task, in a subspace orthogonal to those before.

    Old LoRAs are frozen, and all of them are added up in every answer. The loss gains `strength` times the sum of
    `|A_old A_new^T|` over the layers and the old tasks, as in the authors' code (the paper squares the entries).
    """
    learner = SharedLearner(tasks, setting)
    learner.model.penalty = lambda inputs, labels, spans: setting.chosen["strength"] * overlap(learner.model)

    def learn(i: int) -> None:
        if i:
            add_lora(learner.model.backbone, f"task_{i}")
        learner.train(learner.rows(i), seen=range(i + 1))

    # The newest LoRA counts as trained, at the end of the stream.
    return learn_in_turn(learner, learn, stored=lambda i: lora_bytes(learner.model) if i else 0)


@dataclass
class QuadraticPenalty:
    """EWC's term in the loss.

    Args:
        model (`nn.Module`): What is held: its parameters that train.
        strength (`float`): Lambda.

    Attributes:
        tasks (`list[tuple[dict, dict]]`): Fisher information and anchor of each old task, by parameter.
    """

    model: nn.Module
    strength: float
    tasks: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = field(default_factory=list)

    def hold(self, information: dict[str, Tensor]) -> None:
        """Holds the parameters where they are now, each as firmly as its Fisher information says."""
        anchor = {name: p.detach().clone() for name, p in trained(self.model).items()}
        self.tasks.append((information, anchor))

    def bytes_of(self, task: int) -> int:
        return sum(t.numel() * t.element_size() for part in self.tasks[task] for t in part.values())

    def __call__(self, inputs: dict[str, Tensor], labels: Tensor, spans: Tensor) -> Tensor:
        total = labels.new_zeros(())
        for information, anchor in self.tasks:
            for name, p in trained(self.model).items():
                total = total + (information[name] * (p - anchor[name]) ** 2).sum()
        return self.strength / 2 * total


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def fisher(learner: SharedLearner, rows: Dataset) -> dict[str, Tensor]:
    """Diagonal empirical Fisher information of the parameters that train: the mean over rows of the squared gradient
    of each row's log-likelihood at its true answer, one row at a time, without dropout.

    The log-likelihood is what was trained: the label among the allowed ones, or the mean of a span's two ends.
    """
    model, collate = learner.model.eval(), learner.collator
    parameters = trained(model)
    information = {name: torch.zeros_like(p) for name, p in parameters.items()}
    rows = rows.shuffle(seed=learner.setting.seed).select(range(min(FISHER_ROWS, len(rows))))
    for row in rows:
        batch = {name: value.to(model.own.device) for name, value in collate([row]).items()}
        loss = model.loss(*model.logits(**model.inputs(batch)), batch)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                information[name] += gradient**2 / len(rows)
    return information


def distillation(model: SharedModel, old: Sequence[PreparedTask], strength: float) -> Any:
    """LwF's term in the loss, against the model as it stands now.

    Args:
        old (`list[PreparedTask]`): The tasks learned so far, the first of the stream.
    """
    model.penalty = None
    teacher = copy.deepcopy(model).eval().requires_grad_(False)
    known = [own for own in model.own[: len(old)] if own.any()]
    spanned = any(task.kind == "question-answering" for task in old)

    def penalty(inputs: dict[str, Tensor], labels: Tensor, spans: Tensor) -> Tensor:
        with torch.no_grad():
            old_labels, old_spans = teacher.logits(**inputs)
        total = labels.new_zeros(())
        for own in known:
            total = total + divergence(labels[:, own], old_labels[:, own])
        if spanned:
            outside = (inputs["attention_mask"] == 0)[:, None]
            ends = [s.transpose(1, 2).masked_fill(outside, torch.finfo(s.dtype).min) for s in (spans, old_spans)]
            total = total + divergence(*ends) / 2
        return strength * total

    return penalty


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the softmax over the last dimension from the teacher's, both at the temperature
    of LwF: mean over rows, summed over what lies between."""
    logs = [(logits / TEMPERATURE).log_softmax(-1) for logits in (student, teacher)]
    return nn.functional.kl_div(*logs, reduction="batchmean", log_target=True)


def add_lora(backbone: Any, name: str) -> None:
    """Adds a LoRA that trains on top of all others, which are frozen and stay in use."""
    old = list(backbone.peft_config)
    backbone.add_adapter(name, LoraConfig(**LORA))
    backbone.base_model.set_adapter([*old, name])
    for key, parameter in backbone.named_parameters():
        if any(f".{adapter}." in key for adapter in old):
            parameter.requires_grad_(False)


def overlap(model: SharedModel) -> Tensor:
    """Sum of `|A_old A_new^T|` over the layers with LoRAs and their old ones; float32."""
    total = model.label_head.weight.new_zeros(())
    with torch.autocast(total.device.type, enabled=False):
        for layer in lora_layers(model):
            *old, new = (projection.weight for projection in layer.lora_A.values())
            for weight in old:
                total = total + (weight @ new.T).abs().sum()
    return total


def lora_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "lora_A")]


def lora_bytes(model: nn.Module) -> int:
    """Bytes of the newest LoRA."""
    parts = [list(side.values())[-1].weight for m in lora_layers(model) for side in (m.lora_A, m.lora_B)]
    return sum(part.numel() * part.element_size() for part in parts)
