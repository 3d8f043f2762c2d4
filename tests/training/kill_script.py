"""Runs one stream many times: unbroken, and killed (SIGKILL) at chosen points and then resumed. Writes what each left.

Every run is a process of its own, forked after the imports, which take longer than a run.

    python kill_script.py BASE WORK RESULT.json
"""

import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import peft.peft_model
import torch
from peft import PeftModel
from toy_statistic import Toy, grouped
from training_helpers import answers, digest, make_model, make_trainer, sentiment, topics
from transformers import AutoModel, AutoTokenizer, EarlyStoppingCallback, Trainer, TrainerCallback

from hf_lifelong import knowledge_of
from hf_lifelong.hub import transfer
from hf_lifelong.training import checkpoints, learner

# Each variant: arguments of the trainer, on top of 6 steps a task with a checkpoint every second one.
VARIANTS = {
    "drift": {"gradient_noise": 0.1, "input_noise": 0.1},
    "stopping": {
        "max_steps": 12,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "metric_for_best_model": "loss",
        "greater_is_better": True,  # the loss falls, so training stops early
        "load_best_model_at_end": True,
        "gradient_accumulation_steps": 2,
        "start_from": "previous",
    },
}
POINTS = {
    "drift": [
        "step/sentiment/1",
        "step/answers/1",
        "step/answers/3",
        "step/answers/4",
        "step/answers/6",
        "optimizer/answers/4",
        "mark/answers/4",
        "keep/answers",
        "add_task/answers",
        "fit/topics",
        "file/answers",
        "rename/answers",
        "publish/answers",
        "discard/answers",
        "step/topics/3",
    ],
    "stopping": ["step/answers/5", "keep/answers"],
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class KillAtStep(TrainerCallback):
    def __init__(self, trainer_task, task: str, step: int) -> None:
        self.now, self.task, self.step = trainer_task, task, step

    def on_step_end(self, args, state, control, **kwargs):
        if self.now() == self.task and state.global_step == self.step:
            die()


class NoteEnds(TrainerCallback):
    """Notes the last step of each task."""

    def __init__(self) -> None:
        self.ends, self.now = {}, None

    def on_train_end(self, args, state, control, **kwargs):
        self.ends[self.now()] = state.global_step


def before(owner, name: str, when) -> None:
    """Kills the process instead of calling a function, when `when(*args)` says so."""
    known = getattr(owner, name)

    def call(*args, **kwargs):
        if when(*args):
            die()
        return known(*args, **kwargs)

    setattr(owner, name, call)


def after(owner, name: str, when) -> None:
    known = getattr(owner, name)

    def call(*args, **kwargs):
        result = known(*args, **kwargs)
        if when(*args):
            die()
        return result

    setattr(owner, name, call)


def arm(point: str, trainer) -> None:
    """Makes the process die at a point `what/task[/step]`."""
    what, task, *step = point.split("/")

    def here(*_) -> bool:
        return trainer.snapshots.task == task and (not step or trainer.state.global_step == int(step[0]))

    if what == "step":
        trainer.add_callback(KillAtStep(lambda: trainer.snapshots.task, task, int(step[0])))
    elif what == "optimizer":  # inside a checkpoint save: the adapter is written, the optimizer is not
        before(Trainer, "_save_optimizer_and_scheduler", here)
    elif what == "mark":  # the last file of a checkpoint is missing
        before(checkpoints, "write_json", lambda path, _: path.name == checkpoints.STATE and here())
    elif what == "keep":  # training has ended, commit has not begun
        before(learner.TaskLearner, "fit", here)
    elif what == "add_task":
        after(learner, "add_task", here)
    elif what == "fit":  # the statistics of the task are stored, in memory
        after(learner, "fit_statistics", here)
    elif what == "file":  # in the middle of writing the adapter

        def half(tensors, path, **_):
            if here() and ".commit-" in str(path):
                Path(path).write_bytes(b"half")
                die()
            whole(tensors, path, **_)

        whole = peft.peft_model.safe_save_file
        peft.peft_model.safe_save_file = half
    elif what == "rename":  # committed, not yet copied to `output_dir`
        before(checkpoints, "publish", here)
    elif what == "publish":  # half of the files copied to `output_dir`
        before(checkpoints.shutil, "copyfile", lambda a, b: a.name == "adapter_model.safetensors" and here())
    elif what == "discard":  # committed, the checkpoints of the task still there
        after(learner, "write_commit", here)
    else:
        raise ValueError(point)


class Stage:
    """What all runs share: encoded by the parent, because that takes longer than a run, too."""

    def __init__(self, base: str, work: Path) -> None:
        self.base = base
        self.tokenizer = AutoTokenizer.from_pretrained(base)
        # The last has the labels of the first, so that forward transfer is measured.
        self.tasks = [grouped(sentiment()), answers(), grouped(topics(labels=("negative", "positive")))]
        options = {"statistics": [Toy()]}
        trainer = make_trainer(make_model(base), work / "stage", self.tasks, self.tokenizer, options=options)
        for task in self.tasks:
            trainer.prepared(task)


def run(stage: Stage, out: Path, variant: str, point: str | None, resume: bool) -> dict:
    settings = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, **VARIANTS[variant]}
    callbacks = [EarlyStoppingCallback(2)] if variant == "stopping" else []
    model = make_model(stage.base)
    options = {"statistics": [Toy()]}
    trainer = make_trainer(model, out, stage.tasks, stage.tokenizer, callbacks=callbacks, options=options, **settings)
    if point is not None:
        arm(point, trainer)
    note = NoteEnds()
    note.now = lambda: trainer.snapshots.task
    trainer.add_callback(note)
    trainer.train(resume_from_checkpoint=resume)
    left = sorted(path.name for path in (out / "_stream").iterdir())
    return {**contents(out), "left": left, "ends": note.ends}


