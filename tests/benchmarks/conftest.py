"""The benchmarks are scripts: they import each other from their own folder. Small tasks for their methods."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import pytest
from datasets import ClassLabel, Dataset
from methods.shared import Setting, SharedLearner, prepare

WORDS = {
    "films": {"bad": ["dull slow film", "a dull plot", "slow and dull"], "good": ["bright film", "a bright plot"]},
    "news": {"sport": ["the match was won", "a goal"], "trade": ["shares fell", "the bank sold shares"]},
    "shops": {"bad": ["the shoes broke", "late and broken"], "good": ["nice shoes", "came early and fits"]},
}


def texts(name, copies=4):
    """A task of a few texts, twelve training rows or more; `films` and `shops` have the same label names."""
    names = list(WORDS[name])
    rows = [(text, names.index(label)) for label in names for text in WORDS[name][label]] * copies
    data = Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})
    data = data.cast_column("label", ClassLabel(names=names))
    return {"name": name, "kind": "text-classification", "train": data, "validation": data, "test": data}


def questions():
    row = {"question": "Who won?", "context": "Ada won it.", "answers": {"text": ["Ada"], "answer_start": [0]}}
    data = Dataset.from_list([row] * 6)
    return {"name": "questions", "kind": "question-answering", "train": data, "validation": data, "test": data}


@pytest.fixture
def setting(bert_folder):
    def make(epochs=1, **chosen):
        budget = {"epochs": epochs, "batch_size": 8, "max_length": 32, "stride": 8}
        return Setting(str(bert_folder), 0, budget, {"learning_rate": 1e-2, "labels": "own", **chosen})

    return make


@pytest.fixture
def stream(setting):
    """`stream(*names)`: prepared tasks."""

    def make(*names):
        return prepare([questions() if name == "questions" else texts(name) for name in names], setting())

    return make


@pytest.fixture
def learner(stream, setting):
    """`learner(*names, **chosen)`: a learner of a stream that has learned nothing yet."""
    return lambda *names, **chosen: SharedLearner(stream(*names), setting(**chosen))
