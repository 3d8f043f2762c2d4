"""Tiny federations: a classifier whose inputs tell the group, and grids that note messages or let clients fail."""

import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from hf_lifelong.fairness import FairTrainerMixin, GroupFairness
from hf_lifelong.federated import InProcessGrid, trained_tensors
from hf_lifelong.federated.flower import Array, ArrayRecord, Message, MetricRecord, RecordDict

ROUNDS = {"num_rounds": 2}
QUIET = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_strategy": "no"}


class FairTrainer(FairTrainerMixin, Trainer):
    pass


class Classifier(torch.nn.Module):
    """Logistic regression in the form that `Trainer` takes; `offset` is frozen, so it stays where it is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(3, 2)
        self.offset = torch.nn.Parameter(torch.zeros(2), requires_grad=False)

    def forward(self, inputs, labels=None):
        logits = self.linear(inputs) + self.offset
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def people(client, rows=64):
    """Rows whose label mostly follows their group; clients have different shares of the groups."""
    draw = torch.Generator().manual_seed(client)
    group = (torch.rand(rows, generator=draw) < (0.25, 0.75, 0.5)[client % 3]).long()
    inputs = torch.randn(rows, 3, generator=draw)
    inputs[:, 0] = 2.0 * group - 1 + 0.3 * inputs[:, 0]
    chance = (1.2 * inputs[:, 1] + 1.5 * (2 * group - 1)).sigmoid()
    labels = (torch.rand(rows, generator=draw) < chance).long()
    return Dataset.from_dict({"inputs": inputs.tolist(), "labels": labels.tolist(), "group": group.tolist()})


def trainers(folder, metric="sp", data=people, fair=True, model=Classifier, **arguments):
    """A `make_trainer` of fair trainers, or of plain ones."""
    settings = {"num_train_epochs": 1, "per_device_train_batch_size": 16, "learning_rate": 0.3, "optim": "sgd"}

    def make(context):
        client = context.node_config["partition-id"]
        args = TrainingArguments(str(folder / str(client)), **{**QUIET, **settings, **arguments})
        rows = data(client)
        if not fair:
            return Trainer(model(), args, train_dataset=rows.remove_columns("group"))
        return FairTrainer(model(), args, train_dataset=rows, fairness=GroupFairness(metric))

    return make


def start(strategy, grid, model=None, **options):
    arrays = ArrayRecord(trained_tensors(model or Classifier()))
    return strategy.start(grid, arrays, **{**ROUNDS, **options})


class Watched(InProcessGrid):
    """Notes what goes out and comes back."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sent, self.received = [], []

    def answer(self, message):
        self.sent.append(message)
        self.received.append(super().answer(message))
        return self.received[-1]


class Failing(InProcessGrid):
    """The last client goes wrong in a way of its own."""

    def __init__(self, app, clients, way):
        super().__init__(app, clients)
        self.way, self.last = way, clients + 1

    def answer(self, message):
        if message.metadata.dst_node_id != self.last:
            return super().answer(message)
        if self.way == "raises":
            self.app, app = broken, self.app
            try:
                return super().answer(message)
            finally:
                self.app = app
        reply = super().answer(message)
        content = reply.content
        metrics, arrays = dict(content["metrics"]), dict(content.get("arrays", {}))
        changed = {name: WAYS[self.way](array.numpy().copy()) for name, array in arrays.items()} if arrays else {}
        if self.way == "no rows":
            metrics["num-examples"] = 0
        if self.way == "nan metric":
            metrics["num-examples"] = float("nan")
        if self.way == "other metrics":
            metrics["spare"] = 1.0
        new = {**content, "metrics": MetricRecord(metrics)}
        if arrays:
            names = [f"{name}.x" if self.way == "other names" else name for name in changed]
            new["arrays"] = ArrayRecord({n: Array(a) for n, a in zip(names, changed.values(), strict=True)})
        return Message(RecordDict(new), reply_to=message)

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        return [r for r in replies if self.way != "drops out" or r.metadata.src_node_id != self.last]


def broken(message, context):
    raise RuntimeError("no memory")


def unchanged(array):
    return array


def with_nan(array):
    array.flat[0] = float("nan")
    return array


def longer(array):
    return array.repeat(2, axis=0)


WAYS = {
    "raises": unchanged,
    "drops out": unchanged,
    "nan": with_nan,
    "other shape": longer,
    "other names": unchanged,
    "no rows": unchanged,
    "nan metric": unchanged,
    "other metrics": unchanged,
}
