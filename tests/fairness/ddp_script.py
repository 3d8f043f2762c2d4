"""Two data-parallel processes train a fair classifier; each notes what it holds.

python ddp_script.py FOLDER
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import debug_launcher
from fair_trainings import make_trainer, weights


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    # Two processes with two batches a step: the same rows as one process with a batch of 128.
    trainer = make_trainer(folder / "two", max_steps=6, per_device_train_batch_size=32, gradient_accumulation_steps=2)
    assert trainer.args.world_size == 2
    trainer.train()
    note = {"weights": weights(trainer).tolist(), "fairness": trainer.fairness.to_dict()}
    (folder / f"rank{dist.get_rank()}.json").write_text(json.dumps(note))


if __name__ == "__main__":
    # Forks, so that the libraries are imported once.
    debug_launcher(main, (Path(sys.argv[1]),), num_processes=2)
