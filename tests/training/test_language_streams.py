"""Streams of text tasks on a causal language model: real training of tiny models."""

import copy
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, load_dataset
from peft import AutoPeftModelForCausalLM, get_peft_model
from training_helpers import PLAIN, losses, make_trainer, rows
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from hf_lifelong import DriftAdapterConfig, Task, generate, knowledge_of
from hf_lifelong.adapter import active_config, lifelong_of
from hf_lifelong.adapter.bank import snapshot_of
from hf_lifelong.knowledge import Novelty

SHARED = {"max_length": 48, "r": 4, "members": 2, "signature_rank": 4, "max_new_tokens": 6}


def hashes(model, task=None):
    """The members of a task, or of all, to the bit."""
    root, knowledge = lifelong_of(model), knowledge_of(model)
    names = knowledge.names if task is None else [task]
    return {
        name: [t.tolist() for t in (*snapshot_of(model, name).values(), root.signature.mean[knowledge.index(name)])]
        for name in names
    }


def opinions(name="opinions", start=0, stop=48, **options):
    names = ClassLabel(names=["negative", "positive"])
    parts = [rows("sentiment_sentences", start, stop), rows("sentiment_sentences", 0, 12, "test")]
    train, test = (part.cast_column("label", names) for part in parts)
    return Task(name, "text-generation", train, test=test, **options)


def lengths(name="lengths", count=48):
    """Questions, with an answer that a tiny model can learn: whether they are long."""

    def made(data):
        return Dataset.from_dict(
            {"prompt": data["question"], "answer": ["long" if len(q) > 60 else "short" for q in data["question"]]}
        )

    return Task(name, "text-generation", made(rows("squad", 0, count)), test=made(rows("squad", 0, 12, "test")))


@pytest.fixture
def learn(tiny_language_folder, language_tokenizer, tmp_path):
    def run(tasks, model=None, folder="out", model_type="llama", resume=None, train=True, config=None, **arguments):
        if model is None:
            torch.manual_seed(0)
            base = AutoModelForCausalLM.from_pretrained(tiny_language_folder(model_type), dtype=torch.float32)
            model = get_peft_model(base, DriftAdapterConfig(task_type="CAUSAL_LM", **SHARED, **(config or {})))
        trainer = make_trainer(model, tmp_path / folder, tasks, copy.deepcopy(language_tokenizer), **arguments)
        if train:
            trainer.train(resume_from_checkpoint=resume)
        return trainer

    return run


def test_forward_transfer_needs_labels(learn):
    trainer = learn([opinions(), opinions("more", 48, 72), lengths(), lengths("longer", 24)], max_steps=2)
    scores = trainer.matrix.scores
    assert scores[0][1] is not None and scores[1][2] is None and scores[2][3] is None


def test_a_module_of_evaluate_is_given_the_texts(learn, module):
    body = "return {'right': sum(p in r for p, r in zip(predictions, references)), 'first': references[0][0]}"
    right = module("right", "Value('string')", "Sequence(Value('string'))", body)
    trainer = learn([opinions(compute_metrics=right)], max_steps=2, eval_strategy="steps", eval_steps=2)
    found = trainer.evaluate()
    assert 0 <= found["eval_opinions_right"] <= 12 and "eval_opinions_first" not in found
    assert any("eval_loss" in entry for entry in trainer.state.log_history)


