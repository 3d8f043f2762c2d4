"""Encoders pad on the right, whatever their tokenizer prefers."""

import copy

import torch
from datasets import Dataset
from training_helpers import STILL, make_model, make_trainer

from hf_lifelong import Task
from hf_lifelong.adapter.bank import drift_modules

WORDS = [["the"] * (i % 7) + ["Ada"] + ["ran"] * (i % 3) for i in range(24)]
NAMES = Dataset.from_dict({"tokens": WORDS, "tags": [["B-PER" if w == "Ada" else "O" for w in row] for row in WORDS]})


def test_what_a_tokenizer_prefers_to_pad_changes_nothing_that_is_learned(bert_folder, tokenizer, tmp_path):
    found = []
    for side in ("right", "left"):
        given = copy.deepcopy(tokenizer)
        given.padding_side = side
        tasks = [Task("names", "token-classification", NAMES, test=NAMES)]
        settings = {**STILL, "eval_strategy": "steps", "eval_steps": 2}
        trainer = make_trainer(make_model(bert_folder), tmp_path / side, tasks, given, **settings)
        trainer.train()
        assert given.padding_side == side
        logged = [entry["eval_f1"] for entry in trainer.state.log_history if "eval_f1" in entry]
        tensors = {f"{name}.{key}": p for name, m in drift_modules(trainer.model) for key, p in m.named_parameters()}
        found.append((trainer.evaluate(), logged, tensors))
    (scores, logged, tensors), other = found
    assert (scores, logged) == other[:2] and logged
    assert all(torch.equal(tensors[name], other[2][name]) for name in tensors)
