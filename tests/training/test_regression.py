"""Learning numbers: training, scores, resuming, forgetting, and what a user sees of it."""

from pathlib import Path

import numpy as np
import pytest
from peft import AutoPeftModelForFeatureExtraction
from training_helpers import answers, digest, graded, grades, make_model, make_trainer, rows, saved, sentiment, topics
from transformers import AutoTokenizer, pipeline

from hf_lifelong import Task, forget, knowledge_of
from hf_lifelong.training.learner import TaskLearner

MINILM = Path(__file__).parents[3] / "shared" / "models" / "paraphrase-minilm-l3"
FILES = ("adapter_model.safetensors", "adapter_config.json", "accuracy_matrix.json")


@pytest.fixture
def asked():
    """Pairs that are graded."""
    test = grades().test
    return [{"text": row["text"], "text_pair": row["text_pair"]} for row in test]


@pytest.mark.feature("learn a task", "one process")
def test_numbers_are_learned_scored_saved_and_asked_for_beside_other_kinds(train, tokenizer, asked, tmp_path):
    trainer = train([sentiment(), grades(), answers()])
    learned = knowledge_of(trainer.model).tasks[1]
    train_rows = trainer.prepared(trainer.tasks[1]).train_examples["label"]
    assert learned.constants == pytest.approx({"mean": np.mean(train_rows), "std": np.std(train_rows)})
    assert (learned.kind, learned.labels, learned.width, learned.classes) == ("text-regression", ("value",), 1, 1)
    assert trainer.matrix.metrics == ["accuracy", "pearson", "f1"] and trainer.matrix.baseline[1] == 0
    scores = trainer.evaluate()
    assert {"eval_grades_pearson", "eval_grades_spearman", "eval_grades_r2"} <= scores.keys()
    assert scores["eval_grades_rmse"] > 0
    model = AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path / "out").eval()
    answer = pipeline("lifelong", model=model, tokenizer=tokenizer)
    found = answer([*asked, {"question": "Who wrote it?", "context": "Ada wrote it."}], policy="oracle", group=1)
    numbers = [row["answer"] for row in found[:-1]]
    assert all(row["kind"] == "text-regression" and row["score"] is None for row in found[:-1])
    assert abs(np.mean(numbers) - learned.constants["mean"]) < 3 * learned.constants["std"] and np.std(numbers) > 0
    right = trainer.tasks[1].test["label"]
    rmse = float(np.sqrt(np.square(np.array(numbers) - right).mean()))
    oracle = trainer.evaluator.oracle(
        trainer.prepared(trainer.tasks[1]), trainer.prepared(trainer.tasks[1]).test, "grades"
    )
    assert oracle["rmse"] == pytest.approx(rmse, abs=1e-4)


def test_a_text_may_be_one_of_classes_or_of_numbers(train, tokenizer, asked):
    trainer = train([sentiment(), grades()])
    answer = pipeline("lifelong", model=trainer.model.eval(), tokenizer=tokenizer)
    found = answer([*asked, *rows("sentiment_sentences", 0, 12)["text"]])
    kinds = [row["kind"] for row in found]
    assert set(kinds) == {"text-classification", "text-regression"}
    for row in found:
        assert isinstance(row["answer"], float if row["kind"] == "text-regression" else str)
    assert all(row["uncertainty"] == 0 for row in found if row["kind"] == "text-regression")
    spread = answer(asked, answer="ensemble")
    assert all(0 < row["uncertainty"] < 1 for row in spread if row["kind"] == "text-regression")


def test_the_loss_is_that_of_standardised_targets(train):
    trainer = train([grades()], max_steps=30, learning_rate=3e-3)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert 0.3 < losses[0] < 3 and np.mean(losses[-8:]) < np.mean(losses[:8])


class Stop(Exception):
    pass


def test_a_stream_that_was_stopped_ends_with_the_same_bytes(train, prepare, tmp_path, monkeypatch):
    tasks = [sentiment(), grades()]
    train(tasks, folder="unbroken")
    fit = TaskLearner.fit

    def fail(learner, visit):
        if visit.task.name == "grades":
            raise Stop
        fit(learner, visit)

    monkeypatch.setattr(TaskLearner, "fit", fail)
    with pytest.raises(Stop):
        prepare(tasks, save_strategy="steps", save_steps=2).train()
    monkeypatch.undo()
    train(tasks, resume=True, save_strategy="steps", save_steps=2)
    for name in FILES:
        assert digest(tmp_path / "out" / name) == digest(tmp_path / "unbroken" / name)


def test_forgetting_leaves_what_would_have_been_learned_without(train, tmp_path):
    with_it = train([sentiment(), grades(), topics()], folder="with")
    without = train([sentiment(), topics()], folder="without")
    forget(with_it.model, "grades")
    found, expected = saved(with_it, tmp_path / "a"), saved(without, tmp_path / "b")
    assert found["adapter_model.safetensors"] == expected["adapter_model.safetensors"]
    assert with_it.knowledge.tasks == without.knowledge.tasks


def test_a_module_of_evaluate_gets_numbers(train, module):
    error = module("error", "Value('float32')", "Value('float32')", "return {'mse': metrics.mean_squared_error("
                   "references, predictions)}")  # fmt: skip
    trainer = train([grades(compute_metrics=error)])
    scores = trainer.evaluate()
    assert scores["eval_grades_mse"] == pytest.approx(scores["eval_grades_rmse"] ** 2, rel=1e-4)


def test_training_starts_from_a_like_task_and_learns_in_its_own_units(train):
    tenfold = grades().train.map(lambda row: {"label": 10 * row["label"]})
    trainer = train([grades(), Task("tenfold", "text-regression", tenfold)], start_from="nearest", grouping="boundary")
    first, second = knowledge_of(trainer.model).tasks
    assert second.started_from == "grades"
    assert second.constants["std"] > 5 * first.constants["std"]


@pytest.mark.slow
@pytest.mark.skipif(not MINILM.exists(), reason="the model `paraphrase-minilm-l3` is not in ../shared/models")
def test_a_real_encoder_tells_how_much_of_a_sentence_is_left(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MINILM)
    task = grades()
    task.train = graded(list(rows("squad", 0, 800)["question"]))
    task.test = graded(list(rows("squad", 0, 200, "test")["question"]), seed=1)
    settings = {"max_steps": 180, "per_device_train_batch_size": 16, "learning_rate": 1e-3}
    trainer = make_trainer(make_model(MINILM, r=8, max_length=64), tmp_path, [task], tokenizer, **settings)
    trainer.train()
    scores = trainer.evaluate()
    assert scores["eval_grades_pearson"] > 0.35 and trainer.matrix.baseline == [0.0]
    assert scores["eval_grades_rmse"] < float(np.std(task.test["label"]))
