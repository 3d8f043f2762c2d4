"""A killed stream ends as one that was not killed: same bytes, same matrix; and its last commit is always whole."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kill_script import POINTS
from peft import PeftModel
from training_helpers import answers, digest, make_model, make_trainer, sentiment, topics
from transformers import AutoModel, TrainerCallback

from hf_lifelong import forget
from hf_lifelong.cli.forget import forget_saved
from hf_lifelong.hub import pull
from hf_lifelong.training import TaskLearner, checkpoints, learner
from hf_lifelong.training.stream import restore
from hf_lifelong.utils import folders
from hf_lifelong.utils.digests import RECORD

HERE = Path(__file__).parent
CASES = [(variant, point) for variant, points in POINTS.items() for point in points]
FILES = ("adapter_model.safetensors", "adapter_config.json", "accuracy_matrix.json")


@pytest.fixture(scope="module")
def runs(bert_folder, tmp_path_factory):
    work = tmp_path_factory.mktemp("killed")
    result = work / "result.json"
    done = subprocess.run(
        [sys.executable, HERE / "kill_script.py", bert_folder, work, result], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(result.read_text()), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "point"), CASES)
@pytest.mark.feature("resume a killed run", "one process")
def test_killed_and_resumed_equals_unbroken(runs, variant, point):
    found, errors = runs
    unbroken, resumed = found[variant]["unbroken"], found[variant][point]
    assert "error" not in resumed, f"{resumed}\n{errors[-4000:]}"
    assert resumed["digests"] == unbroken["digests"]
    assert resumed["matrix"] == unbroken["matrix"]
    assert resumed["left"] == unbroken["left"] == ["commit-3"]
    assert resumed["ends"].items() <= unbroken["ends"].items()
    assert resumed["matrix"]["scores"][1][2] is not None  # forward transfer
    tasks = ["sentiment", "answers", "topics"]
    committed = tasks[: tasks.index(point.split("/")[1])]
    if point.split("/")[0] in ("rename", "publish", "discard"):
        committed = [*committed, "answers"]
    assert resumed["commit"] == committed


def test_early_stopping_stopped(runs):
    ends = runs[0]["stopping"]["unbroken"]["ends"]
    assert list(ends) == ["sentiment", "answers", "topics"] and all(end < 12 for end in ends.values())


def files(folder):
    return {name: digest(folder / name) for name in FILES}


def test_resume_of_a_finished_stream_changes_nothing(train, tmp_path):
    train([sentiment()])
    before = files(tmp_path / "out")
    trainer = train([sentiment()], resume=True)
    assert trainer.state.global_step == 0
    assert files(tmp_path / "out") == before
    assert trainer.evaluate()["eval_average_accuracy"] == trainer.matrix.scores[-1][0]


def test_resume_with_nothing_saved_starts_from_the_beginning(train, tmp_path):
    train([sentiment()], folder="plain")
    train([sentiment()], folder="resumed", resume=True)
    train([sentiment()], folder="named", resume=str(tmp_path / "named"))
    assert files(tmp_path / "plain") == files(tmp_path / "resumed") == files(tmp_path / "named")


class Stop(Exception):
    pass


def stopped(prepare, monkeypatch, tasks, **arguments):
    """A stream that fails when its last task has been trained, before it is committed."""
    fit = TaskLearner.fit

    def fail(self, visit):
        if visit.task.name == tasks[-1].name:
            raise Stop
        return fit(self, visit)

    monkeypatch.setattr(TaskLearner, "fit", fail)
    trainer = prepare(tasks, save_strategy="steps", save_steps=2, **arguments)
    with pytest.raises(Stop):
        trainer.train()
    monkeypatch.undo()
    return trainer


def flipped(content: bytes) -> bytes:
    """With one bit of the middle changed."""
    half = len(content) // 2
    return content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]


def test_damaged_checkpoints_are_passed_over(prepare, train, tmp_path, monkeypatch, caplog):
    stopped(prepare, monkeypatch, [sentiment()])
    folder = checkpoints.task_folder(tmp_path / "out", "sentiment")
    found = checkpoints.newest_checkpoint(folder, "sentiment", [])
    assert found.folder.name == "checkpoint-4" and found.ended and len(found.snapshots) == 2 and not caplog.messages
    there = sorted((folder / "checkpoint-4").iterdir())
    assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"} <= {path.name for path in there}
    for path in there:
        whole = path.read_bytes()
        for damaged in (b"", flipped(whole), None):
            path.unlink() if damaged is None else path.write_bytes(damaged)
            found = checkpoints.newest_checkpoint(folder, "sentiment", [])
            assert found.folder.name == "checkpoint-2" and not found.ended and len(found.snapshots) == 1
            if path.name != checkpoints.STATE or damaged is not None:  # without it, it was never finished
                assert "A damaged checkpoint is skipped." in caplog.text
                assert path.name in caplog.text or path.name == RECORD
            caplog.clear()
            path.write_bytes(whole)
    (folder / "checkpoint-4" / "optimizer.pt").write_bytes(b"")
    train([sentiment()], resume=True)
    train([sentiment()], folder="unbroken")
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")


def test_a_checkpoint_is_only_resumed_by_an_adapter_with_the_same_tasks(prepare, train, tmp_path, monkeypatch):
    stopped(prepare, monkeypatch, [sentiment(), answers()])
    train([sentiment(), topics(), answers()], resume=True, save_strategy="steps", save_steps=2)
    train([sentiment(), topics(), answers()], folder="unbroken")
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")


def test_checkpoints_without_optimizer_are_not_resumed(prepare, train, tmp_path, monkeypatch):
    stopped(prepare, monkeypatch, [sentiment()], save_only_model=True)
    folder = checkpoints.task_folder(tmp_path / "out", "sentiment")
    assert (folder / "checkpoint-4").is_dir()
    assert checkpoints.newest_checkpoint(folder, "sentiment", []) is None


def test_without_resume_an_earlier_stream_is_dropped(prepare, train, tmp_path, monkeypatch):
    stopped(prepare, monkeypatch, [sentiment(), answers()])
    train([sentiment()])
    assert sorted(os.listdir(tmp_path / "out" / "_stream")) == ["commit-1"]


def test_resume_refuses_a_learned_task_with_other_labels(train, prepare, tmp_path):
    train([topics()])
    with pytest.raises(ValueError, match=r"`topics` was learned as .*'long', 'short'.*'brief', 'wordy'"):
        prepare([topics(labels=("brief", "wordy"))]).train(resume_from_checkpoint=True)


@pytest.mark.parametrize("setting", [{"lora_alpha": 64}, {"max_length": 40}, {"retrieval": "cascade"}])
def test_a_run_is_not_resumed_with_other_settings(setting, train, prepare):
    train([sentiment()])
    trainer = prepare([sentiment(), topics()], config=setting)
    name, value = next(iter(setting.items()))
    with pytest.raises(ValueError, match=rf"began with `{name}` .*now has {value!r}.*another `output_dir`"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer.knowledge.names == []


def test_a_run_is_not_resumed_on_another_base(train, prepare, bert_folder, tmp_path):
    train([sentiment()])
    base = AutoModel.from_pretrained(bert_folder)
    base.get_input_embeddings().weight.data[::7] += 0.5
    base.save_pretrained(tmp_path / "other")
    trainer = prepare([sentiment(), topics()], model=make_model(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"began with a base of the fingerprint '[0-9a-f]{16}'"):
        trainer.train(resume_from_checkpoint=True)


def test_a_commit_that_does_not_fit_leaves_the_model_as_it_was(train, prepare, tmp_path):
    train([sentiment()])
    commit = checkpoints.newest_commit(tmp_path / "out")
    config = json.loads((commit / "adapter_config.json").read_text())
    (commit / "adapter_config.json").write_text(json.dumps(config | {"digest": 32 * "0"}))
    trainer = prepare([sentiment(), topics()])
    with pytest.raises(ValueError, match="its tensors are not those that were saved with it"):
        restore(trainer.model, commit)
    assert trainer.knowledge.names == [] and trainer.model.peft_config["default"].knowledge["tasks"] == []


def test_resume_from_another_folder_is_refused(prepare, tmp_path):
    with pytest.raises(ValueError, match="a stream resumes from its `output_dir`"):
        prepare([sentiment()]).train(resume_from_checkpoint=str(tmp_path / "elsewhere"))
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_of_a_damaged_commit_the_copy_is_resumed(train, tmp_path, caplog):
    train([sentiment()])
    commit = checkpoints.newest_commit(tmp_path / "out")
    for path in commit.iterdir():
        whole = path.read_bytes()
        path.write_bytes(flipped(whole))
        assert checkpoints.newest_commit(tmp_path / "out") == tmp_path / "out"
        assert "A damaged commit is skipped." in caplog.text
        assert path.name in caplog.text or path.name == RECORD
        caplog.clear()
        path.write_bytes(whole)
    (commit / "adapter_model.safetensors").write_bytes(flipped((commit / "adapter_model.safetensors").read_bytes()))
    train([sentiment(), topics()], resume=True)
    train([sentiment(), topics()], folder="unbroken")
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")
    assert os.listdir(tmp_path / "out" / "_stream") == ["commit-2"]


def test_a_commit_and_a_copy_that_are_both_damaged_are_named(train, prepare, tmp_path):
    train([sentiment()])
    for folder in (tmp_path / "out" / "_stream" / "commit-1", tmp_path / "out"):
        path = folder / "adapter_model.safetensors"
        path.write_bytes(flipped(path.read_bytes()))
    trainer = prepare([sentiment(), topics()])
    with pytest.raises(ValueError, match="its tensors are not those that were saved with it"):
        trainer.train(resume_from_checkpoint=True)
    assert sorted(os.listdir(tmp_path / "out" / "_stream")) == ["commit-1"]


def test_a_commit_of_an_earlier_version_is_resumed(train, tmp_path, caplog):
    train([sentiment()])
    commit = checkpoints.newest_commit(tmp_path / "out")
    (commit / RECORD).unlink()
    config = json.loads((commit / "adapter_config.json").read_text())
    assert len(config.pop("digest")) == 32
    (commit / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    train([sentiment(), topics()], resume=True)
    train([sentiment(), topics()], folder="unbroken")
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")
    assert not [record for record in caplog.records if record.name == checkpoints.__name__]


def test_one_process_at_a_time_learns_in_a_folder(train, prepare, tmp_path, monkeypatch):
    trainer = train([sentiment()])
    before = files(tmp_path / "out")
    monkeypatch.setattr(folders, "PATIENCE", 0)
    with folders.sole_writer(checkpoints.stream_folder(tmp_path / "out")):
        with pytest.raises(folders.BusyFolderError, match="is being written by another process"):
            prepare([topics()]).train()
        with pytest.raises(folders.BusyFolderError):
            forget_saved(pull(tmp_path / "out"), "sentiment", tmp_path / "out")
    assert files(tmp_path / "out") == before
    assert trainer.train(resume_from_checkpoint=True).global_step == 0


def test_commits_are_numbered_on_after_forgetting(train, prepare, tmp_path, bert_folder):
    trainer = train([sentiment(), topics()])
    forget(trainer.model, "sentiment")
    forget(trainer.model, "topics")
    known = trainer.model
    stream_folder = tmp_path / "out" / "_stream"
    assert os.listdir(stream_folder) == ["commit-2"]
    checkpoints.write_commit(tmp_path / "out", lambda folder: known.save_pretrained(str(folder)))
    assert os.listdir(stream_folder) == ["commit-3"]


def test_task_folders_are_never_taken_for_commits(tmp_path):
    names = ["commit", "checkpoint-1", "../../up", "a/b", "", "ß", "x" * 300]
    folders = [checkpoints.task_folder(tmp_path, name) for name in names]
    assert len(set(folders)) == len(names)
    for folder in folders:
        assert folder.parent == tmp_path / "_stream" and folder.name.startswith("task-") and len(folder.name) < 80


def test_a_failed_task_leaves_the_model_as_it_was(prepare, train, tmp_path, monkeypatch):
    trainer = stopped(prepare, monkeypatch, [sentiment(), topics()])
    trainer.model.save_pretrained(str(tmp_path / "after"))
    for name in FILES[:2]:
        assert digest(tmp_path / "after" / name) == digest(tmp_path / "out" / name)
    assert trainer.model.predict(dict(trainer.processing_class(["x"], return_tensors="pt"))).scores.shape[-1] == 2
    trainer.train(resume_from_checkpoint=True)  # the same trainer goes on
    train([sentiment(), topics()], folder="unbroken")
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")


@pytest.mark.parametrize("function", ["measure", "fit_signature"])
def test_a_failed_commit_leaves_the_model_as_it_was(prepare, tmp_path, monkeypatch, function):
    trainer = prepare([sentiment(), topics()])
    known = getattr(learner, function)
    calls = []

    def fail(*args):
        calls.append(args)
        if len(calls) == 2:
            raise Stop
        return known(*args)

    monkeypatch.setattr(learner, function, fail)
    with pytest.raises(Stop):
        trainer.train()
    assert trainer.knowledge.names == ["sentiment"] and trainer.matrix.tasks == ["sentiment"]
    trainer.model.save_pretrained(str(tmp_path / "after"))
    for name in FILES[:2]:
        assert digest(tmp_path / "after" / name) == digest(tmp_path / "out" / name)


def test_a_loaded_adapter_goes_on_learning_and_resumes(train, tmp_path, bert_folder):
    train([sentiment()], folder="first")

    def loaded():
        return PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), str(tmp_path / "first"))

    train([topics()], model=loaded(), folder="second")
    train([sentiment(), topics()], folder="both")
    name = "adapter_model.safetensors"
    assert digest(tmp_path / "second" / name) == digest(tmp_path / "both" / name)
    again = train([topics()], model=loaded(), folder="second", resume=True)
    assert again.knowledge.names == ["sentiment", "topics"]


def named(folder, bert_folder, beside=False):
    """The adapter of a folder as `mine`; or as that beside itself as `default`, and active."""
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(folder), adapter_name="default" if beside else "mine")
    if beside:
        model.load_adapter(str(folder), "mine")
        model.set_adapter("mine")
    return model


@pytest.fixture(scope="module")
def first(bert_folder, tokenizer, tmp_path_factory):
    """Where a trainer has written an adapter with one task."""
    folder = tmp_path_factory.mktemp("first")
    make_trainer(make_model(bert_folder), folder, [sentiment()], tokenizer).train()
    return folder


def test_an_adapter_of_another_name_is_trained_resumed_and_written_at_the_top(
    prepare, train, first, tmp_path, bert_folder, monkeypatch
):
    train([topics()], model=PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), first), folder="plain")
    stopped(prepare, monkeypatch, [topics()], model=named(first, bert_folder, beside=True))
    trainer = train([topics()], model=named(first, bert_folder, beside=True), resume=True)
    assert files(tmp_path / "out") == files(tmp_path / "plain")
    assert (tmp_path / "out" / "README.md").read_text() == (tmp_path / "plain" / "README.md").read_text()
    trainer.save_model(str(tmp_path / "saved"))
    assert digest(tmp_path / "saved" / FILES[0]) == digest(tmp_path / "plain" / FILES[0])
    for folder in ("out", "saved"):
        assert {path.name for path in (tmp_path / folder).iterdir() if path.is_dir()} <= {"_stream"}
    trainer.model.save_pretrained(str(tmp_path / "beside"), selected_adapters=["default"])
    assert digest(tmp_path / "beside" / FILES[0]) == digest(first / FILES[0])


def test_the_best_checkpoint_of_an_adapter_of_another_name_is_loaded(train, first, tmp_path, bert_folder):
    best = {"load_best_model_at_end": True, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps"}
    plain = PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), first)
    for folder, model in (("plain", plain), ("other", named(first, bert_folder))):
        train([topics()], model=model, folder=folder, eval_steps=2, learning_rate=0.5, **best)
    assert files(tmp_path / "plain") == files(tmp_path / "other")


def order_of_rows(trainer):
    return [row for rows in trainer.get_train_dataloader().batch_sampler for row in rows]


def test_rows_in_order_of_length_come_in_the_same_order_when_resumed(prepare, train, tmp_path):
    """Killed in the middle of the second epoch, which then goes on with the rows that it had not seen."""

    class Killed(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 11:
                raise Stop

    settings = {"train_sampling_strategy": "group_by_length", "num_train_epochs": 2, "max_steps": -1}
    settings |= {"save_strategy": "steps", "save_steps": 5}
    train([sentiment()], folder="unbroken", **settings)
    trainer = prepare([sentiment()], callbacks=[Killed()], **settings)
    with pytest.raises(Stop):
        trainer.train()
    order = order_of_rows(trainer)
    torch.manual_seed(7)
    assert order_of_rows(trainer) == order and sorted(order) == list(range(54))
    widths = [len(trainer.train_dataset[i]["input_ids"]) for i in order]
    assert widths[:8] == sorted(widths[:8], reverse=True)
    train([sentiment()], resume=True, **settings)
    assert files(tmp_path / "out") == files(tmp_path / "unbroken")
