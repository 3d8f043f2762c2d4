"""What holds where Flower is not installed, and who may know it."""

import ast
import subprocess
import sys
from pathlib import Path

import hf_lifelong

PACKAGE = Path(hf_lifelong.__file__).parent

WITHOUT = """
import sys
sys.modules["flwr"] = None
import hf_lifelong
federated = hf_lifelong.federated
print("torch" in sys.modules)
print(federated.trained_tensors.__name__)
try:
    from hf_lifelong.federated import FairAvg
except ImportError as error:
    print(error)
"""


def test_the_room_can_be_imported_and_says_which_extra_is_missing():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    heavy, name, error = done.stdout.splitlines()
    assert (heavy, name) == ("False", "trained_tensors")
    assert error.startswith("`hf_lifelong.federated` needs Flower 1.42") and "hf_lifelong[federated]" in error


def test_one_module_imports_flower():
    knowing = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.split(".")[0] in ("flwr", "ray") for name in names):
                knowing.add(file.relative_to(PACKAGE).as_posix())
    assert knowing == {"federated/flower.py"}
