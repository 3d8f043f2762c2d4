"""`FirstLayerPenalty`: exact zeros on one matrix of any model, whatever the optimizer, and on resume."""

import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from planted import planted
from torch import nn
from transformers import Trainer, TrainingArguments

from hf_lifelong.selection import FirstLayerPenalty, soft_threshold
from hf_lifelong.selection.callback import step_sizes

INPUTS = 12


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(INPUTS, 16), nn.Linear(16, 1)

    def forward(self, x, labels):
        out = self.last(self.first(x).relu())[:, 0]
        return {"loss": nn.functional.mse_loss(out.float(), labels), "logits": out}


def make_trainer(folder, model=None, **arguments):
    x, y = planted(rows=160, inputs=INPUTS)
    rows = [{"x": a, "labels": b} for a, b in zip(x.astype("float32"), y.astype("float32"), strict=True)]
    settings = {
        "max_steps": 60,
        "per_device_train_batch_size": 32,
        "learning_rate": 0.02,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_steps": 20,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "remove_unused_columns": False,
    }
    return Trainer(model or Network(), TrainingArguments(str(folder), **settings | arguments), train_dataset=rows)


def penalised(folder, lam=0.1, penalty="l1", weight=r"^first\.weight$", model=None, axis=1, resume=None, **arguments):
    trainer = make_trainer(folder, model, **arguments)
    callback = FirstLayerPenalty(trainer, weight, lam, penalty, axis)
    trainer.add_callback(callback)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, callback


def logged(trainer):
    return [(e["step"], e["selection/live_inputs"]) for e in trainer.state.log_history if "selection/live_inputs" in e]


@pytest.mark.parametrize("penalty", ["l1", "group"])
@pytest.mark.parametrize(
    "arguments",
    [
        {"optim": "adamw_torch"},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 1.0},
        {"bf16": True},
        {"optim": "sgd", "optim_args": "momentum=0.9", "max_grad_norm": 10.0, "max_steps": 200},
    ],
    ids=["adamw", "accumulated-clipped", "bf16", "sgd"],
)
def test_needless_inputs_get_exact_zeros(tmp_path, penalty, arguments):
    lam = 0.1 if penalty == "l1" else 0.2
    trainer, callback = penalised(tmp_path, lam=lam, penalty=penalty, **{"max_steps": 120, **arguments})
    live = callback.live
    assert live[:3].all() and live[3:].sum() <= 2
    assert (trainer.model.first.weight[:, ~live] == 0).all()
    assert logged(trainer)[-1] == (trainer.state.max_steps, int(live.sum()))
    assert (
        sum("loss" in entry for entry in trainer.state.log_history) == trainer.state.max_steps // 20
    )  # Trainer's own lines are all there


@pytest.mark.parametrize("arguments", [{}, {"gradient_accumulation_steps": 5, "max_grad_norm": 0.01}])
def test_it_is_one_proximal_step_after_each_step_of_the_optimizer(tmp_path, arguments):
    options = {"optim": "sgd", "max_steps": 1, "lr_scheduler_type": "linear", **arguments}
    plain = make_trainer(tmp_path / "plain", **options)
    plain.train()
    trainer, _ = penalised(tmp_path / "ours", lam=0.5, **options)
    assert torch.equal(trainer.model.first.weight, soft_threshold(plain.model.first.weight.detach(), 0.02 * 0.5))
    for name in ("first.bias", "last.weight", "last.bias"):
        assert torch.equal(trainer.model.get_parameter(name), plain.model.get_parameter(name))


def test_the_penalty_follows_the_learning_rate(tmp_path):
    """Without gradients, weights fall by the sum of the learning rates, which the scheduler lowers to zero."""
    model = Network()
    model.last.weight.data.zero_()
    model.last.bias.requires_grad_(False)
    model.last.weight.requires_grad_(False)
    before = model.first.weight.detach().clone()
    penalised(tmp_path, model=model, lam=0.1, optim="sgd", max_steps=4, lr_scheduler_type="linear")
    fall = 0.1 * 0.02 * (1 + 0.75 + 0.5 + 0.25)
    torch.testing.assert_close(model.first.weight.detach(), soft_threshold(before, fall))


