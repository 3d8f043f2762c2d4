"""Adapters in folders, with random members on tiny bases."""

import pytest
import torch
from learned import learn_task
from peft import get_peft_model
from serving_helpers import CONFIG, TASKS, save
from transformers import AutoImageProcessor, AutoModel, AutoModelForCausalLM

from hf_lifelong import DriftAdapterConfig


@pytest.fixture(scope="session")
def make_folder(tmp_path_factory, bert_folder, tokenizer):
    """`make_folder(*tasks)`: a new folder of an adapter that knows these tasks."""

    def make(*tasks, **config):
        model = get_peft_model(
            AutoModel.from_pretrained(bert_folder, dtype=torch.float32), DriftAdapterConfig(**CONFIG, **config)
        )
        for name in tasks:
            learn_task(model, name, *TASKS[name], seed=list(TASKS).index(name))
        folder = tmp_path_factory.mktemp("adapter") / "learner"
        save(folder, model, tokenizer)
        return folder

    return make


@pytest.fixture(scope="session")
def folder(make_folder):
    return make_folder(*TASKS)


@pytest.fixture(scope="session")
def language_folder(tmp_path_factory, tiny_language_folder, language_tokenizer):
    base = AutoModelForCausalLM.from_pretrained(tiny_language_folder("llama"), dtype=torch.float32)
    model = get_peft_model(base, DriftAdapterConfig(task_type="CAUSAL_LM", max_new_tokens=8, **CONFIG))
    for seed, (name, labels) in enumerate({"films": ("bad", "good"), "talk": ()}.items()):
        learn_task(model, name, "text-generation", labels, seed, width=0)
    folder = tmp_path_factory.mktemp("language") / "writer"
    save(folder, model, language_tokenizer)
    return folder


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory, tiny_image_folder):
    base = tiny_image_folder("vit")
    model = get_peft_model(AutoModel.from_pretrained(base, dtype=torch.float32), DriftAdapterConfig(**CONFIG))
    for seed, name in enumerate(("animals", "shapes")):
        learn_task(model, name, "image-classification", ("a", "b"), seed)
    folder = tmp_path_factory.mktemp("image") / "seer"
    save(folder, model, AutoImageProcessor.from_pretrained(base))
    return folder
