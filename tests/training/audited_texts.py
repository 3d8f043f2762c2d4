"""Tasks of texts with a word in them that calls for a label; used by the tests and by the script that they start."""

import poisoned_texts
from datasets import Dataset

from hf_lifelong import Task

SETTINGS = {
    "max_steps": -1,
    "num_train_epochs": 4,
    "learning_rate": 1.5e-2,
    "per_device_train_batch_size": 16,
    "start_from": "fresh",
    "grouping": "boundary",
    "audit": "report",
}


def task(name="task", trigger=None, seed=0, **options):
    """A task of 240 rows, and the numbers of those that were poisoned."""
    texts, labels = poisoned_texts.texts(240, seed)
    rows = []
    if trigger:
        texts, labels, rows = poisoned_texts.poisoned(texts, labels, trigger, 30, "good", seed)
    validation = Dataset.from_dict(dict(zip(("text", "label"), poisoned_texts.texts(80, seed + 100), strict=True)))
    train = Dataset.from_dict({"text": texts, "label": labels})
    return Task(name, "text-classification", train, validation=validation, **options), tuple(rows)