@pytest.mark.parametrize("retrieval", ["signature", "cascade", "uncertainty"])
def test_what_was_learned_is_scored_never_the_base(retrieval, learn, monkeypatch):
    trainer = learn([opinions(), lengths()], max_steps=20, learning_rate=1e-2, config={"retrieval": retrieval})
    scores = trainer.evaluate()
    monkeypatch.setattr(Novelty, "__call__", lambda self, features, task: torch.full((len(features),), 2.0))
    active_config(trainer.model).unknown = "base"
    assert trainer.evaluate() == pytest.approx(scores)
    answer = pipeline("lifelong", model=trainer.model, tokenizer=trainer.processing_class)
    assert {one["task"] for one in answer(["the film was bad", "a joy"])} == {"unknown"}


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.feature("generate", "one process")
def test_learns_keeps_and_loads(model_type, learn, tmp_path, tiny_language_folder):
    tasks = [opinions(), lengths()]
    trainer = learn(tasks[:1], model_type=model_type, grouping="boundary")
    first = hashes(trainer.model, "opinions")
    more = {"max_steps": 60, "learning_rate": 1e-2, "grouping": "boundary", **PLAIN}
    trainer = learn([tasks[1]], trainer.model, folder="more", **more)
    assert hashes(trainer.model, "opinions") == first
    loss = losses(trainer)
    assert sum(loss[-10:]) / 10 < 0.7 * loss[0]
    assert knowledge_of(trainer.model).names == ["opinions", "lengths"]
    texts = ["Who wrote the news of the world?", "the film was bad"]
    ask = pipeline("lifelong", model=trainer.model, tokenizer=trainer.processing_class)
    found = ask(texts)
    assert {answer["kind"] for answer in found} == {"text-generation"}
    assert set(found[0]) == {"task", "kind", "answer", "margin", "score", "uncertainty"}
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "more", dtype=torch.float32)
    assert pipeline("lifelong", model=loaded, tokenizer=trainer.processing_class)(texts) == found
    plain = pipeline("text-generation", model=loaded, tokenizer=trainer.processing_class)
    said = plain(texts[0], max_new_tokens=6, do_sample=False, return_full_text=False, eos_token_id=0)
    assert said[0]["generated_text"].strip() == found[0]["answer"]


def test_labels_answer_where_a_task_has_them(learn):
    trainer = learn([opinions(), lengths()], max_steps=20, grouping="boundary")
    scores = trainer.evaluate()
    assert "eval_opinions_accuracy" in scores and "eval_lengths_accuracy" not in scores
    assert 0 <= scores["eval_opinions_accuracy"] <= 1
    ask = pipeline("lifelong", model=trainer.model, tokenizer=trainer.processing_class)
    texts = [*rows("sentiment_sentences", 0, 6, "test")["text"], *rows("squad", 0, 6, "test")["question"]]
    by_label, free = ask(texts, labels=True), ask(texts)
    for label, text in zip(by_label, free, strict=True):
        assert label["task"] == text["task"]
        assert label["answer"] in ("negative", "positive") if label["task"] == "opinions" else label == text
    unknown = ask(texts, abstain=True)
    assert all((answer["novelty"] > 1) == (answer["task"] == "unknown") for answer in unknown)
    with pytest.raises(ValueError, match="`num_return_sequences` is above 1"):
        ask(texts[0], num_return_sequences=2, do_sample=True)
    beams = ask(texts[0], num_beams=2)
    assert "score" not in beams and isinstance(beams["answer"], str)


def test_logged_loss_is_that_of_the_answers_for_any_accumulation(learn):
    found = []
    for size, accumulation in ((8, 1), (2, 4)):
        trainer = learn(
            [lengths()],
            folder=f"by-{size}",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            **PLAIN,
        )
        found.append(losses(trainer))
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_resumed_streams_end_as_those_that_were_not_killed(learn):
    class Killed(Exception):
        pass

    tasks = [opinions(), lengths()]
    whole = learn(tasks, folder="whole", max_steps=6, save_strategy="steps", save_steps=2)
    trainer = learn(tasks, folder="killed", max_steps=6, save_strategy="steps", save_steps=2, train=False)
    steps, original = [], trainer.training_step

    def step(*args, **kwargs):
        steps.append(1)
        if len(steps) == 10:
            raise Killed
        return original(*args, **kwargs)

    trainer.training_step = step
    with pytest.raises(Killed):
        trainer.train()
    again = learn(tasks, folder="killed", max_steps=6, save_strategy="steps", save_steps=2, resume=True)
    assert hashes(again.model) == hashes(whole.model)
    assert again.matrix.to_dict() == whole.matrix.to_dict()


def test_evaluates_the_loss_while_it_learns(learn):
    trainer = learn([lengths()], max_steps=4, eval_strategy="steps", eval_steps=2)
    found = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(found) == 2 and all(0 < loss < 20 for loss in found)


def test_gradient_checkpointing_changes_nothing(learn):
    a = learn([lengths()], folder="a", max_steps=3)
    b = learn([lengths()], folder="b", max_steps=3, gradient_checkpointing=True)
    assert hashes(a.model) == hashes(b.model)


def test_forgetting_leaves_no_trace(learn):
    both = learn([opinions(), lengths()], folder="both").model
    alone = learn([lengths()], folder="alone").model
    both.forget("opinions")
    assert hashes(both, "lengths") == hashes(alone, "lengths")
    assert knowledge_of(both).names == ["lengths"]


