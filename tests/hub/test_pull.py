"""Fetching adapters from a folder or a local Hub, and loading them with base and tokenizer."""

from hub_server import hub  # noqa: F401
from test_transfer import REPO, answers, base, encode, learn, make, same  # noqa: F401

from hf_lifelong import knowledge_of
from hf_lifelong.hub import pull, push_to_hub
from hf_lifelong.loading import load


def test_an_adapter_comes_as_it_was_pushed_and_answers_so(hub, make, tokenizer):  # noqa: F811
    model = make("films", "news")
    commit = push_to_hub(model, REPO, tokenizer=tokenizer, card="# A card").oid
    saved = pull(REPO)
    assert (saved.repo_id, saved.revision, saved.commit) == (REPO, "main", commit)
    assert saved.knowledge == knowledge_of(model)
    files = hub.repos[REPO].files()
    assert saved.sizes == {name: len(data) for name, data in files.items() if name != ".gitattributes"}
    assert all((saved.folder / name).read_bytes() == files[name] for name in saved.sizes)
    loaded, its_tokenizer = load(saved)
    same(answers(loaded, encode(its_tokenizer)), answers(model, encode(tokenizer)))
