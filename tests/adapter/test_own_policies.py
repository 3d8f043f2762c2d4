"""Retrieval policies of a user's own: those of the guide, from its very text, and what they may be given to."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
from adapter_helpers import answers_equal
from learned import TEXTS
from peft import AutoPeftModelForFeatureExtraction, PeftConfig, PeftModel
from transformers import AutoModel

from hf_lifelong import DriftAdapterConfig, RetrievalPolicy, generate, predict
from hf_lifelong.adapter import lifelong_of, trunk_features
from hf_lifelong.pipeline import LifelongPipeline
from hf_lifelong.retrieval import Cascade, LeastUncertain, NearestSignature, Oracle, policy_of

GUIDE = (Path(__file__).parents[2] / "docs/guides/extending.md").read_text(encoding="utf-8")
MOST_LINES = 25


@pytest.fixture(scope="module")
def shown():
    """What the guide's example defines."""
    code = next(code for code in re.findall(r"```python\n(.*?)```", GUIDE, re.S) if "(RetrievalPolicy)" in code)
    defined: dict = {}
    exec(code, defined)
    return defined


@pytest.fixture(scope="module")
def model(make_model):
    return make_model()


def nearest(model, batch):
    distance = torch.cdist(trunk_features(model, batch), lifelong_of(model).signature.mean)
    return distance.argmin(1)


def test_a_policy_of_the_guide_is_short():
    code = next(code for code in re.findall(r"```python\n(.*?)```", GUIDE, re.S) if "(RetrievalPolicy)" in code)
    for part in re.split(r"\n(?=class )", code)[1:]:
        assert len(part.strip().splitlines()) <= MOST_LINES


def test_the_nearest_mean_chooses(shown, model, batch):
    own = shown["NearestMean"]
    found = predict(model, batch, policy=own)
    assert torch.equal(found.group, nearest(model, batch))
    answers_equal(predict(model, batch, policy=own()), found)
    given = predict(model, batch, policy="oracle", group=found.group)
    assert torch.equal(given.scores, found.scores)


def test_weights_move_inputs_from_group_to_group(shown, model, batch):
    own = shown["Weighted"]
    even = predict(model, batch, policy=own(0.25, 0.25, 0.25, 0.25))
    assert torch.equal(even.group, predict(model, batch).group)
    for group in range(4):
        shares = [float(group == other) for other in range(4)]
        assert predict(model, batch, policy=own(*shares)).group.tolist() == [group] * 4
    kinds = ["question-answering"]
    assert predict(model, batch, policy=own(1.0, 1e-30, 1e-30, 1e-30), kinds=kinds).group.tolist() == [2] * 4


def test_it_answers_in_the_pipeline_in_plain_calls_and_for_whole_batches(shown, make_model, batch, tokenizer):
    own = shown["NearestMean"]
    model, ask = make_model(retrieval=own), None
    with torch.no_grad():
        assert torch.equal(model(**batch).group, nearest(model, batch))
    ask = LifelongPipeline(model=make_model(), tokenizer=tokenizer)
    plain = LifelongPipeline(model=model, tokenizer=tokenizer)
    assert ask(TEXTS, policy=own) == plain(TEXTS)
    assert predict(model, batch, per_batch=True).group.unique().numel() == 1


def test_it_is_one_graph(shown, make_model, batch):
    model = make_model(retrieval=shown["NearestMean"])
    torch.compiler.reset()
    with torch.no_grad():
        plain = model(**batch)
        found = torch.compile(model, backend="eager", fullgraph=True)(**batch)
    torch.compiler.reset()
    assert torch.equal(found.group, plain.group)


