"""Three small tasks, shared out over clients, and learners of them."""

import random

import torch
from datasets import ClassLabel, Dataset
from federations import QUIET
from peft import get_peft_model
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.federated import SharedTask

WORDS = {
    "films": {"good": "fine great lovely joy", "bad": "dull awful poor boring"},
    "weather": {"dry": "sun heat clear drought", "wet": "rain storm flood cloud"},
    "sports": {"ball": "goal kick team pass", "race": "speed run wheel lap", "fight": "ring punch belt round"},
}
FILLER = ["the", "a", "of", "in", "was", "and", "it", "with", "on", "for", "this", "that"]
TASKS = [SharedTask(name, tuple(labels)) for name, labels in WORDS.items()]


def texts(name, rows, seed, source=None):
    """Texts of some words that tell the label, among others that do not; `source` names the words' task."""
    draw = random.Random(f"{name}/{seed}")
    words = WORDS[source or name]
    found = {"text": [], "label": []}
    for row in range(rows):
        label = row % len(words)
        chosen = draw.choices([*words.values()][label].split(), k=3) + draw.choices(FILLER, k=4)
        draw.shuffle(chosen)
        found["text"].append(" ".join(chosen))
        found["label"].append(label)
    data = Dataset.from_dict(found).shuffle(seed=seed)
    return data.cast_column("label", ClassLabel(names=[*words]))


def task(name, train, source=None, of=(0, 1)):
    """Validation and test rows of a task are shared out as the training rows are: every second one to each client."""
    client, clients = of
    parts = {"train": train, "validation": 24, "test": 40}
    data = {part: texts(name, rows, seed, source) for seed, (part, rows) in enumerate(parts.items())}
    own = {part: rows.select(range(client, len(rows), clients)) for part, rows in data.items()}
    return Task(name, "text-classification", **own)


def make_model(folder, **config):
    torch.manual_seed(0)
    settings = {"r": 4, "max_length": 24, "stride": 8, "signature_rank": 4, "members": 2, **config}
    return get_peft_model(AutoModel.from_pretrained(folder, dtype=torch.float32), DriftAdapterConfig(**settings))


def make_args(folder, **arguments):
    settings = {"per_device_train_batch_size": 8, "num_train_epochs": 1, "learning_rate": 5e-3, **QUIET}
    return DriftTrainingArguments(str(folder), **{**settings, **arguments})


def learners(base, folder, tokenizer, tasks=WORDS, rows=72, clients=2, options=None, config=None, **arguments):
    """A `make_trainer` of lifelong learners, each with its share of the rows.

    `options` are `source`, the words that a task has; `lacks`, whether a client has no data of a task; and `trainer`.
    """
    options = options or {}
    source, lacks = options.get("source", lambda name: name), options.get("lacks", lambda client, name: False)

    def make(context):
        client = context.node_config["partition-id"]
        own = [task(name, rows, source(name), of=(client, clients)) for name in tasks if not lacks(client, name)]
        return DriftTrainer(
            make_model(base, **(config or {})),
            make_args(folder / f"client {client}", **arguments),
            tasks=own,
            processing_class=tokenizer,
            **options.get("trainer", {}),
        )

    return make
