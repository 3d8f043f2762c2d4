"""Answers of a batch that mixes groups, against each row alone and against members run one by one."""

from itertools import pairwise

import pytest
import torch
from adapter_helpers import TASKS, answers_equal, tensors_of
from learned import learn_task
from peft import get_peft_model
from torch.nn.functional import linear, softmax
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, knowledge_of, predict
from hf_lifelong.adapter import lifelong_of, trunk_features
from hf_lifelong.adapter.bank import add_task, close_task, open_task
from hf_lifelong.adapter.low_rank import DriftLayer, member_factors
from hf_lifelong.knowledge import LearnedTask, fit_signature

ALONE = 1e-4  # how far a row may lie in a batch from its answer alone: products of other shapes round otherwise
MODELS = [
    ("bert", {}),
    ("roberta", {}),
    ("distilbert", {}),
    ("deberta-v2", {}),
    ("modernbert", {}),
    ("mpnet", {"target_modules": "all-linear"}),
]
OPTIONS = [
    {"policy": "signature"},
    {"policy": "uncertainty"},
    {"policy": "uncertainty", "uncertainty": "variance"},
    {"policy": "cascade"},
    {"policy": "cascade", "uncertainty": "variance"},
    {"policy": "signature", "answer": "ensemble"},
]


def set_router(model, batch, groups):
    """Puts signature means where the given rows lie, so that each row is sent to the group it is meant for."""
    root = lifelong_of(model)
    features = trunk_features(model, batch)
    name = root.active_adapters[0]
    for row, group in enumerate(groups):
        for means in (root.drift_signature_mean, root.drift_signature_classes):
            means[name].data[group] = features[row]
    root.refresh()


def row_alone(batch, row):
    length = int(batch["attention_mask"][row].sum())
    return {k: v[row : row + 1, :length] for k, v in batch.items()}


def assert_row_equal(answer, row, alone):
    assert answer.group[row] == alone.group[0]
    for key in ("uncertainty", "margin"):
        torch.testing.assert_close(answer[key][row], alone[key][0], rtol=0, atol=ALONE)
    d, c = alone.scores.shape[1:]
    torch.testing.assert_close(answer.scores[row, :d, :c], alone.scores[0], rtol=0, atol=ALONE)
    assert not answer.scores[row, :d, c:].any()


