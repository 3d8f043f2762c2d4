"""The API reference: every public name has a page and a docstring, and the site builds without a warning."""

import importlib
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_lifelong

ROOT = Path(__file__).parents[2]
API = ROOT / "docs" / "api"
# What users do not import from: the command line, and tools of the other packages.
INNER = {"__init__", "__main__", "cli", "compat", "py", "storage", "utils"}
NAMES = sorted({path.stem for path in (ROOT / "hf_lifelong").glob("[a-z_]*") if path.stem != "__pycache__"} - INNER)


def shown() -> set[str]:
    """Modules and names that pages show."""
    return {name for page in API.glob("*.md") for name in re.findall(r"^::: ([\w.]+)$", page.read_text(), re.M)}


@pytest.mark.parametrize("name", NAMES)
def test_every_package_has_a_page(name):
    assert f"hf_lifelong.{name}" in shown()


@pytest.mark.parametrize("name", NAMES)
def test_public_names_have_docstrings(name):
    try:
        module = importlib.import_module(f"hf_lifelong.{name}")
        found = {public: getattr(module, public) for public in getattr(module, "__all__", [])}
    except ImportError as error:  # an extra is missing
        pytest.skip(str(error))
    for public, what in found.items():
        if inspect.isclass(what) or inspect.isfunction(what):
            assert inspect.getdoc(what), public


def test_names_of_the_package_are_in_the_index():
    index = (API / "index.md").read_text()
    assert {f"`{name}`" for name in hf_lifelong.__all__ if name != "__version__"} <= set(re.findall(r"`\w+`", index))


def test_the_site_builds_without_a_warning(tmp_path):
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip('the site is made by MkDocs: `pip install -e ".[docs]"`')
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    page = (tmp_path / "site" / "api" / "safety.html").read_text()
    assert 'id="hf_lifelong.safety.backdoor_risk"' in page and "not_target" in page
    sources = re.findall(r'(?:src|href)="(https?://[^"]+)"', page)
    assert not [source for source in sources if source.endswith((".js", ".css", ".woff2"))]  # readable offline
