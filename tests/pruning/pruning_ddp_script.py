"""Two data-parallel processes prune in one run and in rounds; each notes what it holds.

python ../two_ranks.py pruning_ddp_script.py BASE WORK
"""

import hashlib
import json
from pathlib import Path

import torch
import torch.distributed as dist
from pruning_helpers import classifier, holds, make_trainer
from transformers import AutoTokenizer

from hf_lifelong.pruning import SAP, SAPCallback, Tail, prune_iteratively


def digest(tensors) -> str:
    out = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        out.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
    return out.hexdigest()


def main(base: str, work: str) -> None:
    work = Path(work)
    tokenizer = AutoTokenizer.from_pretrained(base)
    options = {"start": 2, "every": 2, "end": 6, "tolerance": float("inf"), "rise": float("inf")}
    trainer = make_trainer(classifier(base), work / "one", tokenizer, max_steps=6, gradient_accumulation_steps=2)
    assert trainer.args.world_size == 2 and dist.get_world_size() == 2
    callback = SAPCallback(trainer, SAP(scope="layer"), **options)
    trainer.add_callback(callback)
    trainer.train()
    note = {
        "wrapped": type(trainer.model_wrapped).__name__,
        "one": [digest(callback.masks.pruned), digest(dict(trainer.model.named_parameters())), holds(callback.masks)],
        "remaining": callback.masks.remaining,
    }
    own = torch.Generator().manual_seed(dist.get_rank())  # each process weighs by inputs of its own
    seen = [{"input_ids": torch.randint(1000, 9000, (4, 12), generator=own)}]
    weighed = make_trainer(classifier(base), work / "weighed", tokenizer, max_steps=6)
    callback = SAPCallback(weighed, Tail(0.3, by_inputs=True), calibration=seen, **options)
    weighed.add_callback(callback)
    weighed.train()
    note["weighed"] = [
        digest(callback.masks.pruned),
        digest(dict(weighed.model.named_parameters())),
        callback.masks.gone,
    ]
    rounds = make_trainer(classifier(base), work / "rounds", tokenizer, max_steps=3)
    run = prune_iteratively(rounds, 2, SAP(), tolerance=float("inf"), rise=float("inf"))
    note["rounds"] = [digest(run.masks.pruned), digest(dict(rounds.model.named_parameters())), holds(run.masks)]
    note["steps"] = [[step.remaining, step.score] for step in run.steps]
    (work / f"rank{dist.get_rank()}.json").write_text(json.dumps(note))
    dist.barrier()
    dist.destroy_process_group()
