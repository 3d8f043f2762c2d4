"""Two data-parallel processes learn streams; each notes what it holds.

python ../two_ranks.py ddp_script.py BASE WORK
"""

import hashlib
import json
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import save_file
from sharded import learn_by_hand
from training_helpers import STILL, answers, make_model, make_trainer, members_of, scores_of, sentiment
from transformers import AutoTokenizer, TrainerCallback

from hf_lifelong.training import checkpoints, evaluator

DRIFTING = {
    "gradient_noise": 0.1,
    "input_noise": 0.1,
    "learning_rate": 1e-2,
    "eval_strategy": "steps",
    "eval_steps": 2,
    "save_strategy": "steps",
    "save_steps": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 5,
    "gradient_accumulation_steps": 2,
}


class Killed(Exception):
    pass


class Kill(TrainerCallback):
    """Ends a stream in the middle of its second task."""

    tasks = 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.tasks += 1

    def on_step_begin(self, args, state, control, **kwargs):
        if self.tasks == 2 and state.global_step == 3:
            raise Killed


def digest(trainer) -> str:
    out = hashlib.sha256()
    for name, tensor in sorted(members_of(trainer).items()):
        out.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return out.hexdigest()


def note_writes() -> list[list[str]]:
    """The files beside each mark of a complete checkpoint that this process writes from now on."""
    marks: list[list[str]] = []
    known = checkpoints.write_json

    def noting(path, data):
        marks.append(sorted(p.name for p in path.parent.iterdir()))
        known(path, data)

    checkpoints.write_json = noting
    return marks


def note_asked() -> list[int]:
    """The rows of each batch that this process answers from now on."""
    asked: list[int] = []
    predict = evaluator.predict

    def noting(model, batch, *args, **options):
        asked.append(len(batch["input_ids"]))
        return predict(model, batch, *args, **options)

    evaluator.predict = noting
    return asked


def main(base: str, work: str) -> None:
    work = Path(work)
    tokenizer = AutoTokenizer.from_pretrained(base)
    validated: list[int] = []

    def count(prediction):
        validated.append(len(prediction.predictions))
        return {}

    def make(folder, settings, callbacks=None):
        tasks = [sentiment(compute_metrics=count), answers()]
        return make_trainer(make_model(base), work / folder, tasks, tokenizer, callbacks=callbacks, **settings)

    trainer = make("out", DRIFTING)
    assert trainer.args.world_size == 2 and dist.get_world_size() == 2
    marks = note_writes()
    trainer.train()
    note = {"marks": list(marks), "wrapped": type(trainer.model_wrapped).__name__, "validated": list(validated)}
    trainer.evaluator.clear()
    asked = note_asked()
    metrics = trainer.evaluate()
    note |= {
        "asked": sum(asked),
        "members": digest(trainer),
        "metrics": {name: value for name, value in metrics.items() if name != "epoch"},
        "scores": scores_of(trainer),
        "matrix": trainer.matrix.to_dict(),
    }

    try:
        make("killed", DRIFTING, [Kill()]).train()
    except Killed:
        resumed = make("killed", DRIFTING)
        resumed.train(resume_from_checkpoint=True)
        note["resumed"] = digest(resumed)

    still = make("still", {**STILL, "per_device_train_batch_size": 4})
    still.train()
    note["still"] = digest(still)

    snapshot, features = learn_by_hand(base, tokenizer, processes=2)
    save_file({**snapshot, "features": features}, work / f"sharded{dist.get_rank()}.safetensors")
    (work / f"rank{dist.get_rank()}.json").write_text(json.dumps(note))
    dist.barrier()
    dist.destroy_process_group()