def contents(out: Path) -> dict:
    """What an output folder holds."""
    names = ("adapter_model.safetensors", "adapter_config.json", "accuracy_matrix.json")
    matrix = json.loads((out / "accuracy_matrix.json").read_text())
    return {"digests": {name: digest(out / name) for name in names}, "matrix": matrix}


def last_commit(stage: Stage, out: Path) -> list[str]:
    """Tasks of the last commit, which is loaded and asked."""
    commit = checkpoints.newest_commit(out)
    if commit is None:
        return []
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(stage.base, dtype=torch.float32), str(commit))
    found = model.predict(dict(stage.tokenizer(["a text"], return_tensors="pt")))
    assert torch.isfinite(found.scores).all()
    return knowledge_of(model).names


def forked(function, *args, result: Path) -> int:
    """Runs a function in a child; its result goes into a file. Returns the child's wait status."""
    sys.stdout.flush()
    if (child := os.fork()) == 0:
        code = 1
        try:
            result.write_text(json.dumps(function(*args)))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def killed_and_resumed(stage: Stage, work: Path, variant: str, point: str) -> dict:
    out, note = work / point.replace("/", "-"), work / "note.json"
    status = forked(run, stage, out, variant, point, False, result=note)
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        return {"error": f"was not killed (status {status})"}
    if forked(last_commit, stage, out, result=note):
        return {"error": "the last commit cannot be loaded"}
    commit = json.loads(note.read_text())
    if forked(run, stage, out, variant, None, True, result=note):
        return {"error": "did not resume"}
    return {**json.loads(note.read_text()), "commit": commit}


def main(base: str, work: Path, result: Path) -> None:
    torch.set_num_threads(1)
    stage = Stage(base, work)
    transfer.draw_matrix = lambda *_: None
    gc.freeze()  # the children's collections then pass over what the parent made
    found: dict = {}
    for variant, points in POINTS.items():
        folder = work / variant
        folder.mkdir(parents=True)
        if forked(run, stage, folder / "unbroken", variant, None, True, result=folder / "note.json"):
            raise SystemExit(f"{variant}: the unbroken run failed")
        found[variant] = {"unbroken": json.loads((folder / "note.json").read_text())}
        for point in points:
            found[variant][point] = killed_and_resumed(stage, folder, variant, point)
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
