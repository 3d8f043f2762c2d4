"""Tasks learned one after another, fair over all of them together."""

import json

import pytest
import torch
from datasets import ClassLabel
from fair_tasks import FAIR, people, sums_of
from training_helpers import PLAIN, answers, make_model, make_trainer, members_of, saved, sentiment, topics
from transformers import TrainerCallback
from typer.testing import CliRunner

from hf_lifelong import forget
from hf_lifelong.adapter import statistics_of
from hf_lifelong.cli.app import app
from hf_lifelong.fairness import FairnessSums, GroupFairness
from hf_lifelong.training import DriftTrainingArguments


def two(names=("f", "m")):
    return [people(sentiment(), names), people(sentiment("more", 60, 120), names)]


@pytest.fixture(scope="module")
def learned(bert_folder, tokenizer, tmp_path_factory):
    """A trainer that has learned two tasks, and the folder it wrote."""
    folder = tmp_path_factory.mktemp("fair") / "out"
    trainer = make_trainer(make_model(bert_folder), folder, two(), tokenizer, **FAIR)
    trainer.train()
    return trainer, folder


def answered(trainer, task, metric, routed=False):
    """The fairness of the answers to a task's training rows, by its own members or those that are chosen."""
    prepared = trainer.prepared(task)
    split = next(split for _, split in prepared.samples.values())
    names = trainer.evaluator.routed(prepared, split) if routed else [task.name] * len(split.features)
    scores = torch.stack([torch.tensor(row[0]) for row in trainer.evaluator.answers(prepared, split, names)])
    fairness = GroupFairness(metric)
    groups = [["f", "m"].index(name) for name in split.examples["sex"][:]]
    fairness.update(scores, split.features["labels"][:], groups)
    return fairness


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
def test_each_task_keeps_the_sums_of_its_own_answers(learned, metric):
    trainer, _ = learned
    stored, own = sums_of(trainer), [answered(trainer, task, metric) for task in trainer.tasks]
    assert list(stored) == ["sentiment", "more"]
    for sums, expected in zip(stored.values(), own, strict=True):
        torch.testing.assert_close(
            sums.fairness(metric, ["f", "m"], ["negative", "positive"]).sums, expected.sums, rtol=1e-6, atol=1e-6
        )
    total = FairnessSums().read(FairnessSums().total(statistics_of(trainer.model, "fairness").values()))
    assert total.value(metric) == pytest.approx(sum(own).value(), abs=1e-6)
    assert trainer.matrix.numbers[f"fairness_{metric}"] == total.value(metric)


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
def test_what_routing_makes_of_old_sums_stays_within_the_bound(learned, metric):
    trainer, _ = learned
    stored = sum(answered(trainer, task, metric) for task in trainer.tasks).value()
    fresh = sum(answered(trainer, task, metric, routed=True) for task in trainer.tasks).value()
    bound = trainer.matrix.numbers[f"fairness_{metric}_stale"]
    assert 0 < abs(fresh - stored) <= bound  # some rows are answered by the other task's members
    logged = {key: value for entry in trainer.state.log_history for key, value in entry.items()}
    assert logged[f"eval_fairness_{metric}_stale"] == bound


def test_the_share_of_moved_rows_is_that_of_each_group(learned):
    trainer, _ = learned
    moved, all_rows = {"f": 0, "m": 0}, {"f": 0, "m": 0}
    for task in trainer.tasks:
        prepared = trainer.prepared(task)
        split = next(split for _, split in prepared.samples.values())
        for name, group in zip(trainer.evaluator.routed(prepared, split), split.examples["sex"][:], strict=True):
            all_rows[group] += 1
            moved[group] += name != task.name
    shares = [moved[group] / all_rows[group] for group in "fm"]
    assert trainer.matrix.numbers["fairness_sp_stale"] == pytest.approx(min(1, sum(shares)), abs=1e-9)


def test_what_is_to_become_fair_is_the_union(learned):
    """Of earlier tasks their stored sums count, of the one at hand the rows of the last steps, for all of its rows."""
    trainer, _ = learned
    running = trainer.fairness
    whole, rows = trainer.whole_fairness(running)
    earlier = sums_of(trainer)["sentiment"].fairness("sp", ["f", "m"], ["negative", "positive"])
    assert rows == 54 and whole.rows == pytest.approx(108)
    expected = earlier + running.scaled(54 / running.rows)
    assert torch.equal(whole.sums, expected.sums)
    assert trainer.whole_fairness(running.scaled(0))[0].rows == 0  # before the first step nothing is known
    last = [entry["fairness_sp"] for entry in trainer.state.log_history if "fairness_sp" in entry][-1]
    assert last == whole.value()


