"""Trainer's own arguments keep their meaning, for each task."""

import json
import os

import pytest
import torch
from training_helpers import PLAIN, answers, digest, grades, losses, make_model, rows, sentiment, topics
from transformers import DataCollatorWithPadding, EarlyStoppingCallback, TrainerCallback

from hf_lifelong import DriftTrainer, DriftTrainingArguments
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import take_snapshot

QUIET = {"lora_dropout": 0.0}


@pytest.mark.parametrize("task", [sentiment, answers])
def test_accumulated_steps_log_the_same_loss(train, task):
    options = {"config": QUIET, "max_steps": 2, **PLAIN}
    one = train([task()], folder="one", per_device_train_batch_size=8, **options)
    four = train([task()], folder="four", per_device_train_batch_size=2, gradient_accumulation_steps=4, **options)
    assert losses(four) == pytest.approx(losses(one), abs=1e-4)


def test_accumulated_steps_train_the_same_weights(train):
    options = {"members": 1, "config": QUIET, "max_steps": 3, "optim": "sgd", **PLAIN}
    one = train([sentiment()], folder="one", per_device_train_batch_size=8, **options)
    two = train([sentiment()], folder="two", per_device_train_batch_size=4, gradient_accumulation_steps=2, **options)
    for first, second in zip(one.snapshots.snapshots, two.snapshots.snapshots, strict=True):
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=1e-4, atol=1e-6)


def test_a_loss_that_counts_items_is_accumulated_once(train):
    def mean_of_all(outputs, labels, num_items_in_batch=None):
        logits = outputs["logits"].reshape(len(labels), -1)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / num_items_in_batch

    options = {"members": 1, "config": QUIET, "max_steps": 3, "optim": "sgd", "learning_rate": 0.1, **PLAIN}
    given = {**options, "options": {"compute_loss_func": mean_of_all}}
    trainers = [
        train([sentiment()], folder="own", per_device_train_batch_size=8, **options),
        train([sentiment()], folder="one", per_device_train_batch_size=8, **given),
        train([sentiment()], folder="two", per_device_train_batch_size=4, gradient_accumulation_steps=2, **given),
    ]
    first, *others = [trainer.snapshots.snapshots[-1] for trainer in trainers]
    for other in others:
        for name in first:
            torch.testing.assert_close(first[name], other[name], rtol=1e-4, atol=1e-6)


def test_labels_are_smoothed(train):
    plain = train([topics()], folder="plain", config=QUIET, **PLAIN)
    smooth = train([topics()], folder="smooth", config=QUIET, label_smoothing_factor=0.3, **PLAIN)
    assert losses(smooth) != losses(plain)


@pytest.mark.parametrize("task", [answers, grades])
def test_label_smoothing_is_refused_where_answers_are_no_classes(task, prepare):
    with pytest.raises(ValueError, match=f"Task `{task().name}`: `label_smoothing_factor` is 0.1.*Leave it out"):
        prepare([task()], label_smoothing_factor=0.1).train()


def test_bf16(train):
    plain = train([sentiment(), answers()], folder="plain", config=QUIET, **PLAIN)
    half = train([sentiment(), answers()], folder="half", config=QUIET, bf16=True, **PLAIN)
    assert losses(half) != losses(plain) and losses(half) == pytest.approx(losses(plain), rel=0.05)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.feature("gradient checkpointing", "one process")
def test_gradient_checkpointing_gives_the_same_members(train, tmp_path, reentrant):
    options = {"config": QUIET, "gradient_noise": 0.1, "input_noise": 0.1, "drift_dropout": False}
    train([sentiment(), topics()], folder="plain", **options)
    train(
        [sentiment(), topics()],
        folder="saving",
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        **options,
    )
    name = "adapter_model.safetensors"
    assert digest(tmp_path / "plain" / name) == digest(tmp_path / "saving" / name)