def test_a_language_model_follows_it(shown, make_language_model):
    model = make_language_model()
    ids = torch.randint(5, 90, (3, 12), generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    own = generate(model, {"input_ids": ids}, policy=shown["NearestMean"], **options)
    assert torch.equal(own.group, nearest(model, {"input_ids": ids}))
    given = generate(model, {"input_ids": ids}, "oracle", own.group, **options)
    assert torch.equal(given.tokens, own.tokens)


class Asking(RetrievalPolicy):
    """All groups answer, and the surest of them is taken; the margin is the signature's."""

    asks_members = True

    def choose(self, routing, certainty):
        return certainty.argmax(1), routing.margin


def test_a_policy_may_ask_members_before_it_chooses(model, batch):
    # Of merged members, unlike those that answer one by one; the closed-form heads of these tasks are zero.
    found = predict(model, batch, policy=Asking)
    each = [predict(model, batch, policy="oracle", group=group).uncertainty for group in range(4)]
    assert torch.equal(found.group, torch.stack(each).argmin(0))
    torch.testing.assert_close(found.margin, predict(model, batch).margin)


def test_built_in_policies_are_policies(model, batch):
    for name, built_in in (("signature", NearestSignature), ("uncertainty", LeastUncertain), ("cascade", Cascade)):
        expected = predict(model, batch, policy=name)
        answers_equal(predict(model, batch, policy=built_in), expected)
        answers_equal(predict(model, batch, policy=built_in()), expected)
        assert policy_of(name).name == name
    answers_equal(predict(model, batch, Oracle, 1), predict(model, batch, "oracle", 1))
    # Where nothing is ever clear, all are asked; the closed-form heads of these tasks are zero.
    wide = predict(model, batch, policy=Cascade(clear=2.0, least=0.0, most=4), uncertainty="variance")
    assert torch.equal(wide.group, predict(model, batch, policy="uncertainty", uncertainty="variance").group)


def test_a_saved_adapter_names_it_and_loads_with_the_signature(shown, make_model, tiny_folder, batch, tmp_path):
    model = make_model(retrieval=shown["NearestMean"]())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["retrieval"] == "own:NearestMean"
    routes = (
        lambda: PeftModel.from_pretrained(
            AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32), tmp_path
        ),
        lambda: AutoPeftModelForFeatureExtraction.from_pretrained(tmp_path, dtype=torch.float32),
    )
    for load in routes:
        with pytest.warns(UserWarning, match="retrieval policy `NearestMean`, which is not built in"):
            loaded = load().eval()
        assert loaded.peft_config["default"].retrieval == "signature"
        answers_equal(predict(loaded, batch), predict(model, batch, policy="signature"))
    loaded.peft_config["default"].retrieval = shown["NearestMean"]()
    answers_equal(predict(loaded, batch), predict(model, batch))


def test_built_in_policies_are_saved_by_name_without_a_warning(tmp_path):
    for given, name in ((Cascade, "cascade"), (LeastUncertain(), "uncertainty"), ("signature", "signature")):
        DriftAdapterConfig(retrieval=given).save_pretrained(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert PeftConfig.from_pretrained(tmp_path).retrieval == name
    # With constants of its own it is another policy.
    assert DriftAdapterConfig(retrieval=Cascade(clear=0.5)).to_dict()["retrieval"] == "own:cascade"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Oracle, "`retrieval` is <class .*Oracle'>; choose one of"),
        ("own:", "`retrieval` is 'own:'; choose one of"),
        ("own:../x", "`retrieval` is 'own:../x'; choose one of"),
        ("own:" + "x" * 61, "choose one of"),
        (dict, "`retrieval` is <class 'dict'>; choose one of .*, or give a `RetrievalPolicy`"),
    ],
)
def test_what_is_no_policy_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        DriftAdapterConfig(retrieval=given)


def test_a_policy_without_what_it_needs_says_what_to_override(model, batch):
    class Nothing(RetrievalPolicy):
        needs_likelihood = False

    with pytest.raises(ValueError, match="`Nothing` must override `likelihood`"):
        predict(model, batch, policy=Nothing)


def test_a_name_that_cannot_be_saved_is_refused():
    class Odd(RetrievalPolicy):
        name = "a b/c"

    with pytest.raises(ValueError, match="`name` of the retrieval policy `Odd` is 'a b/c'"):
        DriftAdapterConfig(retrieval=Odd).to_dict()


def test_a_policy_of_another_shape_is_refused_by_its_name(model, batch):
    class Short(RetrievalPolicy):
        def likelihood(self, evidence):
            return torch.zeros(3)

    with pytest.raises(ValueError, match=r"policy `Short` gave the shape \(3,\); return one number for each input"):
        predict(model, batch, policy=Short)


def test_the_base_class_chooses_by_signature(model, batch):
    answers_equal(predict(model, batch, policy=RetrievalPolicy), predict(model, batch, policy="signature"))
