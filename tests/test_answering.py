"""`pipeline("lifelong")` on a model that knows several kinds of task."""

import pytest
import torch
from transformers import AutoModel, pipeline

from hf_lifelong import DriftAdapterConfig, predict
from hf_lifelong.adapter.bank import add_task, close_task, drift_modules, open_task, take_snapshot
from hf_lifelong.adapter.heads import lifelong_of
from hf_lifelong.answering import LifelongPipeline
from hf_lifelong.knowledge import LearnedTask, fit_signature

TEXTS = ["A joy from start to end.", "Dull.", "What a film, what a cast, what an ending!"]
QUESTION = {"question": "Who wrote it?", "context": "Ada wrote it in the spring of 1843. " * 30}
WORDS = {"tokens": ["Ada", "lives", "in", "London"]}


@pytest.fixture(scope="module")
def learned(bert_folder, tokenizer):
    """A model with three tasks of random members, each routed to by texts of its own form."""
    from peft import get_peft_model

    from hf_lifelong.adapter import trunk_features

    torch.manual_seed(0)
    model = get_peft_model(
        AutoModel.from_pretrained(bert_folder, dtype=torch.float32),
        DriftAdapterConfig(r=4, members=2, max_length=48, stride=8, signature_rank=4),
    )
    kinds = {
        "sentiment": ("text-classification", ("negative", "positive"), TEXTS),
        "answers": ("question-answering", ("start", "end"), [QUESTION]),
        "names": ("token-classification", ("O", "B-PER", "B-LOC"), [WORDS]),
    }
    asker = LifelongPipeline(model=model, tokenizer=tokenizer)
    for name, (kind, labels, examples) in kinds.items():
        snapshots = []
        open_task(model, kind, labels, len(labels))
        for _ in range(2):
            for _, module in drift_modules(model):
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.data.normal_(std=0.3)
            snapshots.append(take_snapshot(model))
        features = asker.preprocess(examples * 4)
        batch = tokenizer.pad(
            {key: features[key] for key in ("input_ids", "attention_mask", "token_type_ids")}, return_tensors="pt"
        )
        where = trunk_features(model, dict(batch))
        signature = fit_signature(where + 0.01 * torch.randn_like(where), 4)
        add_task(model, LearnedTask(name, kind, labels, len(labels), 2, name, len(where)), snapshots, signature)
        close_task(model)
    return model.eval()


@pytest.fixture(scope="module")
def answer(learned, tokenizer):
    return pipeline("lifelong", model=learned, tokenizer=tokenizer)


def test_every_form_gets_an_answer_of_its_kind(answer):
    found = answer([TEXTS[0], QUESTION, WORDS])
    assert [f["task"] for f in found] == ["sentiment", "answers", "names"]
    assert found[0]["answer"] in ("negative", "positive")
    context = QUESTION["context"]
    assert found[1]["answer"] == context[found[1]["start"] : found[1]["end"]] != ""
    assert len(found[2]["answer"]) == 4 and set(found[2]["answer"]) <= {"O", "B-PER", "B-LOC"}
    for f in found:
        assert 0 <= f["score"] <= 1 and 0 <= f["uncertainty"] <= 1.0001 and 0 <= f["margin"] <= 1


@pytest.mark.parametrize("policy", ["signature", "uncertainty", "cascade"])
def test_only_a_question_on_a_context_is_answered_by_a_span(answer, policy):
    # Texts of each other's forms: where they lie alone would send them to the wrong kind.
    as_text = {"text": QUESTION["question"], "text_pair": QUESTION["context"]}
    as_question = {"question": TEXTS[0], "context": TEXTS[2]}
    found = answer([as_text, as_question, TEXTS[1], QUESTION], policy=policy)
    spans = [f["kind"] == "question-answering" for f in found]
    assert spans == [False, True, False, True]


def test_order_and_batch_size_change_nothing(answer):
    inputs = [WORDS, *TEXTS, QUESTION]
    together, one_by_one = answer(inputs, batch_size=64), [answer(item) for item in inputs]
    for a, b in zip(together, one_by_one, strict=True):
        assert a.keys() == b.keys()
        assert a["answer"] == b["answer"] and a["task"] == b["task"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)


def test_one_input_gives_one_answer_and_none_gives_none(answer):
    assert isinstance(answer("Nice."), dict)
    assert answer([]) == []


def test_abstains_far_from_all_tasks(answer, learned, monkeypatch):
    near = answer(TEXTS[0], abstain=True)
    assert near["novelty"] < 1 and near["task"] == "sentiment"
    monkeypatch.setattr(lifelong_of(learned), "novelty", lambda features, group: torch.full((len(group),), 2.0))
    far = answer(TEXTS[0], abstain=True)
    assert far["task"] == "unknown" and far["answer"] is None and far["novelty"] == 2


@pytest.mark.parametrize("policy", ["signature", "uncertainty", "cascade"])
def test_policies_reach_the_model(answer, policy):
    assert len(answer(TEXTS, policy=policy)) == 3


def test_bad_inputs_say_what_to_do(answer, learned):
    with pytest.raises(ValueError, match="1"):
        answer(["fine", 3])
    with pytest.raises(ValueError, match="no known form"):
        answer(3)
    with pytest.raises(ValueError, match="policy"):
        answer("fine", policy="best")
    with pytest.raises(ValueError, match="oracle"):
        predict(learned, {"input_ids": torch.ones(1, 3, dtype=torch.long)}, policy="oracle")


def test_a_model_that_knows_nothing_says_so(bert_folder, tokenizer):
    from peft import get_peft_model

    model = get_peft_model(AutoModel.from_pretrained(bert_folder, dtype=torch.float32), DriftAdapterConfig())
    with pytest.raises(ValueError, match="knows no task"):
        pipeline("lifelong", model=model, tokenizer=tokenizer)("Nice.")
