"""`torch.compile`: answering is one graph, and gives what it gives without."""

import pytest
import torch
from adapter_helpers import TASKS
from learned import learn_task

from hf_lifelong import score_labels
from hf_lifelong.knowledge import Constants, Signature, fit_signature, shared_router


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def prompts():
    ids = torch.randint(5, 90, (4, 12), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids).index_fill_(1, torch.tensor([0]), 0)}


@torch.no_grad()
def check(model, batch, **options):
    plain = model(**batch)
    found = torch.compile(model, backend="eager", **options)(**batch)
    assert torch.equal(found.group, plain.group)
    for key in ("scores", "uncertainty", "margin"):
        known = tuple(slice(size) for size in plain[key].shape)  # a graph pads to the largest kind
        torch.testing.assert_close(found[key][known], plain[key], rtol=0, atol=1e-6)


@pytest.mark.parametrize("model_type", ["bert", "modernbert", "gpt2"])
def test_answering_by_signature_is_one_graph(make_model, batch, model_type):
    check(make_model(model_type), batch, fullgraph=True)


@pytest.mark.parametrize("policy", [("signature", "ensemble"), ("uncertainty", "merged")])
def test_every_policy_of_fixed_cost_is_one_graph(make_model, batch, policy):
    check(make_model(retrieval=policy[0], answer=policy[1]), batch, fullgraph=True)


def test_full_members_are_one_graph(make_model, batch):
    check(make_model(r="full"), batch, fullgraph=True)


@pytest.mark.parametrize("answer", ["merged", "ensemble"])
def test_numbers_beside_labels_are_one_graph(make_model, batch, answer):
    model = make_model(tasks=("news",), answer=answer)
    learn_task(model, "stars", "text-regression", ("value",), seed=7, constants={"mean": 3.0, "std": 2.0})
    check(model.eval(), batch, fullgraph=True)


def test_the_cascade_is_compiled_in_parts(make_model, batch):
    # How many groups it asks depends on the inputs, so its graph ends where that is decided.
    check(make_model(retrieval="cascade"), batch)


def test_what_is_learned_later_is_answered_too(make_model, batch):
    model = make_model(tasks=("films", "news"))
    fast = torch.compile(model, backend="eager")
    with torch.no_grad():
        fast(**batch)
        learn_task(model, "names", *TASKS["names"], seed=7)
        plain, found = model.eval()(**batch), fast(**batch)
    assert torch.equal(found.group, plain.group)
    known = tuple(slice(size) for size in plain.scores.shape)
    torch.testing.assert_close(found.scores[known], plain.scores, rtol=0, atol=1e-6)


def test_batches_of_all_sizes_share_a_graph():
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    data = torch.randn(3, 40, 6, generator=torch.Generator().manual_seed(0))
    fitted = [fit_signature(x, 16, torch.arange(40) % 2, 2) for x in data]
    parts = (torch.stack([getattr(one, part) for one in fitted]) for part in ("mean", "factor", "diagonal"))
    everything = Signature(*parts, torch.cat([one.classes for one in fitted]))
    router = shared_router(everything, torch.tensor([40] * 3), [2] * 3, [0, 1, 2], 0.05, Constants(sure=1e4))
    fast = torch.compile(lambda x: router(x), backend=count, dynamic=True, fullgraph=True)
    for rows in (2, 3, 5, 8, 13, 21, 34, 70, 120):
        x = data.flatten(0, 1)[:rows]
        torch.testing.assert_close(fast(x), router(x), rtol=1e-4, atol=1e-4)
    assert len(graphs) == 1


@pytest.mark.parametrize("use_cache", [False, True])
def test_the_prefill_of_a_language_model_is_one_graph(make_language_model, prompts, use_cache):
    model = make_language_model("llama")
    with torch.no_grad():
        plain = model(**prompts, use_cache=use_cache)
        found = torch.compile(model, backend="eager", fullgraph=True)(**prompts, use_cache=use_cache)
    torch.testing.assert_close(found.logits, plain.logits, rtol=0, atol=1e-5)


def test_labels_are_scored_after_a_compiled_prefill(make_language_model, prompts, language_tokenizer):
    model = make_language_model()
    plain = score_labels(model, prompts, language_tokenizer)
    model.base_model.model.compile(backend="eager")
    found = score_labels(model, prompts, language_tokenizer)
    torch.testing.assert_close(found.scores, plain.scores, rtol=0, atol=1e-5)
