"""The page of an adapter as a Space: its files, what it never overwrites, and its app as it runs."""

import importlib.util
import os
import re
import subprocess
import sys
import threading
from importlib.metadata import metadata
from pathlib import Path

import pytest
from hub_helpers import REPO, base, make  # noqa: F401
from hub_server import hub  # noqa: F401
from huggingface_hub import SpaceCard
from packaging.requirements import Requirement

import hf_lifelong
from hf_lifelong.hub import PushConflictError, PushError, push_space, push_to_hub
from hf_lifelong.hub.space import requirements

SPACE = f"spaces/{REPO}"
PACKAGE = Path(hf_lifelong.__file__).parent
SERVES = all(importlib.util.find_spec(name) for name in ("gradio", "fastapi", "uvicorn", "httpx"))


@pytest.fixture
def pushed(hub, make, tokenizer):  # noqa: F811
    push_to_hub(make("films", "news"), REPO, tokenizer=tokenizer, private=True)
    return REPO


def test_a_space_is_one_commit_with_an_app_and_the_package(hub, pushed):  # noqa: F811
    info = push_space(pushed, revision="main")
    repo = hub.repos[SPACE]
    assert repo.private and [c.message for c in repo.history()] == [f"The page of {REPO}", "initial commit"]
    assert info.oid == repo.refs["main"] and str(info.repo_url) == f"{hub.endpoint}/{SPACE}"
    files = repo.files()
    sources = {f"hf_lifelong/{path.relative_to(PACKAGE).as_posix()}": path for path in PACKAGE.rglob("*.py")}
    expected = {".gitattributes", "README.md", "app.py", "requirements.txt", "hf_lifelong/py.typed", *sources}
    assert set(files) == expected and all(files[name] == path.read_bytes() for name, path in sources.items())
    assert f'\nserve("{REPO}", revision="main", host=' in files["app.py"].decode()
    card = SpaceCard(files["README.md"].decode(), ignore_metadata_errors=False).data
    assert (card.sdk, card.app_file, card.models, card.title) == ("gradio", "app.py", [REPO], "learner")
    assert card.python_version == f"{sys.version_info.major}.{sys.version_info.minor}"


def test_requirements_are_those_of_the_page_without_the_package(hub, pushed):  # noqa: F811
    if "serve" not in (metadata("hf_lifelong").get_all("Provides-Extra") or []):
        pytest.skip("the package was installed before its extras were what they are")
    push_space(pushed)
    lines = hub.repos[SPACE].files()["requirements.txt"].decode().splitlines()
    names = {Requirement(line).name for line in lines}
    assert {"torch", "transformers", "peft", "gradio", "fastapi", "uvicorn", "matplotlib"} <= names
    assert not {"hf_lifelong", "pytest", "torchvision", "flwr"} & names and not any(";" in line for line in lines)
    assert any(line.startswith("torchvision") for line in requirements(("serve", "vision")))


def test_a_second_push_replaces_the_package_and_leaves_other_files(hub, pushed):  # noqa: F811
    push_space(pushed)
    hub.write(SPACE, {"hf_lifelong/gone.py": "", "notes.txt": "mine", "app.py": hub.repos[SPACE].files()["app.py"]})
    push_space(pushed)
    files = hub.repos[SPACE].files()
    assert f'\nserve("{REPO}", host=' in files["app.py"].decode()
    assert "hf_lifelong/gone.py" not in files and files["notes.txt"] == b"mine"


def test_the_space_of_somebody_or_something_else_is_left_alone(hub, pushed):  # noqa: F811
    hub.write(SPACE, {"app.py": "print('mine')"})
    before = hub.repos[SPACE].refs["main"]
    with pytest.raises(PushConflictError, match="it holds something else"):
        push_space(pushed)
    assert hub.repos[SPACE].refs["main"] == before
    with pytest.raises(PushError, match="`me/nothing` was not pushed"):
        push_space("me/nothing")
    with pytest.raises(ValueError, match="`repo_id` is 'no name'"):
        push_space("no name")
    assert "spaces/me/nothing" not in hub.repos


@pytest.mark.skipif(not SERVES, reason="the extra `serve` is not installed")
def test_the_app_of_a_space_shows_the_page(hub, pushed, tmp_path):  # noqa: F811
    """As the Hub runs it: `python app.py` in the folder, with the package of that folder."""
    import httpx

    push_space(pushed)
    for name, data in hub.repos[SPACE].files().items():
        path = tmp_path / "space" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    own = tmp_path / "space" / "hf_lifelong" / "__init__.py"
    own.write_text(own.read_text().replace(f'"{hf_lifelong.__version__}"', '"0.1.0+space"'))
    without = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_ENDPOINT")}
    env = {**without, **hub.environment(tmp_path / "home"), "GRADIO_SERVER_PORT": "0"}
    process = subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path / "space", env=env, stderr=subprocess.PIPE, text=True
    )
    lost = threading.Timer(120, process.kill)
    lost.start()
    try:
        lines = iter(process.stderr.readline, "")
        port = next(found[1] for line in lines if (found := re.search(rf"Serving `{REPO}` on .*:(\d+)", line)))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # or it waits for somebody to read
        url = f"http://127.0.0.1:{port}"
        assert httpx.get(f"{url}/openapi.json").json()["info"]["version"] == "0.1.0+space"
        assert f"{REPO} · hf_lifelong" in httpx.get(url, timeout=60).text
        answers = httpx.post(f"{url}/classify", json={"inputs": "a film"}, timeout=60).json()["answers"]
        assert answers[0]["task"] in ("films", "news") and answers[0]["answer"] in ("bad", "good")
    finally:
        lost.cancel()
        process.terminate()
        process.wait(60)
