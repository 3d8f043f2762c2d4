"""What is estimated of a base that takes images, against the tensors of a real one."""

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, predict
from hf_lifelong.adapter import add_task, close_task, lifelong_of, open_task, take_snapshot
from hf_lifelong.knowledge import LearnedTask, fit_signature
from hf_lifelong.memory import estimate_memory
from hf_lifelong.memory.tracing import LiveBytes, resident_tensors, size_of

BASES = ["vit", "deit", "dinov2", "dinov2_with_registers", "beit", "siglip_vision_model"]
KIND, LABELS, SIDE = "image-classification", ("no", "yes"), 16


def config():
    return DriftAdapterConfig(r=4, members=2, signature_rank=4)


@pytest.fixture(params=BASES)
def learner(request, tiny_image_folder):
    """Folder of a base, the base with an adapter that is learning a task, and a batch for it."""
    folder = tiny_image_folder(request.param)
    torch.manual_seed(0)
    model = get_peft_model(AutoModel.from_pretrained(folder, dtype=torch.float32), config())
    open_task(model, KIND, LABELS, 2)
    return folder, model.train(), {"pixel_values": torch.randn(4, 3, SIDE, SIDE)}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_keeps_and_takes_what_a_real_one_does(checkpointing, learner):
    folder, model, batch = learner
    if checkpointing:
        model.gradient_checkpointing_enable()
    given = [batch["pixel_values"], torch.tensor([0, 1, 0, 1])]
    resident = size_of(resident_tensors(model))
    with LiveBytes([*resident_tensors(model), *given]) as live:
        loss = model(**batch, labels=given[1]).loss
        kept = live.now
        loss.backward()
    settings = {"bits": 32, "batch_size": 4, "device": "cpu", "gradient_checkpointing": checkpointing}
    found = estimate_memory(folder, config(), **settings)
    assert found.settings["length"] == SIDE
    assert found.activations == pytest.approx(kept - loss.nbytes, rel=0.02)
    estimated = found.training - found.knowledge - found.projection - found.optimizer
    assert estimated == pytest.approx(resident + live.peak, rel=0.05)


def test_an_answer_takes_what_a_real_one_does(learner):
    folder, model, batch = learner
    task = LearnedTask("task", KIND, LABELS, 2, 2, "task", 8, classes=2)
    features = torch.randn(8, lifelong_of(model).features)
    add_task(model, task, [take_snapshot(model)] * 2, fit_signature(features, 4, torch.arange(8) % 2, 2))
    close_task(model)
    resident = size_of(resident_tensors(model))
    with LiveBytes(resident_tensors(model)) as live:
        predict(model, batch)
    found = estimate_memory(folder, config(), bits=32, batch_size=4, device="cpu")
    assert found.answering == pytest.approx(resident + live.peak, rel=0.05)
