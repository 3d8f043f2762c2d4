"""Drift: cycles, learning rate, noise; each source with its own switch."""

import math

import pytest
import torch
from training_helpers import PLAIN, answers, make_model, members_of, saved, sentiment, topics
from transformers import TrainerCallback

from hf_lifelong import DriftTrainingArguments
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import drift_modules, open_task, snapshot_of, take_snapshot
from hf_lifelong.training.drift import cycle_ends, cycle_position, decay, gradient_noise_hook, learning_rate_factor


@pytest.mark.parametrize(
    ("steps", "cycles", "first", "ends"),
    [
        (100, 5, 0.5, [50, 62, 75, 88, 100]),
        (10, 1, 0.5, [10]),
        (10, 2, 0.3, [3, 10]),
        (5, 5, 0.5, [1, 2, 3, 4, 5]),
        (6, 5, 0.9, [2, 3, 4, 5, 6]),
        (1000, 3, 0.001, [1, 501, 1000]),
    ],
)
def test_cycle_ends(steps, cycles, first, ends):
    assert cycle_ends(steps, cycles, first) == ends


@pytest.mark.parametrize("cycles", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("first", [0.01, 0.5, 0.99])
def test_cycles_fill_the_steps_and_none_is_empty(cycles, first):
    for steps in range(cycles, 60):
        ends = cycle_ends(steps, cycles, first)
        assert len(ends) == cycles and ends[-1] == steps
        assert all(a < b for a, b in zip([0, *ends], ends, strict=False))


def test_fewer_steps_than_cycles_is_refused():
    with pytest.raises(ValueError, match=r"4 optimiser steps, fewer than `members` \(5\)"):
        cycle_ends(4, 5, 0.5)


def test_position_and_factor():
    ends = [4, 6]
    assert [cycle_position(s, ends) for s in range(7)] == [0, 0.25, 0.5, 0.75, 0, 0.5, 1]
    assert decay(0) == 1 and decay(0.5) == pytest.approx(0.5) and decay(1) == 0
    expected = [0.5 * (1 + math.cos(math.pi * p)) for p in (0, 0.25, 0.5, 0.75, 0, 0.5, 1)]
    assert [learning_rate_factor(s, ends, 0) for s in range(7)] == pytest.approx(expected)
    warm = [e * min(1, (s + 1) / 4) for s, e in enumerate(expected)]
    assert [learning_rate_factor(s, ends, 3) for s in range(7)] == pytest.approx(warm)


def noisy(gradient, share, seed):
    """A gradient after the hook, spread over two parameter groups."""
    parts = [torch.nn.Parameter(torch.zeros_like(part)) for part in (gradient[:100], gradient[100:])]
    for part, value in zip(parts, (gradient[:100], gradient[100:]), strict=True):
        part.grad = value.clone()
    optimizer = torch.optim.SGD([{"params": parts[:1]}, {"params": parts[1:]}], lr=0.0)
    optimizer.register_step_pre_hook(gradient_noise_hook(lambda: share, lambda: seed, lambda: "films"))
    optimizer.step()
    return torch.cat([part.grad for part in parts])


def test_gradient_noise_is_a_share_of_the_norm():
    gradient = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 3
    noise = torch.stack([noisy(gradient, 0.1, seed) - gradient for seed in range(50)])
    shares = noise.norm(dim=1) / gradient.norm()
    assert float(shares.mean()) == pytest.approx(0.1, rel=0.01)
    assert float(noise.mean(0).norm() / gradient.norm()) < 0.1 / math.sqrt(50) * 1.1  # no direction is preferred
    assert torch.equal(noisy(gradient, 0.1, 7), noisy(gradient, 0.1, 7))
    assert not torch.equal(noisy(gradient, 0.1, 7), noisy(gradient, 0.1, 8))
    assert torch.equal(noisy(gradient, 0.0, 7), gradient)


def test_gradient_noise_leaves_the_common_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    noisy(torch.ones(200), 0.1, 1)
    assert torch.equal(torch.rand(1), expected)


def test_gradients_that_are_not_finite_are_refused():
    with pytest.raises(FloatingPointError, match="gradient of task `films` is NaN or infinite"):
        noisy(torch.tensor([1.0] * 150 + [float("nan")]), 0.0, 0)


def gradient_of(model):
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


class Watch(TrainerCallback):
    """Notes, at each step, what the drift is.

    Attributes:
        steps (`list`): Share of input noise, share of gradient noise, whether dropout is on.
        noises (`list[Tensor]`): What was added to the gradient.
    """

    def __init__(self):
        self.steps = []
        self.noises = []
        self.snapshots = {}

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradient = gradient_of(model)

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        root = lifelong_of(model)
        dropout = any(module.training for layer in root.above for module in layer.modules())
        self.noises.append(gradient_of(model) - self.gradient)
        share = float(self.noises[-1].norm() / self.gradient.norm())
        self.steps.append((root.input_noise, share, dropout))

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.snapshots[state.global_step] = take_snapshot(model)


def watched(prepare, tasks, **arguments):
    watch = Watch()
    trainer = prepare(tasks, callbacks=[watch], **arguments)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    return watch, rates, trainer


def test_noise_falls_to_zero_in_each_cycle(prepare):
    watch, rates, trainer = watched(
        prepare, [sentiment()], max_steps=6, gradient_noise=0.2, input_noise=0.1, first_cycle=0.67, learning_rate=1e-3
    )
    falling = [decay(p) for p in (0, 0.25, 0.5, 0.75, 0, 0.5)]
    assert [step[0] for step in watch.steps] == pytest.approx([0.1 * f for f in falling])
    assert [step[1] for step in watch.steps] == pytest.approx([0.2 * f for f in falling], rel=0.05)
    assert rates == pytest.approx([1e-3 * f for f in falling])
    directions = torch.stack([noise / noise.norm() for noise in watch.noises])
    assert torch.allclose(directions @ directions.T, torch.eye(6), atol=0.1)  # every step has its own noise
    assert lifelong_of(trainer.model).input_noise == 0.0


def test_members_are_the_weights_at_the_ends_of_the_cycles(prepare):
    watch, _, trainer = watched(prepare, [sentiment()], members=3, max_steps=7, first_cycle=0.5)
    ends = cycle_ends(7, 3, 0.5)
    assert trainer.snapshots.steps == ends
    banks = {n: p for n, p in trainer.model.named_parameters() if "drift_bank_A" in n or "drift_bank_B" in n}
    assert banks
    for name, bank in banks.items():
        key = name.removeprefix("base_model.model.").removesuffix(".default").replace("_bank", "")
        for member, step in enumerate(ends):
            kept = watch.snapshots[step][key]
            assert torch.equal(bank[member], kept.mT if "drift_B" in key else kept)


SWITCHES = [
    ("gradient_noise", 0.2, lambda step: step[1] > 0),
    ("input_noise", 0.2, lambda step: step[0] > 0),
    ("drift_dropout", True, lambda step: step[2]),
]


@pytest.mark.parametrize(("name", "value", "on"), SWITCHES)
def test_each_source_has_its_own_switch(prepare, name, value, on):
    options = {"members": 1, "max_steps": 2, "learning_rate": 1e-2}
    plain, rates, without = watched(prepare, [sentiment()], folder="plain", **options, **PLAIN)
    other, rates_on, with_it = watched(prepare, [sentiment()], folder="on", **options, **{**PLAIN, name: value})
    for source, _, is_on in SWITCHES:
        assert is_on(other.steps[0]) == (source == name) and not is_on(plain.steps[0])
    assert rates == rates_on == pytest.approx([1e-2, 5e-3])  # Trainer's own linear schedule
    members, changed = members_of(without), members_of(with_it)
    assert any(not torch.equal(members[n], changed[n]) for n in members if "bank_B" in n)


def test_without_drift_it_is_plain_fine_tuning(prepare, bert_folder, tokenizer):
    """One member, every source off: the weights are those of a training loop written by hand."""
    trainer = prepare(
        [sentiment()], members=1, max_steps=4, learning_rate=1e-2, warmup_steps=2, lr_scheduler_type="cosine", **PLAIN
    )
    seen = []

    class Batches(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if not seen:
                self.start = take_snapshot(model)

    watch = Batches()
    trainer.add_callback(watch)
    step = trainer.training_step

    def noting(model, inputs, *args):
        seen.append({k: v.clone() for k, v in inputs.items()})
        return step(model, inputs, *args)

    trainer.training_step = noting
    trainer.train()
    by_hand = make_model(bert_folder, 1)
    open_task(by_hand, "text-classification", ("negative", "positive"), 2)
    for name, module in drift_modules(by_hand):
        for working in module.adapter_layer_names:
            getattr(module, working)["default"].data.copy_(watch.start[f"{name}.{working}"])
    lifelong_of(by_hand).still = True
    by_hand.train()
    parameters = [p for p in by_hand.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, weight_decay=0.0)
    for batch, rate in zip(seen, [0.0, 0.5, 1.0, 0.5], strict=True):
        optimizer.param_groups[0]["lr"] = 1e-2 * rate
        by_hand(**batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    expected = take_snapshot(by_hand)
    found = snapshot_of(trainer.model, "sentiment")
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-4, atol=1e-6)


def test_same_seed_same_bytes_other_seed_other_bytes(train, tmp_path):
    first = saved(train([sentiment()], folder="a"), tmp_path / "sa")
    again = saved(train([sentiment()], folder="b"), tmp_path / "sb")
    other = saved(train([sentiment()], folder="c", seed=7), tmp_path / "sc")
    assert first == again
    assert first["adapter_model.safetensors"] != other["adapter_model.safetensors"]


class Start(TrainerCallback):
    def __init__(self):
        self.starts = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.starts.append(take_snapshot(model))


def test_start_from(prepare):
    def learned(how):
        watch = Start()
        tasks = [sentiment(), answers(), sentiment("again", 60, 120)]
        trainer = prepare(tasks, folder=how, callbacks=[watch], start_from=how, grouping="boundary")
        trainer.train()
        return trainer, watch.starts, [task.started_from for task in trainer.knowledge.tasks]

    _, _, lineage = learned("fresh")
    assert lineage == [None, None, None]

    trainer, starts, lineage = learned("previous")
    assert lineage == [None, "sentiment", "answers"]
    pairs = {n for n in starts[0] if "head" not in n}
    for i, before in ((1, "sentiment"), (2, "answers")):
        known = snapshot_of(trainer.model, before)
        assert all(torch.equal(starts[i][name], known[name]) for name in pairs)
    assert starts[2]["lifelong.drift_head_bias"].abs().sum() == 0  # another kind: its head is new

    trainer, starts, lineage = learned("nearest")
    assert lineage == [None, None, "sentiment"]  # answers are of another kind
    known = snapshot_of(trainer.model, "sentiment")
    assert starts[2].keys() == known.keys()
    assert all(torch.equal(starts[2][name], known[name]) for name in known)  # the same labels: its head too


def test_of_several_tasks_with_the_same_labels_the_nearest_one_is_started_from(train):
    labels = tuple(sentiment().train.features["label"].names)
    questions = topics("questions", labels=labels), topics("more questions", 60, 120, labels=labels)
    tasks = [questions[0], sentiment(), questions[1], sentiment("more sentences", 60, 120)]
    trainer = train(tasks, start_from="nearest", grouping="boundary")
    lineage = [task.started_from for task in trainer.knowledge.tasks]
    assert lineage == [None, "questions", "questions", "sentiment"]


def test_lineage_is_saved(train, tmp_path):
    train([sentiment(), topics()], start_from="previous")
    text = (tmp_path / "out" / "adapter_config.json").read_text()
    assert '"started_from": "sentiment"' in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start_from", "scratch"),
        ("grouping", "always"),
        ("gradient_noise", -0.1),
        ("input_noise", float("nan")),
        ("grouping_tolerance", float("inf")),
        ("first_cycle", 1.0),
        ("validation_share", 0.0),
        ("signature_samples", 1),
        ("signature_samples", 2.5),
        ("gradient_noise", "x"),
        ("validation_share", True),
        ("cyclic_learning_rate", "no"),
        ("learning_rate", float("nan")),
        ("learning_rate", -1.0),
        ("weight_decay", float("inf")),
        ("per_device_train_batch_size", -1),
        ("per_device_eval_batch_size", 0),
        ("gradient_accumulation_steps", 0),
        ("seed", 2**32 - 1),
    ],
)
def test_arguments_out_of_range_are_refused(name, value, tmp_path):
    with pytest.raises(ValueError, match=f"`{name}` is"):
        DriftTrainingArguments(str(tmp_path), use_cpu=True, **{name: value})
