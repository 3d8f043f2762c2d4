"""The quickstart of a card, run as it stands."""

import re

import pytest
from card_helpers import check_whole
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments, Task
from hf_lifelong.hub import CardFacts, model_card


@pytest.mark.parametrize("kind", ["encoder", "language model"])
def test_the_quickstart_runs(
    kind, bert_folder, tokenizer, tiny_language_folder, language_tokenizer, tmp_path, monkeypatch, capsys
):
    if kind == "encoder":
        base, config = AutoModel.from_pretrained(bert_folder, dtype="float32"), {}
        data = Dataset.from_dict({"text": ["a film", "a day"] * 4, "label": ["good", "bad"] * 4})
        asked = Dataset.from_dict(
            {
                "question": ["who?"] * 8,
                "context": ["it was Ada"] * 8,
                "answers": [{"text": ["Ada"], "answer_start": [7]}] * 8,
            }
        )
        tasks = [Task("films", "text-classification", data), Task("answers", "question-answering", asked)]
    else:
        base = AutoModelForCausalLM.from_pretrained(tiny_language_folder("gpt2"), dtype="float32")
        config, tokenizer = {"task_type": "CAUSAL_LM", "max_new_tokens": 2}, language_tokenizer
        data = Dataset.from_dict({"text": ["a film", "a day"] * 4, "label": ["good", "bad"] * 4})
        tasks = [Task("films", "text-generation", data)]
    model = get_peft_model(base, DriftAdapterConfig(r=2, members=1, signature_rank=2, **config))
    args = DriftTrainingArguments(str(tmp_path), max_steps=1, report_to="none", disable_tqdm=True, use_cpu=True)
    trainer = DriftTrainer(model, args, tasks=tasks, processing_class=tokenizer)
    trainer.train()
    card = model_card(trainer.knowledge, model.peft_config["default"].to_dict(), CardFacts())
    code = re.search(r"```python\n(.*?)\n```", check_whole(card), flags=re.S)[1]
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    exec(compile(code, "quickstart", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.count("'answer':") == code.count("print(") == (3 if kind == "encoder" else 1)
