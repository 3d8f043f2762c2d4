"""A card that goes to another repository than it was written for."""

from dataclasses import replace

import pytest
from card_helpers import check_whole
from huggingface_hub import ModelCard

from hf_lifelong.hub import model_card
from hf_lifelong.hub.card import addressed

BASE = "other/tiny-bert"


@pytest.fixture
def config(two_tasks):
    return {"peft_type": "DRIFT", "r": 4, "knowledge": two_tasks.to_dict()}


def same(card, text):
    """The same metadata, and the same text."""
    found = ModelCard(text)
    return found.text == card.text and found.data.to_dict() == card.data.to_dict()


@pytest.mark.parametrize("task_type", [None, "CAUSAL_LM"])
@pytest.mark.parametrize("base", [None, "sentence-transformers/all-MiniLM-L6-v2"])
@pytest.mark.parametrize("repo", [None, "ada/sentiment-then-qa"])
def test_it_reads_as_if_it_had_been_written_there(two_tasks, two_facts, config, repo, base, task_type):
    config |= {"task_type": task_type}
    facts = replace(two_facts, repo_id=repo, base_model=base)
    text = addressed(str(model_card(two_tasks, config, facts)), config, "me/new", BASE)
    check_whole(text)
    assert same(model_card(two_tasks, config, replace(facts, repo_id="me/new", base_model=BASE)), text)
    assert 'folder = "me/new"\n' in text and "local folder" not in text


def test_the_base_that_it_names_stays(two_tasks, two_facts, config):
    text = addressed(str(model_card(two_tasks, config, two_facts)), config, "me/new")
    assert same(model_card(two_tasks, config, replace(two_facts, repo_id="me/new")), text)


def test_what_somebody_wrote_stays(two_tasks, two_facts, config):
    card = str(model_card(two_tasks, config, replace(two_facts, base_model=None)))
    card = card.replace("It has learned **2 tasks**", "It has mastered **2 tasks**")
    card = card.replace("# sentiment", "# My best").replace("tokenizer = Auto", "# My own lines\ntokenizer = Auto")
    text = addressed(card, config, "me/new", BASE)
    assert "# My best" in text and "mastered" in text and "# My own lines" in text
    assert 'folder = "me/new"\n' in text and ModelCard(text).data.base_model == BASE


def test_a_card_of_another_make_only_learns_its_base(config):
    card = "---\nlicense: mit\n---\n# Mine\n"
    assert addressed(card, config, "me/new") == card
    found = ModelCard(addressed(card, config, "me/new", BASE))
    assert (found.text, found.data.license, found.data.base_model) == ("# Mine\n", "mit", BASE)