def test_every_task_is_reported(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    trainer = train([sentiment(), answers()], report_to="tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert "train/loss" in tags and "eval/sentiment_accuracy" in tags and "eval/answers_f1" in tags
    assert len(events.Scalars("train/learning_rate")) == len(events.Scalars("train/loss"))
    assert len(events.Scalars("train/loss")) == 8  # four steps a task
    assert len(events.Scalars("eval/average_accuracy")) == 2
    assert trainer.matrix.summary()["average_accuracy"] == pytest.approx(
        events.Scalars("eval/average_accuracy")[-1].value
    )


class Count(TrainerCallback):
    def __init__(self):
        self.seen = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen.append("begin")

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(state.global_step)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self.seen.append(sorted(metrics))

    def on_train_end(self, args, state, control, **kwargs):
        self.seen.append("end")


def test_callbacks_are_called_in_every_task(train):
    count = Count()
    train([sentiment(), topics()], callbacks=[count], max_steps=2)
    assert count.seen == ["begin", 1, 2, "end"] * 2


def test_epochs_count_for_each_task(train):
    trainer = train([sentiment(), topics(stop=40)], max_steps=-1, num_train_epochs=2)
    assert trainer.state.global_step == 2 * 5 and trainer.state.epoch == 2  # 36 of 40 rows, eight a step
    assert trainer.snapshots.steps == [5, 10]


def test_evaluation_during_training_is_of_the_working_adapter(train):
    count = Count()
    trainer = train([sentiment(), answers()], callbacks=[count], eval_strategy="steps", eval_steps=2)
    seen = [entry for entry in count.seen if isinstance(entry, list)]
    assert len(seen) == 4
    assert {"eval_accuracy", "eval_loss"} <= set(seen[0]) and {"eval_f1", "eval_exact_match"} <= set(seen[2])
    held = trainer.knowledge.tasks[1].score
    last = [entry["eval_f1"] for entry in trainer.state.log_history if "eval_f1" in entry][-1]
    assert last == pytest.approx(held, abs=0.2)


def test_metrics_of_the_user_and_of_a_task_are_used(train):
    def mine(prediction):
        return {"mine": float(len(prediction.predictions))}

    def theirs(prediction):
        return {"theirs": 1.0}

    count = Count()
    options = {"eval_strategy": "steps", "eval_steps": 4, "options": {"compute_metrics": mine}}
    train([sentiment(), topics(compute_metrics=theirs)], callbacks=[count], **options)
    seen = [entry for entry in count.seen if isinstance(entry, list)]
    assert "eval_mine" in seen[0] and "eval_theirs" in seen[1] and "eval_mine" not in seen[1]


class Best(TrainerCallback):
    def __init__(self):
        self.weights = {}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.weights[state.global_step] = take_snapshot(model)


@pytest.mark.parametrize("save_total_limit", [None, 1])
def test_early_stopping_keeps_the_best(train, save_total_limit):
    """The loss is to rise, so step 2 is the best and training stops at step 4."""
    best = Best()
    trainer = train(
        [sentiment()],
        callbacks=[EarlyStoppingCallback(1), best],
        max_steps=12,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=save_total_limit,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
        learning_rate=1e-2,
        **PLAIN,
    )
    assert trainer.state.global_step == 4 and trainer.state.best_global_step == 2
    assert trainer.snapshots.steps == [2] and trainer.knowledge.tasks[0].members == 1
    kept = trainer.snapshots.snapshots[0]
    assert all(torch.equal(kept[name], best.weights[2][name]) for name in kept)
    assert trainer.knowledge.names == ["sentiment"] and lifelong_of(trainer.model).task is None


def alone(bert_folder, tokenizer, folder, data, model=None, **options):
    args = DriftTrainingArguments(
        str(folder), max_steps=4, per_device_train_batch_size=8, report_to="none", use_cpu=True, save_strategy="no"
    )
    model = model if model is not None else make_model(bert_folder)
    return DriftTrainer(model, args, train_dataset=data, processing_class=tokenizer, **options)


def test_one_task_through_train_dataset(bert_folder, tokenizer, tmp_path):
    data, held_out = rows("sentiment_sentences", 0, 40), rows("sentiment_sentences", 0, 10, "test")
    trainer = alone(bert_folder, tokenizer, tmp_path, data, eval_dataset=held_out)
    trainer.train()
    task = trainer.knowledge.tasks[0]
    assert (task.name, task.kind, task.labels) == ("task", "text-classification", ("negative", "positive"))
    assert len(trainer.prepared(trainer.tasks[0]).test.examples) == 10
    assert "eval_task_accuracy" in trainer.evaluate()
    more = alone(bert_folder, tokenizer, tmp_path / "more", rows("squad", 0, 20), model=trainer.model)
    more.train()
    assert more.knowledge.names == ["task", "task-2"]
    assert more.knowledge.tasks[1].kind == "question-answering"


def test_one_tokenised_task_through_train_dataset(bert_folder, tokenizer, tmp_path):
    raw = rows("sentiment_sentences", 0, 40)
    data = raw.map(lambda row: tokenizer(row["text"], truncation=True, max_length=32)).rename_column("label", "labels")
    trainer = alone(
        bert_folder, tokenizer, tmp_path, data.remove_columns("text"), data_collator=DataCollatorWithPadding(tokenizer)
    )
    trainer.train()
    assert trainer.knowledge.tasks[0].kind == "text-classification"
    assert 0 <= trainer.evaluate()["eval_average_accuracy"] <= 1


@pytest.mark.feature("save and load", "one process")
def test_what_is_saved_loads_and_answers(train, tmp_path):
    trainer = train([sentiment()])
    trainer.save_model(str(tmp_path / "copy"))
    assert {"adapter_config.json", "adapter_model.safetensors", "accuracy_matrix.json", "tokenizer.json"} <= set(
        os.listdir(tmp_path / "copy")
    )
    name = "adapter_model.safetensors"
    assert digest(tmp_path / "copy" / name) == digest(tmp_path / "out" / name)
    assert json.loads((tmp_path / "out" / "accuracy_matrix.json").read_text()) == trainer.matrix.to_dict()


def test_commits_are_pushed_and_checkpoints_are_not(prepare, monkeypatch):
    trainer = prepare([sentiment(), topics()], save_strategy="steps", save_steps=2)
    pushed = []
    trainer.args.push_to_hub = True
    monkeypatch.setattr(trainer, "push_to_hub", lambda message: pushed.append((message, trainer.knowledge.names)))
    monkeypatch.setattr(trainer, "hub_model_id", "me/model")
    trainer.train()
    assert pushed == [("Learned `sentiment`", ["sentiment"]), ("Learned `topics`", ["sentiment", "topics"])]


def test_other_optimizers_and_clipping(train):
    trainer = train([sentiment()], optim="adafactor", max_grad_norm=0.0, weight_decay=0.1)
    assert trainer.knowledge.names == ["sentiment"]


@pytest.mark.parametrize(
    ("name", "value"), [("train_sampling_strategy", "group_by_length"), ("dataloader_drop_last", True)]
)
def test_what_shapes_training_batches_leaves_an_evaluation_alone(name, value, prepare):
    class Evaluate(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            found = self.trainer.predict(self.trainer.eval_dataset)
            self.labels = found.label_ids.tolist(), list(self.trainer.eval_dataset["labels"])

    evaluate = Evaluate()
    trainer = evaluate.trainer = prepare(
        [sentiment()], callbacks=[evaluate], per_device_eval_batch_size=4, eval_strategy="epoch", **{name: value}
    )
    trainer.train()
    found, expected = evaluate.labels
    assert len(expected) % 4 and found == expected
    assert getattr(trainer.args, name) == value and trainer.knowledge.names == ["sentiment"]


@pytest.mark.parametrize("option", [{"batch_eval_metrics": True}, {"eval_do_concat_batches": False}])
def test_metrics_of_parts_are_refused(option, tmp_path):
    name, value = next(iter(option.items()))
    with pytest.raises(ValueError, match=f"`{name}={value}` is not supported.*Leave it out"):
        DriftTrainingArguments(str(tmp_path), **option)


def test_predict_is_of_the_task_in_training_and_says_what_to_call_else(prepare):
    class Predict(TrainerCallback):
        def on_train_end(self, args, state, control, **kwargs):
            found = self.trainer.predict(self.trainer.eval_dataset)
            self.shape, self.metrics = found.predictions.shape, found.metrics

    predict = Predict()
    trainer = predict.trainer = prepare([sentiment()], callbacks=[predict], max_steps=2)
    trainer.train()
    with pytest.raises(ValueError, match=r'pipeline\("lifelong", model=trainer.model.*trainer.evaluate\(\)'):
        trainer.predict(trainer.eval_dataset)
    assert predict.shape == (6, 2) and 0 <= predict.metrics["test_accuracy"] <= 1