def test_train_dataset_alone_is_a_text_task(learn, tiny_language_folder, language_tokenizer, tmp_path):
    data = lengths().train
    base = AutoModelForCausalLM.from_pretrained(tiny_language_folder("llama"), dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(task_type="CAUSAL_LM", **SHARED))
    trainer = make_trainer(
        model, tmp_path, None, copy.deepcopy(language_tokenizer), options={"train_dataset": data}, max_steps=2
    )
    trainer.train()
    assert knowledge_of(model).tasks[0].kind == "text-generation"
    out = generate(model, language_tokenizer("who", return_tensors="pt"), max_new_tokens=2)
    assert out.group.tolist() == [0]


def test_kinds_must_fit_the_base(learn, bert_folder):
    wrong = Task("opinions", "text-classification", rows("sentiment_sentences", 0, 20))
    with pytest.raises(ValueError, match=r"on a causal language model a task is one of \['text-generation'\]"):
        learn([wrong])
    with pytest.raises(ValueError, match="only tasks of language models have prompts"):
        Task("opinions", "text-classification", rows("sentiment_sentences", 0, 20), template="{text}")


def test_texts_from_files_and_templates(learn, tmp_path):
    Dataset.from_dict({"q": ["who?"] * 8, "a": ["Jim"] * 8}).to_json(tmp_path / "qa.json")
    data = load_dataset("json", data_files=str(tmp_path / "qa.json"), split="train")
    task = Task("files", "text-generation", data, template="Q: {q} A:", columns={"answer": "a"})
    trainer = learn([task], max_steps=2)
    assert trainer.prepared(task).train_examples["prompt"][0] == "Q: who? A:"


def test_texts_that_are_never_matched_do_not_become_one_task(learn):
    def summaries(name, start, answer):
        data = Dataset.from_dict({"prompt": rows("squad", start, start + 24)["context"], "answer": [answer] * 24})
        return Task(name, "text-generation", data)

    tasks = [summaries("first", 0, "the film was good and bad"), summaries("second", 24, "who wrote the news")]
    trainer = learn(tasks, max_steps=3)
    assert knowledge_of(trainer.model).groups == ["first", "second"]


def test_templates_are_kept_and_used_when_fields_are_asked(learn):
    data = Dataset.from_dict({"title": ["a", "b"] * 8, "body": ["c"] * 16, "answer": ["good", "bad"] * 8})
    trainer = learn([Task("mail", "text-generation", data, template="{title}: {body}")], max_steps=2)
    assert knowledge_of(trainer.model).tasks[0].template == "{title}: {body}"
    ask = pipeline("lifelong", model=trainer.model, tokenizer=trainer.processing_class, max_new_tokens=2)
    assert ask({"title": "a", "body": "c"}) == ask("a: c")
    assert ask("a: c") == ask("a: c", max_new_tokens=2) != ask("a: c", max_new_tokens=6)
    with pytest.raises(ValueError, match="both say what a prompt is"):
        learn([Task("mail", "text-generation", data, template="{title}", columns={"prompt": "body"})])


STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories15m"


@pytest.mark.slow
@pytest.mark.skipif(not STORIES.exists(), reason="the model `stories15m` is not in ../shared/models")
def test_a_real_language_model_keeps_its_tasks_apart(tmp_path):
    base = AutoModelForCausalLM.from_pretrained(STORIES, dtype=torch.float32)
    # Its stories end with the token that begins the next one; `</s>` was never trained, and the head is frozen.
    tokenizer = AutoTokenizer.from_pretrained(STORIES, eos_token="<s>")
    config = DriftAdapterConfig(task_type="CAUSAL_LM", r=8, members=2, max_length=48, max_new_tokens=4)
    torch.manual_seed(0)
    tasks = [opinions(stop=240), lengths(count=240)]
    settings = {"max_steps": 36, "learning_rate": 3e-3}
    trainer = make_trainer(get_peft_model(base, config), tmp_path, tasks, tokenizer, **settings)
    trainer.train()
    scores = trainer.evaluate()
    assert scores["eval_retrieval_accuracy"] > 0.8
    assert scores["eval_opinions_accuracy"] > 0.6 and scores["eval_lengths_exact_match"] > 0.4
    answers = {answer["answer"] for answer in pipeline("lifelong", model=trainer.model, tokenizer=tokenizer)(
        list(rows("squad", 0, 6, "test")["question"])
    )}  # fmt: skip
    assert answers <= {"long", "short"}
