import copy
import inspect
import json
import pickle
from dataclasses import fields

import pytest
from peft import PeftConfig
from transformers import TrainingArguments

from hf_lifelong import DriftAdapterConfig, DriftTrainingArguments
from hf_lifelong.knowledge import KnowledgeBase, ManifestError


@pytest.mark.parametrize(
    ("config", "parent"), [(DriftAdapterConfig, PeftConfig), (DriftTrainingArguments, TrainingArguments)]
)
def test_every_field_is_documented_and_has_help(config, parent):
    inherited = {f.name for f in fields(parent)}
    documented = inspect.getdoc(config).split("Args:")[1]
    for field in fields(config):
        if field.name not in inherited:
            assert f"{field.name} (`" in documented, field.name
            assert field.metadata["help"].endswith("."), field.name


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"r": 0}, "`r` is 0; it must be an integer from 1 to 65536"),
        ({"per_batch": "no"}, "`per_batch` is 'no'; it must be true or false"),
        ({"max_length": 10**9}, "`max_length` is 1000000000; it must be an integer from 1 to 1048576"),
        ({"lora_alpha": 1e300}, r"`lora_alpha` is 1e\+300; it must be a number above 0, at most 1,000,000"),
        ({"lora_alpha": True}, "`lora_alpha` is True"),
        ({"stride": -1}, "`stride` is -1; it must be an integer from 0 to 1048576"),
        ({"stride": 1.5}, "`stride` is 1.5"),
        ({"members": 2.5}, "`members` is 2.5"),
        ({"signature_rank": -1}, "`signature_rank` is -1"),
        ({"signature_size": 0}, "`signature_size` is 0"),
        ({"max_length": 0}, "`max_length` is 0"),
        ({"r": True}, "`r` is True"),
        ({"trunk_depth": 1.0}, r"`trunk_depth` is 1.0; it must be a share of the layers in \[0, 1\)"),
        ({"trunk_depth": float("nan")}, "`trunk_depth` is nan"),
        ({"lora_dropout": 1.0}, "`lora_dropout` is 1.0; it must be a probability"),
        ({"lora_alpha": float("inf")}, "`lora_alpha` is inf"),
        ({"signature_shrinkage": 0.0}, r"`signature_shrinkage` is 0.0; it must be in \(0, 1\]"),
        ({"max_length": 32, "stride": 16}, "`stride` is 16; it must be less than half"),
        ({"retrieval": "oracle"}, "`retrieval` is 'oracle'; choose one of"),
        ({"uncertainty": "both"}, "`uncertainty` is 'both'; choose one of"),
        ({"answer": "best"}, "`answer` is 'best'; choose one of"),
        ({"task_type": "SEQ_CLS"}, "`task_type` is 'SEQ_CLS'; heads belong to the adapter"),
        ({"knowledge": {"format": 99}}, "`knowledge.format` is 99, this package reads up to 6; upgrade"),
    ],
)
def test_what_cannot_work_is_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DriftAdapterConfig(**setting)


def test_saved_form_is_plain_sorted_json(tmp_path):
    config = DriftAdapterConfig(target_modules=["query", "key", "dense"], knowledge=KnowledgeBase().to_dict())
    data = config.to_dict()
    assert data["target_modules"] == ["dense", "key", "query"]
    json.dumps(data, allow_nan=False)
    config.save_pretrained(tmp_path)
    first = (tmp_path / "adapter_config.json").read_bytes()
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is DriftAdapterConfig and loaded.to_dict() == data
    loaded.save_pretrained(tmp_path)
    assert (tmp_path / "adapter_config.json").read_bytes() == first


def test_copies_are_equal():
    config = DriftAdapterConfig(r=3, target_modules=["query"])
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


def test_a_damaged_manifest_is_refused_by_the_configuration():
    broken = KnowledgeBase().to_dict() | {"depths": [3], "trunk": 2}
    with pytest.raises(ManifestError, match=r"knowledge\.depths.*from 0 to 2, not 3"):
        DriftAdapterConfig(knowledge=broken)
