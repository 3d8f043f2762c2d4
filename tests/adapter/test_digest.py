"""A saved adapter holds the digest of its tensors: damage, and files of different saves, are noticed on every way."""

import copy
import json

import pytest
import torch
from adapter_helpers import TASKS, answers_equal, same_tensors, tensors_of
from learned import learn_task
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_loading import ROUTES, load_native
from transformers import AutoModel
from versions import ADAPTER_METHODS_WORK, REASON, needs_adapter_methods_of_transformers

from hf_lifelong import DriftAdapterConfig, forget, predict
from hf_lifelong.adapter import lifelong_of
from hf_lifelong.adapter.bank import open_task
from hf_lifelong.hub import push_to_hub
from hf_lifelong.knowledge import fit_signature
from hf_lifelong.loading import load
from hf_lifelong.utils.digests import AT_ONCE, digest_of

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
LAYER = "base_model.model.encoder.layer.3.output.dense.drift_bank_A"
FACTOR, DIAGONAL = (f"base_model.model.lifelong.drift_signature_{part}" for part in ("factor", "diagonal"))
OTHER = "are not those that were saved with it"


@pytest.fixture(scope="module")
def saved(make_model, tokenizer, tmp_path_factory):
    """A folder that is not to be changed, and what its model answers by."""
    folder = tmp_path_factory.mktemp("saved")
    model = make_model(tasks=("films", "news"))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model


@pytest.fixture
def folder(saved, tmp_path):
    for file in saved[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def digest_in(folder):
    return json.loads((folder / CONFIG).read_text())["digest"]


def flip(folder, name=FACTOR, bit=2**20):
    """Changes one bit of the middle of a tensor, and nothing else of its file."""
    tensors = load_file(folder / TENSORS)
    flat = tensors[name].view(-1).view(torch.int32)
    flat[len(flat) // 2] ^= bit
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})


def change(folder, name, function):
    """Changes a tensor, and the digest as whoever damages an adapter on purpose would."""
    tensors = load_file(folder / TENSORS)
    function(tensors[name])
    save_file(tensors, folder / TENSORS, metadata={"format": "pt"})
    config = json.loads((folder / CONFIG).read_text())
    config["digest"] = digest_of({key.removeprefix("base_model.model."): value for key, value in tensors.items()})
    (folder / CONFIG).write_text(json.dumps(config))


def peft(folder, base):
    return PeftModel.from_pretrained(AutoModel.from_pretrained(base, dtype=torch.float32), folder).eval()


def loaded(folder, base, route):
    return (load(folder)[0] if route == "load" else ROUTES[route](base, folder, torch.float32)).eval()