def test_resume_equals_no_kill(tmp_path):
    options = {"max_steps": 40, "lam": 0.1, "logging_steps": 10}
    whole, _ = penalised(tmp_path / "whole", save_strategy="steps", save_steps=15, **options)
    resumed, _ = penalised(tmp_path / "resumed", resume=str(tmp_path / "whole" / "checkpoint-15"), **options)
    for name, parameter in whole.model.named_parameters():
        assert torch.equal(parameter, resumed.model.get_parameter(name))
    assert logged(whole) == logged(resumed)


def test_an_adapter(tmp_path):
    torch.manual_seed(0)
    model = get_peft_model(Network(), LoraConfig(r=4, target_modules=["first"], modules_to_save=["last"]))
    base = model.get_parameter("base_model.model.first.base_layer.weight").detach().clone()
    _, callback = penalised(tmp_path, model=model, weight=r"first\.lora_A\.", lam=0.1, max_steps=100)
    assert callback.live.shape == (INPUTS,) and callback.live.sum() < INPUTS
    assert torch.equal(model.get_parameter("base_model.model.first.base_layer.weight"), base)


def test_inputs_in_axis_0(tmp_path):
    _, callback = penalised(tmp_path, weight=r"last\.weight", penalty="group", lam=0.5, axis=0, max_steps=2)
    assert callback.live.tolist() == [True]


def test_the_penalty_ends_with_the_training(tmp_path):
    trainer, callback = penalised(tmp_path, lam=0.3, max_steps=5)
    trainer.remove_callback(callback)
    before = trainer.model.first.weight.detach().clone()
    trainer.optimizer.zero_grad()
    trainer.optimizer.step()
    assert torch.equal(trainer.model.first.weight, before)


def test_refused_at_once(tmp_path):
    trainer = make_trainer(tmp_path)
    for arguments, message in (
        ((None, "x", 0.1), "`trainer` must be a `Trainer`"),
        ((trainer, "(", 0.1), "`weight` is no regular expression"),
        ((trainer, "x", 0), "`lam` must be a number above 0"),
        ((trainer, "x", math.nan), "`lam` must be a number above 0"),
        ((trainer, "x", 0.1, "l2"), "`penalty` must be one of"),
        ((trainer, "x", 0.1, "l1", 2), "`axis` must be 0 or 1"),
    ):
        with pytest.raises(ValueError, match=message):
            FirstLayerPenalty(*arguments)
    with pytest.raises(RuntimeError, match="once training has begun"):
        _ = FirstLayerPenalty(trainer, "x", 0.1).live


def test_an_optimizer_of_unknown_steps_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`Adafactor` scales its steps"):
        penalised(tmp_path, optim="adafactor")


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adam(p, lr=0.01),
        lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
        lambda p: torch.optim.SGD(p, lr=0.01),
        lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9),
    ],
    ids=["adam", "amsgrad", "sgd", "momentum"],
)
def test_lam_means_the_same_under_all_optimizers(make):
    """It rests where the penalised loss is least, here that of a quadratic of very unequal curvature."""
    wanted, curvature = torch.tensor([[1.0, 1.0, 1.0, 0.1]]), torch.tensor([[0.5, 5.0, 50.0, 1.0]])
    weight = nn.Parameter(torch.zeros(1, 4))
    optimizer = make([weight])
    for _ in range(2000):
        optimizer.zero_grad()
        (curvature * (weight - wanted) ** 2 / 2).sum().backward()
        optimizer.step()
        reach = step_sizes(optimizer, optimizer.param_groups[0], weight)
        weight.data = soft_threshold(weight.data, reach * 0.25)
    torch.testing.assert_close(weight.data, soft_threshold(wanted, 0.25 / curvature), atol=1e-3, rtol=0)


def frozen():
    model = Network()
    model.first.weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("model", "weight", "message"),
    [
        (Network, "weight", r"matches 2 matrices of `Network`, not one: \['first.weight', 'last.weight'\]"),
        (Network, "query", "matches 0 matrices"),
        (Network, "bias", "matches 0 matrices"),
        (frozen, "first", "`first.weight`, which is frozen"),
        (lambda: Network().to(torch.bfloat16), "first", "float32 and train with `bf16=True`"),
    ],
)
def test_refused_when_training_begins(tmp_path, model, weight, message):
    with pytest.raises(ValueError, match=message):
        penalised(tmp_path, model=model(), weight=weight)
