"""Two data-parallel processes learn a poisoned task of texts or of images and audit it; each notes what it holds.

python ../two_ranks.py audit_ddp_script.py KIND BASE WORK
"""

import json
from pathlib import Path

import audited_pictures
import image_helpers
import torch.distributed as dist
from audited_texts import SETTINGS, task
from training_helpers import STILL, make_model, make_trainer
from transformers import AutoTokenizer

from hf_lifelong.adapter import statistics_of


def audited(kind, base, out, batch):
    """What the audit of a poisoned task stores, as lists."""
    more = {**STILL, "per_device_train_batch_size": batch}
    if kind == "images":
        tasks = [audited_pictures.task("bad", 24, seed=1)[0]]
        trainer = image_helpers.make_trainer(base, out, tasks, **audited_pictures.SETTINGS | more)
    else:
        tokenizer = AutoTokenizer.from_pretrained(base)
        trainer = make_trainer(make_model(base), out, [task("bad", "cf", seed=1)[0]], tokenizer, **SETTINGS | more)
    trainer.train()
    return {name: tensor.tolist() for name, tensor in statistics_of(trainer.model, "audit")["bad"].items()}


def main(kind: str, base: str, work: str) -> None:
    note = audited(kind, base, Path(work, "out"), 8)
    Path(work, f"rank{dist.get_rank()}.json").write_text(json.dumps(note))
    dist.barrier()
    dist.destroy_process_group()
