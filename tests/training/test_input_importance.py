"""`input_importance` in a learner: stored with its task, shown, loaded, and forgotten to the byte."""

import json

import pytest
import torch
from peft import PeftModel
from training_helpers import answers, sentiment, topics
from transformers import AutoModel

from hf_lifelong import forget, knowledge_of
from hf_lifelong.adapter import statistics_of
from hf_lifelong.selection import depth_shares, task_overlap

NAME = "input_importance"
OPTIONS = {"options": {"statistics": [NAME]}, "start_from": "fresh", "grouping": "boundary"}


def test_it_is_stored_shown_and_forgotten(train, bert_folder, tmp_path):
    model = train([sentiment(), answers(), topics()], folder="with", **OPTIONS).model
    found = statistics_of(model, NAME)
    assert list(found) == ["sentiment", "topics"]  # spans have no label
    for values in found.values():
        assert values["importances"].dtype == torch.float16 and (values["importances"] > 0).any()
        assert depth_shares(values["importances"], model.config.hidden_size).sum() == pytest.approx(1)
    assert task_overlap(found).jaccard.shape == (2, 2)
    record = knowledge_of(model).tasks[0].statistics[0]
    assert record.name == NAME and record.shown[0][0] == "features used"
    assert f"`{NAME}` | features used" in (tmp_path / "with" / "README.md").read_text()

    model.save_pretrained(str(tmp_path / "saved"))
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(bert_folder), str(tmp_path / "saved"))
    again = statistics_of(loaded, NAME)
    assert all(torch.equal(again[task]["importances"], found[task]["importances"]) for task in found)

    forget(model, "answers")
    forget(model, "topics")
    without = train([sentiment()], folder="without", **OPTIONS).model
    left, never = (statistics_of(one, NAME) for one in (model, without))
    assert left.keys() == never.keys() == {"sentiment"}
    assert left["sentiment"]["importances"].numpy().tobytes() == never["sentiment"]["importances"].numpy().tobytes()
    for one, folder in ((model, "a"), (without, "b")):
        one.save_pretrained(str(tmp_path / folder))
    records = [json.loads((tmp_path / f / "adapter_config.json").read_text())["knowledge"]["tasks"] for f in "ab"]
    assert records[0][0]["statistics"] == records[1][0]["statistics"]
