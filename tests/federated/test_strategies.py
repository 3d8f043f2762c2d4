"""Averages over clients, and their fairness: what is learned, what is left out, what is refused."""

import logging
import subprocess
import sys

import pytest
import torch

from hf_lifelong.fairness import GroupFairness

pytest.importorskip("flwr", reason="needs the extra `federated`")

from federations import WAYS, Classifier, Failing, Watched, people, start, trainers

from hf_lifelong.federated import CheckedAvg, FairAvg, InProcessGrid, client_app, load_trained, trained_tensors
from hf_lifelong.federated.flower import ArrayRecord


def tensors(result):
    return result.arrays.to_torch_state_dict()


def pooled(result, metric, clients=3):
    """The metric of a federation's model over the rows of all clients."""
    model, whole = Classifier(), GroupFairness(metric)
    load_trained(model, tensors(result))
    for client in range(clients):
        rows = people(client)
        inputs, labels = torch.tensor(rows["inputs"][:]), torch.tensor(rows["labels"][:])
        with torch.no_grad():
            scores = model(inputs, labels)["logits"].softmax(-1)
        whole.update(scores, labels, rows["group"][:])
    return whole


@pytest.mark.parametrize("metric", ["sp", "eop", "cal"])
def test_the_sums_of_all_clients_are_those_of_their_pooled_rows(tmp_path, metric):
    strategy = FairAvg(metric, 5.0)
    result = start(strategy, InProcessGrid(client_app(trainers(tmp_path, metric)), 3))
    whole = pooled(result, metric)
    assert strategy.fairness.rows == whole.rows == 3 * 64
    assert torch.allclose(strategy.fairness.sums, whole.sums, rtol=1e-6)
    assert result.evaluate_metrics_clientapp[2][f"fairness_{metric}"] == pytest.approx(whole.value(), abs=1e-6)


@pytest.mark.parametrize(("metric", "left"), [("sp", 0.8), ("eop", 0.8), ("cal", 0.97)])
def test_a_federation_becomes_fairer_over_all_clients(tmp_path, metric, left):
    settings = {"learning_rate": 0.02, "optim": "adamw_torch"}
    found = {}
    for weight in (0.0, 20.0):
        strategy = FairAvg(metric, weight)
        start(strategy, InProcessGrid(client_app(trainers(tmp_path, metric, **settings)), 3), num_rounds=8)
        found[weight] = abs(strategy.fairness.value())
    assert found[0.0] > 0.1 and found[20.0] < left * found[0.0]


def test_the_first_round_is_plain_averaging_and_a_weight_of_zero_stays_so(tmp_path):
    fair = trainers(tmp_path)
    plain = start(CheckedAvg(), InProcessGrid(client_app(trainers(tmp_path, fair=False)), 3))
    once = start(CheckedAvg(), InProcessGrid(client_app(trainers(tmp_path, fair=False)), 3), num_rounds=1)
    unweighted = start(FairAvg("sp", 0.0), InProcessGrid(client_app(fair), 3))
    first = start(FairAvg("sp", 20.0), InProcessGrid(client_app(fair), 3), num_rounds=1)
    second = start(FairAvg("sp", 20.0), InProcessGrid(client_app(fair), 3))
    for name, tensor in tensors(plain).items():
        assert torch.equal(tensor, tensors(unweighted)[name]) and torch.equal(
            tensors(once)[name], tensors(first)[name]
        )
        assert not torch.equal(tensor, tensors(second)[name])


def test_what_clients_are_told_is_the_value_and_the_sums_of_all(tmp_path):
    grid = Watched(client_app(trainers(tmp_path)), 3)
    strategy = FairAvg("sp", 7.0)
    result = start(strategy, grid)
    train = [message for message in grid.sent if message.metadata.message_type == "train"]
    told = train[-1].content["config"]
    assert told["fairness"] == result.evaluate_metrics_clientapp[1]["fairness_sp"]
    assert (told["fairness-weight"], told["fairness-rows"], len(told["fairness-sums"])) == (7.0, 192.0, 4)


def test_one_client_alone_is_its_trainer(tmp_path):
    make = trainers(tmp_path, fair=False)
    grid = Watched(client_app(make), 1)
    alone = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
    result = start(CheckedAvg(**alone), grid, num_rounds=1)
    reply = grid.received[0].content
    assert reply["metrics"]["num-examples"] == 64  # rows, not batches
    for name, tensor in reply["arrays"].to_torch_state_dict().items():
        assert torch.equal(tensors(result)[name], tensor)


