import pytest

from hf_lifelong.evaluation import AccuracyMatrix


@pytest.fixture
def three():
    """Three tasks, with every metric worked out by hand in the tests."""
    matrix = AccuracyMatrix()
    matrix.add("sst2", "accuracy", 0.5, {"sst2": 0.9}, {"sst2": 0.9}, {"sst2": 1.0})
    matrix.add(
        "squad",
        "f1",
        0.1,
        {"sst2": 0.95, "squad": 0.6},
        {"sst2": 0.9, "squad": 0.7},
        {"sst2": 0.9, "squad": 1.0},
        forward=0.3,
    )
    matrix.add(
        "topics",
        "accuracy",
        0.25,
        {"sst2": 0.8, "squad": 0.65, "topics": 0.95},
        {"sst2": 0.9, "squad": 0.7, "topics": 1.0},
        {"sst2": 0.7, "squad": 0.9, "topics": 0.8},
        forward=0.2,
    )
    return matrix


def make_stream(count):
    matrix = AccuracyMatrix()
    for i in range(count):
        tasks = [f"a-task-called-{j}" for j in range(i + 1)]
        scores = {task: max(0.95 - 0.04 * j - 0.01 * (i - j), 0.0) for j, task in enumerate(tasks)}
        retrieval = dict.fromkeys(tasks, 0.97)
        matrix.add(tasks[-1], "accuracy", 0.5 if i % 2 else 0.25, scores, scores, retrieval)
    return matrix


@pytest.fixture
def stream():
    return make_stream
