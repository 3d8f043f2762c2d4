"""Pushing and loading through a local Hub: what travels, what is refused, and what happens when it breaks."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hub_helpers import REPO, answers, base, encode, learn, make, same  # noqa: F401
from hub_server import TOKEN, HubServer, hub  # noqa: F401
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import HTTPError
from peft import AutoPeftModelForCausalLM, AutoPeftModelForFeatureExtraction, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer
from versions import needs_adapter_methods_of_transformers

from hf_lifelong import AccuracyMatrix, DriftAdapterConfig, forget, generate, knowledge_of
from hf_lifelong.adapter.bank import set_knowledge
from hf_lifelong.hub import continuing, pull, transfer
from hf_lifelong.hub.transfer import PushConflictError, PushError, push_to_hub

CARD = "---\nlibrary_name: peft\ntags: [hf_lifelong]\n---\n# A learner\n"
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
SCORES = {"accuracy_matrix.json", "accuracy_matrix.png"}


def auto(repo, **options):
    return AutoPeftModelForFeatureExtraction.from_pretrained(repo, dtype=torch.float32, **options).eval()


def head(server):
    return server.repos[REPO].refs["main"]


# What travels, and loading it


def test_a_push_is_one_commit_with_exactly_these_files(hub, make, tokenizer):  # noqa: F811
    model = make("films", "news")
    info = push_to_hub(model, REPO, card=CARD, tokenizer=tokenizer, private=True, commit_message="Two tasks")
    repo = hub.repos[REPO]
    assert [commit.message for commit in repo.history()] == ["Two tasks", "initial commit"]
    assert info.oid == head(hub)
    assert repo.private
    files = repo.files()
    expected = {*ADAPTER, *SCORES, "README.md", "tokenizer.json", "tokenizer_config.json"}
    assert set(files) - {".gitattributes"} == expected
    assert files["README.md"].decode() == CARD
    assert json.loads(files["accuracy_matrix.json"]) == knowledge_of(model).scores
    assert files["accuracy_matrix.png"].startswith(b"\x89PNG")


def test_nothing_says_where_on_this_machine_it_was_made(hub, tiny_folder, language_tokenizer, tmp_path):  # noqa: F811
    folder = tiny_folder("bert")
    model = get_peft_model(AutoModel.from_pretrained(folder), DriftAdapterConfig(r=2, signature_rank=4))
    learn(model, "films")
    push_to_hub(model, REPO, tokenizer=AutoTokenizer.from_pretrained(folder), base_model="other/tiny-bert")
    for name, content in hub.repos[REPO].files().items():
        assert str(folder).encode() not in content, name
        assert str(tmp_path).encode() not in content, name


ROUTES = {
    "AutoPeftModel": lambda fresh, **options: auto(REPO, **options),
    "PeftModel": lambda fresh, **options: PeftModel.from_pretrained(fresh(), REPO, **options),
    # Its own `revision` is that of the base model.
    "AutoModel": lambda fresh, **options: AutoModel.from_pretrained(REPO, dtype=torch.float32, adapter_kwargs=options),
}


@pytest.mark.parametrize("route", ROUTES)
def test_it_answers_bit_by_bit_as_it_was_pushed(hub, make, base, tokenizer, route):  # noqa: F811
    model, batch = make("films", "news"), encode(tokenizer)
    push_to_hub(model, REPO, tokenizer=tokenizer)
    loaded = ROUTES[route](lambda: AutoModel.from_pretrained(base, dtype=torch.float32)).eval()
    assert knowledge_of(loaded) == knowledge_of(model)
    same(answers(loaded, batch), answers(model, batch))
    same(answers(loaded, encode(AutoTokenizer.from_pretrained(REPO))), answers(model, batch))


@needs_adapter_methods_of_transformers
def test_load_adapter_of_transformers_reads_it(hub, make, base, tokenizer):  # noqa: F811
    model, batch = make("films"), encode(tokenizer)
    push_to_hub(model, REPO)
    native = AutoModel.from_pretrained(base, dtype=torch.float32)
    native.load_adapter(REPO)
    same(answers(native.eval(), batch), answers(model, batch))
    push_to_hub(native, "me/native")
    same(answers(auto("me/native"), batch), answers(model, batch))


@pytest.mark.parametrize("route", ROUTES)
def test_every_older_commit_and_branch_can_be_loaded(hub, make, base, tokenizer, route):  # noqa: F811
    model, batch = make("films"), encode(tokenizer)
    expected = answers(model, batch)
    first = push_to_hub(model, REPO)
    push_to_hub(model, REPO, revision="trial")
    push_to_hub(learn(model, "news", seed=1), REPO)
    fresh = lambda: AutoModel.from_pretrained(base, dtype=torch.float32)  # noqa: E731
    for revision in (first.oid, "trial"):
        same(answers(ROUTES[route](fresh, revision=revision).eval(), batch), expected)
    same(answers(ROUTES[route](fresh).eval(), batch), answers(model, batch))


def test_a_language_model_goes_there_and_back(hub, tiny_language_folder, language_tokenizer):  # noqa: F811
    hub.write_folder("other/tiny-llama", tiny_language_folder("llama"))
    bare = AutoModelForCausalLM.from_pretrained("other/tiny-llama", dtype=torch.float32)
    config = DriftAdapterConfig(task_type="CAUSAL_LM", r=2, members=2, signature_rank=4)
    model = learn(learn(get_peft_model(bare, config), "films"), "news", seed=1)
    push_to_hub(model, REPO, tokenizer=language_tokenizer)
    loaded = AutoPeftModelForCausalLM.from_pretrained(REPO, dtype=torch.float32).eval()
    assert knowledge_of(loaded) == knowledge_of(model)
    inputs = language_tokenizer("the film was", return_tensors="pt")
    inputs = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(loaded.generate(**inputs, **options), model.generate(**inputs, **options))
    here, there = (generate(one, inputs, max_new_tokens=5) for one in (model, loaded))
    assert torch.equal(there.tokens, here.tokens)


def test_learning_on_and_pushing_again_keeps_all(hub, make, tokenizer):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO, card=CARD)
    loaded = auto(REPO, is_trainable=True)
    learn(loaded, "news", seed=1, started_from="films")
    push_to_hub(loaded, REPO, card=CARD + "More.")
    assert [commit.message for commit in hub.repos[REPO].history()] == [
        "Learned `news`",
        "Learned `films`",
        "initial commit",
    ]
    again = auto(REPO)
    assert knowledge_of(again) == knowledge_of(loaded)
    assert [task.started_from for task in knowledge_of(again).tasks] == [None, "films"]
    assert AccuracyMatrix.from_dict(knowledge_of(again).scores).tasks == ["films", "news"]
    expected = learn(model, "news", seed=1, started_from="films")
    same(answers(again, encode(tokenizer)), answers(expected, encode(tokenizer)))


def test_of_a_folder_only_the_adapter_travels(hub, make, tokenizer, tmp_path):  # noqa: F811
    model, folder = make("films"), tmp_path / "out"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in ("training_args.bin", "optimizer.pt", "notes.txt", "_stream/commit-1/x.json", "checkpoint-3/a.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not for others")
    push_to_hub(folder, REPO)
    assert set(hub.repos[REPO].files()) == {
        *ADAPTER,
        *SCORES,
        ".gitattributes",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    same(answers(auto(REPO), encode(tokenizer)), answers(model, encode(tokenizer)))


def test_without_a_card_that_of_the_hub_stays(hub, make):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO, card=CARD)
    push_to_hub(learn(model, "news", seed=1), REPO)
    assert hub.repos[REPO].files()["README.md"].decode() == CARD


def test_forgetting_a_task_takes_its_scores_off_the_hub(hub, make):  # noqa: F811
    model = make("films", "news")
    push_to_hub(model, REPO)
    forget(model, "news")
    push_to_hub(model, REPO)
    assert not SCORES & set(hub.repos[REPO].files())
    assert knowledge_of(auto(REPO)).names == ["films"]


def test_the_picture_of_the_confusion_goes_along_where_several_groups_answered(hub, make, tmp_path):  # noqa: F811
    model = make("films", "news")
    knowledge = knowledge_of(model)
    shares = {"films": {"films": 0.75, "news": 0.25}, "news": {"news": 1.0}}
    set_knowledge(model, replace(knowledge, scores={**knowledge.scores, "confusion": shares}))
    push_to_hub(model, REPO)
    assert set(hub.repos[REPO].files()) == {*ADAPTER, *SCORES, "confusion.png", ".gitattributes"}
    assert "confusion.png" in pull(REPO).sizes
    set_knowledge(model, replace(knowledge, scores={**knowledge.scores, "confusion": {"films": {"films": 1.0}}}))
    push_to_hub(model, REPO)
    assert set(hub.repos[REPO].files()) == {*ADAPTER, *SCORES, ".gitattributes"}


def test_one_group_and_more_than_the_card_shows_have_no_picture_of_the_confusion(hub, make, tmp_path):  # noqa: F811
    folder = tmp_path / "saved"
    folder.mkdir()
    matrix = AccuracyMatrix.from_dict(knowledge_of(make("films", "news")).scores)
    matrix.confusion = {"films": {"films": 0.75, "news": 0.25}}
    transfer.write_matrix(matrix, folder)
    assert {path.name for path in folder.iterdir()} == {*SCORES, "confusion.png"}
    for shares in ({"films": 1.0}, {f"group {i}": 1 / 41 for i in range(41)}):
        (folder / "confusion.png").touch()
        matrix.confusion = {"films": shares}
        transfer.write_matrix(matrix, folder)
        assert {path.name for path in folder.iterdir()} == SCORES


def test_a_push_of_nothing_new_makes_no_commit(hub, make):  # noqa: F811
    model = make("films")
    first = push_to_hub(model, REPO)
    assert push_to_hub(model, REPO).oid == first.oid == head(hub)


def test_a_repository_without_user_name_is_that_of_the_token(hub, make):  # noqa: F811
    push_to_hub(make("films"), "learner")
    assert REPO in hub.repos


def test_every_file_regular_with_xet_in_place(hub, make, tokenizer, monkeypatch):  # noqa: F811
    hub.regular = True
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    model = make("films")
    push_to_hub(model, REPO)
    assert len(hub.repos[REPO].history()) == 2
    same(answers(auto(REPO), encode(tokenizer)), answers(model, encode(tokenizer)))


def test_a_pickle_on_the_hub_is_not_fetched_by_peft(hub, make, base):  # noqa: F811
    push_to_hub(make("films"), REPO)
    files = hub.repos[REPO].files()
    hub.write("other/pickled", {"adapter_config.json": files["adapter_config.json"], "adapter_model.bin": b"pickle"})
    hub.requests.clear()
    for load in (auto, lambda name: PeftModel.from_pretrained(AutoModel.from_pretrained(base), name)):
        with pytest.raises(ValueError, match=r"`other/pickled` has no `adapter_model.safetensors`"):
            load("other/pickled")
    assert not [path for _, path in hub.requests if path.endswith(".bin") and "pickled" in path]


# Refused before anything is sent


def test_a_local_base_is_refused_unless_named(hub, tiny_folder):  # noqa: F811
    bare = AutoModel.from_pretrained(tiny_folder("bert"), dtype=torch.float32)
    model = learn(get_peft_model(bare, DriftAdapterConfig(r=2, signature_rank=4)), "films")
    with pytest.raises(ValueError, match=r"path on this machine.*base_model="):
        push_to_hub(model, REPO)
    with pytest.raises(ValueError, match="argument `base_model`"):
        push_to_hub(model, REPO, base_model=str(tiny_folder("bert")))
    with pytest.raises(ValueError, match="base_model"):
        push_to_hub(model, REPO, base_model="no/such/name")
    assert hub.requests == []
    push_to_hub(model, REPO, base_model="other/tiny-bert")
    pushed = json.loads(hub.repos[REPO].files()["adapter_config.json"])
    assert pushed["base_model_name_or_path"] == "other/tiny-bert"
    assert model.peft_config["default"].base_model_name_or_path == str(tiny_folder("bert"))


def test_a_relative_folder_that_looks_like_a_name_is_local(hub, make, monkeypatch, tmp_path):  # noqa: F811
    model = make("films")
    (tmp_path / "other" / "tiny-bert").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="path on this machine"):
        push_to_hub(model, REPO)


@pytest.mark.parametrize("repo_id", ["a/b/c", "/me/x", "me/", "", "me/a b", None])
def test_a_wrong_repository_name_is_named(hub, make, repo_id):  # noqa: F811
    model = make("films")
    hub.requests.clear()
    with pytest.raises(ValueError, match="`repo_id`"):
        push_to_hub(model, repo_id)
    assert hub.requests == []


def test_what_knows_no_task_is_not_pushed(hub, make, base, tmp_path):  # noqa: F811
    empty, bare = make(), AutoModel.from_pretrained(base)
    lora = get_peft_model(AutoModel.from_pretrained(base), LoraConfig(target_modules=["query"]))
    hub.requests.clear()
    for model, reason in (
        (empty, "learned no task"),
        (bare, "no `adapter_config.json`"),
        (lora, "no lifelong adapter"),
        (tmp_path, "no `adapter_config.json`"),
    ):
        with pytest.raises(ValueError, match=reason):
            push_to_hub(model, REPO)
    with pytest.raises(ValueError, match="`card`"):
        push_to_hub(make("films"), REPO, card=Path("README.md"))
    assert not [path for method, path in hub.requests if method != "GET" and method != "HEAD"]


# Conflicts lose nothing


def conflicts(server, match, model, **options):
    before = head(server)
    with pytest.raises(PushConflictError, match=match) as caught:
        push_to_hub(model, REPO, **options)
    assert head(server) == before
    assert before in str(caught.value)
    return before


def test_a_newer_commit_of_somebody_else_is_a_conflict(hub, make):  # noqa: F811
    model = make("films")
    pushed = push_to_hub(model, REPO, card=CARD)
    hub.write(REPO, {"README.md": "Improved by a colleague"})
    learn(model, "news", seed=1)
    for _ in range(2):  # trying again is no way around it
        conflicts(hub, f"not to {pushed.oid}", model, card=CARD)
    assert push_to_hub(model, REPO, card=CARD, create_pr=True).pr_num == 1
    assert hub.repos[REPO].files()["README.md"] == b"Improved by a colleague"
    push_to_hub(model, REPO, card=CARD, revision="mine")
    assert hub.repos[REPO].files("mine")["README.md"].decode() == CARD
    push_to_hub(model, REPO, parent_commit=head(hub))
    assert knowledge_of(auto(REPO)).names == ["films", "news"]
    assert hub.repos[REPO].files()["README.md"] == b"Improved by a colleague"


def test_two_who_learn_on_from_the_same_adapter_do_not_overwrite_each_other(hub, make):  # noqa: F811
    first = push_to_hub(make("films"), REPO).oid
    ours, theirs = auto(REPO, is_trainable=True), auto(REPO, is_trainable=True)
    push_to_hub(learn(theirs, "news", seed=5), REPO)
    conflicts(hub, f"not to {first} that this push follows", learn(ours, "answers", seed=6))
    same_name = learn(auto(REPO, revision=first, is_trainable=True), "news", seed=7)
    conflicts(hub, f"not to {first} that this push follows", same_name)
    assert knowledge_of(auto(REPO)).names == ["films", "news"]


@pytest.mark.parametrize("route", ["AutoPeftModel", "PeftModel", "load_adapter"])
def test_what_was_loaded_from_the_hub_follows_the_commit_that_it_was(hub, make, base, route):  # noqa: F811
    pushed = push_to_hub(make("films"), REPO, card=CARD).oid
    fresh = AutoModel.from_pretrained(base, dtype=torch.float32)
    if route == "AutoPeftModel":
        model = auto(REPO, is_trainable=True)
    elif route == "PeftModel":
        model = PeftModel.from_pretrained(fresh, REPO, is_trainable=True)
    else:
        model = PeftModel.from_pretrained(fresh, REPO, adapter_name="other")
        model.load_adapter(REPO, "default", is_trainable=True)
        model.set_adapter("default")
    assert model.peft_config["default"].loaded_from == (REPO, "main", pushed)
    hub.write(REPO, {"README.md": "Improved by a colleague"})
    conflicts(hub, f"not to {pushed} that this push follows", learn(model, "news", seed=1), card=CARD)
    assert hub.repos[REPO].files()["README.md"] == b"Improved by a colleague"


@pytest.mark.parametrize("beside", [False, True])
def test_the_active_adapter_is_pushed_whatever_its_name(hub, make, base, tokenizer, beside):  # noqa: F811
    pushed = push_to_hub(make("films"), REPO).oid
    model = PeftModel.from_pretrained(
        AutoModel.from_pretrained(base, dtype=torch.float32), REPO, adapter_name="default" if beside else "mine"
    )
    if beside:
        model.load_adapter(REPO, "mine")
        model.set_adapter("mine")
    assert model.peft_config["mine"].loaded_from == (REPO, "main", pushed)
    learn(model, "news", seed=1)
    push_to_hub(model, REPO)
    assert set(hub.repos[REPO].files()) >= ADAPTER and not [name for name in hub.repos[REPO].files() if "/" in name]
    loaded = auto(REPO)
    assert knowledge_of(loaded).names == ["films", "news"]
    same(answers(loaded, encode(tokenizer)), answers(model, encode(tokenizer)))


def test_another_branch_than_the_loaded_one_is_compared_by_its_tasks(hub, make):  # noqa: F811
    push_to_hub(make("films"), REPO)
    push_to_hub(make("films"), REPO, revision="trial")
    hub.write(REPO, {"README.md": "New"}, ref="trial")
    model = learn(auto(REPO, is_trainable=True), "news", seed=1)
    push_to_hub(model, REPO, revision="trial")
    assert hub.repos[REPO].files("trial")["README.md"] == b"New"
    other = learn(auto(REPO, is_trainable=True), "answers", seed=2)
    with pytest.raises(PushConflictError, match=r"learned \['news'\]"):
        push_to_hub(other, REPO, revision="trial")
    push_to_hub(other, REPO)
    assert knowledge_of(auto(REPO)).names == ["films", "answers"]


def test_the_commit_is_known_wherever_the_cache_is_and_of_folders_in_a_repository(hub, make, tmp_path):  # noqa: F811
    push_to_hub(make("films"), REPO)
    files = {f"below/{name}": data for name, data in hub.repos[REPO].files().items() if name in ADAPTER}
    below = hub.write("other/several", files).oid
    cache = str(tmp_path / "snapshots" / "cache")
    config = DriftAdapterConfig.from_pretrained("other/several", "below", cache_dir=cache)
    assert config.loaded_from == ("other/several", "main", below)


def test_where_it_was_loaded_from_is_not_saved_with_it(hub, make, tmp_path):  # noqa: F811
    push_to_hub(make("films"), REPO)
    auto(REPO).save_pretrained(tmp_path)
    assert "loaded_from" not in (tmp_path / "adapter_config.json").read_text()
    assert DriftAdapterConfig.from_pretrained(str(tmp_path)).loaded_from is None


def test_two_trained_from_one_folder_do_not_overwrite_each_other(hub, make, tmp_path):  # noqa: F811
    make("films").save_pretrained(tmp_path)
    ours, theirs = auto(tmp_path, is_trainable=True), auto(tmp_path, is_trainable=True)
    push_to_hub(learn(theirs, "news", seed=5), REPO)
    conflicts(hub, r"learned \['news'\], which", learn(ours, "answers", seed=6))
    same_name = learn(auto(tmp_path, is_trainable=True), "news", seed=7)
    conflicts(hub, r"learned \['news'\].*another run", same_name)
    assert knowledge_of(auto(REPO)).names == ["films", "news"]


def test_an_older_state_does_not_replace_a_newer_one(hub, make):  # noqa: F811
    push_to_hub(make("films", "news"), REPO)
    model = make("films")
    before = conflicts(hub, r"learned \['news'\]", model)
    push_to_hub(model, REPO, parent_commit=before[:8])
    assert knowledge_of(auto(REPO)).names == ["films"]


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ("{not json", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ('{"knowledge": {"format": 99}}', "upgrade"),
        ('{"peft_type": "LORA"}', "another kind"),
        ("[]", "another kind"),
    ],
)
def test_what_is_not_ours_is_not_overwritten(hub, make, config, match):  # noqa: F811
    hub.write(REPO, {"adapter_config.json": config})
    conflicts(hub, match, make("films"))


def test_a_repository_with_a_card_only_can_be_pushed_to(hub, make):  # noqa: F811
    hub.write(REPO, {"README.md": "soon"})
    push_to_hub(make("films"), REPO)
    assert knowledge_of(auto(REPO)).names == ["films"]


def test_a_commit_between_look_and_push_is_a_conflict(hub, make, monkeypatch):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO)
    learn(model, "news", seed=1)
    create_commit = HfApi.create_commit

    def late(*args, **kwargs):
        hub.write(REPO, {"README.md": "Meanwhile"})
        return create_commit(*args, **kwargs)

    monkeypatch.setattr(HfApi, "create_commit", late)
    with pytest.raises(PushConflictError, match="somebody else committed"):
        push_to_hub(model, REPO)
    assert hub.repos[REPO].history()[0].message == "by hand"


@pytest.mark.parametrize("revision", ["main", "trial"])
def test_a_refused_push_leaves_nothing_behind(hub, make, revision):  # noqa: F811
    model = make("films")
    with pytest.raises(PushConflictError, match="it has no commit 1234567"):
        push_to_hub(model, REPO, parent_commit="1234567", revision=revision)
    assert REPO not in hub.repos
    push_to_hub(make("films", "news"), REPO)
    with pytest.raises(PushConflictError, match=r"learned \['news'\]"):
        push_to_hub(model, REPO, revision="trial")
    assert set(hub.repos[REPO].refs) == {"main"}


def test_a_huge_manifest_on_the_hub_is_not_read(hub, make, monkeypatch):  # noqa: F811
    monkeypatch.setattr(continuing, "LARGEST_JSON", 1_000_000)
    hub.write(REPO, {"adapter_config.json": b" " * 1_100_000})
    hub.requests.clear()
    conflicts(hub, "has 1,100,000 bytes, more than the 1,000,000 that are read", make("films"))
    assert not [path for _, path in hub.requests if REPO in path and path.endswith("adapter_config.json")]


def test_a_public_repository_is_not_taken_for_a_private_one(hub, make):  # noqa: F811
    model = make("films")
    before = push_to_hub(model, REPO).oid
    with pytest.raises(PushError, match="is public"):
        push_to_hub(learn(model, "news", seed=1), REPO, private=True)
    assert head(hub) == before


# A Hub that refuses or breaks


def sound(server):
    """Every commit of the repository can be loaded."""
    return [knowledge_of(auto(REPO, revision=c.oid)).names for c in server.repos[REPO].history()[:-1]]


@pytest.mark.parametrize(
    ("status", "path", "advice"),
    [
        (401, "/preupload/", "hf auth login"),
        (403, "/commit/", "write permission"),
        (404, "/preupload/", "Check `repo_id`"),
        (409, "/commit/", "somebody else"),
        (412, "/commit/", "somebody else"),
        (500, "/commit/", "nothing is half-written"),
        (429, "/commit/", "wait and push again"),
    ],
)
def test_an_error_says_what_to_do_and_leaves_all_as_it_was(hub, make, status, path, advice):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO)
    before = head(hub)
    learn(model, "news", seed=1)
    hub.fail(path, status)
    with pytest.raises(PushError, match=advice) as caught:
        push_to_hub(model, REPO)
    assert isinstance(caught.value, PushConflictError) == (status in (409, 412))
    assert head(hub) == before
    push_to_hub(model, REPO)
    assert sound(hub) == [["films", "news"], ["films"]]


def test_wrong_tokens_names_and_rights(hub, make):  # noqa: F811
    model = make("films")
    with pytest.raises(PushError, match="hf auth login"):
        push_to_hub(model, REPO, token="hf_wrong")
    with pytest.raises(PushError, match="write permission"):
        push_to_hub(model, "somebody/learner")
    push_to_hub(model, REPO, private=True)
    with pytest.raises(PushError, match="write permission"):
        push_to_hub(model, REPO, token="hf_other")
    with pytest.raises(PushError, match="Check `repo_id` and `revision`"):
        push_to_hub(model, REPO, revision="refs/pr/9")


def test_offline_and_unreachable(hub, make, monkeypatch):  # noqa: F811
    model = make("films")
    hub.die("", times=10**6)
    with pytest.raises(PushError, match="when the Hub can be reached"):
        push_to_hub(model, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE=0"):
        push_to_hub(model, REPO)


def test_too_many_requests_are_waited_for(hub, make):  # noqa: F811
    model = make("films")
    hub.fail("/preupload/", 429, times=2, headers={"Retry-After": "7"})
    hub.fail("/_lfs/", 429, times=1, headers={"Retry-After": "3"})
    push_to_hub(model, REPO)
    assert sorted(hub.waits) == [4, 8, 8]
    assert sound(hub) == [["films"]]


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_server_that_dies_in_the_upload_leaves_nothing_half(hub, make, method):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO)
    before, files = head(hub), hub.repos[REPO].files()
    learn(model, "news", seed=1)
    hub.die({"PUT": "/_lfs/", "POST": "/commit/"}[method], times=100, method=method)
    with pytest.raises(PushError, match="Push again"):
        push_to_hub(model, REPO, card=CARD)
    assert (head(hub), hub.repos[REPO].files()) == (before, files)
    hub.heal()
    push_to_hub(model, REPO, card=CARD)
    assert sound(hub) == [["films", "news"], ["films"]]


def test_a_first_push_that_dies_is_repaired_by_the_next(hub, make):  # noqa: F811
    model = make("films")
    hub.die("/_lfs/", times=100, method="PUT")
    with pytest.raises(PushError):
        push_to_hub(model, REPO)
    assert set(hub.repos[REPO].files()) == {".gitattributes"}
    hub.heal()
    push_to_hub(model, REPO)
    assert sound(hub) == [["films"]]


def test_an_upload_that_dies_once_goes_through(hub, make):  # noqa: F811
    hub.die("/_lfs/", method="PUT")
    push_to_hub(make("films"), REPO)
    assert sound(hub) == [["films"]]


def test_a_lost_answer_is_no_conflict_with_oneself(hub, make):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO)
    learn(model, "news", seed=1)
    hub.die("/commit/", done=True)
    with pytest.raises(PushError):
        push_to_hub(model, REPO)
    assert push_to_hub(model, REPO).oid == head(hub)
    push_to_hub(learn(model, "answers", seed=2), REPO)
    assert sound(hub) == [["films", "news", "answers"], ["films", "news"], ["films"]]


# Downloads


def test_a_download_that_is_cut_short_goes_on(hub, make, tokenizer):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO)
    hub.cut("adapter_model.safetensors")
    same(answers(auto(REPO), encode(tokenizer)), answers(model, encode(tokenizer)))


def test_an_interrupted_download_leaves_a_cache_that_works(hub, make, tokenizer):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO)
    for name in sorted(ADAPTER):
        for misbehave in (hub.cut, hub.die):
            misbehave(f"/resolve/.*{name}", times=100)
            with pytest.raises((OSError, ValueError, HTTPError)):
                auto(REPO)
            hub.heal()
    same(answers(auto(REPO), encode(tokenizer)), answers(model, encode(tokenizer)))
    cached = hf_hub_download(REPO, "adapter_model.safetensors", local_files_only=True)
    assert Path(cached).read_bytes() == hub.repos[REPO].files()["adapter_model.safetensors"]


def test_a_loaded_adapter_answers_without_the_hub(hub, make, tokenizer, monkeypatch):  # noqa: F811
    model = make("films")
    push_to_hub(model, REPO)
    auto(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    same(answers(auto(REPO), encode(tokenizer)), answers(model, encode(tokenizer)))


# The client as users have it: its environment is read once, at import

SCRIPT = """
import sys, hf_lifelong
from peft import AutoPeftModelForFeatureExtraction
from hf_lifelong.hub.transfer import push_to_hub
model = AutoPeftModelForFeatureExtraction.from_pretrained("me/learner", dtype="float32")
print(push_to_hub(model, "me/copy", private=True).oid)
"""


@pytest.mark.slow
def test_another_process_with_its_own_environment(hub, make, tmp_path):  # noqa: F811
    push_to_hub(make("films"), REPO)
    root = str(Path(transfer.__file__).parents[2])
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={**kept, **hub.environment(tmp_path / "other_home"), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    copy = hub.repos["me/copy"]
    assert copy.private
    assert copy.refs["main"] == done.stdout.strip()
    assert {copy.files()[name] == hub.repos[REPO].files()[name] for name in ADAPTER} == {True}


# The server itself, where nothing above asks


def test_the_server_answers_the_rest_of_the_api(hub, make):  # noqa: F811
    push_to_hub(make("films"), REPO, revision="trial")
    api = HfApi()
    assert api.whoami()["name"] == "me"
    assert {branch.name for branch in api.list_repo_refs(REPO).branches} == {"main", "trial"}
    assert [commit.title for commit in api.list_repo_commits(REPO, revision="trial")] == [
        "Learned `films`",
        "initial commit",
    ]
    assert set(api.list_repo_files(REPO, revision="trial")) == {*ADAPTER, *SCORES, ".gitattributes"}
    entry = api.get_paths_info(REPO, ["adapter_model.safetensors"], revision="trial")[0]
    assert entry.lfs.sha256 == hub.repos[REPO].at("trial").files["adapter_model.safetensors"].sha256
    folder = Path(api.snapshot_download(REPO, revision="trial"))
    assert load_file(folder / "adapter_model.safetensors")


def test_the_server_keeps_private_what_is(hub, make):  # noqa: F811
    push_to_hub(make("films"), REPO, private=True)
    assert HfApi(token=TOKEN).repo_exists(REPO)
    assert not HfApi(token="hf_other").repo_exists(REPO)
    assert not HfApi(token=False).repo_exists(REPO)


def test_two_servers_do_not_know_each_other():
    with HubServer() as one, HubServer() as other:
        one.create(REPO)
        assert one.endpoint != other.endpoint
        assert REPO not in other.repos
