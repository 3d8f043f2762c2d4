"""Clients that learn tasks together: what they learn, what leaves them, and what happens without some of them."""

import hashlib
import json
import logging
import math

import pytest
import torch

pytest.importorskip("flwr", reason="needs the extra `federated`")

from federations import Watched
from lifelong_federations import TASKS, WORDS, learners, make_args, make_model, task

from hf_lifelong import DriftTrainer, knowledge_of, predict
from hf_lifelong.adapter import lifelong_of, statistics_of
from hf_lifelong.federated import CheckedAvg, FairAvg, InProcessGrid, SharedTask, learn_together, lifelong_client
from hf_lifelong.federated.declared import REPLIES
from hf_lifelong.loading import load
from hf_lifelong.statistics import TaskStatistic
from hf_lifelong.storage import TensorSpec

FILES = ("adapter_model.safetensors", "adapter_config.json")
QUICK = {"rows": 24, "max_steps": 2, "num_train_epochs": 1}


@pytest.fixture
def federation(bert_folder, tokenizer, tmp_path):
    """`federation(tasks, …)`: grid, server's model, and a function that learns; `rounds` are few, tasks small."""

    def make(tasks=TASKS[:1], clients=2, grid=Watched, rounds=2, model=None, learn=None, **options):
        names = [shared.name for shared in tasks]
        settings = {**QUICK, "clients": clients, "tasks": names, **options}
        made = grid(lifelong_client(learners(bert_folder, tmp_path, tokenizer, **settings)), clients)
        model = model if model is not None else make_model(bert_folder, **(options.get("config") or {}))
        run = {"args": make_args(tmp_path / "server"), "rounds": rounds, **(learn or {})}
        return made, model, lambda: learn_together(made, model, tasks, **run)

    return make


def digests(tmp_path, clients=2):
    folders = [tmp_path / "server", *(tmp_path / f"client {i}" for i in range(clients))]
    return {tuple(hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in FILES) for folder in folders}


def replies(grid, kind="query"):
    return [reply for reply in grid.received if reply.metadata.message_type.startswith(kind)]


def covariance(model):
    signature = lifelong_of(model).signature
    return signature.factor.mT @ signature.factor + torch.diag_embed(signature.diagonal)


@pytest.mark.slow
def test_two_clients_learn_three_tasks_as_one_learner_that_has_all_rows(federation, bert_folder, tokenizer, tmp_path):
    together = {"rows": 72, "max_steps": -1}
    _, model, learn = federation(TASKS, rounds=6, **together)
    learn()
    everything = [task(name, 72) for name in WORDS]
    alone = DriftTrainer(
        make_model(bert_folder),
        make_args(tmp_path / "alone", num_train_epochs=6),
        tasks=everything,
        processing_class=tokenizer,
    )
    alone.train()
    scores, pooled = knowledge_of(model).scores, knowledge_of(alone.model).scores
    for row, expected in zip(scores["scores"], pooled["scores"], strict=True):
        for score, known in zip(row, expected, strict=True):
            assert score == known or abs(score - known) <= 0.01
    assert scores["scores"][-1] == pytest.approx([0.975] * 3, abs=0.03) and scores["baseline"] == pooled["baseline"]
    assert digests(tmp_path) == digests(tmp_path, 1) and len(digests(tmp_path)) == 1
    # Of the frozen trunk, so what is fitted on it is that of the pooled rows.
    found, known = lifelong_of(model).signature, lifelong_of(alone.model).signature
    assert torch.allclose(found.mean, known.mean, atol=1e-6) and torch.allclose(
        found.classes, known.classes, atol=1e-6
    )
    assert torch.allclose(covariance(model), covariance(alone.model), atol=1e-6)
    for mine, theirs in zip(knowledge_of(model).tasks, knowledge_of(alone.model).tasks, strict=True):
        assert (mine.examples, mine.members, mine.group, mine.data.rows) == (72, 2, theirs.group, 72)
    written, _ = load(tmp_path / "client 1")  # what a client wrote is an ordinary adapter
    batch = dict(tokenizer(["the sun was clear", "a goal for the team"], return_tensors="pt", padding=True))
    names = knowledge_of(written).names
    assert [names[index] for index in predict(written, batch).task.tolist()] == ["weather", "sports"]


