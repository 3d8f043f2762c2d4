"""Members that rest off the device that answers: nothing but where they lie is different."""

import pytest
import torch
from adapter_helpers import TASKS, answers_equal
from learned import learn_task
from peft import PeftModel
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, forget, generate, predict
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import drift_modules
from hf_lifelong.adapter.low_rank import DriftLayer
from hf_lifelong.loading import load

GROUPS = len(TASKS)


@pytest.fixture
def pair(make_model):
    """The same adapter, all on the device and with two groups at a time on it."""
    return make_model(), make_model(resident_groups=2)


def of_group(batch, *groups):
    """Rows of a batch, as many as groups are named, with the groups that shall answer them."""
    rows = torch.arange(len(groups)) % len(batch["input_ids"])
    return {k: v[rows] for k, v in batch.items()}, torch.tensor(groups)


def seated(model):
    """Groups whose members have seats, the one used longest ago first."""
    members = list(lifelong_of(model).residence.seat_of)
    return list(dict.fromkeys(member // 2 for member in members))


def test_every_policy_answers_as_with_all_members_on_the_device(pair, batch):
    for policy in ("signature", "cascade", "uncertainty"):
        for answer in ("merged", "ensemble"):
            options = {"policy": policy, "answer": answer}
            answers_equal(predict(pair[1], batch, **options), predict(pair[0], batch, **options))


def test_the_group_used_longest_ago_loses_its_seats(pair, batch):
    everything, some = pair
    for groups, left in (((0, 1), [0, 1]), ((0,), [1, 0]), ((2,), [0, 2]), ((0, 0), [2, 0]), ((3, 1), [3, 1])):
        rows, given = of_group(batch, *groups)
        found = predict(some, rows, "oracle", given)
        answers_equal(found, predict(everything, rows, "oracle", given))
        assert seated(some) == left or sorted(seated(some)) == sorted(left)


def test_a_batch_of_more_groups_than_seats_is_answered_too(pair, batch):
    rows, given = of_group(batch, *range(GROUPS))
    found = predict(pair[1], rows, "oracle", given)
    answers_equal(found, predict(pair[0], rows, "oracle", given))
    assert not lifelong_of(pair[1]).residence.seat_of


def test_only_the_seats_are_moved_with_the_model(pair):
    model = pair[1].to("meta")  # stands for another device
    banks = [m.drift_bank_A["default"].device.type for _, m in drift_modules(model) if isinstance(m, DriftLayer)]
    assert set(banks) == {"cpu"}
    assert lifelong_of(model).drift_signature_mean["default"].is_meta


def test_each_adapter_rests_or_not_as_it_says(pair):
    model = pair[1]
    model.add_adapter("beside", DriftAdapterConfig(r=2, members=2, signature_rank=4))
    model.to("meta")
    layers = [m for m in model.modules() if isinstance(m, DriftLayer)]
    assert {m.drift_bank_A["default"].device.type for m in layers} == {"cpu"}
    assert {m.drift_bank_A["beside"].device.type for m in layers} == {"meta"}


def test_a_name_that_is_used_again_rests_as_its_new_adapter_says(pair):
    model = pair[1]
    model.add_adapter("beside", DriftAdapterConfig(r=2, members=2, signature_rank=4))
    model.set_adapter("beside")
    model.delete_adapter("default")
    model.add_adapter("default", DriftAdapterConfig(r=2, members=2, signature_rank=4))
    model.to("meta")
    assert all(m.drift_bank_A["default"].is_meta for m in model.modules() if isinstance(m, DriftLayer))


def test_seats_of_all_groups_are_on_the_device(make_model, batch):
    model = make_model(resident_groups=50)
    answers_equal(predict(model, batch), predict(make_model(), batch))
    assert lifelong_of(model).residence.seats == 2 * GROUPS


def test_seats_can_be_changed_after_a_pass_in_inference_mode(pair, batch):
    with torch.inference_mode():
        pair[1](**batch)
    for group in range(GROUPS):
        rows, given = of_group(batch, group)
        answers_equal(predict(pair[1], rows, "oracle", given), predict(pair[0], rows, "oracle", given))


@pytest.mark.parametrize("resident", [None, 2])
def test_gradients_reach_inputs_after_a_pass_in_inference_mode(resident, make_model, batch):
    """What the first pass has cached is part of the later one."""

    def gradient(asked_before):
        model = make_model(resident_groups=resident)
        rows = {name: value[:1] for name, value in batch.items()}
        if asked_before:
            with torch.inference_mode():
                predict(model, rows, novelty=True)
                model(**rows)
        embedded = model.get_input_embeddings()(rows.pop("input_ids")).detach().requires_grad_()
        model(inputs_embeds=embedded, **rows).scores.square().sum().backward()
        return embedded.grad

    assert torch.equal(gradient(False), gradient(True))


def test_learning_and_forgetting_go_on(pair, batch):
    for model in pair:
        predict(model, batch)
        forget(model, "news")
        learn_task(model, "later", "text-classification", ("a", "b"), seed=9)
        model.eval()
    answers_equal(predict(pair[1], batch), predict(pair[0], batch))
    rows, given = of_group(batch, 3, 0, 2)
    answers_equal(predict(pair[1], rows, "oracle", given), predict(pair[0], rows, "oracle", given))


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_it_is_loaded_that_way(pair, batch, bert_folder, tmp_path, low_cpu_mem_usage):
    pair[0].save_pretrained(tmp_path)
    config = DriftAdapterConfig.from_pretrained(tmp_path)
    config.resident_groups = 1
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(base, tmp_path, config=config, low_cpu_mem_usage=low_cpu_mem_usage)
    answers_equal(predict(model, batch), predict(pair[0], batch))
    assert lifelong_of(model).residence.seats == 2


@pytest.mark.parametrize("trainable", [False, True])
def test_load_leaves_resting_members_in_the_file(pair, batch, bert_folder, tmp_path, trainable, tokenizer):
    pair[1].save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load(tmp_path, trainable=trainable)
    answers_equal(predict(model, batch), predict(pair[0], batch))
    learn_task(model, "later", "text-classification", ("a", "b"), seed=9)
    learn_task(pair[0], "later", "text-classification", ("a", "b"), seed=9)
    answers_equal(predict(model.eval(), batch), predict(pair[0].eval(), batch))


def test_a_language_model_writes_the_same(make_language_model):
    ids = torch.randint(5, 90, (6, 12), generator=torch.Generator().manual_seed(0))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    everything, some = make_language_model(), make_language_model(resident_groups=1)
    for given in (torch.zeros(6).long(), torch.tensor([0, 1, 2, 0, 1, 2]), torch.full((6,), 2)):
        expected = generate(everything, batch, "oracle", given, **options).tokens
        assert torch.equal(generate(some, batch, "oracle", given, **options).tokens, expected)


def test_a_compiled_graph_ends_at_one_place_where_groups_are_chosen(pair, batch):
    torch.compiler.reset()
    with torch.no_grad():
        plain = pair[1](**batch)
        explained = torch._dynamo.explain(pair[1])(**batch)  # documented by torch under this name alone
    torch.compiler.reset()
    assert {reason.user_stack[-1].line for reason in explained.break_reasons} == {
        "plan = replace(plan, seats=residence.seats_of(plan.members, plan.key))"
    }
    answers_equal(plain, predict(pair[0], batch))


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "all"])
def test_a_wrong_number_is_refused(value):
    with pytest.raises(ValueError, match=r"`resident_groups` is .* an integer from 1 to "):
        DriftAdapterConfig(resident_groups=value)
