"""`TaskLearner` step by step, and under other callers than a list of tasks: rows without boundaries, a plain loop."""

import gc
import itertools
import weakref

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from training_helpers import digest, encoded, make_model, saved, sentiment, topics
from transformers import AutoModel
from transformers.trainer_utils import TrainOutput

from hf_lifelong import DriftTrainingArguments, Task, forget, knowledge_of
from hf_lifelong.adapter import lifelong_of, take_snapshot
from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.training import Evaluator, Split, TaskLearner, Trained, Visit, evaluator

FILES = ("adapter_model.safetensors", "adapter_config.json", "accuracy_matrix.json")


class PlainTrainer:
    """A loop of one's own: what a learner needs of a trainer, and nothing of `Trainer`."""

    is_sharded, statistics = False, ()

    def __init__(self, model, tokenizer, output_dir, **arguments):
        self.model, self.processing_class = model, tokenizer
        self.args = DriftTrainingArguments(str(output_dir), use_cpu=True, report_to="none", **arguments)
        self.accelerator = Accelerator(cpu=True)
        self.evaluator = Evaluator(model, self.accelerator, 8, quiet=True)
        self.logs = []

    def prepared(self, task):
        return encoded(self, task)

    def check_task(self, task):
        if len(task.train) < 8:
            raise ValueError("it has no full batch")

    def train_task(self, task, checkpoint, ignore_keys_for_eval=None):
        optimizer = torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], 1e-2)
        rows = task.train.select_columns(["input_ids", "attention_mask", "labels"])
        loader = DataLoader(rows, batch_size=8, shuffle=True, collate_fn=task.collator())
        members = []
        self.model.train()
        for step, batch in enumerate(itertools.islice(itertools.cycle(loader), 8)):
            self.model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step % 4 == 3:
                members.append(take_snapshot(self.model))
        return Trained(members, TrainOutput(8, 0.0, {}))

    def log(self, logs):
        self.logs.append(logs)

    def save_adapter(self, folder):
        self.model.save_pretrained(str(folder))


@pytest.fixture
def plain(bert_folder, tokenizer, tmp_path):
    """`plain(**arguments)`: a trainer that is a plain loop, with a new model."""
    return lambda **arguments: PlainTrainer(make_model(bert_folder), tokenizer, tmp_path / "plain", **arguments)


def rows_of(*tasks):
    """The training rows of tasks, one after another; nothing but their labels tells where one ends."""
    for task in tasks:
        text, label = task.train.column_names
        names = getattr(task.train.features[label], "names", None)
        for row in task.train:
            yield {"text": row[text], "label": names[row[label]] if names else row[label]}


def segments(rows):
    """Tasks found in rows: one ends where labels are of another vocabulary."""
    for number, (_, run) in enumerate(itertools.groupby(rows, lambda row: row["label"] in ("short", "long"))):
        yield Task(f"segment-{number}", "text-classification", Dataset.from_list(list(run)))


def three_segments():
    """The last is more of the first."""
    return segments(rows_of(sentiment(), topics(), sentiment("again", 60, 120)))


def learn_one_by_one(trainer, tasks):
    """What a caller does that does not know its tasks beforehand."""
    learner, at_hand = TaskLearner(trainer), []
    for task in tasks:
        at_hand.append(trainer.prepared(task))
        learner.prepare(at_hand[-1:])
        learner.commit(learner.learn(at_hand[-1], at_hand))
    return learner


def test_a_plain_loop_learns_the_tasks_that_it_finds_in_rows(plain, bert_folder, tmp_path):
    trainer = plain(grouping_tolerance=1.0)
    learn_one_by_one(trainer, three_segments())
    groups = {task.name: task.group for task in knowledge_of(trainer.model).tasks}
    assert groups == {"segment-0": "segment-0", "segment-1": "segment-1", "segment-2": "segment-0"}
    matrix = AccuracyMatrix.from_dict(knowledge_of(trainer.model).scores)
    assert matrix.tasks == list(groups) and len(trainer.logs) == 3
    assert trainer.logs[-1]["eval_average_accuracy"] == matrix.average_accuracy()
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), str(tmp_path / "plain"))
    assert knowledge_of(loaded) == knowledge_of(trainer.model)
    assert sorted(path.name for path in (tmp_path / "plain" / "_stream").iterdir()) == ["commit-3"]


def test_tasks_handed_in_one_by_one_give_the_bytes_of_a_list(prepare, train, tmp_path):
    tasks = list(three_segments())
    train(tasks, folder="list", grouping_tolerance=1.0)
    trainer = prepare(tasks[:1], folder="rows", grouping_tolerance=1.0)
    learn_one_by_one(trainer, tasks)
    for name in FILES:
        assert digest(tmp_path / "rows" / name) == digest(tmp_path / "list" / name)


