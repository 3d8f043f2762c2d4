"""The part of a card that the Hub reads: tags, data sets, licence and results."""

from dataclasses import replace

import pytest
from card_helpers import HOME, check_whole, results
from huggingface_hub import ModelCard

from hf_lifelong.hub import model_card
from hf_lifelong.knowledge import TaskData


def test_metadata_of_two_tasks(two_tasks, two_facts, encoder_config):
    data = ModelCard(str(model_card(two_tasks, encoder_config, two_facts))).data
    assert data.library_name == "peft"
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert {"hf_lifelong", "continual-learning", "lifelong-learning", "peft"} < set(data.tags)
    assert f"base_model:adapter:{data.base_model}" in data.tags
    assert data.datasets == ["nyu-mll/glue", "rajpurkar/squad"]
    assert data.license == "apache-2.0" and data.language == ["en"] and data.metrics == ["accuracy", "f1"]
    assert data.pipeline_tag is None, "two kinds of tasks have no common tag"
    assert data.model_name == "sentiment-then-qa"
    assert {r.dataset_type for r in data.eval_results} == {"nyu-mll/glue", "rajpurkar/squad", "other"}


def test_results_are_one_for_each_task_and_metric(two_tasks, two_facts, encoder_config):
    # By hand: (.86 + .5) / 2, (.9 + .5) / 2, .86 - .9, .9 - .86, (.94 + .98) / 2, (.9 + .52) / 2.
    assert results(model_card(two_tasks, encoder_config, two_facts)) == {
        ("text-classification", "sst2", "accuracy"): 0.86,
        ("question-answering", "squad", "f1"): 0.5,
        ("continual-learning", "all tasks", "average_accuracy"): 0.68,
        ("continual-learning", "all tasks", "learning_accuracy"): 0.7,
        ("continual-learning", "all tasks", "bwt"): -0.04,
        ("continual-learning", "all tasks", "forgetting"): 0.04,
        ("continual-learning", "all tasks", "retrieval_accuracy"): 0.96,
        ("continual-learning", "all tasks", "oracle_accuracy"): 0.71,
    }


def test_tasks_of_one_data_set_are_not_merged(stream, encoder_config):
    data = TaskData(hub_id="a/b", scored_on="test")
    card = model_card(stream(15, data=data), encoder_config)
    index = card.data.to_dict()["model-index"][0]["results"]
    assert len(index) == 16
    assert [result["dataset"]["config"] for result in index] == [*(f"task-{i}" for i in range(15)), "all tasks"]
    assert [results(card)["text-classification", f"task-{i}", "accuracy"] for i in (0, 14)] == [0.81, 0.95]


def test_one_kind_of_tasks_has_its_tag(stream, encoder_config):
    assert model_card(stream(2), encoder_config).data.pipeline_tag == "text-classification"
    assert model_card(stream(1, kind="telepathy"), encoder_config).data.pipeline_tag is None


@pytest.mark.parametrize("base", [None, f"{HOME}/models/bert", "./bert", "C:\\models\\bert", "a/b/c", "../x"])
def test_a_local_base_is_said_and_never_shown(two_tasks, two_facts, encoder_config, base):
    facts = replace(two_facts, base_model=base)
    card = model_card(two_tasks, encoder_config, facts)
    text = check_whole(card)
    assert "came from a local folder" in text and "ada/models" not in text and "models\\" not in text
    assert card.data.base_model is None
    assert "base_model:adapter" not in text
    assert 'AutoModel.from_pretrained("path/to/the/base", dtype="float32")' in text
