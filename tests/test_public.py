"""What `import hf_lifelong` gives and what it costs, in fresh interpreters."""

import importlib.util
import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

import hf_lifelong

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_alone_imports_no_heavy_library():
    heavy = run(
        "import sys, hf_lifelong; print(hf_lifelong.__version__, dir(hf_lifelong) == sorted(hf_lifelong.__all__), "
        "*[m for m in ('torch', 'peft', 'transformers', 'numpy', 'datasets') if m in sys.modules])"
    )
    assert heavy == f"{hf_lifelong.__version__} True"


CHECK = """
from peft import PeftConfig, PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
assert PeftType('DRIFT') is PeftType.DRIFT and PeftType.DRIFT.value == 'DRIFT'
assert list(PeftType)[-1] is PeftType.DRIFT
assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.DRIFT].__name__ == 'DriftAdapterConfig'
assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.DRIFT].__name__ == 'DriftModel'
import hf_lifelong.adapter
hf_lifelong.adapter.register()
from transformers.pipelines import PIPELINE_REGISTRY
assert 'lifelong' in PIPELINE_REGISTRY.get_supported_tasks()
import sys
print([f for f in sys.meta_path if type(f).__module__ == 'hf_lifelong'])
"""


@pytest.mark.parametrize(
    "imports", ["import hf_lifelong, peft", "import peft, hf_lifelong", "import hf_lifelong.adapter"]
)
def test_method_and_pipeline_are_known_in_every_import_order(imports):
    assert run(imports + CHECK) == "[]"  # and nothing of ours stays in the import machinery


def test_every_public_name_is_there():
    assert set(hf_lifelong._PUBLIC) == set(hf_lifelong.__all__) - {"__version__"}
    for name in hf_lifelong.__all__:
        assert getattr(hf_lifelong, name) is not None
    with pytest.raises(AttributeError, match="no attribute `Nothing`"):
        _ = hf_lifelong.Nothing


def test_what_the_documentation_calls_by_its_full_name_needs_no_other_import(monkeypatch):
    for module in hf_lifelong._MODULES:  # other tests have imported them
        monkeypatch.delattr(hf_lifelong, module, raising=False)
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    names = re.findall(r"(?<!from )\bhf_lifelong\.(\w+(?:\.\w+)*)", text)
    assert "loading.load" in names and "hub.pull" in names
    for name in names:
        if not name.startswith("federated.") or importlib.util.find_spec("flwr"):
            assert attrgetter(name)(hf_lifelong) is not None