@pytest.mark.slow
def test_no_row_leaves_a_client(federation, tmp_path):
    shapes = []
    for rows in (24, 96):
        grid, _, learn = federation(TASKS[:2], rows=rows)
        learn()
        seen = {}
        for reply in grid.received:
            step = reply.metadata.message_type.removeprefix("query.")
            assert reply.has_content()
            assert {type(value) for record in reply.content.config_records.values() for value in record.values()} == {
                int
            }
            (metrics,) = reply.content.metric_records.values()
            assert metrics.keys() == ({"num-examples"} if step == "train" else set())
            (arrays,) = reply.content.array_records.values()
            declared = REPLIES.get(step)
            assert arrays.keys() == declared.keys() if declared else all("drift_" in name for name in arrays)
            sizes = {name: (array.dtype, tuple(array.shape)) for name, array in arrays.items()}
            assert seen.setdefault((step, len(seen)), sizes) and "str" not in str(sizes)
        shapes.append(list(seen.values()))
        for folder in ("server", "client 0", "client 1"):
            for file in sorted((tmp_path / folder).rglob("*"), reverse=True):
                file.unlink() if file.is_file() else file.rmdir()
    assert shapes[0] == shapes[1] and len(shapes[0]) > 20


def test_steps_of_a_task_and_who_says_what(federation):
    grid, _, learn = federation()
    learn()
    steps = [message.metadata.message_type.removeprefix("query.") for message in grid.sent]
    expected = ["hello", "survey", "train", "train", "weigh", "group", "measure", "commit"]
    assert steps == [step for step in expected for _ in range(2)]
    assert {step for step in steps if step != "train"} == set(REPLIES)
    trained = replies(grid, "train")
    first, second = ({n: a.numpy() for n, a in reply.content["arrays"].items()} for reply in trained[:2])
    assert any((first[name] != second[name]).any() for name in first)  # of different rows


def test_data_that_comes_back_joins_its_group(federation):
    again = SharedTask("again", TASKS[0].labels)

    def source(name):
        return "films" if name == "again" else name

    tasks = [TASKS[0], TASKS[1], again]
    grid, model, learn = federation(tasks, rows=72, max_steps=-1, rounds=3, options={"source": source})
    learn()
    found = {learned.name: (learned.group, learned.started_from) for learned in knowledge_of(model).tasks}
    assert found == {"films": ("films", None), "weather": ("weather", None), "again": ("films", "films")}
    forward = [reply.content["arrays"]["forward"].numpy().tolist() for reply in replies(grid, "query.survey")]
    assert [pair[1] for pair in forward] == [0, 0, 0, 0, 20, 20] and knowledge_of(model).scores["scores"][1][2] > 0.5


class Silent(Watched):
    """Some steps of the last client fail."""

    fails: tuple[tuple[str, int], ...] = ()  # step, and which of its messages

    def answer(self, message):
        step = message.metadata.message_type.removeprefix("query.")
        if message.metadata.dst_node_id == max(self.get_node_ids()):
            number = sum(1 for sent in self.sent if sent.metadata.message_type == message.metadata.message_type) // 2
            if (step, number) in self.fails:
                app, self.app = self.app, lambda message, context: (_ for _ in ()).throw(RuntimeError("power cut"))
                try:
                    return super().answer(message)
                finally:
                    self.app = app
        return super().answer(message)


@pytest.mark.parametrize(
    "fails",
    [
        (("survey", 0), ("train", 1)),
        (("weigh", 0), ("group", 0), ("measure", 0)),
        (("commit", 0),),
    ],
    ids=str,
)
def test_a_client_that_fails_in_a_step_is_left_out_and_catches_up(federation, tmp_path, caplog, fails):
    class Failing(Silent):
        pass

    Failing.fails = fails
    _, model, learn = federation(TASKS[:2], grid=Failing)
    with caplog.at_level(logging.WARNING, logger="hf_lifelong"):
        learn()
    for step, _ in fails:
        what = (
            "Round 2 goes on without node 3" if step == "train" else f"Step `{step}` of task `films` goes on without"
        )
        assert what in caplog.text
    assert len(digests(tmp_path)) == 1 and knowledge_of(model).names == ["films", "weather"]


