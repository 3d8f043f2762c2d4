"""The JSON form of what a card tells beside the manifest."""

import json

import pytest

from hf_lifelong.hub import CardFacts, model_card


def test_facts_go_through_json_unchanged(two_facts, two_tasks, encoder_config):
    for facts in (two_facts, CardFacts(), CardFacts(session=["sst2"], training={"betas": [0.9, None, True, "x"]})):
        again = CardFacts.from_dict(json.loads(json.dumps(facts.to_dict(), allow_nan=False)))
        assert again == facts
        assert str(model_card(two_tasks, encoder_config, again)) == str(model_card(two_tasks, encoder_config, facts))


def test_fields_that_are_missing_are_not_known():
    assert CardFacts.from_dict({}) == CardFacts()
    assert CardFacts.from_dict({"seconds": 3}) == CardFacts(seconds=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repo_id": 3}, "`facts.repo_id` must be a text or null, not 3."),
        ({"session": "sst2"}, "`facts.session` must be a list of texts or null, not 'sst2'."),
        ({"session": [1]}, "`facts.session` must be a list of texts or null"),
        ({"training": []}, "`facts.training` must be an object from name to a text, number, true"),
        ({"training": {"x": float("nan")}}, "`facts.training` must be an object"),
        ({"training": {"x": {}}}, "`facts.training` must be an object"),
        ({"seconds": -1}, "`facts.seconds` must be a number of at least 0 or null, not -1."),
        ({"seconds": True}, "`facts.seconds` must be a number"),
        ({"versions": {"torch": 2}}, "`facts.versions` must be an object from name to a text, not {'torch': 2}."),
        ({"base_size": 1.5}, "`facts.base_size` must be an integer of at least 0 or null, not 1.5."),
        ({"adapter_size": True}, "`facts.adapter_size` must be an integer"),
        ({"task_sizes": {"sst2": None}}, "`facts.task_sizes` must be an object from name to an integer"),
        ({"picture": None}, "`facts.picture` must be true or false, not None."),
        ({"language": None}, "`facts.language` must be a list of texts, not None."),
        ({"license": ["x" * 999]}, "`facts.license` must be a text or null, not .{60}[.]$"),
        ({"tasks": {}}, r"`facts` has unknown fields \['tasks'\]; it may have \['repo_id', 'base_model', 'session'"),
    ],
)
def test_fields_that_are_wrong_are_named(two_facts, change, message):
    with pytest.raises(ValueError, match=message):
        CardFacts.from_dict({**two_facts.to_dict(), **change})


@pytest.mark.parametrize("data", [None, [], "facts"])
def test_anything_but_an_object_is_refused(data):
    with pytest.raises(ValueError, match="`facts` must be an object, not"):
        CardFacts.from_dict(data)
