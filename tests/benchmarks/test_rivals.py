"""The rivals of the evidence benchmark do what their papers say."""

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from methods import frozen
from methods.shared import Setting, SharedLearner, answers_of, prepare
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid

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
    def make(**chosen):
        budget = {"epochs": 1, "batch_size": 8, "max_length": 32, "stride": 8}
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


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# Without training


def clusters(seed, classes, features=5):
    """Random features of classes of different sizes, and their labels."""
    random = np.random.default_rng(seed)
    sizes = random.integers(6, 20, classes)
    mix = random.normal(size=(features, features))
    rows = [random.normal(size=(n, features)) @ mix + random.normal(size=features) * 3 for n in sizes]
    return np.concatenate(rows), np.repeat(np.arange(classes), sizes)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_lda_task_by_task_is_that_of_scikit_learn_on_all_rows(order):
    data = {k: clusters(k, classes) for k, classes in enumerate((2, 3, 2))}
    classes = frozen.Classes(shrinkage=0.1)
    for k in order:
        classes.add(*data[k], [f"{k}.{c}" for c in range(3)], k)
    features = np.concatenate([data[k][0] for k in data])
    labels = np.concatenate([[f"{k}.{c}" for c in data[k][1]] for k in data])
    count = len(set(labels))
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.1, priors=np.full(count, 1 / count))
    reference.fit(features, labels)
    weights, offsets = classes.weights()
    place = [classes.labels.index(name) for name in reference.classes_]
    np.testing.assert_allclose(weights[place], reference.coef_, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(offsets[place] - np.log(count), reference.intercept_, rtol=1e-7)


def test_ncm_answers_as_the_nearest_centroid_of_scikit_learn():
    (first, y), (second, z) = clusters(0, 2), clusters(1, 3)
    classes = frozen.Classes()
    classes.add(second, z, ["c", "d", "e"], 0)
    classes.add(first, y, ["a", "b"], 1)
    features, labels = np.concatenate([first, second]), [*(["a", "b"][k] for k in y), *(["c", "d", "e"][k] for k in z)]
    weights, offsets = classes.weights()
    found = [classes.labels[k] for k in (features @ weights.T + offsets).argmax(1)]
    assert found == NearestCentroid().fit(features, labels).predict(features).tolist()


@pytest.mark.parametrize("layers", ["all", "last"])
def test_frozen_methods_learn_a_stream_and_leave_questions_unanswered(layers, stream, setting):
    tasks = stream("films", "questions", "news")
    result = frozen.lda(tasks, setting(layers=layers, shrinkage=0.1))
    assert result.matrix.scores[-1] == [1.0, 0.0, 1.0]
    features = 32 * (5 if layers == "all" else 1)
    assert result.bytes_per_task == [4 * (2 * features + features * (features + 1) // 2), 0, 4 * 2 * features]
    assert frozen.ncm(tasks, setting(layers=layers)).bytes_per_task == [8 * features, 0, 8 * features]


def test_frozen_features_are_mean_hidden_states_side_by_side(stream, setting):
    (task,) = stream("films")
    backbone = frozen.AutoModel.from_pretrained(setting().model).eval()
    every, last = (frozen.features_of(backbone, task, task.train, layers) for layers in ("all", "last"))
    row = backbone(input_ids=torch.tensor([task.train[3]["input_ids"]]), output_hidden_states=True)
    expected = torch.cat([state.mean(1) for state in row.hidden_states], 1)
    np.testing.assert_allclose(every[3], expected[0].detach(), atol=1e-5)
    np.testing.assert_allclose(every[:, -32:], last, atol=1e-6)


# What the trained rivals share


def test_answers_come_back_in_the_order_of_the_rows(learner):
    shared = learner("films", "news")
    rows = shared.tasks[0].train
    labels, spans, masks = answers_of(shared.model, shared.tokenizer, rows, batch_size=3)
    for i in (0, 7, len(rows) - 1):
        one, span, mask = answers_of(shared.model, shared.tokenizer, rows.select([i]))
        torch.testing.assert_close(labels[i], one[0])
        torch.testing.assert_close(spans[i][: len(span[0])], span[0])
        assert masks[i].sum() == mask[0].sum()


def test_an_answer_counts_by_its_label_name(learner):
    shared = learner("films", "shops", "news")
    assert shared.model.names == ["bad", "good", "sport", "trade"]
    with torch.no_grad():
        shared.model.label_head.weight.zero_()
        shared.model.label_head.bias.copy_(torch.tensor([1.0, 0.0, 2.0, 0.0]))
    share_bad = shared.tasks[1].test.examples["label"].count(0) / len(shared.tasks[1].test.examples)
    assert shared.score(1, [0, 1]) == pytest.approx(share_bad)
    assert shared.score(1, [0]) == pytest.approx(share_bad)  # the outputs of `films` are those of `shops`
    assert shared.score(1, [0, 1, 2]) == 0.0


def test_labels_of_other_tasks_get_no_gradient_with_own_labels(learner):
    for choice, untouched in (("own", True), ("seen", False)):
        shared = learner("films", "news", labels=choice)
        shared.train(shared.rows(0), seen=[0, 1])
        before = parameters(shared.model.label_head)
        shared.train(shared.rows(1), seen=[0, 1])
        after = parameters(shared.model.label_head)
        assert torch.equal(before["weight"][:2], after["weight"][:2]) == untouched
        assert not torch.equal(before["weight"][2:], after["weight"][2:])


def test_a_stream_of_questions_alone_is_learned(learner):
    shared = learner("questions")
    shared.train(shared.rows(0), seen=[0])
    assert 0.0 <= shared.score(0, [0]) <= 1.0