def test_pooled_hidden_states_are_those_that_the_heads_read(make_model, batch):
    model = make_model("bert")
    set_router(model, batch, [0, 1, 2, 3])
    assert predict(model, batch).states is None
    with torch.no_grad():
        hidden = model.eval()(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    means = (hidden * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(predict(model, batch, states=True).states, means, rtol=0, atol=ALONE)
    for options in OPTIONS:
        states = predict(model, batch, states=True, **options).states
        assert states.shape == means.shape and states.dtype == torch.float32
        for row in range(4):
            alone = predict(model, row_alone(batch, row), states=True, **options).states
            torch.testing.assert_close(states[row], alone[0], rtol=0, atol=ALONE)


@pytest.mark.parametrize(("model_type", "config"), MODELS)
def test_rows_of_different_groups_answer_as_they_do_alone(make_model, batch, model_type, config):
    model = make_model(model_type, **config)
    set_router(model, batch, [0, 1, 2, 3])
    for options in OPTIONS:
        answer = predict(model, batch, **options)
        for row in range(4):
            assert_row_equal(answer, row, predict(model, row_alone(batch, row), **options))
    assert predict(model, batch).group.tolist() == [0, 1, 2, 3]
    for answer_as in ("merged", "ensemble"):
        given = torch.tensor([3, 2, 1, 0])
        answer = predict(model, batch, policy="oracle", group=given, answer=answer_as)
        assert torch.equal(answer.group, given)
        for row in range(4):
            one = predict(model, row_alone(batch, row), policy="oracle", group=int(given[row]), answer=answer_as)
            assert_row_equal(answer, row, one)


def lone_member_model(folder, name, snapshot):
    """A model that knows one task with one member."""
    kind, labels = TASKS[name]
    base = AutoModel.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(r=2, signature_rank=4)).eval()
    open_task(model, kind, labels, len(labels))
    task = LearnedTask(name, kind, labels, len(labels), 1, name, 12)
    add_task(model, task, [snapshot], fit_signature(torch.randn(5, lifelong_of(model).features), 4))
    close_task(model)
    return model


def entropy(p):
    return -(p * p.clamp_min(1e-30).log()).sum(-1)


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2", "modernbert"])
def test_expanded_rows_equal_members_run_one_by_one(make_model, tiny_folder, batch, model_type):
    model = make_model(model_type, tasks=())
    members = {
        name: learn_task(model, name, *TASKS[name], seed=i, members=2 + i) for i, name in enumerate(("films", "news"))
    }
    alone = {
        name: torch.stack(
            [predict(lone_member_model(tiny_folder(model_type), name, s), batch).scores[:, 0] for s in snapshots]
        )
        for name, snapshots in members.items()
    }
    for name, probabilities in alone.items():
        ensemble = predict(model, batch, policy="oracle", group=name, answer="ensemble")
        width = probabilities.shape[-1]
        torch.testing.assert_close(ensemble.scores[:, 0, :width], probabilities.mean(0), rtol=0, atol=ALONE)

    by_entropy = torch.stack([entropy(p.mean(0)) / torch.log(torch.tensor(p.shape[-1])) for p in alone.values()], 1)
    by_variance = torch.stack([p.var(0, unbiased=False).sum(-1) for p in alone.values()], 1)
    for measure, expected in (("entropy", by_entropy), ("variance", by_variance)):
        answer = predict(model, batch, policy="uncertainty", uncertainty=measure)
        assert torch.equal(answer.group, expected.argmin(1))
        torch.testing.assert_close(answer.uncertainty, expected.min(1).values, rtol=0, atol=ALONE)
        torch.testing.assert_close(answer.margin, expected.max(1).values - expected.min(1).values, rtol=0, atol=ALONE)
        together = predict(model, batch, policy="uncertainty", uncertainty=measure, per_batch=True)
        assert together.group.tolist() == [int(expected.mean(0).argmin())] * 4


def test_merged_is_the_mean_of_the_weight_updates(make_model, batch):
    model = make_model(tasks=("films",), members=3)
    layer = next(m for m in model.modules() if isinstance(m, DriftLayer))
    a, b = layer.drift_bank_A["default"], layer.drift_bank_B["default"]
    weight = layer.base_layer.weight + layer.scaling["default"] * (b.mT @ a).mean(0)
    x = torch.randn(3, 5, a.shape[-1])
    members, weights = torch.arange(len(a)).expand(3, -1), torch.full((3, len(a)), 1 / len(a))
    first, second = member_factors(a, b, members, weights)
    update = layer.base_layer(x) + layer.scaling["default"] * (x @ first.mT @ second)
    torch.testing.assert_close(update, linear(x, weight, layer.base_layer.bias), rtol=0, atol=1e-5)


def test_merged_answer_equals_a_base_with_the_mean_update_in_its_weights(make_model, tiny_folder, batch):
    model = make_model(tasks=("films", "news"))
    expected = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
    stored = tensors_of(model)
    for name, module in expected.named_modules():
        if f"{name}.drift_bank_A" in stored:
            a, b = (stored[f"{name}.drift_bank_{part}"][2:] for part in "AB")  # members of the second task
            module.weight.data += 8.0 * (b.mT @ a).mean(0)  # lora_alpha 16, r 2
    mask = batch["attention_mask"].unsqueeze(-1)
    with torch.no_grad():
        hidden = (expected(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
    weight = stored["lifelong.drift_bank_head_weight"][4:].view(2, 3, -1).mean(0)
    bias = stored["lifelong.drift_bank_head_bias"][4:].view(2, 3).mean(0)
    scores = softmax(linear(hidden, weight, bias), -1)
    answer = predict(model, batch, policy="oracle", group="news")
    torch.testing.assert_close(answer.scores[:, 0], scores, rtol=0, atol=ALONE)
    torch.testing.assert_close(answer.uncertainty, entropy(scores) / torch.log(torch.tensor(3.0)), rtol=0, atol=ALONE)


def test_cascade_asks_only_groups_that_are_in_question(make_model, batch):
    model = make_model(tasks=("films", "news"))
    set_router(model, batch, [0, 1])
    pair = {k: v[:2] for k, v in batch.items()}
    clear = predict(model, pair, policy="cascade")
    answers_equal(clear, predict(model, pair, policy="signature"))
    root = lifelong_of(model)
    for means in (root.drift_signature_mean, root.drift_signature_classes):
        means["default"].data[1] = means["default"][0]
    root.refresh()
    unclear = predict(model, pair, policy="cascade")
    merged = torch.stack([predict(model, pair, policy="oracle", group=g).uncertainty for g in (0, 1)], 1)
    assert torch.equal(unclear.group, merged.argmin(1))
    torch.testing.assert_close(unclear.uncertainty, merged.min(1).values, rtol=0, atol=ALONE)


def test_a_group_of_two_tasks_answers_with_its_newest_merged_and_all_its_members(make_model, batch):
    model = make_model(tasks=("films",))
    learn_task(model, "later", *TASKS["films"], seed=7, group="films")
    knowledge = knowledge_of(model)
    assert knowledge.groups == ["films"] and knowledge.newest == [1]
    merged = predict(model, batch, policy="oracle", group="films")
    assert merged.task.tolist() == [1] * 4
    only_later = make_model(tasks=())
    learn_task(only_later, "later", *TASKS["films"], seed=7)
    torch.testing.assert_close(
        merged.scores, predict(only_later, batch, policy="oracle", group="later").scores, rtol=0, atol=ALONE
    )
    only_first = make_model(tasks=("films",))
    parts = [predict(m, batch, answer="ensemble").scores for m in (only_first, only_later)]
    torch.testing.assert_close(
        predict(model, batch, answer="ensemble").scores, torch.stack(parts).mean(0), rtol=0, atol=ALONE
    )


def test_novelty_grows_with_the_distance_from_the_task(make_model, batch):
    model = make_model()
    root = lifelong_of(model)
    centre = trunk_features(model, batch)[0]
    means, classes = (part["default"].data for part in (root.drift_signature_mean, root.drift_signature_classes))
    near, far = [], []
    for shift, into in ((0.0, near), (100.0, far)):
        means[0] = centre + shift
        means[1] = -means[0]
        classes.copy_(means)
        root.refresh()
        into.append(float(predict(model, batch, policy="oracle", group=0, novelty=True).novelty[0]))
    assert abs(near[0]) < 0.5 and far[0] > 1


def test_with_one_task_nothing_is_new(make_model, batch):
    assert predict(make_model(tasks=("films",)), batch, novelty=True).novelty.tolist() == [0.0] * 4


def test_targets_and_positions_do_not_change_an_answer(make_model, batch):
    model = make_model()
    expected = predict(model, batch)
    answers_equal(predict(model, {**batch, "labels": torch.zeros(4, dtype=torch.long)}), expected)
    with torch.no_grad():
        answers_equal(model(**batch), expected)
        answers_equal(model.base_model.model(batch["input_ids"], batch["attention_mask"]), expected)


def test_a_missing_mask_means_no_padding(make_model, batch):
    model = make_model()
    full = {"input_ids": batch["input_ids"][3:]}
    answers_equal(predict(model, full), predict(model, {**full, "attention_mask": batch["attention_mask"][3:]}))


def test_trunk_features_are_what_each_layer_adds_and_the_peak_of_the_first(make_model, tiny_folder, batch):
    model = make_model(tasks=())
    base = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32).eval()
    knowledge, lengths = knowledge_of(model), batch["attention_mask"].sum(1).tolist()
    with torch.no_grad():
        states = base(**batch, output_hidden_states=True).hidden_states
    found = trunk_features(model, batch)
    for row, length in enumerate(lengths):
        means = [states[depth][row, :length].mean(0) for depth in knowledge.depths]
        peak = states[0][row, :length].amax(0)
        expected = [means[0], *(b - a for a, b in pairwise(means)), peak - means[0]]
        torch.testing.assert_close(found[row], torch.cat(expected), rtol=0, atol=1e-5)
    assert found.shape == (4, knowledge.pooled_width(base.config.hidden_size))


def test_what_chooses_groups_is_computed_in_float32_under_autocast(make_model, batch):
    plain, rounded = make_model(), make_model()
    predict(plain, batch, novelty=True)
    with torch.autocast("cpu", torch.bfloat16):
        predict(rounded, batch, novelty=True)
    one, two = (lifelong_of(model).index for model in (plain, rounded))
    scatters = one.router.own_scatter, two.router.own_scatter
    for a, b in ((one.router, two.router), scatters, (one.novelty_rule, two.novelty_rule)):
        assert all(torch.equal(x, getattr(b, k)) for k, x in vars(a).items() if isinstance(x, torch.Tensor))


def test_a_row_without_tokens_has_finite_features(make_model, batch):
    nothing = {**batch, "attention_mask": batch["attention_mask"].clone()}
    nothing["attention_mask"][0] = 0
    assert torch.isfinite(trunk_features(make_model(tasks=()), nothing)).all()


@pytest.mark.parametrize("policy", ["signature", "uncertainty", "cascade"])
def test_only_groups_of_the_given_kinds_answer(make_model, batch, policy):
    model = make_model()  # two tasks of text classification, then answers, then names
    for kinds, groups in ((["question-answering"], {2}), (["text-classification", "token-classification"], {0, 1, 3})):
        set_router(model, batch, [2, 0, 1, 3])
        found = predict(model, batch, policy=policy, kinds=kinds)
        assert set(found.group.tolist()) <= groups
        assert torch.isfinite(found.margin).all()
    everything = [kind for kind, _ in TASKS.values()]
    answers_equal(predict(model, batch, policy=policy, kinds=everything), predict(model, batch, policy=policy))


def test_wide_hidden_states_go_through_one_fixed_projection(make_model, batch):
    one, two = (make_model(tasks=(), signature_size=16) for _ in range(2))
    features = trunk_features(one, batch)
    assert features.shape == (4, 16)
    assert torch.equal(features, trunk_features(two, batch))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "best"}, "`policy` is 'best'; choose one of"),
        ({"answer": "all"}, "`answer` is 'all'; choose one of"),
        ({"uncertainty": "x"}, "`uncertainty` is 'x'; choose one of"),
        ({"kinds": ["text-generation"]}, r"`kinds` is \['text-generation'\]; give a list with kinds of learned tasks"),
        ({"kinds": "question-answering"}, "`kinds` is 'question-answering'; give a list"),
        ({"policy": "oracle"}, '`group` and `policy="oracle"` go together'),
        ({"group": 0}, '`group` and `policy="oracle"` go together'),
        ({"policy": "oracle", "group": torch.tensor([0, 1, 2, 9])}, "one group from 0 to 3 for each of the 4 rows"),
        ({"policy": "oracle", "group": torch.tensor([-1, 0, 0, 0])}, "one group from 0 to 3"),
        ({"policy": "oracle", "group": torch.tensor([0])}, "each of the 4 rows"),
    ],
)
def test_impossible_questions_are_refused(make_model, batch, options, message):
    with pytest.raises(ValueError, match=message):
        predict(make_model(), batch, **options)


