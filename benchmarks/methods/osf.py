"""Orthogonal subspace fine-tuning, as PEFT has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import OSFConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModel

from hf_lifelong.training import PreparedTask

from .shared import LORA, Result, Setting, SharedLearner, learn_in_turn, trainable_bytes


def osf(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """OSF (Nayak et al., 2025): the query and value weights themselves train, outside their largest singular
    directions.

    After the recipe of PEFT's documentation for a known number n of tasks: before task k (from 1), the weights are
    decomposed anew, and the share `k / n * chosen["effective_rank"]` of the singular directions is kept. PEFT projects
    the gradients, not the optimiser's steps. The recipe's `unload()` would drop what was learned (in PEFT 0.21 the
    weights below stay as they were), so it is merged.
    """
    shares = [setting.chosen["effective_rank"] * (i + 1) / len(tasks) for i in range(len(tasks))]
    base = AutoModel.from_pretrained
    learner = SharedLearner(tasks, setting, lambda name: decomposed(base(name, dtype=torch.float32), shares[0]))
    model = learner.model

    def learn(i: int) -> None:
        if i:
            model.backbone = decomposed(model.backbone.merge_and_unload(), shares[i])
        learner.train(learner.rows(i), seen=range(i + 1))

    result = learn_in_turn(learner, learn)
    heads = trainable_bytes(model.label_head) + trainable_bytes(model.span_head)
    result.bytes_per_task[0] = heads + weight_bytes(model.backbone)
    return result


def decomposed(base: nn.Module, share: float) -> PeftModel:
    """A model whose query and value weights train outside a share of their singular directions."""
    return get_peft_model(base, OSFConfig(effective_rank=share, target_modules=LORA["target_modules"]))


def weight_bytes(backbone: PeftModel) -> int:
    """Bytes of the weights that training changes: they are stored whole."""
    weights = [m.get_base_layer().weight for m in backbone.modules() if hasattr(m, "osf_svd_params")]
    return sum(weight.numel() * weight.element_size() for weight in weights)