def test_earlier_tasks_count_in_the_training_of_a_later_one(train):
    alone = train(two()[1:], folder="alone", **FAIR)
    after = train(two(), folder="after", **FAIR)
    plain = [
        train(tasks, folder=f"plain{len(tasks)}", **{**FAIR, "fairness_weight": 0.0}) for tasks in (two()[1:], two())
    ]
    newest = [{name: value[-2:] for name, value in members_of(trainer).items() if "bank" in name} for trainer in plain]
    assert all(torch.equal(value, newest[1][name]) for name, value in newest[0].items())
    fair = [{name: value[-2:] for name, value in members_of(t).items() if "bank" in name} for t in (alone, after)]
    assert any(not torch.equal(value, fair[1][name]) for name, value in fair[0].items())


def test_training_makes_the_union_fairer(train):
    settings = {**PLAIN, **FAIR, "max_steps": 16, "learning_rate": 5e-3, "per_device_train_batch_size": 16}
    unfair, fair = (
        train(two(), folder=str(weight), **{**settings, "fairness_weight": weight}).matrix.numbers["fairness_sp"]
        for weight in (0.0, 100.0)
    )
    assert abs(unfair) > 0.05 and abs(fair) < abs(unfair) / 2


def test_a_weight_of_zero_gives_the_bytes_of_training_without(train, tmp_path):
    without = train(two(), folder="without", options={"statistics": ["fairness"]}, start_from="nearest")
    zero = train(two(), folder="zero", fairness="eop", fairness_weight=0.0, start_from="nearest")
    assert saved(without, tmp_path / "a") == saved(zero, tmp_path / "b")


def test_forgetting_leaves_the_bytes_of_never_having_learned(train, tmp_path):
    kept, gone = people(topics(), ("f", "m")), people(sentiment())
    settings = {**FAIR, "fairness_weight": 0.0}  # what was trained fair over a task keeps what it learned of it
    both, one = train([gone, kept], folder="both", **settings), train([kept], folder="one", **settings)
    forget(both.model, "sentiment")
    found, known = saved(both, tmp_path / "a"), saved(one, tmp_path / "b")
    assert found["adapter_model.safetensors"] == known["adapter_model.safetensors"]
    assert both.knowledge.tasks == one.knowledge.tasks and both.matrix is None
    both.tasks = [kept]
    assert {name: both.evaluate()[name] for name in ("eval_fairness_sp", "eval_fairness_sp_stale")} == {
        f"eval_{name}": one.matrix.numbers[name] for name in ("fairness_sp", "fairness_sp_stale")
    }


class Stop(Exception):
    pass


class StopAt(TrainerCallback):
    """Ends a stream in the middle of its second task."""

    begun = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.begun += 1

    def on_step_begin(self, args, state, control, **kwargs):
        if self.begun == 2 and state.global_step == 3:
            raise Stop


def test_a_killed_stream_resumes_to_the_same_bytes(prepare, train, tmp_path):
    settings = {**FAIR, "save_strategy": "steps", "save_steps": 2, "max_steps": 6}
    unbroken = train(two(), folder="unbroken", **settings)
    with pytest.raises(Stop):
        prepare(two(), folder="killed", callbacks=[StopAt()], **settings).train()
    resumed = train(two(), folder="killed", resume=True, **settings)
    assert saved(resumed, tmp_path / "a") == saved(unbroken, tmp_path / "b")
    assert resumed.fairness.to_dict() == unbroken.fairness.to_dict()


def test_accumulated_batches_are_one_large_batch(train):
    settings = {**PLAIN, **FAIR, "max_steps": 4}
    large = train(two(), folder="large", per_device_train_batch_size=8, **settings)
    small = train(two(), folder="small", per_device_train_batch_size=4, gradient_accumulation_steps=2, **settings)
    found, expected = members_of(small), members_of(large)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)
    torch.testing.assert_close(small.fairness.sums, large.fairness.sums, rtol=1e-4, atol=1e-5)


def test_it_is_shown_by_inspect_and_on_the_card(learned):
    trainer, folder = learned
    stored, numbers = sums_of(trainer), trainer.matrix.numbers
    text = CliRunner().invoke(app, ["inspect", str(folder)]).stdout
    assert f"more, fairness: groups f, m, sp {stored['more'].value('sp'):.4g}, eop" in text
    together = [f"{name} {number:.4g}" for name, number in sorted(numbers.items())]
    assert len(together) == 6 and f"All tasks together: {', '.join(together)}" in text
    shown = json.loads(CliRunner().invoke(app, ["inspect", str(folder), "--json"]).stdout)
    assert shown["scores"]["numbers"] == numbers
    card = (folder / "README.md").read_text()
    assert f"`fairness_sp` {numbers['fairness_sp']:.4g}" in card[card.index("All tasks together") :]
    assert "`fairness` sp, `fairness_weight` 50" in card


