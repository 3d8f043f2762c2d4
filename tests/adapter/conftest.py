"""Models that have learned, made of tiny random bases and random members."""

import pytest
import torch
from adapter_helpers import LANGUAGE_TASKS, TASKS, learn_language_task
from learned import TEXTS, learn_task
from peft import get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from hf_lifelong import DriftAdapterConfig


@pytest.fixture(scope="session")
def make_model(tiny_folder):
    """`make_model(model_type, tasks, dtype, **config)`: a tiny base with an adapter that knows `tasks`."""

    def make(model_type="bert", tasks=tuple(TASKS), dtype=torch.float32, **config):
        base = AutoModel.from_pretrained(tiny_folder(model_type), dtype=dtype)
        config = {"r": 2, "members": 2, "signature_rank": 4, **config}
        model = get_peft_model(base, DriftAdapterConfig(**config))
        for name in tasks:
            learn_task(model, name, *TASKS[name], seed=list(TASKS).index(name))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_language_model(tiny_language_folder):
    """`make_language_model(model_type, **config)`: a tiny language model with an adapter that knows three tasks."""

    def make(model_type="llama", tasks=tuple(LANGUAGE_TASKS), dtype=torch.float32, base=None, **config):
        base = AutoModelForCausalLM.from_pretrained(tiny_language_folder(model_type, **(base or {})), dtype=dtype)
        config = {"r": 2, "members": 2, "signature_rank": 4, **config}
        model = get_peft_model(base, DriftAdapterConfig(task_type="CAUSAL_LM", **config))
        for name in tasks:
            learn_language_task(model, name, LANGUAGE_TASKS[name], seed=list(LANGUAGE_TASKS).index(name))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def batch(tokenizer):
    encoded = tokenizer(TEXTS, return_tensors="pt", padding=True)
    return {k: encoded[k] for k in ("input_ids", "attention_mask")}
