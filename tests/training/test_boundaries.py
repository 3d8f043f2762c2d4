"""What a task must not inherit from the one before, and what learning must leave alone."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from training_helpers import answers, digest, make_model, members_of, saved, sentiment, topics
from transformers import AutoModel, EarlyStoppingCallback, TrainerCallback

from hf_lifelong import forget, knowledge_of
from hf_lifelong.adapter import lifelong_of, predict, trunk_features
from hf_lifelong.knowledge import fit_closed_form
from hf_lifelong.knowledge.closed_form import WEIGHTS


class Spy(TrainerCallback):
    """Notes what each task begins with."""

    def __init__(self):
        self.trainer, self.begun = None, []

    def on_train_begin(self, args, state, control, **kwargs):
        trainer = self.trainer
        stopping = [c for c in trainer.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
        trainable = {id(p) for p in trainer.model.parameters() if p.requires_grad}
        optimised = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
        self.begun.append(
            {
                "optimizer": trainer.optimizer,
                "scheduler": trainer.lr_scheduler,
                "control": trainer.control,
                "state": state,
                "stopping": stopping,
                "patience": [callback.early_stopping_patience_counter for callback in stopping],
                "adam": len(trainer.optimizer.state),
                "step": state.global_step,
                "epoch": state.epoch,
                "history": len(state.log_history),
                "best": state.best_metric,
                "seed": torch.initial_seed(),
                "labels": list(trainer.label_names),
                "same": trainable == optimised and len(trainable) > 0,
                "batch": set(next(iter(trainer.get_train_dataloader()))),
                "collator": trainer.data_collator,
            }
        )


def test_each_task_begins_anew(prepare):
    spy = Spy()
    tasks = [sentiment(), answers(), topics()]
    stopping = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True, "save_steps": 2}
    trainer = prepare(
        tasks,
        callbacks=[spy, EarlyStoppingCallback(3)],
        **stopping,
        save_strategy="steps",
        metric_for_best_model="loss",
        greater_is_better=True,
    )
    spy.trainer = trainer
    trainer.train()
    begun = spy.begun
    assert len(begun) == 3
    for name in ("optimizer", "scheduler", "state"):
        assert len({id(entry[name]) for entry in begun}) == 3, name
    assert len({id(entry["stopping"][0]) for entry in begun}) == 1  # the user's object, with its first state
    for entry in begun:
        assert entry["patience"] == [0] and entry["adam"] == 0 and entry["step"] == 0 and entry["history"] == 0
        assert entry["best"] is None and entry["same"] and len(entry["stopping"]) == 1
        assert not entry["control"].should_save
    assert len({entry["seed"] for entry in begun}) == 3
    assert [entry["labels"] for entry in begun] == [["labels"], ["start_positions", "end_positions"], ["labels"]]
    inputs = {"input_ids", "attention_mask", "token_type_ids"}
    assert [entry["batch"] - inputs for entry in begun] == [set(entry["labels"]) for entry in begun]


@pytest.mark.parametrize("grouping", ["boundary", "performance"])
@pytest.mark.feature("forget a task", "one process")
def test_forgetting_leaves_what_would_have_been_learned_without(train, tmp_path, grouping):
    first, second, third = sentiment(), answers(), topics()
    with_it = train([first, second, third], folder="with", grouping=grouping)
    without = train([first, third], folder="without", grouping=grouping)
    forget(with_it.model, "answers")
    found, expected = saved(with_it, tmp_path / "a"), saved(without, tmp_path / "b")
    assert found["adapter_model.safetensors"] == expected["adapter_model.safetensors"]
    assert with_it.knowledge.tasks == without.knowledge.tasks
    assert with_it.matrix is None
    with_it.tasks = [first, third]
    assert with_it.evaluate()["eval_average_accuracy"] == without.evaluate()["eval_average_accuracy"]


def test_after_forgetting_all_that_is_left_is_scored_again(train, prepare):
    left = topics()
    trainer = train([sentiment(), left])
    forget(trainer.model, "sentiment")
    later = train([sentiment("later", 60, 120)], model=trainer.model, folder="later")
    assert later.matrix.tasks == ["topics", "later"]
    assert later.matrix.scores[0] == [None, None] and later.matrix.scores[1][0] is None
    both = prepare([left, *later.tasks], model=trainer.model, folder="both")
    scores = both.evaluate()
    assert both.matrix.scores == [[None, None], [scores["eval_topics_accuracy"], scores["eval_later_accuracy"]]]


def test_forgetting_a_task_that_came_back(train, tmp_path):
    tasks = [sentiment(), sentiment("again", 60, 120)]
    both = train(tasks, folder="both", grouping_tolerance=1.0, start_from="fresh")
    alone = train(tasks[1:], folder="alone", grouping_tolerance=1.0, start_from="fresh")
    assert both.knowledge.groups == ["sentiment"]
    forget(both.model, "sentiment")
    assert both.knowledge.tasks == alone.knowledge.tasks
    name = "adapter_model.safetensors"
    assert saved(both, tmp_path / "a")[name] == saved(alone, tmp_path / "b")[name]


def test_earlier_members_never_change(train, prepare):
    trainer = train([sentiment()])
    before = members_of(trainer)
    later = prepare([answers(), topics()], model=trainer.model, folder="later", start_from="previous")
    later.train()
    after = members_of(later)
    for name, tensor in before.items():
        assert len(after[name]) > len(tensor)
        assert torch.equal(after[name][: len(tensor)], tensor)


def test_the_base_never_changes(train, bert_folder):
    trainer = train([sentiment(), answers()])
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    held = {n.replace(".base_layer", ""): p for n, p in trainer.model.get_base_model().named_parameters()}
    assert all(torch.equal(held[name], parameter) for name, parameter in base.named_parameters())


def test_nothing_of_the_training_stays_in_the_file(train):
    trainer = train([sentiment()])
    root = lifelong_of(trainer.model)
    assert root.task is None and root.input_noise == 0
    assert root.drift_head_weight["default"].shape[0] == 0 and not trainer.is_in_train


def test_a_loaded_adapter_goes_on_learning(train, tmp_path, bert_folder):
    train([sentiment()])
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "out"))  # frozen, as PEFT loads by default
    assert not any(p.requires_grad for p in loaded.parameters())
    trainer = train([topics()], model=loaded, folder="more")
    assert trainer.knowledge.names == ["sentiment", "topics"]
    assert trainer.matrix.tasks == ["sentiment", "topics"]
    assert trainer.knowledge.member_offsets == [0, 2, 4]


def test_a_parameter_that_no_optimizer_holds_is_refused(prepare):
    trainer = prepare([sentiment()])

    class Lost(torch.optim.SGD):
        def __init__(self, groups, **options):
            groups = [{**group, "params": group["params"][1:]} for group in groups]
            super().__init__([group for group in groups if group["params"]], lr=0.1)

    trainer.optimizer_cls_and_kwargs = (Lost, {})
    with pytest.raises(RuntimeError, match=r"trainable parameters are not in the optimizer \(first: `.*drift_"):
        trainer.train()
    assert trainer.knowledge.names == []


def test_a_name_twice_is_refused(prepare):
    with pytest.raises(ValueError, match="`tasks` names `sentiment` twice"):
        prepare([sentiment(), sentiment(start=60, stop=120)])
    with pytest.raises(ValueError, match="`tasks` names `topics` twice"):
        prepare([topics(), topics(labels=("brief", "wordy"))])


def test_a_learned_name_is_refused_and_nothing_is_lost(train, prepare, tmp_path):
    trainer = train([sentiment()])
    before = digest(tmp_path / "out" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="`sentiment`, which this adapter has learned already"):
        prepare([topics(), sentiment()], model=trainer.model).train()
    assert (tmp_path / "out" / "_stream" / "commit-1").is_dir()
    assert digest(tmp_path / "out" / "adapter_model.safetensors") == before
    with pytest.raises(ValueError, match="learned already"):
        trainer.train()


def test_a_signature_keeps_the_mean_of_each_class_and_one_of_a_task_without_classes(train):
    trainer = train([sentiment(), answers()], signature_samples=20)
    root = lifelong_of(trainer.model)
    kept = root.drift_signature_classes["default"]
    assert trainer.knowledge.class_offsets == [0, 2, 3] and len(kept) == 3
    prepared = trainer.prepared(trainer.tasks[0])
    features = trainer.evaluator.features(prepared, prepared.train, 20)
    labels = torch.tensor(prepared.train["labels"])[np.linspace(0, len(prepared.train) - 1, 20).astype(int)]
    means = torch.stack([features[labels == k].mean(0) for k in (0, 1)])
    torch.testing.assert_close(kept[:2], means, rtol=1e-4, atol=1e-5)
    assert torch.equal(kept[2], root.drift_signature_mean["default"][1])
    forget(trainer.model, "sentiment")
    assert torch.equal(root.drift_signature_classes["default"], kept[2:])


def test_a_closed_form_head_is_fitted_once_and_is_part_of_every_answer_but_least_uncertainty(train):
    trainer = train([sentiment(), answers()])
    root = lifelong_of(trainer.model)
    weight, bias = (part["default"] for part in (root.drift_closed_weight, root.drift_closed_bias))
    prepared = trainer.prepared(trainer.tasks[0])
    features = trainer.evaluator.features(prepared, prepared.train, trainer.args.signature_samples)
    fitted = fit_closed_form(features, torch.tensor(prepared.train["labels"]), 2)
    share = weight[0, 0] / fitted[0][0, 0]
    assert round(float(share), 4) in WEIGHTS and not weight[2].any()
    for own, found in zip((weight, bias), fitted, strict=True):
        torch.testing.assert_close(own[:2], share * found, rtol=1e-3, atol=1e-5)
    with torch.no_grad():  # heads that count for sure
        weight[:2], bias[:2] = fitted
    rows = prepared.test.features.select(range(6))
    batch = prepared.batch({key: rows[key] for key in ("input_ids", "attention_mask")})
    ask = {"policy": "oracle", "group": "sentiment"}
    both = predict(trainer.model, batch, **ask).scores.squeeze(1)[:, :2].log()
    lone = predict(trainer.model, batch, policy="uncertainty").scores
    closed = trunk_features(trainer.model, batch) @ fitted[0].T + fitted[1]
    with torch.no_grad():
        weight.zero_(), bias.zero_()
    members = predict(trainer.model, batch, **ask).scores.squeeze(1)[:, :2].log()
    torch.testing.assert_close(both, (members + closed).log_softmax(1), rtol=1e-3, atol=1e-4)
    assert torch.equal(lone, predict(trainer.model, batch, policy="uncertainty").scores)


def test_a_tasks_score_counts_its_closed_form_head(train):
    trainer = train([sentiment()])
    prepared, noted = trainer.prepared(trainer.tasks[0]), trainer.knowledge.tasks[0].score
    assert lifelong_of(trainer.model).drift_closed_weight["default"].any()
    trainer.evaluator.clear()
    assert trainer.evaluator.oracle(prepared, prepared.validation, prepared.name)["accuracy"] == noted


def test_later_tasks_leave_a_closed_form_head_alone(train):
    first = train([sentiment()], folder="one")
    second = train([sentiment(), topics()], folder="two")
    for part in ("drift_closed_weight", "drift_closed_bias"):
        alone, kept = (getattr(lifelong_of(t.model), part)["default"] for t in (first, second))
        assert torch.equal(alone, kept[: len(alone)])


def test_a_model_that_was_cast_is_trained_and_loads(train, tmp_path, bert_folder, tokenizer):
    trainer = train([sentiment(), topics()], model=make_model(bert_folder).to(torch.bfloat16))
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.bfloat16)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "out"))
    held = dict(trainer.model.named_parameters())
    for name, parameter in loaded.named_parameters():
        if "drift_" in name:
            assert parameter.dtype == torch.float32 and torch.equal(parameter, held[name]), name
    assert knowledge_of(loaded) == trainer.knowledge and trainer.knowledge.base["dtype"] == "bfloat16"
    batch = tokenizer(["A good film.", "Who wrote the news?"], padding=True, return_tensors="pt")
    for key in ("group", "scores", "margin"):
        assert torch.equal(predict(loaded, batch)[key], predict(trainer.model, batch)[key])
