"""Two data-parallel processes train under a penalty; each notes what it holds.

torchrun --nproc_per_node 2 penalty_ddp_script.py WORK
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from test_first_layer_penalty import penalised


def main(work: Path) -> None:
    torch.set_num_threads(1)
    trainer, callback = penalised(work / "out", per_device_train_batch_size=16, gradient_accumulation_steps=2)
    rank, weight = dist.get_rank(), trainer.model.first.weight
    note = {
        "wrapped": type(trainer.model_wrapped).__name__,
        "live": callback.live.tolist(),
        "weight": weight.detach().numpy().tobytes().hex(),
    }
    (work / f"rank{rank}.json").write_text(json.dumps(note))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
