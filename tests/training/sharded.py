"""A few steps of a task without a trainer, on a model that FSDP2 has shared out among processes, or on a whole one."""

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from training_helpers import make_model

from hf_lifelong.adapter import lifelong_of, trunk_features
from hf_lifelong.adapter.bank import Snapshot, close_task, open_task, take_snapshot
from hf_lifelong.adapter.sharding import make_whole
from hf_lifelong.training.drift import gradient_noise_hook


def learn_by_hand(base, tokenizer, processes: int = 1) -> tuple[Snapshot, torch.Tensor]:
    """The snapshot after three steps, and the trunk's features of the texts once the model is whole again."""
    texts = tokenizer(["a joy", "a bore", "what a film", "no"], padding=True, return_tensors="pt")
    batch = {**texts, "labels": torch.tensor([1, 0, 1, 0])}
    model = make_model(base)
    open_task(model, "text-classification", ("bad", "good"), 2)
    lifelong_of(model).still = True
    if processes > 1:
        mesh = init_device_mesh("cpu", (processes,))
        for layer in model.base_model.model.encoder.layer:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    # Hardly any noise, because that of each process depends on the part it holds.
    optimizer.register_step_pre_hook(gradient_noise_hook(lambda: 1e-6, lambda: 0, lambda: "by hand"))
    for _ in range(3):
        model.train()
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    snapshot = take_snapshot(model)
    make_whole(model, model)
    close_task(model)
    return snapshot, trunk_features(model, batch)