def test_a_client_without_a_task_ends_with_the_same_bytes(federation, tmp_path, caplog):
    def lacks(client, name):
        return client == 1 and name == "films"

    _, model, learn = federation(TASKS[:2], clients=3, options={"lacks": lacks})
    learn()
    assert "`survey` of task `films` goes on without node 3" in caplog.text and len(digests(tmp_path, 3)) == 1
    assert knowledge_of(model).tasks[0].data.rows < knowledge_of(model).tasks[1].data.rows == 24


def test_clients_and_server_start_again_where_they_were(federation, tmp_path):
    federation(TASKS[:1])[2]()
    before = json.loads((tmp_path / "server" / FILES[1]).read_text())["knowledge"]["tasks"][0]
    model, _ = load(tmp_path / "server", trainable=True)
    grid, model, learn = federation(TASKS[:2], model=model)
    learn()
    tasks = knowledge_of(model).to_dict()["tasks"]
    assert [task["name"] for task in tasks] == ["films", "weather"] and tasks[0] == before
    assert len(digests(tmp_path)) == 1
    assert len(replies(grid, "query.commit")) == 2  # nobody had to catch up


def test_a_server_that_knows_less_than_its_clients_leaves_them_as_they_are(federation, tmp_path, caplog):
    federation(TASKS[:1])[2]()
    kept = digests(tmp_path)
    _, model, learn = federation(TASKS[1:2])
    with pytest.raises(RuntimeError, match="No client gave a usable reply to the step `survey`"):
        learn()
    assert "Give `learn_together` the adapter that it has" in caplog.text and digests(tmp_path) == kept
    assert knowledge_of(model).names == []


def test_a_client_that_learned_something_else_keeps_it_and_is_left_out(federation, tmp_path, caplog):
    federation(TASKS[1:2])[2]()
    kept = (tmp_path / "client 1" / FILES[0]).read_bytes()
    for folder in ("server", "client 0"):
        (tmp_path / folder).rename(tmp_path / f"old {folder}")
    _, model, learn = federation(TASKS[:1], learn={"strategy": CheckedAvg(fraction_evaluate=0.0, min_train_nodes=1)})
    learn()
    assert "Node 3 knows 1 tasks and the server 0" in caplog.text and knowledge_of(model).names == ["films"]
    assert (tmp_path / "client 1" / FILES[0]).read_bytes() == kept
    assert knowledge_of(model).tasks[0].data.rows == 12


def test_a_task_that_no_client_can_learn_is_rolled_back(federation, tmp_path):
    wrong = SharedTask("films", ("bad", "good"))  # not in the order of the data
    _, model, learn = federation([TASKS[1], wrong])
    with pytest.raises(RuntimeError, match="`survey` of task `films`"):
        learn()
    assert knowledge_of(model).names == ["weather"] and lifelong_of(model).task is None
    assert len(digests(tmp_path)) == 1


class Lengths(TaskStatistic):
    name = "lengths"
    columns = ("text",)
    tensors = (TensorSpec("rows", ("one",), dtype="int64"), TensorSpec("letters", ("one",), dtype="int64"))

    def fit(self, rows):
        letters = sum(map(len, rows.columns["text"]))
        return {"rows": torch.tensor([len(rows.features)]), "letters": torch.tensor([letters])}

    def merge(self, a, b):
        return {name: a[name] + b[name] for name in a}

    def describe(self, values):
        return {"rows": int(values["rows"])}


class Alone(Lengths):
    merge = TaskStatistic.merge


def test_statistics_of_a_task_are_merged(federation, tmp_path):
    grid, model, learn = federation(options={"trainer": {"statistics": [Lengths]}}, learn={"statistics": [Lengths]})
    learn()
    stored = statistics_of(model, "lengths")["films"]
    parts = [reply.content["arrays"]["lengths/letters"].numpy() for reply in replies(grid, "query.statistics")]
    assert stored["rows"].tolist() == [24] and stored["letters"].tolist() == [int(sum(parts)[0])]
    assert len(digests(tmp_path)) == 1 and len(parts) == 2