def test_an_unknown_group_is_refused_with_the_known_ones(make_model, batch):
    with pytest.raises(KeyError, match=r"no task `weather`.*'films', 'news'"):
        predict(make_model(tasks=("films", "news")), batch, policy="oracle", group="weather")
    with pytest.raises(KeyError, match=r"no group 7.*it has 2 groups"):
        predict(make_model(tasks=("films", "news")), batch, policy="oracle", group=7)


def test_uncertainty_in_parts_is_the_same_as_at_once(make_model, batch, monkeypatch):
    model = make_model()
    whole = predict(model, batch, policy="uncertainty", novelty=True)
    members, tokens = knowledge_of(model).member_offsets[-1], batch["input_ids"].shape[1]
    monkeypatch.setattr("hf_lifelong.adapter.forward.predict.MOST_TOKENS", 3 * members * tokens)
    parts = predict(model, batch, policy="uncertainty", novelty=True)
    answers_equal(parts, whole, ALONE)
    torch.testing.assert_close(parts.novelty, whole.novelty)


def padded_left(batch):
    """The same rows with their padding on the left."""
    order = batch["attention_mask"].argsort(dim=1, stable=True)
    return {key: value.gather(1, order) for key, value in batch.items()}


@pytest.mark.parametrize("model_type", ["bert", "deberta-v2"])
def test_a_batch_that_is_padded_on_the_left_is_refused(make_model, batch, model_type):
    model, left = make_model(model_type, tasks=("films", "news")), padded_left(batch)
    for ask in (lambda: predict(model, left), lambda: model(**left), lambda: trunk_features(model, left)):
        with pytest.raises(ValueError, match="2 of 4 rows are padded on the left"):
            ask()
    open_task(model, *TASKS["films"], 2)
    with pytest.raises(ValueError, match="padded on the left"):
        model(**left, labels=torch.zeros(4, dtype=torch.long))
    close_task(model)
    with model.disable_adapter():
        model(**left)  # the base's own matter
    one = row_alone(batch, 0)
    assert torch.equal(predict(model, one).group, predict(model, padded_left(one)).group)  # no padding


