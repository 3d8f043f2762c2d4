"""The documentation: its Python runs as it stands, its links lead somewhere, and the README stays short."""

import json
import logging
import re
from pathlib import Path

import pytest
import transformers
from hub_server import hub  # noqa: F401 (a fixture)

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
# A fence that says more than `python`, such as `python no-run`, is for readers only.
BLOCK = re.compile(r"```python\n(.*?)```", re.S)
MOST_WORDS = 900


def named(page):
    return str(page.relative_to(ROOT))


@pytest.fixture
def models(hub, tiny_folder, tiny_language_folder, tiny_image_folder):  # noqa: F811
    """The models that pages name, tiny, on a Hub of their own."""
    hub.write_folder("sentence-transformers/all-MiniLM-L6-v2", tiny_folder("bert"))
    hub.write_folder("HuggingFaceTB/SmolLM2-135M-Instruct", tiny_language_folder("llama"))
    hub.write_folder("facebook/dinov2-small", tiny_image_folder("dinov2"))


@pytest.fixture
def restored():
    """What running a page may change for others."""
    from hf_lifelong.objectives.register import KINDS

    kinds, level = dict(KINDS), logging.getLogger().level
    yield
    KINDS.clear()
    KINDS.update(kinds)
    logging.getLogger().setLevel(level)
    transformers.logging.set_verbosity_warning()


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text("utf-8"))], ids=named)
def test_the_python_of_a_page_runs_as_it_stands(page, models, restored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    for number, code in enumerate(BLOCK.findall(page.read_text("utf-8")), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=named)
def test_notebooks_run(notebook, models, restored, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for number, cell in enumerate(json.loads(notebook.read_text("utf-8"))["cells"], 1):
        if cell["cell_type"] == "code":
            assert not cell["outputs"], "clear the outputs before a commit"
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_every_page_is_in_the_index():
    docs = ROOT / "docs"
    index, of_api = ((docs / name).read_text("utf-8") for name in ("README.md", "api/index.md"))
    listed = set(re.findall(r"\]\(([\w/]+\.md)\)", index))
    listed |= {f"api/{page}" for page in re.findall(r"\]\(([\w/]+\.md)\)", of_api)}
    assert {str(page.relative_to(docs)) for page in PAGES if page != README} - {"README.md"} == listed


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").split()) <= MOST_WORDS