def test_each_step_gives_what_the_next_one_needs(prepare, tmp_path):
    trainer = prepare([sentiment()], signature_samples=20)
    learner, task = TaskLearner(trainer), trainer.prepared(trainer.tasks[0])
    visit = Visit(task, trainer.knowledge)
    learner.prepare([task])
    learner.open(visit)
    assert visit.started_from is None and lifelong_of(trainer.model).task.labels == task.labels
    learner.train(visit)
    assert len(visit.members) == 2 and visit.output.global_step == 4 and trainer.knowledge.tasks == []
    learner.fit(visit)
    assert visit.features.shape == (20, lifelong_of(trainer.model).features) and visit.classes.shape == (20,)
    assert trainer.knowledge.names == ["sentiment"] and visit.learned.score is None
    learner.group(visit)
    assert trainer.knowledge.tasks == [visit.learned] and visit.learned.score is not None
    assert lifelong_of(trainer.model).task is None
    learner.measure(visit, [task])
    assert visit.scores["average_accuracy"] == trainer.matrix.scores[0][0]
    assert not (tmp_path / "out" / FILES[0]).exists()
    learner.commit(visit)
    assert {name: digest(tmp_path / "out" / name) for name in FILES[:2]} == saved(trainer, tmp_path / "saved")


def test_a_task_keeps_where_its_held_out_inputs_lie_whatever_was_learned_before(plain):
    tails = []
    for tasks in ([sentiment(), topics()], [topics()]):
        trainer = plain()
        for task in map(trainer.prepared, tasks):
            TaskLearner(trainer).prepare([task])
            TaskLearner(trainer).learn(task, [task])
        tails.append([task.tail for task in knowledge_of(trainer.model).tasks])
    assert tails[0][0].excess >= 1 and tails[0][0].directions == 1
    assert tails[0][1] == tails[1][0]


def test_a_step_that_breaks_off_leaves_the_model_as_it_was(plain, tmp_path, monkeypatch):
    trainer = plain()
    tasks = [trainer.prepared(task) for task in (sentiment(), topics())]
    learner = TaskLearner(trainer)
    learner.learn(tasks[0])
    before = saved(trainer, tmp_path / "before")
    for step in ("open", "train", "fit", "group", "fit_statistics", "measure"):
        done = getattr(TaskLearner, step)

        def break_off(*arguments, done=done):
            done(*arguments)
            raise KeyboardInterrupt

        monkeypatch.setattr(TaskLearner, step, break_off)
        with pytest.raises(KeyboardInterrupt):
            learner.learn(tasks[1], tasks)
        monkeypatch.undo()
        assert saved(trainer, tmp_path / step) == before and len(trainer.logs) == 1
    learner.learn(tasks[1], tasks)
    unbroken = plain()
    for task in tasks:
        TaskLearner(unbroken).learn(task, tasks)
    assert saved(trainer, tmp_path / "learned") == saved(unbroken, tmp_path / "unbroken")


def test_what_a_trainer_refuses_names_the_task(plain):
    trainer = plain()
    short = trainer.prepared(sentiment("short", 0, 6))
    with pytest.raises(ValueError, match="Task `short`: it has no full batch"):
        TaskLearner(trainer).prepare([trainer.prepared(sentiment()), short])


def test_a_forgotten_task_that_is_learned_again_is_scored_again(plain):
    trainer = plain()
    learner, task = TaskLearner(trainer), trainer.prepared(sentiment())
    learner.learn(task)
    forget(trainer.model, task.name)
    trainer.args.seed += 1
    again = learner.learn(task)
    trainer.evaluator.clear()
    assert trainer.evaluator.oracle(task, task.validation, task.name)["accuracy"] == again.learned.score


def test_answers_are_stored_for_a_split_as_long_as_there_is_one(plain, monkeypatch):
    trainer = plain()
    task = trainer.prepared(sentiment())
    TaskLearner(trainer).learn(task)
    asked, predict = [], evaluator.predict
    monkeypatch.setattr(evaluator, "predict", lambda *a, **options: asked.append(1) or predict(*a, **options))
    split = Split(task.test.examples, task.test.features)
    scores = [trainer.evaluator.oracle(task, one, task.name) for one in (task.test, split, split)]
    assert scores[0] == scores[1] == scores[2] and len(asked) == 2  # 12 rows in batches of 8
    gone = weakref.ref(split)
    del split
    gc.collect()
    assert gone() is None
