"""Two data-parallel processes teach a language model; each notes what it holds.

python ../two_ranks.py ddp_language_script.py BASE WORK
"""

import hashlib
import json
from pathlib import Path

import torch
import torch.distributed as dist
from datasets import Dataset
from peft import get_peft_model
from training_helpers import make_trainer, members_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_lifelong import DriftAdapterConfig, Task


def main(base: str, work: str) -> None:
    work = Path(work)
    torch.manual_seed(0)
    config = DriftAdapterConfig(task_type="CAUSAL_LM", r=4, members=2, signature_rank=4, max_length=32)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    rows = {"prompt": [f"who wrote {i}?" for i in range(30)], "answer": ["good", "bad"] * 15}
    tasks = [
        Task(name, "text-generation", Dataset.from_dict(rows), test=Dataset.from_dict(rows).select(range(5)))
        for name in ("first", "second")
    ]
    tokenizer = AutoTokenizer.from_pretrained(base)
    trainer = make_trainer(model, work / "out", tasks, tokenizer, gradient_accumulation_steps=2, learning_rate=1e-2)
    assert trainer.args.world_size == 2
    trainer.train()
    digest = hashlib.sha256()
    for name, tensor in sorted(members_of(trainer).items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    metrics = {name: value for name, value in trainer.evaluate().items() if name != "epoch"}
    note = {"members": digest.hexdigest(), "metrics": metrics, "wrapped": type(trainer.model_wrapped).__name__}
    (work / f"rank{dist.get_rank()}.json").write_text(json.dumps(note))
    dist.barrier()
    dist.destroy_process_group()