@pytest.fixture
def unreadable(make_model, batch):
    """A model, and a batch whose row 1 has a word without a finite vector."""

    def make(**config):
        model = make_model(**config)
        word = batch["input_ids"][1, 3]
        assert not (batch["input_ids"][[0, 2, 3]] == word).any()
        model.get_input_embeddings().weight.data[word] = float("nan")
        return model

    return make


@pytest.mark.parametrize("options", [*OPTIONS, {"policy": "oracle", "group": 2}, {"policy": "oracle", "group": 0}])
def test_an_input_without_finite_numbers_is_an_error_or_unknown(unreadable, batch, options):
    model = unreadable()
    with pytest.raises(
        ValueError, match=r"NaN or infinite numbers for 1 of the 4 inputs .*rows \[1\].*`novelty=True`"
    ):
        predict(model, batch, **options)
    found = predict(model, batch, novelty=True, **options)
    assert (found.novelty[1] > 1e30).item() and found.margin[1] == 0 and found.uncertainty[1] == 1
    assert not found.scores[1].any()
    for row in (0, 2, 3):
        assert_row_equal(found, row, predict(model, row_alone(batch, row), **options))
    assert all(torch.isfinite(found[key]).all() for key in ("scores", "margin", "uncertainty", "novelty"))


def test_nothing_is_fitted_on_features_that_are_not_finite(unreadable, batch):
    with pytest.raises(ValueError, match=r"NaN or infinite numbers for 1 of the 4 inputs"):
        trunk_features(unreadable(), batch)
