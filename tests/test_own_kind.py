"""A kind of task that a user writes and registers, through every way; and adapters of kinds that are not known."""

import json

import pytest
import torch
from datasets import Dataset
from peft import AutoPeftModelForFeatureExtraction, get_peft_model
from transformers import AutoModel, pipeline

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task, TaskKind, register_kind
from hf_lifelong.hub import model_card, pull
from hf_lifelong.knowledge import KnowledgeBase
from hf_lifelong.objectives.forms import InputForm
from hf_lifelong.objectives.inputs import tokenize_texts
from hf_lifelong.objectives.register import KINDS
from hf_lifelong.objectives.text_classification import TextClassification


def encode(entries, tokenizer, max_length, stride):
    columns = ([entry[key] for entry in entries] for key in ("premise", "hypothesis"))
    return tokenize_texts(tokenizer, *columns, max_length)


class Entailment(TextClassification):
    """Whether a hypothesis follows from a premise."""

    kind = "entailment"
    hub_task = "text-classification"
    columns = {"text": "premise", "text_pair": "hypothesis", "label": "label"}
    optional = frozenset()
    example = '{"premise": "It rains.", "hypothesis": "It is wet."}'
    forms = (InputForm('{"premise": ..., "hypothesis": ...}', lambda e: set(e) == {"premise", "hypothesis"}, encode),)


ROWS = {
    "premise": ["It rains.", "The sun shines."] * 10,
    "hypothesis": ["It is wet.", "It is dark."] * 10,
    "label": ["yes", "no"] * 10,
}


@pytest.fixture
def known(monkeypatch):
    """The kind, known in this test only."""
    kind = Entailment()
    monkeypatch.setitem(KINDS, "entailment", kind)  # which ends with the test
    register_kind(kind)
    return kind


@pytest.fixture
def taught(known, bert_folder, tokenizer, tmp_path):
    """Folder of an adapter that has learned a task of the kind."""
    base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(r=2, members=2, signature_rank=2, max_length=32, stride=4))
    args = DriftTrainingArguments(
        str(tmp_path / "out"), max_steps=2, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True
    )
    task = Task("rain", "entailment", Dataset.from_dict(ROWS))
    DriftTrainer(model, args, tasks=[task], processing_class=tokenizer).train()
    return tmp_path / "out"


def test_a_registered_kind_is_learned_asked_and_shown(taught, known, tokenizer):
    model = AutoPeftModelForFeatureExtraction.from_pretrained(taught).eval()
    answer = pipeline("lifelong", model=model, tokenizer=tokenizer)
    found = answer({"premise": "It rains.", "hypothesis": "It is wet."})
    assert (found["task"], found["kind"]) == ("rain", "entailment") and found["answer"] in ("yes", "no")
    with pytest.raises(ValueError, match="has the form of text-classification or text-regression, but no task of"):
        answer("It rains.")
    saved = pull(taught)
    card = model_card(saved.knowledge, saved.config)
    assert f"print(answer({known.example}))" in str(card) and card.data.pipeline_tag == "text-classification"
    assert next(result.task_type for result in card.data.eval_results) == "text-classification"


def test_an_adapter_of_a_kind_that_is_not_known_says_what_to_do(taught, monkeypatch):
    monkeypatch.delitem(KINDS, "entailment")
    for load in (pull, AutoPeftModelForFeatureExtraction.from_pretrained):
        with pytest.raises(ValueError, match=r"task `rain`: `kind` is 'entailment', .*register_kind"):
            load(taught)
    with pytest.raises(ValueError, match=r"`kind` of task `rain` is 'entailment'; choose one of .*register_kind"):
        Task("rain", "entailment", Dataset.from_dict(ROWS))
    # A card can be written of any manifest.
    config = json.loads((taught / "adapter_config.json").read_text())
    card = model_card(KnowledgeBase.from_dict(config["knowledge"]), config)
    assert card.data.pipeline_tag is None and "entailment" in str(card)


def test_a_kind_may_be_registered_again_but_not_in_the_place_of_a_built_in_one(known):
    again = Entailment()
    register_kind(again)
    assert KINDS["entailment"] is again
    named = {"text-classification": "as a kind of this package is", "": "printable characters", "a\nb": "printable"}
    for name, message in named.items():
        with pytest.raises(ValueError, match=message):
            register_kind(type("Other", (TextClassification,), {"kind": name, "__module__": __name__})())
    for wrong in (Entailment, "entailment", None):
        with pytest.raises(ValueError, match="give an instance of a subclass of `TaskKind`"):
            register_kind(wrong)
    assert issubclass(Entailment, TaskKind)