def test_an_average_is_weighted_by_rows_and_does_not_depend_on_who_answers_first(tmp_path):
    class Reversed(Watched):
        def pull_messages(self, message_ids):
            return super().pull_messages(message_ids)[::-1]

    make = trainers(tmp_path, fair=False, data=lambda client: people(client, rows=16 * (client + 1)))
    first, last = Watched(client_app(make), 3), Reversed(client_app(make), 3)
    one, other = start(CheckedAvg(), first), start(CheckedAvg(), last)
    replies = [r.content for r in first.received if r.metadata.message_type == "train"][-3:]
    weights = [reply["metrics"]["num-examples"] for reply in replies]
    assert weights == [16, 32, 48]
    for name, tensor in tensors(one).items():
        assert torch.equal(tensor, tensors(other)[name])
        mean = sum(w * r["arrays"].to_torch_state_dict()[name] for w, r in zip(weights, replies, strict=True)) / 96
        assert torch.allclose(tensor, mean, atol=1e-6)


def test_rounds_and_clients_draw_different_random_numbers(tmp_path):
    seeds = []

    def make(context):
        trainer = trainers(tmp_path, fair=False)(context)
        train = trainer.train
        trainer.train = lambda: (seeds.append(trainer.args.seed), train())[1]
        return trainer

    start(CheckedAvg(fraction_evaluate=0.0), InProcessGrid(client_app(make), 3))
    assert len(set(seeds)) == 6


@pytest.mark.parametrize("way", WAYS)
def test_a_round_goes_on_without_a_client_that_fails_and_says_so(tmp_path, caplog, way):
    make = trainers(tmp_path)
    kept = start(FairAvg("sp", 5.0), InProcessGrid(client_app(make), 2))
    with caplog.at_level(logging.WARNING, logger="hf_lifelong"):
        found = start(FairAvg("sp", 5.0), Failing(client_app(make), 3, way))
    for name, tensor in tensors(found).items():
        # Evaluation sends no arrays, so a client that is wrong in them alone still counts there.
        same = torch.equal(tensor, tensors(kept)[name])
        assert same == (way not in ("nan", "other shape", "other names")) and tensor.isfinite().all()
    told = [record.message for record in caplog.records if "goes on without node 4 in training" in record.message]
    assert len(told) == 2 and told[0].startswith("Round 1")


def test_nothing_usable_in_any_round_is_an_error(tmp_path):
    def make(context):
        raise MemoryError("of client")

    with pytest.raises(RuntimeError, match="No client gave a usable reply in 2 rounds"):
        start(CheckedAvg(), InProcessGrid(client_app(make), 2))


def test_the_text_of_an_error_stays_with_the_client(tmp_path, caplog):
    def make(context):
        raise ValueError("row 3 is 'Mrs. Miller, 44'")

    grid = Watched(client_app(make), 2)
    with pytest.raises(RuntimeError):
        start(CheckedAvg(fraction_evaluate=0.0), grid, num_rounds=1)
    assert [reply.error.reason for reply in grid.received] == [
        "ClientError: ValueError; the client's own log has the rest"
    ] * 2
    assert "Mrs. Miller" in caplog.text  # in the client's log


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("parity",), r"`metric` is 'parity'; give one of \['sp', 'eop', 'cal'\]"),
        (("sp", -1.0), "The weight of fairness is -1.0"),
        (("sp", float("inf")), "The weight of fairness is inf"),
    ],
)
def test_bad_settings_of_a_strategy_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        FairAvg(*arguments)


def test_fairness_without_evaluation_is_refused():
    with pytest.raises(ValueError, match="`fraction_evaluate` is 0"):
        FairAvg("sp", fraction_evaluate=0)


@pytest.mark.parametrize("clients", [0, -1, 1.5, True, "2"])
def test_a_grid_needs_clients(clients):
    with pytest.raises(ValueError, match="`clients` is"):
        InProcessGrid(client_app(print), clients)


def test_fewer_clients_than_a_round_needs_are_refused_instead_of_waited_for(tmp_path):
    with pytest.raises(ValueError, match="`grid` has 1 clients, but a round needs 2"):
        start(CheckedAvg(), InProcessGrid(client_app(trainers(tmp_path)), 1))


def test_a_function_makes_trainers():
    with pytest.raises(ValueError, match="`make_trainer` is 'Trainer'"):
        client_app("Trainer")


def frozen():
    model = Classifier()
    return model.requires_grad_(False)


def one_group(client):
    rows = people(client)
    return rows.remove_columns("group").add_column("group", [0] * len(rows))