def test_groups_are_matched_by_name_whatever_their_order_and_number(train):
    """A later task has a new group, numbers for another column, and `ClassLabel`s in another order."""
    first, second = people(sentiment()), people(sentiment("more", 60, 120))
    second.train = second.train.cast_column("sex", ClassLabel(names=["m", "f"]))
    third = people(topics(), ("f", "x"))
    stored = sums_of(train([first, second, third], **FAIR))
    assert [sums.groups for sums in stored.values()] == [("f", "m"), ("f", "m"), ("f", "x")]
    plain = sums_of(train(two(), folder="plain", **FAIR))
    assert torch.equal(stored["more"].sums, plain["more"].sums)
    total = stored["sentiment"] + stored["more"] + stored["topics"]
    assert total.groups == ("f", "m", "x") and total.classes == ("positive", "short")
    assert not total.sums[:, 2, 0].any() and not total.sums[:, 1, 1].any()


def test_a_task_without_classes_is_learned_without_it(train):
    trainer = train([people(sentiment()), answers()], **FAIR)
    assert list(sums_of(trainer)) == ["sentiment"] and trainer.fairness is None
    assert trainer.knowledge.names == ["sentiment", "answers"]


def test_nothing_is_measured_anew_where_old_data_is_not_at_hand(prepare, train):
    first = train(two()[:1], folder="first", **FAIR)
    second = prepare(two()[1:], folder="second", model=first.model, **FAIR)
    second.train()
    assert set(second.matrix.numbers) == {"fairness_sp", "fairness_eop", "fairness_cal"}
    assert sums_of(second)["sentiment"].value("sp") == sums_of(first)["sentiment"].value("sp")


def changed(values):
    task = sentiment()
    task.train = task.train.add_column("who", values)
    task.columns = {"group": "who"}
    return task


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (sentiment(), r"`fairness` is 'sp', but the task names no column of groups; give `columns=\{'group'"),
        (changed(["f"] * 60), "all rows are of the group 'f', and so are those of every task before"),
        (changed([None] * 60), "it names no group in any row"),
        (changed([0.5] * 60), r"it holds 0\.5, but groups are named by texts or integers"),
        (changed(["f", ""] * 30), "it holds '', but groups are named"),
        (changed(["f" * 200, "m"] * 30), "give names of at most 100 characters"),
    ],
)
def test_groups_that_tell_no_fairness_are_refused_before_training(prepare, task, message):
    trainer = prepare([task], **FAIR)
    with pytest.raises(ValueError, match=f"Task `sentiment`: .*{message}"):
        trainer.train()
    assert trainer.knowledge.names == []


def test_a_task_of_one_group_is_learned_where_another_task_has_others(train):
    alone = topics("alone")  # its classes are those of no other task, so nothing can be compared in it
    alone.train = alone.train.add_column("who", ["f"] * 60)
    alone.columns = {"group": "who"}
    trainer = train([people(sentiment()), changed_named("men", ["m"] * 60), alone], **FAIR)
    stored = sums_of(trainer)
    assert stored["men"].groups == ("m",) and stored["alone"].groups == ("f",)
    assert trainer.fairness.groups == 2 and trainer.matrix.numbers["fairness_sp"]


def changed_named(name, values):
    task = changed(values)
    task.name = name
    return task


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fairness": "dp"}, r"`fairness` is 'dp'; choose one of \['sp', 'eop', 'cal'\], or leave it out"),
        ({"fairness_weight": -1.0}, r"`fairness_weight` is -1\.0; it must be a finite number of at least 0"),
        ({"fairness_weight": "20"}, "`fairness_weight` is '20'; it must be a number"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        DriftTrainingArguments(str(tmp_path), **arguments)


def test_a_column_of_groups_that_nothing_reads_says_what_would_read_it(prepare):
    with pytest.raises(ValueError, match=r"unknown role 'group'.*`fairness=` in the arguments reads `group`"):
        prepare(two()).train()


def test_stored_sums_that_no_rows_can_give_are_refused_before_training(prepare, learned, bert_folder):
    trainer, _ = learned
    first = sums_of(trainer)["sentiment"].to_values()
    for change in (
        {"sums": -first["sums"]},
        {"groups": first["groups"] - 200},
        {"groups": first["groups"].flip(0)},
        {"sums": first["sums"][:2]},
    ):
        with pytest.raises(ValueError, match="The statistic `fairness` cannot be used: "):
            FairnessSums().read({**first, **change})
