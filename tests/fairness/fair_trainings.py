"""A tiny classifier whose inputs tell the group, and trainers of it."""

import torch
from datasets import Dataset
from torch.nn import functional
from transformers import Trainer, TrainingArguments

from hf_lifelong.fairness import FairTrainerMixin, GroupFairness


class FairTrainer(FairTrainerMixin, Trainer):
    pass


class Classifier(torch.nn.Module):
    """Logistic regression in the form that `Trainer` takes."""

    def __init__(self, classes=2):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, classes)

    def forward(self, inputs, labels=None):
        logits = self.linear(inputs)
        if labels is None:
            return {"logits": logits}
        loss = (
            functional.cross_entropy(logits, labels)
            if logits.shape[1] > 1
            else functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
        )
        return {"loss": loss, "logits": logits}


def people(rows=256, seed=0):
    """Rows whose label mostly follows their group, which an input tells; `name` is a column that no model takes."""
    draw = torch.Generator().manual_seed(seed)
    group = torch.randint(0, 2, (rows,), generator=draw)
    inputs = torch.randn(rows, 3, generator=draw)
    inputs[:, 0] = 2.0 * group - 1 + 0.3 * inputs[:, 0]
    chance = (1.2 * inputs[:, 1] + 1.5 * (2 * group - 1)).sigmoid()
    labels = (torch.rand(rows, generator=draw) < chance).long()
    return Dataset.from_dict(
        {
            "inputs": inputs.tolist(),
            "labels": labels.tolist(),
            "group": group.tolist(),
            "name": [f"person {row}" for row in range(rows)],
        }
    )


def make_trainer(
    folder, *, metric="sp", weight=20.0, window=8, data=None, trainer=FairTrainer, classes=2, **arguments
):
    settings = {
        "max_steps": 8,
        "per_device_train_batch_size": 16,
        "learning_rate": 0.05,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        "logging_steps": 4,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    fair = {"fairness": GroupFairness(metric), "fairness_weight": weight, "fairness_window": window}
    return trainer(
        Classifier(classes),
        TrainingArguments(str(folder), **{**settings, **arguments}),
        train_dataset=people() if data is None else data,
        **(fair if issubclass(trainer, FairTrainerMixin) else {}),
    )


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.model.parameters()])


def measured(trainer, metric, data):
    """The metric of the trained model on all rows."""
    whole = GroupFairness(metric)
    with torch.no_grad():
        logits = trainer.model(torch.tensor(data["inputs"][:]))["logits"]
    scores = logits.softmax(-1) if logits.shape[1] > 1 else logits[:, 0].sigmoid()
    whole.update(scores, data["labels"][:], data["group"][:])
    return whole