def test_a_digest_is_of_names_shapes_and_bytes_and_of_nothing_else():
    large = torch.arange(AT_ONCE // 2 + 3, dtype=torch.float32)  # of three parts
    tensors = {"a": large, "b": torch.ones(2, 3), "c": torch.zeros(0, 4)}
    found = digest_of(tensors)
    assert found == digest_of(dict(reversed(tensors.items()))) == digest_of(tensors | {"b": torch.ones(3, 2).T})
    assert len(found) == 32 and int(found, 16)
    last, first = large.clone(), large.clone()
    last[-1] += 1
    first[0] += 1
    others = [
        *({"a": changed} for changed in (last, first, large[:-1], large.double())),
        {"b": torch.ones(3, 2)},
        {"c": torch.zeros(4, 0)},
        {"d": torch.zeros(0, 4)},
    ]
    assert len({found, *(digest_of(tensors | other) for other in others)}) == len(others) + 1


@pytest.mark.parametrize("route", [*ROUTES, "load"])
@pytest.mark.parametrize("name", [LAYER, FACTOR])
def test_a_flipped_bit_is_refused_on_every_way(folder, bert_folder, batch, route, name):
    flip(folder, name)
    with pytest.raises(ValueError, match=rf"`{TENSORS}` does not fit its `{CONFIG}`: its tensors {OTHER}"):
        predict(loaded(folder, bert_folder, route), batch)


@pytest.mark.parametrize("route", [*ROUTES, "load"])
def test_an_adapter_without_a_digest_is_loaded(folder, saved, bert_folder, batch, route):
    config = json.loads((folder / CONFIG).read_text())
    assert config.pop("digest")
    (folder / CONFIG).write_text(json.dumps(config))
    answers_equal(predict(loaded(folder, bert_folder, route), batch), predict(saved[1], batch))


def test_tensors_of_another_training_are_refused(folder, make_model, bert_folder, tmp_path_factory):
    other = make_model(tasks=())
    for name, seed in (("films", 8), ("news", 9)):
        learn_task(other, name, *TASKS[name], seed=seed)
    elsewhere = tmp_path_factory.mktemp("other")
    other.save_pretrained(elsewhere)
    shapes = [{k: v.shape for k, v in load_file(place / TENSORS).items()} for place in (elsewhere, folder)]
    assert shapes[0] == shapes[1]
    peft(elsewhere, bert_folder)
    (folder / TENSORS).write_bytes((elsewhere / TENSORS).read_bytes())
    with pytest.raises(ValueError, match=OTHER):
        peft(folder, bert_folder)


ACTS = {
    "learn": lambda model, folder: open_task(model, *TASKS["answers"], width=2),
    "forget": lambda model, folder: forget(model, "films"),
    "save": lambda model, folder: model.save_pretrained(folder),
}


@pytest.mark.parametrize("act", ["learn", "forget", pytest.param("save", marks=needs_adapter_methods_of_transformers)])
def test_damage_that_came_in_unseen_is_refused_before_it_is_kept(folder, bert_folder, tmp_path_factory, act):
    flip(folder)
    model = load_native(bert_folder, folder, torch.float32)
    with pytest.raises(ValueError, match=OTHER):
        ACTS[act](model, tmp_path_factory.mktemp("again"))


def test_what_loads_unseen_can_change_before_it_answers(folder, bert_folder, batch, make_model):
    model = load_native(bert_folder, folder, torch.float32)
    forget(model, "films")
    same_tensors(tensors_of(model), tensors_of(make_model(tasks=("news",))))
    predict(model.eval(), batch)


@pytest.mark.parametrize("route", ROUTES)
def test_every_way_of_saving_writes_the_digest_of_what_it_writes(folder, bert_folder, tmp_path, route):
    model = ROUTES[route](bert_folder, folder, torch.float32)
    if not isinstance(model, PeftModel) and not ADAPTER_METHODS_WORK:
        pytest.skip(REASON)
    model.save_pretrained(tmp_path)
    assert digest_in(tmp_path) == digest_in(folder)
    tensors = {key.removeprefix("base_model.model."): value for key, value in load_file(tmp_path / TENSORS).items()}
    assert digest_of(tensors) == digest_in(folder)


def test_the_digest_follows_what_is_learned_and_forgotten(folder, make_model, bert_folder, batch, tmp_path_factory):
    first, second, third = (tmp_path_factory.mktemp(name) for name in "abc")
    model = peft(folder, bert_folder)
    learn_task(model, "answers", *TASKS["answers"], seed=2)
    assert model.peft_config["default"].digest is None
    model.save_pretrained(first)
    model.load_adapter(first, "default")  # over the one that is there, whose digest was another one
    forget(model, "films")
    model.save_pretrained(second)
    without = make_model(tasks=("news", "answers"))
    without.save_pretrained(third)
    assert len({digest_in(place) for place in (folder, first, second)}) == 3
    for name in (TENSORS, CONFIG):
        assert (second / name).read_bytes() == (third / name).read_bytes()
    answers_equal(predict(peft(second, bert_folder), batch), predict(without, batch))


def test_a_state_dict_is_held_against_the_digest_of_its_configuration(folder, saved, bert_folder, batch):
    def fresh():
        base = AutoModel.from_pretrained(bert_folder, dtype=torch.float32)
        return get_peft_model(base, DriftAdapterConfig.from_pretrained(folder)).eval()

    state = copy.deepcopy(saved[1].state_dict())
    model = fresh()
    model.load_state_dict(state)
    answers_equal(predict(model, batch), predict(saved[1], batch))
    state["base_model.model.lifelong.drift_signature_mean.default"][0, 0] += 1
    model = fresh()
    model.load_state_dict(state)
    with pytest.raises(ValueError, match=OTHER):
        predict(model, batch)


def test_a_damaged_folder_is_not_pushed(folder):
    flip(folder)
    with pytest.raises(ValueError, match=rf"{TENSORS}` cannot be used: its tensors {OTHER}"):
        push_to_hub(folder, "me/adapter", base_model="me/base")


@pytest.mark.parametrize("digest", [5, ["x"], {}])
def test_a_digest_that_is_none_is_refused(digest):
    with pytest.raises(ValueError, match=r"`digest` is .*must be a string"):
        DriftAdapterConfig(digest=digest)


# Statistics


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (DIAGONAL, -1e-6, "drift_signature_diagonal` holds values from -1e-06 to .* must lie between 0 and 1e"),
        (DIAGONAL, 1e19, "drift_signature_diagonal` holds values from .* to 1e"),
        (FACTOR, 1e10, "drift_signature_factor` holds values from .* to 1e.* must lie between -1e"),
        (FACTOR, float("nan"), "drift_signature_factor` holds NaN or infinite values"),
        (LAYER, float("-inf"), "drift_bank_A` holds NaN or infinite values"),
    ],
)
@pytest.mark.parametrize("route", ["PeftModel", "load_adapter"])
def test_statistics_that_cannot_be_are_refused(folder, bert_folder, batch, route, name, value, message):
    change(folder, name, lambda tensor: tensor.view(-1)[-1:].fill_(value))
    with pytest.raises(ValueError, match=message):
        predict(ROUTES[route](bert_folder, folder, torch.float32), batch)


def test_huge_members_are_no_nan(folder, bert_folder):
    change(folder, LAYER, lambda tensor: tensor.fill_(3e38))  # finite, though their sum is not
    assert float(tensors_of(peft(folder, bert_folder))["encoder.layer.3.output.dense.drift_bank_A"].max()) > 2.9e38


def test_statistics_without_a_covariance_name_their_file(folder, bert_folder, batch):
    change(folder, DIAGONAL, lambda tensor: tensor.zero_())
    config = json.loads((folder / CONFIG).read_text()) | {"signature_shrinkage": 1e-30}
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"statistics of the tasks in the adapter's `{TENSORS}` cannot be used"):
        predict(peft(folder, bert_folder), batch)


def test_hidden_states_that_no_file_could_hold_are_refused_when_they_are_fitted():
    features = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    fit_signature(features * 1e6, 2)
    with pytest.raises(ValueError, match=r"`features` holds values up to .*, more than 1e"):
        fit_signature(features * 1e9, 2)


def test_a_deep_copy_and_a_deleted_adapter_keep_no_digest_to_come(folder, bert_folder):
    model = peft(folder, bert_folder)
    assert not lifelong_of(copy.deepcopy(model)).digests
    model.load_adapter(folder, "other")
    model.delete_adapter("other")
    assert not lifelong_of(model).digests
