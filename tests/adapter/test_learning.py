"""What training may touch, and what learning and forgetting leave behind."""

import pytest
import torch
from adapter_helpers import TASKS, answers_equal, same_tensors, tensors_of
from learned import learn_task

from hf_lifelong import forget, knowledge_of, predict
from hf_lifelong.adapter import lifelong_of, trunk_features
from hf_lifelong.adapter.bank import add_task, close_task, drift_modules, open_task, snapshot_of, take_snapshot
from hf_lifelong.knowledge import LearnedTask, ManifestError, fit_signature

LAYERS = {"bert": "encoder.layer", "distilbert": "transformer.layer", "modernbert": "layers"}
MODELS = ["bert", "roberta", "distilbert", "deberta-v2", "modernbert"]


def open_films(model):
    open_task(model, *TASKS["films"], 2)
    for _, module in drift_modules(model):
        if hasattr(module, "drift_B"):
            torch.nn.init.normal_(module.drift_B["default"], std=0.1)


def gradients(model, batch, labels):
    torch.manual_seed(3)
    loss = model(**batch, labels=labels).loss
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return loss.detach(), found


@pytest.mark.parametrize("model_type", MODELS)
def test_gradients_reach_the_working_pair_and_head_only(make_model, batch, model_type):
    model = make_model(model_type, tasks=("films", "answers"))
    open_films(model)
    model.train()
    _, found = gradients(model, batch, torch.tensor([0, 1, 0, 1]))
    working = {
        f"base_model.model.{name}.{container}.default"
        for name, module in drift_modules(model)
        for container in module.adapter_layer_names
    }
    assert set(found) == working == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(gradient.abs().sum() > 0 for gradient in found.values())


@pytest.mark.parametrize("model_type", MODELS)
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(make_model, batch, model_type, reentrant):
    model = make_model(model_type, tasks=("news",), lora_dropout=0.2)
    open_films(model)
    lifelong_of(model).input_noise = 0.1
    labels = torch.tensor([0, 1, 0, 1])
    model.train()
    loss, expected = gradients(model, batch, labels)
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    found_loss, found = gradients(model, batch, labels)
    torch.testing.assert_close(found_loss, loss, rtol=0, atol=1e-6)
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_an_answer_between_forward_and_backward_changes_no_gradient(make_model, batch):
    model = make_model(tasks=("news", "films"))
    open_films(model)
    labels = torch.tensor([0, 1, 0, 1])
    _, expected = gradients(model, batch, labels)
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    lifelong_of(model).still = True
    model.train()
    _, expected = gradients(model, batch, labels)
    loss = model(**batch, labels=labels).loss
    predict(model, batch)
    trunk_features(model, batch)
    loss.backward()
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("model_type", LAYERS)
def test_the_trunk_stays_in_eval_mode(make_model, batch, model_type):
    model = make_model(model_type, tasks=("films",))
    base = model.base_model.model
    layers = base.get_submodule(LAYERS[model_type])
    model.train()
    assert [layer.training for layer in layers] == [False, False, True, True]
    assert not base.embeddings.training
    assert torch.equal(trunk_features(model, batch), trunk_features(model, batch))
    assert model.training and layers[2].training  # asking in training leaves training as it was
    lifelong_of(model).still = True
    model.train()
    assert not any(layer.training for layer in layers)


def test_input_noise_has_the_stated_size(make_model):
    model = make_model(tasks=())
    open_task(model, *TASKS["films"], 2)
    first_above = lifelong_of(model).above[0]
    ids = torch.randint(5, 90, (50, 40), generator=torch.Generator().manual_seed(0))
    inputs = []
    first_above.register_forward_pre_hook(lambda layer, args: inputs.append(args[0].detach()))

    def input_above(training, input_noise):
        lifelong_of(model).input_noise = input_noise
        model.train(training)(input_ids=ids, attention_mask=torch.ones_like(ids))
        return inputs.pop()

    hidden = input_above(True, 0.0)
    assert torch.equal(input_above(False, 0.1), hidden)
    noise = input_above(True, 0.1) - hidden
    share = noise.square().mean(-1).sqrt() / hidden.square().mean(-1).sqrt()
    assert float(share.mean()) == pytest.approx(0.1, rel=0.02)


def test_closing_a_task_leaves_no_trace_of_training(make_model, batch):
    model = make_model(tasks=("films", "news"))
    for name, tensor in tensors_of(model).items():
        if name.endswith(("drift_A", "drift_B")):
            assert not tensor.any()
        if name.endswith(("drift_head_weight", "drift_head_bias")):
            assert len(tensor) == 0


def test_learning_leaves_old_members_as_they_were(make_model, batch):
    model = make_model(tasks=("films", "answers"))
    before, answer = tensors_of(model), predict(model, batch, policy="oracle", group="films")
    for name in ("news", "names"):
        learn_task(model, name, *TASKS[name], seed=9)
    after = tensors_of(model)
    for name, tensor in before.items():
        if "bank" in name or "signature" in name:
            assert torch.equal(after[name][: len(tensor)], tensor), name
    answers_equal(predict(model, batch, policy="oracle", group="films"), answer, 1e-6)


