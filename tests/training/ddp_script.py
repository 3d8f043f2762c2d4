"""Two data-parallel processes learn a stream; each notes what it holds.

torchrun --nproc_per_node 2 ddp_script.py BASE WORK
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from training_helpers import answers, make_model, make_trainer, members_of, scores_of, sentiment
from transformers import AutoTokenizer

from hf_lifelong.training import checkpoints


def main(base: str, work: Path) -> None:
    torch.set_num_threads(1)
    trainer = make_trainer(
        make_model(base),
        work / "out",
        [sentiment(), answers()],
        AutoTokenizer.from_pretrained(base),
        gradient_noise=0.1,
        input_noise=0.1,
        learning_rate=1e-2,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        per_device_train_batch_size=4,
        per_device_eval_batch_size=5,
        gradient_accumulation_steps=2,
    )
    assert trainer.args.world_size == 2 and dist.get_world_size() == 2
    marks = []
    known = checkpoints.write_json

    def noting(path, data):
        marks.append(sorted(p.name for p in path.parent.iterdir()))
        known(path, data)

    checkpoints.write_json = noting
    trainer.train()
    metrics = trainer.evaluate()
    digest = hashlib.sha256()
    for name, tensor in sorted(members_of(trainer).items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    rank = dist.get_rank()
    note = {
        "members": digest.hexdigest(),
        "metrics": {name: value for name, value in metrics.items() if name != "epoch"},
        "scores": scores_of(trainer),
        "matrix": trainer.matrix.to_dict(),
        "wrapped": type(trainer.model_wrapped).__name__,
        "marks": marks,
    }
    (work / f"rank{rank}.json").write_text(json.dumps(note))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
