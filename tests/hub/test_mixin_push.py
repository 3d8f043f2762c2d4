"""`model.push_to_hub` of PEFT and transformers, which is not ours: it must carry the adapter and leave a good card."""

import pytest
import torch
from hub_helpers import REPO, answers, base, encode, learn, make, same  # noqa: F401
from hub_server import hub  # noqa: F401
from huggingface_hub import ModelCard
from transformers import AutoModel
from versions import needs_adapter_methods_of_transformers

from hf_lifelong import knowledge_of
from hf_lifelong.hub import model_card, pull, push_to_hub
from hf_lifelong.loading import load


@pytest.fixture(params=["PeftModel", pytest.param("native", marks=needs_adapter_methods_of_transformers)])
def model(request, make, base, tmp_path):  # noqa: F811
    """A model with the mixin: PEFT's, or one of transformers with an adapter in it."""
    wrapped = make("films")
    if request.param == "PeftModel":
        return wrapped
    wrapped.save_pretrained(tmp_path / "saved")
    bare = AutoModel.from_pretrained(base, dtype=torch.float32)
    bare.load_adapter(str(tmp_path / "saved"))
    return bare.eval()


def test_it_carries_the_adapter_and_writes_a_card_of_its_own(hub, model, tokenizer):  # noqa: F811
    model.push_to_hub(REPO)
    saved = pull(REPO)
    assert saved.knowledge == knowledge_of(model)
    same(answers(load(saved)[0], encode(tokenizer)), answers(model, encode(tokenizer)))
    assert set(hub.repos[REPO].files()) == {".gitattributes", "README.md", *saved.sizes}
    assert ModelCard(hub.repos[REPO].files()["README.md"].decode()).data.library_name == "transformers"


def test_it_leaves_a_good_card_alone(hub, model):  # noqa: F811
    card = str(model_card(knowledge_of(model), model.peft_config["default"].to_dict()))
    push_to_hub(model, REPO, card=card)
    for i, task in enumerate(("news", "answers")):
        learn(model, task, seed=i + 1).push_to_hub(REPO)
        assert hub.repos[REPO].files()["README.md"].decode() == card
    assert pull(REPO).knowledge.names == ["films", "news", "answers"]
