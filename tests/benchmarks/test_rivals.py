"""The rivals of the evidence benchmark do what their papers say."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from methods import METHODS, arrow, frozen, osf, ours, regularised
from methods.sequential import joint, replay, separate, sequential
from methods.shared import SharedLearner, answers_of, lora_backbone
from peft import PeftModel
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from transformers import AutoModel, DataCollatorWithPadding

from hf_lifelong.adapter.heads import lifelong_of


def parameters(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def training_batch(shared):
    """All rows of the first task as one batch."""
    return dict(DataCollatorWithPadding(shared.tokenizer)(list(shared.rows(0))))


def batch_of(shared):
    return shared.model.inputs(training_batch(shared))


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
    backbone = AutoModel.from_pretrained(setting().model).eval()
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


def test_spans_are_no_labels(learner):
    assert learner("films", "questions").model.names == ["bad", "good"]
    assert learner("questions", "films").model.own.tolist() == [[False, False], [True, True]]


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


# A term in the loss


def two_weights():
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    return model


def test_ewc_holds_each_weight_as_firmly_as_its_fisher_information_says():
    model = two_weights()
    penalty = regularised.QuadraticPenalty(model, strength=10.0)
    nothing = torch.zeros(1, 1)
    assert penalty({}, nothing, nothing) == 0
    penalty.hold({"weight": torch.tensor([[3.0, 0.5]])})
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.5, 4.0]]))
    penalty.hold({"weight": torch.tensor([[1.0, 0.0]])})
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, 3.0]]))
    value = penalty({}, nothing, nothing)
    # 10 / 2 * (3 * 1^2 + 0.5 * 1^2 + 1 * 0.5^2), and its derivative 10 * (F1 (w - w1) + F2 (w - w2))
    assert value.item() == pytest.approx(5 * 3.75)
    value.backward()
    torch.testing.assert_close(model.weight.grad, torch.tensor([[35.0, 5.0]]))


def test_ewc_takes_the_fisher_information_from_the_gradient_of_each_row(learner):
    shared = learner("films", "news")
    rows = shared.rows(0).select(range(3))
    found = regularised.fisher(shared, rows)
    assert found.keys() == regularised.trained(shared.model).keys()
    assert all(name.startswith(("label_head", "span_head")) or "lora_" in name for name in found)
    # Of a softmax over two labels: p - 1 at the true one, p at the other; nothing at the labels of the other task.
    logits, _, _ = answers_of(shared.model, shared.tokenizer, shared.tasks[0].train.select(range(3)))
    error = logits[:, :2].softmax(1) - torch.nn.functional.one_hot(torch.tensor(rows["labels"]), 2)
    expected = torch.cat([(error**2).mean(0), torch.zeros(2)])
    torch.testing.assert_close(found["label_head.bias"], expected, rtol=0.01, atol=1e-3)  # scored in bfloat16
    assert not found["span_head.weight"].any()


def test_ewc_keeps_important_weights_nearer(stream, setting, monkeypatch):
    moved = []
    for strength in (0.0, 1e6):
        anchors = []
        hold = regularised.QuadraticPenalty.hold

        def note(self, information, hold=hold, anchors=anchors):
            hold(self, information)
            anchors.append(self.tasks[-1])

        monkeypatch.setattr(regularised.QuadraticPenalty, "hold", note)
        regularised.ewc(stream("films", "shops"), setting(epochs=5, strength=strength))
        monkeypatch.undo()
        (important, first), (_, second) = anchors
        moved.append(sum((important[name] * (first[name] - second[name]) ** 2).sum() for name in first))
    assert moved[1] < moved[0] / 2


@pytest.mark.parametrize("method", ["ewc", "lwf"])
def test_a_strength_of_zero_is_training_on_task_after_task(method, stream, setting, monkeypatch):
    tasks, models = stream("films", "questions", "news"), []
    create = SharedLearner.__init__

    def note(self, *args):
        create(self, *args)
        models.append(self.model)

    monkeypatch.setattr(SharedLearner, "__init__", note)
    plain = sequential(tasks, setting())
    other = getattr(regularised, method)(tasks, setting(strength=0.0))
    assert equal(parameters(models[0]), parameters(models[1]))
    assert plain.matrix.scores == other.matrix.scores


def test_lwf_asks_nothing_of_a_model_that_answers_as_before(learner):
    shared = learner("films", "questions", "news")
    shared.train(shared.rows(0), seen=[0])
    penalty = regularised.distillation(shared.model, shared.tasks[:2], strength=3.0)
    model = shared.model.eval()
    inputs = model.inputs(dict(shared.tokenizer(["a bright film", "late"], padding=True, return_tensors="pt")))
    labels, spans = model.logits(**inputs)
    assert penalty(inputs, labels, spans).item() == pytest.approx(0.0, abs=1e-6)
    assert penalty(inputs, labels + torch.tensor([0.0, 0.0, 5.0, 0.0]), spans).item() == pytest.approx(0.0, abs=1e-6)
    assert penalty(inputs, labels + torch.tensor([2.0, 0.0, 0.0, 0.0]), spans) > 0.1
    further = spans.clone()
    further[0, 1, 0] += 2.0
    assert penalty(inputs, labels, further) > 0.01


def test_lwf_holds_the_labels_of_each_old_task_by_themselves(learner):
    shared = learner("films", "news", "shops")
    penalty = regularised.distillation(shared.model, shared.tasks[:2], strength=1.0)
    model = shared.model.eval()
    inputs = model.inputs(dict(shared.tokenizer(["a bright film", "late"], padding=True, return_tensors="pt")))
    labels, spans = model.logits(**inputs)
    assert not (model.own[0] & model.own[1]).any()
    assert penalty(inputs, labels + 3.0 * model.own[1].float(), spans).item() == pytest.approx(0.0, abs=1e-6)
    one = labels.clone()
    one[:, model.own[1].nonzero()[0]] += 3.0
    assert penalty(inputs, one, spans) > 0.1


def test_lwf_divergence_is_that_of_softened_answers():
    student, teacher = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    p = torch.tensor([1.0, 0.0]).softmax(0)  # logits at temperature 2
    expected = (0.5 * (0.5 / p).log()).sum()
    torch.testing.assert_close(regularised.divergence(student, teacher), expected)


def test_o_lora_leaves_old_loras_as_they_are_and_uses_all_of_them(stream, setting, monkeypatch):
    models, after = [], []
    train = SharedLearner.train

    def note(self, *args, **kwargs):
        train(self, *args, **kwargs)
        models.append(self.model)
        after.append({n: p for n, p in parameters(self.model).items() if "lora_" in n})

    monkeypatch.setattr(SharedLearner, "train", note)
    result = regularised.olora(stream("films", "news", "shops"), setting(strength=0.5))
    for earlier, later in itertools.pairwise(after):
        assert earlier.keys() < later.keys() and all(torch.equal(earlier[name], later[name]) for name in earlier)
    layer = regularised.lora_layers(models[-1])[0]
    assert layer.active_adapters == ["default", "task_1", "task_2"]
    one = 4 * 2 * 4 * 8 * (32 + 32)  # float32, query and value, layers, rank, in and out
    assert result.bytes_per_task[1:] == [one, one]
    assert result.bytes_per_task[0] == one + 4 * (4 * 33 + 2 * 33)


def test_o_lora_drives_a_new_lora_out_of_the_space_of_the_old_ones(learner):
    left = []
    for strength in (0.0, 5.0):
        shared = learner("films", "news", epochs=10)
        model = shared.model
        model.penalty = lambda inputs, labels, spans, k=strength, m=model: k * regularised.overlap(m)
        shared.train(shared.rows(0), seen=[0])
        torch.manual_seed(0)
        regularised.add_lora(model.backbone, "task_1")
        shared.train(shared.rows(1), seen=[0, 1])
        layer = regularised.lora_layers(model)[0]
        old, new = (layer.lora_A[name].weight for name in ("default", "task_1"))
        by_hand = sum(
            (m.lora_A["default"].weight @ m.lora_A["task_1"].weight.T).abs().sum()
            for m in regularised.lora_layers(model)
        )
        torch.testing.assert_close(regularised.overlap(model), by_hand)
        left.append((old @ new.T).abs().sum())
    assert left[1] < left[0] / 2


# Upper and lower bounds


def test_replay_trains_on_the_kept_share_of_old_tasks_and_nothing_else_of_them(stream, setting, monkeypatch):
    tasks, trained_on = stream("films", "shops", "news"), []
    monkeypatch.setattr(SharedLearner, "train", lambda self, *parts, seen: trained_on.append(parts))
    result = replay(tasks, setting(share=0.2))
    assert [[set(part["task"]) for part in parts] for parts in trained_on] == [[{0}], [{1}, {0}], [{2}, {0}, {1}]]
    for parts in trained_on:
        for part in parts[1:]:
            (task,) = set(part["task"])
            known = [tuple(ids) for ids in tasks[task].train["input_ids"]]
            assert len(part) == round(0.2 * len(known)) and {tuple(ids) for ids in part["input_ids"]} <= set(known)
    assert list(trained_on[1][1]["input_ids"]) == list(trained_on[2][1]["input_ids"])
    assert result.bytes_per_task[1] == 4 * sum(map(len, trained_on[2][2]["input_ids"]))


def test_joint_training_sees_all_rows_at_once(stream, setting, monkeypatch):
    tasks, trained_on = stream("films", "questions"), []
    monkeypatch.setattr(SharedLearner, "train", lambda self, *parts, seen: trained_on.append((parts, list(seen))))
    joint(tasks, setting())
    ((parts, seen),) = trained_on
    assert seen == [0, 1] and [len(part) for part in parts] == [len(task.train) for task in tasks]


def test_separate_models_share_nothing(stream, setting):
    tasks = stream("films", "shops")
    both = separate(tasks, setting())
    alone = separate(tasks[1:], setting())
    assert both.matrix.scores[-1][1] == alone.matrix.scores[-1][0]
    assert both.bytes_per_task[0] == both.bytes_per_task[1] == alone.bytes_per_task[0]


# Subspaces and routing


def osf_layers(model):
    return [module for module in model.modules() if hasattr(module, "osf_svd_params")]


def test_osf_gradients_lie_outside_the_directions_that_are_kept(learner):
    shared = learner("films")
    base = AutoModel.from_pretrained(shared.setting.model)
    weight = base.encoder.layer[0].attention.self.query.weight.detach().clone()
    shared.model.backbone = osf.decomposed(base, 0.5)
    shared.model.loss(*shared.model.logits(**batch_of(shared)), training_batch(shared)).backward()
    left, _, right = torch.linalg.svd(weight)
    parts = osf_layers(shared.model)[0].osf_svd_params["default"]
    assert parts["S_low"].shape == (16,) and parts["U_low"].grad.abs().max() > 1e-6
    torch.testing.assert_close(left[:, :16].T @ parts["U_low"].grad, torch.zeros(16, 16), atol=1e-6, rtol=0)
    torch.testing.assert_close(parts["V_low"].grad @ right[:16].T, torch.zeros(16, 16), atol=1e-6, rtol=0)


def test_osf_carries_on_from_what_it_learned_and_keeps_more_with_every_task(stream, setting, monkeypatch):
    kept, before, after = [], [], []
    train = SharedLearner.train

    def note(self, *args, **kwargs):
        inputs = batch_of(self)
        kept.append(osf_layers(self.model)[0].effective_rank["default"])
        before.append(self.model.eval().logits(**inputs)[0].detach())
        train(self, *args, **kwargs)
        after.append(self.model.eval().logits(**inputs)[0].detach())

    monkeypatch.setattr(SharedLearner, "train", note)
    result = osf.osf(stream("films", "shops", "news"), setting(effective_rank=0.75))
    assert kept == [8, 16, 24]
    assert not torch.allclose(before[0], after[0], atol=1e-3)
    for learned, starts in zip(after[:-1], before[1:], strict=True):
        torch.testing.assert_close(learned, starts, atol=1e-4, rtol=1e-4)
    assert result.bytes_per_task == [4 * (2 * 4 * 32 * 32 + 4 * 33 + 2 * 33), 0, 0]


def two_loras(shared, folder, **chosen):
    """A model with random LoRAs of two tasks behind the router."""
    model = shared.model
    for i in range(2):
        model.backbone = lora_backbone(shared.setting.model)
        with torch.no_grad():
            for name, p in model.backbone.named_parameters():
                if "lora_B" in name:
                    p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)))
        model.backbone.save_pretrained(str(folder / str(i)))
    base = AutoModel.from_pretrained(shared.setting.model)
    model.backbone = arrow.routed(
        base, [str(folder / str(i)) for i in range(2)], replace(shared.setting, chosen=chosen)
    )
    return model


@pytest.mark.parametrize("top_k", [1, 2])
def test_arrow_weighs_the_loras_as_was_read_out(top_k, learner, tmp_path):
    model = two_loras(learner("films", "news"), tmp_path, top_k=top_k)
    inputs = torch.randn(2, 3, 32)
    layer = regularised.lora_layers(model)[0]
    with torch.no_grad():
        found = layer(inputs) - layer.base_layer(inputs)
        weights = arrow.routing_weights(layer.lora_arrow["arrow_router"], inputs)
        updates = [
            layer.scaling[name] * layer.lora_B[name](layer.lora_A[name](inputs)) for name in ("task_0", "task_1")
        ]
    assert ((weights > 0).sum(-1) == top_k).all()
    torch.testing.assert_close(found, sum(weights[..., [i]] * update for i, update in enumerate(updates)))


def test_arrow_with_one_task_answers_as_its_lora(stream, setting, monkeypatch):
    found = []
    make = arrow.routed

    def note(base, folders, setting):
        made = make(base, folders, setting)
        inputs = {"input_ids": torch.tensor([[101, 2000, 102]])}
        plain = PeftModel.from_pretrained(AutoModel.from_pretrained(setting.model), folders[-1]).eval()
        with torch.no_grad():
            found.append((made(**inputs).last_hidden_state, plain(**inputs).last_hidden_state))
        return made

    monkeypatch.setattr(arrow, "routed", note)
    result = arrow.arrow(stream("films", "news"), setting(top_k=1, epochs=3))
    torch.testing.assert_close(*found[0])
    one = 4 * 2 * 4 * 8 * (32 + 32)
    assert result.bytes_per_task == [one + 4 * (4 * 33 + 2 * 33), one]
    assert 0 <= result.beside["retrieval_accuracy"] <= 1 and result.beside["latency_ratio"] > 0


@pytest.mark.parametrize("name", METHODS)
def test_a_method_runs_with_the_first_values_of_its_grid(name, stream, setting):
    method = METHODS[name]
    # Each member needs a step of its own, and an epoch of `questions` is one step.
    epochs = {"epochs": 10 if name == "ours_members_10" else 5} if name.startswith(("ours", "any_ssr")) else {}
    chosen = method.settings({}) | ({"width": 64} if "width" in method.fixed else {})
    result = method.run(stream("films", "questions"), setting(**epochs, **chosen))
    assert len(result.matrix.scores) == len(result.bytes_per_task) == 2
    assert result.seconds > 0 and None not in result.matrix.scores[-1]


# Ours


@pytest.mark.parametrize("factor", [0.0, ours.FAR_MORE])
def test_ours_is_scored_with_its_closed_form_heads_weighed_otherwise_and_stays_what_it_was(
    factor, stream, setting, tmp_path, monkeypatch
):
    trainer = ours.learn(stream("films", "news"), setting(epochs=3), str(tmp_path))
    default, scored, score = ours.under(trainer, "signature"), [], ours.under
    bank = lifelong_of(trainer.model).drift_closed_weight["default"]
    before = bank.clone()
    assert before.abs().sum() > 0

    def note(*args):
        scored.append(bank.clone())
        return score(*args)

    monkeypatch.setattr(ours, "under", note)
    ours.with_closed_form(trainer, factor)
    torch.testing.assert_close(scored[0], before * factor)
    assert torch.equal(bank, before) and score(trainer, "signature") == default
