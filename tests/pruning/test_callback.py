"""Pruning in one run: when, how much, that masks hold in every optimizer, on resume, and what is refused."""

import json
import math

import pytest
import torch
from datasets import load_dataset
from peft import LoraConfig, get_peft_model
from pruning_helpers import DATA, classifier, holds, make_trainer, same, weights
from transformers import AutoModel, AutoModelForSequenceClassification, TrainerCallback

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.pruning import SAP, Magnitude, Masks, OneShot, SAPCallback, Tail, prunable
from hf_lifelong.pruning.callback import logged_steps

OFTEN = {"start": 2, "every": 3, "end": 9, "tolerance": float("inf"), "rise": float("inf")}


def pruned_run(model, tmp_path, tokenizer, rule=None, options=OFTEN, **arguments):
    trainer = make_trainer(model, tmp_path, tokenizer, **arguments)
    callback = SAPCallback(trainer, rule or Magnitude(0.3), **options)
    trainer.add_callback(callback)
    trainer.train()
    return trainer, callback


def logged(trainer, key="pruning/remaining"):
    return {entry["step"]: entry[key] for entry in trainer.state.log_history if key in entry}


@pytest.mark.parametrize(
    "arguments",
    [
        {"optim": "adamw_torch"},
        {"optim": "adamw_torch_fused"},
        {"optim": "adamw_torch", "optim_args": "foreach=True"},
        {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.1},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"weight_decay": 0.1, "lr_scheduler_type": "cosine"},
    ],
    ids=lambda a: "-".join(map(str, a.values())),
)
@pytest.mark.feature("prune", "one process")
def test_masks_hold(bert_folder, tokenizer, tmp_path, arguments):
    trainer, callback = pruned_run(classifier(bert_folder), tmp_path, tokenizer, **arguments)
    remaining = logged(trainer)
    assert list(remaining) == [2, 5, 8, 12]
    assert list(remaining.values()) == pytest.approx([0.7, 0.49, 0.343, 0.343], abs=1e-3)
    assert holds(callback.masks)
    moments = [
        value[callback.masks.pruned[name]]
        for name, target in callback.masks.targets.items()
        for value in trainer.optimizer.optimizer.state[target.parameter].values()
        if value.shape == target.parameter.shape
    ]
    assert moments and all(bool((values == 0).all()) for values in moments)

    trainer.save_model(tmp_path / "saved")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    zeros = {name: int((weight == 0).sum()) for name, weight in weights(loaded).items()}
    assert all(zeros[name] == int(mask.sum()) for name, mask in callback.masks.pruned.items())


def test_training_without_pruning_is_not_touched(bert_folder, tokenizer, tmp_path):
    plain = make_trainer(classifier(bert_folder), tmp_path / "a", tokenizer)
    plain.train()
    never, _ = pruned_run(classifier(bert_folder), tmp_path / "b", tokenizer, rule=Magnitude(1e-9))
    assert same(weights(plain.model), weights(never.model))


def test_sap_says_how_much(bert_folder, tokenizer, tmp_path):
    trainer, _ = pruned_run(classifier(bert_folder), tmp_path, tokenizer, rule=SAP(scope="global"))
    index, remaining = logged(trainer, "pruning/pq_index"), logged(trainer)
    assert remaining[2] == pytest.approx(1 - index[2], abs=1e-4)
    assert remaining[5] == pytest.approx(remaining[2] * (1 - index[5]), abs=1e-4)


@pytest.mark.parametrize("checkpoint", [1, 4, 6])
def test_resume_equals_no_kill(bert_folder, tokenizer, tmp_path, checkpoint):
    saving = {
        "save_strategy": "steps",
        "save_steps": 1,
        "max_steps": 8,
        "options": {**OFTEN, "start": 1, "every": 3, "end": 7},
    }
    whole, callback = pruned_run(classifier(bert_folder), tmp_path / "whole", tokenizer, rule=SAP(), **saving)

    trainer = make_trainer(classifier(bert_folder), tmp_path / "resumed", tokenizer, save_strategy="no", max_steps=8)
    resumed = SAPCallback(trainer, SAP(), **saving["options"])
    trainer.add_callback(resumed)
    trainer.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{checkpoint}"))
    assert same(weights(whole.model), weights(trainer.model))
    assert all(torch.equal(callback.masks.pruned[name], mask) for name, mask in resumed.masks.pruned.items())
    assert logged(trainer) == logged(whole)