def test_members_in_the_bank_are_the_snapshots(make_model):
    model = make_model(tasks=("news",))
    snapshots = learn_task(model, "films", *TASKS["films"], seed=5, members=3)
    newest = snapshot_of(model, "films")
    assert newest.keys() == snapshots[-1].keys()
    assert all(torch.equal(newest[k], snapshots[-1][k]) for k in newest)


def test_a_task_may_start_from_another(make_model, batch):
    model = make_model(tasks=("films", "news"))
    newest = snapshot_of(model, "films")
    open_task(model, *TASKS["films"], 2, start_from="films", same_head=True)
    assert all(torch.equal(v, newest[k]) for k, v in take_snapshot(model).items())
    open_task(model, "text-classification", ("a", "b", "c"), 3, start_from="films")
    taken = take_snapshot(model)
    assert taken["lifelong.drift_head_weight"].shape[0] == 3
    assert all(torch.equal(taken[k], newest[k]) for k in newest if not k.startswith("lifelong"))
    open_task(model, *TASKS["films"], 2)
    assert all(not v.any() for k, v in take_snapshot(model).items() if k.endswith("drift_B"))


def test_an_untrained_working_adapter_changes_no_hidden_state(make_model, batch):
    model = make_model(tasks=("films",))
    with torch.no_grad(), model.disable_adapter():
        hidden = model(**batch).last_hidden_state
    open_task(model, "token-classification", ("O", "X"), 2)
    root = lifelong_of(model)
    with torch.no_grad():
        torch.testing.assert_close(model(**batch).logits, root.working_logits(hidden), rtol=0, atol=1e-6)


def test_a_task_is_added_whole_or_not_at_all(make_model):
    model = make_model(tasks=("films",))
    before = tensors_of(model)
    open_task(model, *TASKS["films"], 2)
    snapshots = [take_snapshot(model)] * 2
    close_task(model)
    signature = fit_signature(torch.randn(5, lifelong_of(model).features), 4)
    again = LearnedTask("films", *TASKS["films"], 2, 2, "films", 5)
    with pytest.raises(ManifestError, match="`films` is in the knowledge base already"):
        add_task(model, again, snapshots, signature)
    with pytest.raises(ValueError, match="`snapshots` are 1, but task `more` states 2"):
        add_task(model, LearnedTask("more", *TASKS["films"], 2, 2, "more", 5), snapshots[:1], signature)
    same_tensors(tensors_of(model), before)
    assert knowledge_of(model).names == ["films"]


@pytest.mark.parametrize("gone", list(TASKS))
def test_forgetting_leaves_what_would_be_there_without_the_task(make_model, batch, tmp_path, gone):
    model = make_model()
    predict(model, batch)  # what was computed for all tasks must not survive, nor what is kept of each
    for name in TASKS:
        predict(model, batch, policy="oracle", group=name)
    forget(model, gone)
    without = make_model(tasks=[name for name in TASKS if name != gone])
    same_tensors(tensors_of(model), tensors_of(without))
    assert knowledge_of(model) == knowledge_of(without)
    for policy in ("signature", "uncertainty", "cascade"):
        answers_equal(predict(model, batch, policy=policy), predict(without, batch, policy=policy))
    for name in knowledge_of(model).groups:
        given = {"policy": "oracle", "group": name}
        answers_equal(predict(model, batch, **given), predict(without, batch, **given))
    model.save_pretrained(tmp_path / "a")
    without.save_pretrained(tmp_path / "b")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_forgetting_the_opener_renames_its_group(make_model, batch):
    model, without = make_model(tasks=("films",)), make_model(tasks=())
    learn_task(model, "later", *TASKS["films"], seed=7, group="films")
    learn_task(model, "last", *TASKS["films"], seed=8, group="films")
    learn_task(without, "later", *TASKS["films"], seed=7)
    learn_task(without, "last", *TASKS["films"], seed=8, group="later")
    model.forget("films")
    assert knowledge_of(model).groups == ["later"]
    same_tensors(tensors_of(model), tensors_of(without))
    assert model.peft_config["default"].knowledge == without.peft_config["default"].knowledge


def test_forgetting_drops_scores_and_the_last_task_too(make_model, batch):
    model = make_model(tasks=("films",))
    knowledge_of(model).scores = {"any": 1}
    model.forget("films")
    assert knowledge_of(model).scores is None and knowledge_of(model).tasks == []
    with pytest.raises(ValueError, match="knows no task yet"):
        predict(model, batch)
    with torch.no_grad():
        assert model(**batch).last_hidden_state is not None
    learn_task(model, "news", *TASKS["news"], seed=1)
    same_tensors(tensors_of(model), tensors_of(make_model(tasks=("news",))))


def test_forgetting_an_unknown_task_names_the_known_ones(make_model):
    with pytest.raises(KeyError, match=r"no task `weather`.*'films', 'news'"):
        make_model(tasks=("films", "news")).forget("weather")


def test_what_was_computed_moves_with_the_model(make_model, batch):
    model = make_model(tasks=("films", "news"))
    before, index = predict(model, batch, novelty=True), lifelong_of(model).index
    model.to(torch.float64).to(torch.float32)  # stands for a journey to another device and back
    root = lifelong_of(model)
    assert root.index is not index and not root.ready
    torch.testing.assert_close(predict(model, batch, novelty=True).scores, before.scores)
