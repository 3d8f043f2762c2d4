"""Trainings with `FairTrainerMixin`: tiny ones, but real."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from fair_trainings import FairTrainer, make_trainer, measured, people, weights
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer

from hf_lifelong.fairness import GroupFairness


@pytest.mark.parametrize(("metric", "left"), [("sp", 0.5), ("eop", 0.5), ("cal", 0.8)])
def test_training_makes_a_model_fairer(tmp_path, metric, left):
    data = people(512)
    settings = {"metric": metric, "data": data, "max_steps": 64, "learning_rate": 0.3, "logging_steps": 64}
    plain, fair = (make_trainer(tmp_path, weight=weight, **settings) for weight in (0.0, 20.0))
    for trainer in (plain, fair):
        trainer.train()
    before, after = (abs(measured(trainer, metric, data).value()) for trainer in (plain, fair))
    assert before > 0.1 and after < left * before
    logged = next(entry[f"fairness_{metric}"] for entry in fair.state.log_history if "loss" in entry)
    assert logged == fair.fairness.value()


def test_a_text_classifier_with_its_collator_and_an_adapter(tmp_path, bert_folder, tokenizer):
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=3, dtype="float32")
    texts = ["a joy", "a bore", "what a film it was", "no"] * 4
    data = Dataset.from_dict({"text": texts, "label": [1, 0, 2, 0] * 4, "people": [0, 1, 2, -100] * 4})
    data = data.map(lambda row: tokenizer(row["text"]), batched=True)
    trainer = FairTrainer(
        get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2)),
        make_trainer(tmp_path, max_steps=3, per_device_train_batch_size=8).args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
        fairness=GroupFairness("sp", 3, classes=3),
        group_column="people",
    )
    trainer.train()
    assert trainer.fairness.rates().shape == (3, 3) and trainer.fairness.is_known
    assert trainer.predict(data).predictions.shape == (16, 3)


def test_a_weight_of_zero_trains_as_without_to_the_bit(tmp_path):
    settings = {"gradient_accumulation_steps": 2}
    plain = make_trainer(tmp_path, trainer=Trainer, **settings)
    held, fair = (make_trainer(tmp_path, weight=weight, **settings) for weight in (0.0, 1.0))
    for trainer in (plain, held, fair):
        trainer.train()
    assert torch.equal(weights(plain), weights(held)) and not torch.equal(weights(plain), weights(fair))
    losses = [[entry["loss"] for entry in trainer.state.log_history if "loss" in entry] for trainer in (plain, held)]
    assert losses[0] == losses[1] and held.fairness.is_known


@pytest.mark.parametrize("classes", [1, 2])
def test_accumulated_batches_are_one_large_batch(tmp_path, classes):
    one = make_trainer(tmp_path, classes=classes, per_device_train_batch_size=16)
    four = make_trainer(tmp_path, classes=classes, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    for trainer in (one, four):
        trainer.train()
    torch.testing.assert_close(weights(one), weights(four), rtol=1e-4, atol=1e-6)
    assert one.fairness.value() == pytest.approx(four.fairness.value(), abs=1e-6)
    assert one.fairness.rows == pytest.approx(four.fairness.rows)


def test_losses_that_count_items_are_accumulated_alike(tmp_path):
    """Trainer does not divide a loss that is scaled by the items of all accumulated batches."""

    def mean_of_all(outputs, labels, num_items_in_batch=None):
        total = torch.nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
        return total / num_items_in_batch

    def scaled(**arguments):
        trainer = make_trainer(tmp_path, **arguments)
        trainer.compute_loss_func = mean_of_all
        return trainer

    one = make_trainer(tmp_path, per_device_train_batch_size=16)
    others = [scaled(per_device_train_batch_size=16 // n, gradient_accumulation_steps=n) for n in (1, 4)]
    for trainer in (one, *others):
        trainer.train()
    for trainer in others:
        torch.testing.assert_close(weights(one), weights(trainer), rtol=1e-4, atol=1e-6)


def test_the_sums_are_those_of_the_last_steps(tmp_path):
    """The first step knows nothing yet; a window of one step holds the rows of the last one only."""
    trainer = make_trainer(tmp_path, window=1, max_steps=3, logging_steps=1)
    trainer.train()
    assert trainer.fairness.rows == 16
    trainer = make_trainer(tmp_path, window=4, max_steps=3, learning_rate=0.0, per_device_train_batch_size=256)
    trainer.train()
    assert trainer.fairness.rows == pytest.approx(256 * (1 + 0.75 + 0.75**2))
    assert trainer.fairness.value() == pytest.approx(measured(trainer, "sp", people()).value(), abs=1e-6)


def test_a_killed_training_resumes_to_the_same_bytes(tmp_path):
    whole = make_trainer(tmp_path / "whole", max_steps=12, save_strategy="steps", save_steps=6)
    whole.train()
    for restores in (False, True):
        again = make_trainer(
            tmp_path / "again", max_steps=12, seed=1, data_seed=42, restore_callback_states_from_checkpoint=restores
        )
        again.args.seed = 42
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
        assert torch.equal(weights(whole), weights(again))
        assert again.fairness.to_dict() == whole.fairness.to_dict()


def test_a_second_training_starts_without_sums(tmp_path):
    trainer = make_trainer(tmp_path, max_steps=3)
    trainer.train()
    trainer.train()
    assert trainer.fairness.rows < 3 * 16


def test_evaluation_and_prediction_see_no_group(tmp_path):
    data = people(64, seed=1)
    fair, plain = (make_trainer(tmp_path, weight=50.0, trainer=kind, max_steps=4) for kind in (FairTrainer, Trainer))
    fair.train()
    plain.model = fair.model
    sums = fair.fairness.to_dict()
    for given in (data, data.remove_columns("group")):
        assert fair.evaluate(given)["eval_loss"] == plain.evaluate(given)["eval_loss"]
    unlabelled = fair.predict(data.remove_columns("labels"))
    assert unlabelled.label_ids is None and unlabelled.predictions.shape == (64, 2)
    assert fair.fairness.to_dict() == sums


def without(column):
    return people().remove_columns(column)


def with_groups(values):
    return without("group").add_column("group", values)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (without("group"), r"`group_column` is 'group', but the training data have the columns \['inputs', 'labels'"),
        (with_groups([1] * 256), r"holds only the groups \[1\]; fairness is between two or more"),
        (with_groups([-100] * 255 + [1]), r"holds only the groups \[1\]"),
        (with_groups([0, 1, 2, 2] * 64), "holds 0, 1, 2, but with 2 groups it must hold integers from 0 to 1"),
        (with_groups(["f", "m"] * 128), r"holds 'f', 'm', but .* Encode names"),
        (with_groups([0, 1, None, 1] * 64), "must hold integers from 0 to 1"),
        (without("labels"), "A training batch has no `labels`"),
    ],
)
def test_data_that_tell_no_fairness_are_refused_before_a_step(tmp_path, data, message):
    trainer = make_trainer(tmp_path, data=data)
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


class Rows(torch.utils.data.Dataset):
    """Data that are no `datasets.Dataset`, of which nothing is known before training."""

    def __init__(self, data):
        self.rows = [{name: row[name] for name in row if name != "name"} for row in data]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


def test_other_data_are_checked_as_they_come(tmp_path):
    make_trainer(tmp_path, data=Rows(people()), max_steps=2).train()
    for data, message in (
        (Rows(with_groups([0, 1, 2, 7] * 64)), "rows of a training step have a group that is no integer from 0 to 1"),
        (Rows(without("group")), "A training batch has no `group`, but"),
    ):
        with pytest.raises(ValueError, match=message):
            make_trainer(tmp_path, data=data).train()


def test_groups_without_a_row_are_told_of(tmp_path, caplog):
    trainer = make_trainer(tmp_path, max_steps=2)
    three = FairTrainer(trainer.model, trainer.args, train_dataset=people(), fairness=GroupFairness("sp", 3))
    with caplog.at_level("WARNING"):
        three.train()
    assert "no row of the groups [2]" in caplog.text and three.fairness.is_known


def test_scores_that_are_not_finite_do_not_stay_in_the_sums(tmp_path, caplog):
    class Spoiled(FairTrainer):
        def fairness_scores(self, outputs):
            scores = super().fairness_scores(outputs)
            return scores * float("nan") if self.state.global_step == 1 else scores

    trainer = make_trainer(tmp_path, trainer=Spoiled, weight=0.0, max_steps=3)
    with caplog.at_level("WARNING"):
        trainer.train()
    assert "scores that are not finite" in caplog.text
    assert trainer.fairness.is_known and trainer.fairness.rows == pytest.approx(16 + 16 * 7 / 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fairness": "sp"}, r"`fairness` is 'sp'; give a `GroupFairness`, such as `GroupFairness\('sp'\)`"),
        ({"fairness": GroupFairness("sp", threshold=0.5)}, "decisions have no gradient"),
        ({"fairness_weight": -1.0}, r"weight of fairness is -1\.0"),
        ({"fairness_window": 0}, "`fairness_window` is 0; give a number of steps"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    model = make_trainer(tmp_path).model
    with pytest.raises(ValueError, match=message):
        FairTrainer(model, **{"fairness": GroupFairness("sp"), **arguments})


def test_a_checkpoint_of_another_metric_is_refused(tmp_path):
    make_trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=2).train()
    other = make_trainer(tmp_path, metric="eop", max_steps=4)
    with pytest.raises(ValueError, match=r"checkpoint was trained with the fairness .*'sp'.* resume with the same"):
        other.train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """The sums are those of both; each sees half of every batch."""
    script = Path(__file__).parent / "ddp_script.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-5000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    alone = make_trainer(tmp_path / "alone", max_steps=6, per_device_train_batch_size=128)
    alone.train()
    torch.testing.assert_close(torch.tensor(first["weights"]), weights(alone), rtol=1e-4, atol=1e-6)
    assert first["fairness"]["rows"] == pytest.approx(alone.fairness.rows)
    torch.testing.assert_close(
        GroupFairness.from_dict(first["fairness"]).rates(), alone.fairness.rates(), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
def test_the_fairness_of_the_model_as_it_is_over_all_training_rows(tmp_path, metric):
    data = people(100)
    trainer = make_trainer(tmp_path, metric=metric, data=data)
    found, known = trainer.measure_fairness(), measured(trainer, metric, data)
    assert found.rows == known.rows == 100 and torch.allclose(found.sums, known.sums, rtol=1e-6)
    assert not trainer.fairness.is_known  # what it sums in passing is another matter


def test_a_whole_that_is_held_is_followed_and_stays_as_it_is(tmp_path):
    data, other = people(), people(seed=1)
    whole = measured(make_trainer(tmp_path, data=other), "sp", other)
    free, held, ignored = (make_trainer(tmp_path, data=data, weight=20.0) for _ in range(3))
    held.hold_fairness(whole, 20.0)
    ignored.hold_fairness(whole, 0.0)
    plain = make_trainer(tmp_path, data=data, weight=0.0)
    for trainer in (free, held, ignored, plain):
        trainer.train()
    assert torch.equal(held.fairness.sums, whole.sums) and held.fairness.rows == whole.rows
    assert torch.equal(weights(ignored), weights(plain))
    assert not torch.equal(weights(held), weights(plain)) and not torch.equal(weights(held), weights(free))


def test_a_whole_of_another_metric_or_with_a_threshold_cannot_be_held(tmp_path):
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match=r"`whole` is of .*'eop'"):
        trainer.hold_fairness(GroupFairness("eop"), 20.0)
    with pytest.raises(ValueError, match=r"`threshold` is 0\.5"):
        trainer.hold_fairness(GroupFairness("sp", threshold=0.5), 20.0)
    with pytest.raises(ValueError, match="The weight of fairness is -1"):
        trainer.hold_fairness(GroupFairness("sp"), -1)
