"""Files of one package import each other in one direction only, for type checkers too."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_lifelong

ROOT = Path(hf_lifelong.__file__).parent
ROOMS = ["evaluation", "hub", "knowledge", "memory", "objectives", "pruning", "training"]


def neighbours(file):
    """Modules of the same folder that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            yield from [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]


@pytest.mark.parametrize("room", ROOMS)
def test_no_circle_of_files(room):
    files = [file for file in (ROOT / room).glob("*.py") if file.stem != "__init__"]
    TopologicalSorter({file.stem: set(neighbours(file)) for file in files}).prepare()  # CycleError names the circle
