"""Two data-parallel processes learn two tasks fair over both; each notes what it holds.

python ../two_ranks.py fair_ddp_script.py BASE WORK
"""

import json
from pathlib import Path

import torch.distributed as dist
from fair_tasks import FAIR, people
from training_helpers import STILL, make_model, make_trainer, sentiment
from transformers import AutoTokenizer

from hf_lifelong.adapter import statistics_of


def main(base: str, work: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tasks = [people(sentiment()), people(sentiment("more", 60, 120))]
    settings = {**STILL, **FAIR, "per_device_train_batch_size": 4}
    trainer = make_trainer(make_model(base), Path(work, "out"), tasks, tokenizer, **settings)
    trainer.train()
    sums = {task: values["sums"].tolist() for task, values in statistics_of(trainer.model, "fairness").items()}
    note = {"running": trainer.fairness.to_dict(), "sums": sums}
    Path(work, f"rank{dist.get_rank()}.json").write_text(json.dumps(note))
    dist.barrier()
    dist.destroy_process_group()