def test_adapter_is_pruned_and_base_is_not(bert_folder, tokenizer, tmp_path):
    model = get_peft_model(
        classifier(bert_folder), LoraConfig(task_type="SEQ_CLS", r=8, target_modules=["query", "value"])
    )
    before = weights(model.get_base_model())
    _, callback = pruned_run(model, tmp_path, tokenizer, options={**OFTEN, "start": 5})
    assert callback.masks.targets and all("lora_" in name for name in callback.masks.targets)
    assert holds(callback.masks) and callback.masks.remaining == pytest.approx(0.49, abs=0.01)
    after = weights(model.get_base_model())
    assert all(torch.equal(after[name], before[name]) for name in before if "base_layer" in name)


def test_working_adapter_of_each_task_of_a_stream(bert_folder, tokenizer, tmp_path):
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(r=4, members=2, max_length=24, stride=8, signature_rank=4))
    settings = {
        "start_from": "fresh",
        "max_steps": 6,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    data = load_dataset(str(DATA / "sentiment_sentences"), split="train")
    tasks = [Task(f"t{i}", "text-classification", data.select(range(30 * i, 30 * i + 30))) for i in range(2)]
    trainer = DriftTrainer(
        model, DriftTrainingArguments(str(tmp_path), **settings), tasks=tasks, processing_class=tokenizer
    )
    callback = SAPCallback(trainer, Magnitude(0.5), start=2, every=10, end=2, tolerance=float("inf"))
    trainer.add_callback(callback)
    trainer.train()
    assert trainer.knowledge.names == ["t0", "t1"]
    members = {n: p for n, p in model.named_parameters() if "drift_bank_A" in n or "drift_bank_B" in n}
    zero = sum((p == 0).flatten(1).sum(1) for p in members.values())
    size = sum(p[0].numel() for p in members.values())
    assert len(zero) == 4 and (zero / size).tolist() == pytest.approx([0.5] * 4, abs=0.01)


def test_reports(bert_folder, tokenizer, tmp_path):
    seen = []

    class Reporter(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **kwargs):
            seen.append(dict(logs))

    pruned_run(classifier(bert_folder), tmp_path, tokenizer, callbacks=[Reporter()])
    assert sum("pruning/pq_index" in logs for logs in seen) == 4
    assert sum("loss" in logs for logs in seen) == 3  # Trainer's own lines are all there


def test_stops_when_validation_falls(bert_folder, tokenizer, tmp_path):
    options = {**OFTEN, "start": 1, "every": 2, "end": 12, "tolerance": 0.02}

    scores = iter([0.9, 0.89, 0.85, 0.9, 0.9, 0.9])

    def scripted(prediction):
        return {"accuracy": next(scores)}

    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer, eval_strategy="steps", eval_steps=2)
    trainer.compute_metrics = scripted
    trainer.add_callback(SAPCallback(trainer, Magnitude(0.3), **options))
    trainer.train()
    remaining = list(logged(trainer).values())
    assert remaining[:3] == pytest.approx([0.7, 0.49, 0.343], abs=1e-3)
    assert remaining[3:] == [remaining[2]] * 4  # .85 after step 6
    assert (tmp_path / "pruning.png").stat().st_size > 10_000
    steps = logged_steps(trainer.state.log_history, "eval_accuracy")
    assert [(s.step, s.score) for s in steps[1:]] == [(1, 0.9), (3, 0.89), (5, 0.9)]
    assert [s.remaining for s in steps] == [1.0, *remaining[:3]] and math.isnan(steps[0].score)


def test_stops_when_the_index_rises(bert_folder, tokenizer, tmp_path):
    model = classifier(bert_folder)
    trainer = make_trainer(model, tmp_path, tokenizer)

    class Spike(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 4:
                model.bert.encoder.layer[0].output.dense.weight.data[:4] *= 1000

    trainer.add_callback(Spike())
    callback = SAPCallback(trainer, Magnitude(0.3), **{**OFTEN, "rise": 0.1})
    trainer.add_callback(callback)
    trainer.train()
    assert list(logged(trainer).values()) == pytest.approx([0.7] * 4, abs=1e-3)


def test_schedule(bert_folder, tokenizer, tmp_path):
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer)
    callback = SAPCallback(trainer, SAP())
    assert [s for s in range(101) if callback.due(s, 100)] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert [s for s in range(8) if callback.due(s, 7)] == [1, 2, 3, 4, 5, 6]
    callback = SAPCallback(trainer, SAP(), start=0, every=5, end=12)
    assert [s for s in range(40) if callback.due(s, 40)] == [1, 6, 11]


