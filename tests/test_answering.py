"""`pipeline("lifelong")` on a model that knows several kinds of task."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModel, pipeline
from transformers.pipelines.pt_utils import KeyDataset

from hf_lifelong import DriftAdapterConfig, predict
from hf_lifelong.adapter.bank import add_task, close_task, drift_modules, open_task, set_knowledge, take_snapshot
from hf_lifelong.adapter.heads import lifelong_of
from hf_lifelong.knowledge import LearnedTask, fit_signature
from hf_lifelong.pipeline import NOTHING, LifelongPipeline

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


def test_streams_are_answered_as_they_come(answer, tokenizer):
    inputs = [*TEXTS, QUESTION, WORDS]
    expected, asked = answer(inputs, batch_size=2), []

    def stream():
        for i, item in enumerate(inputs):
            asked.append(i)
            yield item

    found = answer(stream(), batch_size=2)
    assert not asked and not isinstance(found, list)
    first = next(found)
    assert asked == [0, 1]
    every = [first, *found]
    texts = Dataset.from_dict({"text": TEXTS, "other": [1, 2, 3]})
    for source in (KeyDataset(texts, "text"), texts["text"], texts.select_columns("text"), iter(TEXTS)):
        every += answer(source, batch_size=2)
    for one, other in zip(every, expected + expected[:3] * 4, strict=True):
        assert one["answer"] == other["answer"] and one["score"] == pytest.approx(other["score"], abs=1e-5)
    assert isinstance(answer(tuple(TEXTS)), list) and list(answer(iter([]))) == []
    with pytest.raises(ValueError, match=r"inputs\[3\] is 3"):
        list(answer(iter([*TEXTS, 3]), batch_size=2))


def test_unknown_options_are_refused_by_name(answer, learned, tokenizer):
    message = r"`top_k` is no option of this pipeline; choose among \['policy'"
    with pytest.raises(ValueError, match=message):
        answer(iter(TEXTS), top_k=2)
    with pytest.raises(ValueError, match=message):
        pipeline("lifelong", model=learned, tokenizer=tokenizer, top_k=2)


@pytest.mark.parametrize("policy", ["signature", "uncertainty", "cascade"])
def test_the_form_of_an_input_decides_which_kind_answers(answer, policy):
    words = " ".join(WORDS["tokens"])
    as_words = [{"tokens": text.split()} for text in (*TEXTS, QUESTION["context"])]
    as_text = [words, QUESTION["context"], {"text": words, "text_pair": words}]
    found = answer([*as_words, *as_text, QUESTION], policy=policy)
    kinds = [f["kind"] for f in found]
    assert kinds == ["token-classification"] * 4 + ["text-classification"] * 3 + ["question-answering"]
    assert [len(f["answer"]) for f in found[:3]] == [len(item["tokens"]) for item in as_words[:3]]
    assert all(f["answer"] in ("negative", "positive") for f in found[4:7])


def test_a_form_that_no_task_answers_is_an_error_or_unknown(learned, tokenizer):
    only = copy.deepcopy(learned)
    for task in ("sentiment", "answers"):
        only.forget(task)
    answer = LifelongPipeline(model=only, tokenizer=tokenizer)
    message = r"inputs\[1\] has the form of text-classification or text-regression, but no task .*\['token-class"
    with pytest.raises(ValueError, match=message):
        answer([WORDS, TEXTS[0], QUESTION])
    found = answer([TEXTS[0], WORDS, QUESTION], abstain=True)
    assert [f["task"] for f in found] == ["unknown", "names", "unknown"]
    for unknown, kind in ((found[0], "text-classification"), (found[2], "question-answering")):
        assert (unknown["kind"], unknown["answer"], unknown["score"], unknown["margin"]) == (kind, None, 0, 0)
        assert unknown["novelty"] > 1 and json.dumps(unknown, allow_nan=False)
    assert found[1] == answer(WORDS, abstain=True)


def test_what_a_tokenizer_prefers_to_pad_changes_no_answer(answer, learned, tokenizer):
    left = copy.deepcopy(tokenizer)
    left.padding_side = "left"
    inputs = [*TEXTS, QUESTION, WORDS, {"tokens": ["Ada"]}]
    assert LifelongPipeline(model=learned, tokenizer=left)(inputs) == answer(inputs)
    assert left.padding_side == "left"


def test_an_input_without_finite_numbers_is_an_error_or_unknown(learned, tokenizer):
    broken = copy.deepcopy(learned)
    broken.get_input_embeddings().weight.data[tokenizer.convert_tokens_to_ids("dull")] = float("nan")
    answer = LifelongPipeline(model=broken, tokenizer=tokenizer)
    with pytest.raises(ValueError, match=r"NaN or infinite .*`abstain=True`"):
        answer([*TEXTS, WORDS])
    found = answer([*TEXTS, WORDS], abstain=True)
    assert [f["task"] == "unknown" for f in found] == [False, True, False, False]
    assert found[1]["answer"] is None and json.dumps(found, allow_nan=False)


def test_a_question_without_an_answer_is_answered_by_none(learned, tokenizer):
    """Where the task has such questions, and its head speaks for the first token."""
    model = copy.deepcopy(learned)
    root = lifelong_of(model)
    with torch.no_grad():
        for part in (root.drift_bank_head_weight, root.drift_bank_head_bias):
            part["default"][4:8] = 0  # start and end of two members: every token is as likely as any other
    answer = LifelongPipeline(model=model, tokenizer=tokenizer)
    always = answer(QUESTION)
    assert always["answer"] and always["score"] == pytest.approx(answer(QUESTION)["score"])
    tasks = [
        replace(task, constants={"unanswered": 1.0} if task.name == "answers" else {})
        for task in root.knowledge["default"].tasks
    ]
    set_knowledge(model, replace(root.knowledge["default"], tasks=tasks))
    # As likely as a span in every window but the last, which is shorter: a tie is an answer.
    assert answer(QUESTION)["answer"] == always["answer"]
    none = {"question": QUESTION["question"], "context": " "}
    found = answer(none)
    assert found["answer"] == "" and 0 < found["score"] < 1 and found["start"] == found["end"] == 0


def test_abstains_far_from_all_tasks(answer, learned, monkeypatch):
    near = answer(TEXTS[0], abstain=True)
    assert near["novelty"] < 1 and near["task"] == "sentiment"
    monkeypatch.setattr(lifelong_of(learned).index, "novelty", lambda features, group: torch.full((len(group),), 2.0))
    far = answer(TEXTS[0], abstain=True)
    assert far == {"task": "unknown", "kind": near["kind"], **NOTHING, "novelty": 2}


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


# route


@pytest.fixture
def two(bert_folder, tokenizer):
    """A model with two tasks whose inputs have one form, and its pipeline."""
    from learned import learn_task
    from peft import get_peft_model

    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(r=2, members=2, signature_rank=4))
    for seed, name in enumerate(("films", "news")):
        learn_task(model, name, "text-classification", ("bad", "good"), seed)
    return model.eval(), LifelongPipeline(model=model, tokenizer=tokenizer)


def test_route_says_what_answering_would_choose(learned, tokenizer):
    ask = LifelongPipeline(model=learned, tokenizer=tokenizer)
    inputs = [TEXTS[0], QUESTION, WORDS, {"text": TEXTS[1], "text_pair": TEXTS[2]}]
    answers, routes = ask(inputs, policy="signature"), ask.route(inputs, batch_size=2)
    for answer, route in zip(answers, routes, strict=True):
        assert set(route) == {"task", "group", "score", "margin", "runner_up"}
        assert route["task"] == route["group"] == answer["task"]
        assert route["margin"] == pytest.approx(answer["margin"], abs=1e-6)
        assert 0 < route["score"] <= 1 and route["runner_up"] is None  # one task of each form
    assert ask.route([]) == []


def test_route_runs_the_trunk_only_and_names_the_runner_up(two, tokenizer):
    model, ask = two
    fail = lambda *_: pytest.fail("a layer above the trunk runs")  # noqa: E731
    handles = [layer.register_forward_hook(fail) for layer in lifelong_of(model).above]
    routes = ask.route(TEXTS, abstain=True)
    for handle in handles:
        handle.remove()
    assert all({route["group"] or route["runner_up"], route["runner_up"]} <= {"films", "news"} for route in routes)
    assert all(route["group"] != route["runner_up"] for route in routes)
    for route, answer in zip(routes, ask(TEXTS, abstain=True), strict=True):
        assert route["task"] == answer["task"] and route["novelty"] == pytest.approx(answer["novelty"], rel=1e-5)
        assert (route["group"] is None) == (route["novelty"] > 1)


def test_route_is_refused_where_members_are_asked_first(two):
    model, ask = two
    model.peft_config["default"].retrieval = "cascade"
    with pytest.raises(ValueError, match="`cascade` asks members before"):
        ask.route(TEXTS)
    model.peft_config["default"].retrieval = "signature"


def test_only_kinds_that_are_asked_for_answer(learned, tokenizer):
    ask = LifelongPipeline(model=learned, tokenizer=tokenizer)
    assert ask(TEXTS, kinds=["text-classification"]) == ask(TEXTS)
    with pytest.raises(ValueError, match=r"inputs\[1\] has the form of question-answering, but no task of that kind"):
        ask([TEXTS[0], QUESTION], kinds=["text-classification"])
    unknown = ask([TEXTS[0], QUESTION], kinds=["text-classification"], abstain=True)[1]
    assert (unknown["task"], unknown["answer"]) == ("unknown", None)
