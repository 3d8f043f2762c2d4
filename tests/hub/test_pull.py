"""Fetching adapters from a folder or a local Hub, and loading them with base and tokenizer."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hub_helpers import REPO, answers, base, encode, learn, make, same  # noqa: F401
from hub_server import hub  # noqa: F401
from huggingface_hub import constants, hf_hub_download, snapshot_download
from peft import AutoPeftModelForFeatureExtraction, get_peft_model
from transformers import AutoModelForCausalLM

from hf_lifelong import DriftAdapterConfig, generate, knowledge_of
from hf_lifelong.hub import PullError, PushConflictError, pull, push_to_hub
from hf_lifelong.loading import load
from hf_lifelong.utils.files import DamagedFileError

TENSORS = "adapter_model.safetensors"


def fetched(server):
    """Files of the adapter that were asked for, with their bytes."""
    return {path.rpartition("/")[2] for method, path in server.requests if method == "GET" and f"{REPO}/res" in path}


def test_an_adapter_comes_as_it_was_pushed_and_answers_so(hub, make, tokenizer):  # noqa: F811
    model = make("films", "news")
    commit = push_to_hub(model, REPO, tokenizer=tokenizer, card="# A card").oid
    saved = pull(REPO)
    assert (saved.repo_id, saved.revision, saved.commit) == (REPO, "main", commit)
    assert saved.knowledge == knowledge_of(model)
    files = hub.repos[REPO].files()
    assert saved.config == json.loads(files["adapter_config.json"])
    assert saved.sizes == {name: len(data) for name, data in files.items() if name != ".gitattributes"}
    assert all((saved.folder / name).read_bytes() == files[name] for name in saved.sizes)
    loaded, its_tokenizer = load(saved)
    same(answers(loaded, encode(its_tokenizer)), answers(model, encode(tokenizer)))


def test_a_folder_is_taken_as_it_is(hub, make, tokenizer, tmp_path):  # noqa: F811
    model = make("films")
    model.save_pretrained(tmp_path)
    saved = pull(tmp_path)
    assert (saved.folder, saved.repo_id, saved.revision, saved.commit) == (tmp_path, None, None, None)
    assert saved == pull(str(tmp_path))
    same(answers(load(tmp_path)[0], encode(tokenizer)), answers(model, encode(tokenizer)))


def test_an_adapter_before_its_first_task_is_one(hub, make, tmp_path):  # noqa: F811
    make().save_pretrained(tmp_path)
    assert pull(tmp_path).knowledge.tasks == []
    assert knowledge_of(load(tmp_path)[0]).tasks == []


def test_only_the_files_of_an_adapter_are_fetched_and_no_base(hub, make, tokenizer):  # noqa: F811
    push_to_hub(make("films"), REPO, tokenizer=tokenizer)
    hub.write(REPO, {"optimizer.pt": b"x", "training_args.bin": b"x", "notes.txt": b"x", "sub/tokenizer.json": b"x"})
    hub.requests.clear()
    saved = pull(REPO)
    ours = {"adapter_config.json", TENSORS, "tokenizer.json", "tokenizer_config.json"}
    assert fetched(hub) == saved.sizes.keys() == ours | {"accuracy_matrix.json", "accuracy_matrix.png"}
    assert not [path for _, path in hub.requests if "tiny-bert" in path]


def test_tensors_that_do_not_fit_are_not_fetched(hub, make):  # noqa: F811
    push_to_hub(make("films", "news"), REPO)
    files = hub.repos[REPO].files()
    push_to_hub(make("films"), "me/other")
    hub.write("me/other", {TENSORS: files[TENSORS] + b"\0" * 1_000_000})
    with pytest.raises(
        DamagedFileError,
        match=r"me/other/adapter_model.safetensors.* shape \(8, 32\), it must be \(4, 32\)",
    ):
        pull("me/other")
    cached = [path for path in Path(constants.HF_HUB_CACHE, "models--me--other").rglob("*") if path.is_file()]
    assert cached and max(path.stat().st_size for path in cached) < 100_000


@pytest.mark.parametrize("by", ["commit", "branch"])
def test_every_older_state_can_be_pulled(hub, make, by):  # noqa: F811
    model = make("films")
    first = push_to_hub(model, REPO).oid
    push_to_hub(model, REPO, revision="trial")
    push_to_hub(learn(model, "news", seed=1), REPO)
    saved = pull(REPO, revision=first if by == "commit" else "trial")
    assert (saved.commit, saved.knowledge.names) == (first, ["films"])
    assert knowledge_of(load(REPO, revision=saved.revision)[0]).names == ["films"]
    assert pull(REPO).knowledge.names == ["films", "news"]


@pytest.mark.parametrize("how", ["offline", "unreachable", "server error"])
def test_without_the_hub_the_cache_answers(hub, make, tokenizer, how, monkeypatch):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO, tokenizer=tokenizer)
    saved = pull(REPO)
    load(saved)
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "unreachable":
        hub.die("", times=10**6)
    else:
        hub.fail("", 503, times=10**6)
    assert pull(REPO) == saved
    with pytest.raises(PullError, match=r"`me/unknown` was not loaded\. There is no folder of this name"):
        pull("me/unknown")
    if how == "offline":
        same(answers(load(REPO)[0], encode(tokenizer)), answers(model, encode(tokenizer)))


def test_a_name_that_is_nothing_and_rights_that_are_missing_are_told(hub, make, tmp_path):  # noqa: F811
    push_to_hub(make("films"), REPO, private=True)
    for name in ("a/b/c", "", str(tmp_path / "missing")):
        with pytest.raises(ValueError, match=r"`name` is .*: no folder here, and no name on the Hub"):
            pull(name)
    with pytest.raises(ValueError, match="`revision` is 'main', but `adapter` is already pulled"):
        load(pull(REPO), revision="main")
    with pytest.raises(ValueError, match=f"`revision` is 'main', but `{tmp_path}` is a folder"):
        pull(tmp_path, revision="main")
    with pytest.raises(PullError, match=r"was not loaded\. Check the name and `revision`"):
        pull("me/unknown")
    with pytest.raises(PullError, match=r"was not loaded\. Check the name and `revision`"):
        pull(REPO, revision="unknown")
    with pytest.raises(PullError, match="your token may see a private repository"):
        pull(REPO, token="hf_other")
    hub.fail("/api/models/", 403)
    with pytest.raises(PullError, match="ask for access on its page"):
        pull(REPO)


def test_a_commit_between_look_and_download_does_not_mix(hub, make, monkeypatch):  # noqa: F811
    first = push_to_hub(make("films"), REPO).oid
    module = sys.modules[pull.__module__]
    look = module.check_files

    def late(*args):
        hub.write(REPO, {"README.md": "Meanwhile"})
        return look(*args)

    monkeypatch.setattr(module, "check_files", late)
    assert pull(REPO).commit == first
    monkeypatch.setattr(module, "check_files", look)
    assert pull(REPO).commit == hub.repos[REPO].refs["main"] != first


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("lost", [TENSORS, "tokenizer.json"])
def test_a_download_that_breaks_is_not_taken_for_whole(hub, make, tokenizer, lost, known):  # noqa: F811
    model = make("films")
    before = push_to_hub(model, REPO, tokenizer=tokenizer).oid
    if known:
        pull(REPO)
    after = push_to_hub(learn(model, "news", seed=1), REPO, tokenizer=tokenizer).oid
    hub.die(f"/resolve/.*{lost}", times=10**6)
    with pytest.raises(PullError, match=r"was not loaded\. There is no folder of this name, and of the Hub it is"):
        pull(REPO, revision=after)
    if known:
        assert pull(REPO).commit == before
    else:
        with pytest.raises(PullError, match="or not all of it"):
            pull(REPO)
    hub.heal()
    assert (pull(REPO).commit, pull(REPO).knowledge) == (after, knowledge_of(model))


def test_a_cache_filled_by_others_answers_where_it_is_whole(hub, make, tokenizer, monkeypatch):  # noqa: F811
    model = make("films")
    for name in (REPO, "me/other"):
        push_to_hub(model, name, tokenizer=tokenizer)
    snapshot_download(REPO)
    for file in ("adapter_config.json", TENSORS):  # as PEFT does
        hf_hub_download("me/other", file)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "tokenizer.json" in pull(REPO).sizes
    with pytest.raises(PullError, match="or not all of it"):
        pull("me/other")


def test_what_was_loaded_goes_on_learning_and_follows_its_commit(hub, make, tokenizer):  # noqa: F811
    pushed = push_to_hub(make("films"), REPO, tokenizer=tokenizer).oid
    ours, theirs = load(REPO, trainable=True)[0], load(REPO, trainable=True)[0]
    assert any(parameter.requires_grad for parameter in ours.parameters()) == any(
        parameter.requires_grad
        for parameter in AutoPeftModelForFeatureExtraction.from_pretrained(REPO, is_trainable=True).parameters()
    )
    assert ours.peft_config["default"].loaded_from == (REPO, "main", pushed)
    push_to_hub(learn(theirs, "news", seed=1), REPO)
    with pytest.raises(PushConflictError, match=f"not to {pushed} that this push follows"):
        push_to_hub(learn(ours, "answers", seed=2), REPO)
    assert pull(REPO).knowledge.names == ["films", "news"]


def test_the_tokenizer_is_the_adapters_or_else_the_bases(hub, make, tokenizer):  # noqa: F811
    push_to_hub(make("films"), REPO)
    assert load(REPO)[1].name_or_path == "other/tiny-bert"
    push_to_hub(make("films"), "me/with", tokenizer=tokenizer)
    loaded = load("me/with")[1]
    assert Path(loaded.name_or_path) == pull("me/with").folder
    assert loaded.get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("four_bits", [False, True])
def test_a_language_model_is_loaded_as_one(hub, tiny_language_folder, language_tokenizer, four_bits):  # noqa: F811
    sizes = {"hidden_size": 64, "head_dim": 32, "intermediate_size": 128}
    hub.write_folder("other/tiny-llama", tiny_language_folder("llama", **sizes))
    bare = AutoModelForCausalLM.from_pretrained("other/tiny-llama", dtype=torch.float32)
    config = DriftAdapterConfig(task_type="CAUSAL_LM", r=2, members=2, signature_rank=4)
    model = learn(get_peft_model(bare, config), "films")
    push_to_hub(model, REPO, tokenizer=language_tokenizer)
    loaded, tokenizer = load(REPO, load_in_4bit=four_bits)
    assert loaded.get_base_model().is_loaded_in_4bit if four_bits else loaded.dtype == torch.float32
    inputs = tokenizer("the film was", return_tensors="pt")
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    found = generate(loaded, inputs, max_new_tokens=4).tokens
    assert four_bits or torch.equal(found, generate(model, inputs, max_new_tokens=4).tokens)


@pytest.mark.parametrize("shared_out", [False, True])
def test_on_a_gpu_a_base_goes_there_but_where_zero_3_places_it(make, tmp_path, shared_out, monkeypatch):  # noqa: F811
    class Asked(Exception):
        pass

    def ask(*_, **options):
        raise Asked(options["device_map"])

    make("films").save_pretrained(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    module = sys.modules[load.__module__]
    monkeypatch.setattr(module, "load_base", ask)
    monkeypatch.setattr(module, "is_deepspeed_zero3_enabled", lambda: shared_out)
    with pytest.raises(Asked) as found:
        load(tmp_path)
    assert found.value.args == ((None,) if shared_out else ({"": 0},))


def test_the_dtype_can_be_given(hub, make):  # noqa: F811
    push_to_hub(make("films"), REPO)
    model = load(REPO, dtype="bfloat16")[0]
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_a_base_without_safetensors_is_not_read(hub, make):  # noqa: F811
    files = hub.repos["other/tiny-bert"].files()
    files["pytorch_model.bin"] = files.pop("model.safetensors")
    hub.write("other/pickled", files)
    push_to_hub(make("films"), REPO, base_model="other/pickled")
    hub.requests.clear()
    with pytest.raises(PullError, match="The base `other/pickled` was not loaded"):
        load(REPO)
    assert not [path for method, path in hub.requests if method == "GET" and path.endswith("pytorch_model.bin")]
