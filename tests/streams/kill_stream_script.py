"""Learns one stream many times: unbroken, and killed (SIGKILL) at chosen points and resumed. Writes what each left.

Every run is a process of its own, forked after the imports.

    python kill_stream_script.py BASE WORK RESULT.json
"""

import gc
import hashlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path

import torch
from stream_helpers import Heard, announced, make_model, make_trainer, rows, unlabelled
from transformers import AutoTokenizer, TrainerCallback

from hf_lifelong.hub import transfer
from hf_lifelong.streams import Verdict
from hf_lifelong.training import checkpoints, learner, reading, unannounced

STREAM = [*rows("film", 60), *unlabelled("film", 8), *rows("money", 60), *rows("film", 50, 1)]
FOUND = {75: Verdict("new", None, 68, 1.5), 133: Verdict("return", "segment-1", 128, 1.5)}
POINTS = [
    "input/26",
    "input/61",
    "input/72",
    "close/1",
    "write/3",
    "step/segment-1/4",
    "fit/segment-1",
    "rename/segment-1",
    "discard/segment-1",
    "record/4",
    "write/5",
    "close/2",
    "step/segment-2/3",
    "discard/segment-2",
    "step/segment-3/5",
    "discard/segment-3",
    "never",
]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name: str, when, after: bool = False) -> None:
    """Kills the process instead of calling a function, or after it, when `when(*args)` says so."""
    known = getattr(owner, name)

    def call(*args, **kwargs):
        if not after and when(*args):
            die()
        result = known(*args, **kwargs)
        if after and when(*args):
            die()
        return result

    setattr(owner, name, call)


def counted(number: int):
    """True at the call of this number."""
    calls = iter(range(1, 1000))
    return lambda *_: next(calls) == number


class KillAtStep(TrainerCallback):
    def __init__(self, trainer, task: str, step: int) -> None:
        self.trainer, self.task, self.step = trainer, task, step

    def on_step_end(self, args, state, control, **kwargs):
        if (self.trainer.snapshots.task, state.global_step) == (self.task, self.step):
            die()


def arm(point: str, trainer) -> None:
    """Makes the process die at a point."""
    what, *where = point.split("/")
    loop = unannounced.SegmentLearner
    if what == "input":  # before an input is taken in
        before(loop, "take", lambda _, arrival, __: arrival.position == int(where[0]))
    elif what == "close":  # a boundary is found, and nothing of it is written
        before(loop, "_close", counted(int(where[0])))
    elif what == "write":  # before a state of reading is written
        before(unannounced, "write_reading", counted(int(where[0])))
    elif what == "record":  # in the middle of writing one
        before(reading, "record_files", counted(int(where[0])))
    elif what == "step":
        trainer.add_callback(KillAtStep(trainer, where[0], int(where[1])))
    elif what == "fit":
        before(learner.TaskLearner, "fit", lambda _, visit: visit.task.name == where[0])
    elif what == "rename":  # committed, not yet copied to `output_dir`
        before(checkpoints, "publish", lambda *_: trainer.snapshots.task == where[0])
    elif what == "discard":  # committed, the state of reading still that of before
        before(learner, "write_commit", lambda *_: trainer.snapshots.task == where[0], after=True)
    else:
        assert what == "never"


def run(base: str, out: Path, point: str | None, resume: bool) -> dict:
    tokenizer, heard = AutoTokenizer.from_pretrained(base), Heard()
    unannounced.BoundaryDetector = announced(FOUND)
    trainer = make_trainer(
        make_model(base), out, iter(STREAM), tokenizer, callbacks=[heard], save_strategy="steps", save_steps=2
    )
    if point is not None:
        arm(point, trainer)
    trainer.train(resume_from_checkpoint=resume)
    names = ("adapter_model.safetensors", "adapter_config.json", "accuracy_matrix.json", "README.md")
    return {
        "digests": {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names},
        "left": sorted(path.relative_to(out).as_posix() for path in (out / "_stream").glob("*")),
        "reading": sorted(path.name for path in (out / "_stream" / "reading").iterdir()),
        "state": json.loads((out / "_stream" / "reading" / "reading.json").read_text()),
        "groups": {task.name: task.group for task in trainer.knowledge.tasks},
        "answered": {answer["input"]: [answer["task"], answer["answer"]] for answer in heard.answers},
        "boundaries": [boundary.since for boundary in heard.boundaries],
    }


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


def killed_and_resumed(base: str, work: Path, point: str) -> dict:
    out, note = work / point.replace("/", "-"), work / "note.json"
    status = forked(run, base, out, point, False, result=note)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if killed != (point != "never"):
        return {"error": f"ended with status {status}"}
    if forked(run, base, out, None, True, result=note):
        return {"error": "did not resume"}
    return json.loads(note.read_text())


def main(base: str, work: Path, result: Path) -> None:
    torch.set_num_threads(1)
    transfer.draw_matrix = lambda *_: None
    gc.freeze()  # the children's collections then pass over what the parent made
    found: dict = {}
    if forked(run, base, work / "unbroken", None, False, result=work / "note.json"):
        raise SystemExit("the unbroken run failed")
    found["unbroken"] = json.loads((work / "note.json").read_text())
    for point in POINTS:
        found[point] = killed_and_resumed(base, work, point)
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
