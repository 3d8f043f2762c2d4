"""Knowledge bases with made-up scores, and what training would know beside them."""

import pytest

from hf_lifelong import DriftAdapterConfig
from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.hub import CardFacts
from hf_lifelong.knowledge import KnowledgeBase, LearnedTask, TaskData

BASE = {"model_type": "bert", "hidden_size": 384, "layers": 6, "fingerprint": "ab" * 8, "dtype": "float32"}
VERSIONS = {"hf_lifelong": "0.1.0", "torch": "2.11.0", "transformers": "5.23.0", "peft": "0.22.0"}


@pytest.fixture
def two_tasks():
    """Sentiment, then questions, with numbers that can be checked by hand."""
    matrix = AccuracyMatrix()
    matrix.add("sst2", "accuracy", 0.5, {"sst2": 0.9}, {"sst2": 0.9}, {"sst2": 1.0})
    matrix.add(
        "squad",
        "f1",
        0.1,
        {"sst2": 0.86, "squad": 0.5},
        {"sst2": 0.9, "squad": 0.52},
        {"sst2": 0.94, "squad": 0.98},
        confusion={"sst2": {"sst2": 0.94, "squad": 0.06}, "squad": {"sst2": 0.02, "squad": 0.98}},
    )
    films = TaskData(None, "nyu-mll/glue", "sst2", 2000, None, "test")
    questions = TaskData(None, "rajpurkar/squad", None, 8000, "cc-by-sa-4.0", "test")
    tasks = [
        LearnedTask("sst2", "text-classification", ("negative", "positive"), 2, 5, "sst2", 1000, 0.91, data=films),
        LearnedTask(
            "squad", "question-answering", ("start", "end"), 2, 5, "squad", 1000, 0.51, "sst2", data=questions
        ),
    ]
    return KnowledgeBase(dict(BASE), 3, [0, 1, 2, 3], tasks, matrix.to_dict())


@pytest.fixture
def two_facts():
    """What training knows of `two_tasks` beside the manifest."""
    return CardFacts(
        repo_id="ada/sentiment-then-qa",
        base_model="sentence-transformers/all-MiniLM-L6-v2",
        training={
            "num_train_epochs": 3,
            "max_steps": None,
            "per_device_train_batch_size": 16,
            "learning_rate": 2e-3,
            "gradient_noise": 0.05,
            "drift_dropout": True,
            "grouping": "performance",
        },
        command="accelerate launch recipes/sentiment_then_qa.py",
        hardware="2 CPU cores",
        seconds=880,
        versions=VERSIONS,
        base_size=90_900_000,
        adapter_size=8_000_000,
        task_sizes={"sst2": 3_900_000, "squad": 4_100_000},
        picture=True,
        language=["en"],
        license="apache-2.0",
    )


@pytest.fixture
def encoder_config():
    return DriftAdapterConfig(
        r=8, target_modules=["value", "query"], base_model_name_or_path="../ada/models/bert"
    ).to_dict()


@pytest.fixture
def language_config():
    return DriftAdapterConfig(task_type="CAUSAL_LM").to_dict()


@pytest.fixture
def stream():
    """`stream(count)`: so many classification tasks, with a score for each pair."""

    def make(count, kind="text-classification", labels=("no", "yes"), name="task-{}", template=None, data=None):
        matrix, tasks, data = AccuracyMatrix(), [], data or TaskData()
        for i in range(count):
            names = [name.format(j) for j in range(i + 1)]
            scores = {task: 0.95 - 0.01 * (i - j) for j, task in enumerate(names)}
            matrix.add(names[-1], "accuracy", 0.5, scores, scores, dict.fromkeys(names, 0.97))
            tasks.append(
                LearnedTask(names[-1], kind, labels, 0, 2, names[-1], 100, 0.9, None, template, data or TaskData())
            )
        return KnowledgeBase(dict(BASE), 3, [0, 3], tasks, matrix.to_dict() if count else None)

    return make