BAD_CLIENTS = {
    "no trainer": ({}, lambda context: Classifier(), "`make_trainer` returned a `Classifier`, not a `Trainer`"),
    "nothing trained": ({"model": frozen}, None, "differ in 2 trainable tensors"),
    "no mixin": ({"fair": False}, None, "`FairAvg` needs trainers with `FairTrainerMixin`"),
    "other metric": ({"metric": "eop"}, None, "`FairAvg` has the metric 'sp', but the trainer's `fairness` 'eop'"),
}


@pytest.mark.parametrize("case", BAD_CLIENTS)
def test_clients_that_cannot_take_part_say_why(tmp_path, case):
    settings, make, message = BAD_CLIENTS[case]
    with pytest.raises(RuntimeError, match="No client gave a usable reply in 2 rounds") as raised:
        start(FairAvg("sp"), InProcessGrid(client_app(make or trainers(tmp_path, **settings)), 2))
    assert message in str(raised.value)


def test_clients_of_one_group_only_are_said_and_change_nothing(tmp_path, caplog):
    strategy = FairAvg("sp")
    with caplog.at_level(logging.WARNING, logger="hf_lifelong"), pytest.raises(RuntimeError):
        start(strategy, InProcessGrid(client_app(trainers(tmp_path, data=one_group)), 2))
    assert "holds only the groups [0]" in caplog.text and not strategy.fairness.is_known


def without_column(client):
    return people(client).remove_columns("group")


def of_unseen_groups(client):
    rows = people(client)
    return rows.remove_columns("group").add_column("group", [row % 3 for row in range(len(rows))])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (without_column, "`group_column` is 'group', but the training data have"),
        (of_unseen_groups, "holds 0, 1, 2, but"),
    ],
    ids=["column", "groups"],
)
def test_data_without_groups_or_of_unknown_ones_is_said_in_the_log_of_the_client(tmp_path, caplog, data, message):
    with pytest.raises(RuntimeError, match="of the last: it failed"):
        start(FairAvg("sp"), InProcessGrid(client_app(trainers(tmp_path, data=data)), 2), num_rounds=1)
    assert message in caplog.text


def test_a_model_without_anything_to_train_is_refused():
    with pytest.raises(ValueError, match="no trainable parameter"):
        trained_tensors(frozen())


def test_tensors_of_another_model_are_refused_by_name():
    given = trained_tensors(Classifier())
    with pytest.raises(ValueError, match=r"`linear.bias` is \[3\] in `arrays`, but \[2\] in the model"):
        load_trained(Classifier(), {**given, "linear.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="differ in 1 trainable tensors"):
        load_trained(Classifier(), {"linear.weight": given["linear.weight"]})


def test_only_trained_tensors_travel_and_bfloat16_goes_as_float32_and_back_to_the_bit(bert_folder):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(bert_folder, num_labels=3, dtype=torch.bfloat16)
    model = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", r=2), autocast_adapter_dtype=False)
    sent = trained_tensors(model)
    assert {"lora" in name or "classifier" in name for name in sent} == {True}
    assert {tensor.dtype for tensor in sent.values()} == {torch.float32}
    arrived = ArrayRecord(sent).to_torch_state_dict()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data.zero_() if parameter.requires_grad else None
    load_trained(model, arrived)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


LEAVES_NOTHING = """
import os, sys, socket
from pathlib import Path
def closed(*args, **kwargs): raise OSError("no network")
socket.socket.connect = closed
from flwr.serverapp import ServerApp
before = set(Path.home().rglob("*"))
from flwr.supercore import telemetry
from hf_lifelong.federated import FairAvg, InProcessGrid, client_app
from hf_lifelong.federated.flower import OFFLINE
from federations import start, trainers
start(FairAvg("sp"), InProcessGrid(client_app(trainers(Path(sys.argv[1], "out"))), 2), num_rounds=1)
left = {path.name for path in Path.home().rglob("*")} - {path.name for path in before}
print(telemetry.FLWR_TELEMETRY_ENABLED, {os.environ[name] for name in OFFLINE} <= {"0", "1"}, left)
"""


def test_a_run_reports_nothing_reaches_nobody_and_leaves_nothing_at_home(tmp_path, monkeypatch):
    for name in ("FLWR_TELEMETRY_ENABLED", "FLWR_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{sys.path[0]}:{__file__.rpartition('/')[0]}", prepend=":")
    done = subprocess.run(
        [sys.executable, "-c", LEAVES_NOTHING, str(tmp_path.parent)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "0 True set()"