BAD = {
    "rounds": ({"rounds": 1}, "`rounds` is 1, but the averages of the last 2 rounds"),
    "fairness": ({"strategy": lambda: FairAvg("sp")}, "`strategy` must be a `FedAvg` with `fraction_evaluate=0`"),
    "statistic": ({"statistics": [Alone]}, "`lengths` is of one client alone and cannot be merged"),
    "arguments": ({"args": None}, "`args` must be `DriftTrainingArguments`"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_refused_before_anything_is_asked(federation, case):
    options, message = BAD[case]
    options = {key: value() if callable(value) else value for key, value in options.items()}
    grid, _, learn = federation(learn=options)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        learn()
    assert not grid.sent


@pytest.mark.parametrize(
    ("tasks", "message"),
    [([], "`tasks` is"), (["films"], "`tasks` is"), ([TASKS[0], TASKS[0]], "give each task its own name")],
)
def test_bad_lists_of_tasks_are_refused(bert_folder, tmp_path, tasks, message):
    grid = InProcessGrid(lifelong_client(print), 2)
    with pytest.raises(ValueError, match=message):
        learn_together(grid, make_model(bert_folder), tasks, make_args(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("", ("a", "b")), "`name` of a task"), (("t", ("a",)), "give at least two"), (("t", ("a", "a")), "each once")],
)
def test_bad_tasks_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SharedTask(*arguments)


def test_a_model_without_a_lifelong_adapter_is_refused(tmp_path):
    with pytest.raises(ValueError, match="lifelong adapter"):
        learn_together(InProcessGrid(lifelong_client(print), 2), torch.nn.Linear(2, 2), TASKS, make_args(tmp_path))


def test_fewer_clients_than_the_strategy_needs_are_refused(bert_folder, tmp_path):
    grid = InProcessGrid(lifelong_client(print), 1)
    with pytest.raises(ValueError, match="`grid` has 1 clients"):
        learn_together(grid, make_model(bert_folder), TASKS, make_args(tmp_path))


def test_clients_are_made_by_a_function_of_drift_trainers(federation, caplog):
    with pytest.raises(ValueError, match="`make_trainer` is 'DriftTrainer'"):
        lifelong_client("DriftTrainer")
    grid, _, learn = federation()
    grid.app = lifelong_client(lambda context: "a trainer")
    with pytest.raises(RuntimeError, match="`survey`"):
        learn()
    assert "`make_trainer` returned a `str`, not a `DriftTrainer`" in caplog.text


class Lying(Watched):
    """The last client's sums are not finite, or of another size."""

    change = staticmethod(lambda array: array * math.nan)

    def answer(self, message):
        from hf_lifelong.federated.flower import Array, ArrayRecord

        reply = super().answer(message)
        if message.metadata.message_type == "query.survey" and message.metadata.dst_node_id == max(
            self.get_node_ids()
        ):
            arrays = dict(reply.content["arrays"])
            arrays["means"] = Array(self.change(arrays["means"].numpy()))
            reply.content["arrays"] = ArrayRecord(arrays)
        return reply


@pytest.mark.parametrize(
    ("change", "message"),
    [(lambda a: a * math.nan, "`means` is not finite"), (lambda a: a[:1], r"`means` is torch.float64 [1,")],
    ids=["nan", "shape"],
)
def test_sums_that_cannot_be_are_left_out(federation, caplog, change, message):
    class Changed(Lying):
        pass

    Changed.change = staticmethod(change)
    _, model, learn = federation(grid=Changed)
    learn()
    assert message in caplog.text and knowledge_of(model).tasks[0].data.rows == 12


def test_another_strategy_may_average(federation):
    grid, _, learn = federation(
        learn={"strategy": CheckedAvg(fraction_evaluate=0.0, fraction_train=0.5, min_train_nodes=1)}
    )
    learn()
    assert len(replies(grid, "train")) == 2