def test_refused(bert_folder, tokenizer, tmp_path):
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer)
    for options, message in (
        ({"every": 0}, "`every`"),
        ({"start": -1}, "`start`"),
        ({"end": True}, "`end`"),
        ({"tolerance": -1}, "`tolerance`"),
        ({"rise": "x"}, "`rise`"),
        ({"rule": OneShot()}, "`OneShot`"),
        ({"rule": "sap"}, "`rule`"),
        ({"rule": Tail(by_inputs=True)}, "`calibration`"),
    ):
        with pytest.raises(ValueError, match=message):
            SAPCallback(trainer, **options)
    with pytest.raises(ValueError, match="`trainer` must be a `Trainer`"):
        SAPCallback(SAP())
    for arguments, message in (
        (
            {
                "load_best_model_at_end": True,
                "eval_strategy": "steps",
                "save_strategy": "steps",
                "eval_steps": 4,
                "save_steps": 4,
            },
            "load_best",
        ),
        ({"metric_for_best_model": None}, "`metric_for_best_model`"),
    ):
        bad = make_trainer(classifier(bert_folder), tmp_path, tokenizer, **arguments)
        bad.add_callback(SAPCallback(bad, SAP()))
        with pytest.raises(ValueError, match=message):
            bad.train()


@pytest.mark.feature("prune", "FSDP2", refused=True)
@pytest.mark.feature("prune", "ZeRO", refused=True)
@pytest.mark.parametrize(("flag", "name"), [("is_fsdp_enabled", "FSDP"), ("is_deepspeed_enabled", "DeepSpeed")])
def test_sharded_models_are_refused(flag, name, bert_folder, tokenizer, tmp_path):
    bad = make_trainer(classifier(bert_folder), tmp_path, tokenizer)
    callback = SAPCallback(bad, SAP())
    setattr(bad, flag, True)
    with pytest.raises(ValueError, match=name):
        callback.on_train_begin(bad.args, bad.state, bad.control)


def test_limits_that_could_not_act_are_refused(bert_folder, tokenizer, tmp_path):
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer)
    trainer.add_callback(SAPCallback(trainer, SAP()))
    with pytest.raises(ValueError, match="`eval_strategy`"):
        trainer.train()
    trainer = make_trainer(classifier(bert_folder), tmp_path, tokenizer)
    trainer.add_callback(SAPCallback(trainer, SAP(), **{**OFTEN, "start": 20, "end": 30}))
    with pytest.raises(ValueError, match="leave no step"):
        trainer.train()


def test_masks_do_not_get_lost(bert_folder, tokenizer, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 6, "save_only_model": True}
    trainer, callback = pruned_run(classifier(bert_folder), tmp_path, tokenizer, **saving)
    again = make_trainer(classifier(bert_folder), tmp_path, tokenizer)
    again.add_callback(SAPCallback(again, Magnitude(0.3), **OFTEN))
    with pytest.raises(ValueError, match="save_only_model"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))

    pruned = callback.masks
    trainer.state.global_step, trainer.state.log_history = 0, []
    event = (trainer.args, trainer.state, trainer.control)
    callback.on_train_begin(*event, optimizer=trainer.optimizer)
    masks = callback.masks  # a model that was pruned before stays pruned
    assert masks is not pruned and masks.gone == pruned.gone
    callback.on_train_begin(*event, optimizer=trainer.optimizer)
    assert callback.masks is masks  # a search for the batch size begins again, in the middle of a training
    callback.on_train_end(*event)
    callback.on_train_begin(*event, optimizer=trainer.optimizer)
    assert callback.masks is not masks and callback.masks.gone == masks.gone


def test_masks_of_another_model_are_refused(bert_folder, tiny_folder, tokenizer, tmp_path):
    first, second = (prunable(classifier(folder)) for folder in (bert_folder, tiny_folder("distilbert")))
    with pytest.raises(ValueError, match="another model"):
        Masks(first, Masks(second).pruned)
    name = next(iter(first))
    with pytest.raises(ValueError, match="has shape"):
        Masks(first, {**Masks(first).pruned, name: torch.zeros(2, 2, dtype=torch.bool)})


def test_state_stays_json(bert_folder, tokenizer, tmp_path):
    pruned_run(classifier(bert_folder), tmp_path, tokenizer, save_strategy="steps", save_steps=6)
    state = json.loads((tmp_path / "checkpoint-12" / "trainer_state.json").read_text())
    assert (
        sum("pruning/remaining" in entry for entry in state["log_history"]) == 3
    )  # the last line comes after the checkpoint
    optimizer = torch.load(tmp_path / "checkpoint-12" / "optimizer.pt", weights_only=True)
    assert all(bits.dtype == torch.uint8 for bits in optimizer["param_groups"][0]["pruned"].values())
