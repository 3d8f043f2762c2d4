"""Arrows between files and packages: in one direction, and to the face of a package, for type checkers too."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import hf_lifelong

ROOT = Path(hf_lifelong.__file__).parent
ROOMS = sorted(face.parent for face in ROOT.rglob("__init__.py") if face.parent != ROOT)
# Of these each module is a face of its own.
WITHOUT_FACE = ROOT / "utils"
# What may import what. `utils`, `compat` and the version are open to all.
BELOW = {
    "objectives": set(),
    "knowledge": set(),
    "evaluation": set(),
    "retrieval": {"knowledge"},
    "storage": {"knowledge", "objectives", "retrieval"},
    "statistics": {"storage"},
    "pruning": set(),
    "fairness": {"statistics", "storage"},
    "safety": {"objectives", "statistics", "storage"},
    "selection": {"knowledge", "statistics", "storage"},
    "hub": {"evaluation", "knowledge", "objectives", "retrieval", "statistics", "storage"},
    "adapter": {"evaluation", "knowledge", "objectives", "retrieval", "statistics", "storage"},
    "memory": {"adapter", "knowledge", "objectives", "retrieval", "storage"},
    "streams": {"adapter", "knowledge", "pipeline"},
    "federated": {"adapter", "evaluation", "fairness", "knowledge", "statistics", "training"},
    "serving": {"adapter", "evaluation", "hub", "knowledge", "loading", "objectives", "pipeline"},
    "loading": {"adapter", "hub", "knowledge", "objectives"},
    "pipeline": {"adapter", "knowledge", "objectives"},
}


def imports(file):
    """Every module or package of ours that a file imports from, as a path without suffix."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            home = file.parents[node.level - 1]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hf_lifelong":
            home = ROOT.parent
        else:
            continue
        if node.module:
            yield home.joinpath(*node.module.split("."))
        else:
            yield from (home / alias.name for alias in node.names)


def room_of(path):
    """The innermost package that a module lies in."""
    return next((room for room in sorted(ROOMS, reverse=True) if room in path.parents or room == path), ROOT)


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(ROOT)))
def test_no_circle_of_files(room):
    files = [file for file in room.glob("*.py") if file.stem != "__init__"]
    names = {file.stem for file in files}
    graph = {file.stem: {path.name for path in imports(file) if path.parent == room} & names for file in files}
    TopologicalSorter(graph).prepare()  # CycleError names the circle


@pytest.mark.parametrize("folder", ["hf_lifelong", "recipes", "benchmarks", "model_cards"])
def test_nothing_imports_past_the_face_of_a_package(folder):
    past = []
    for file in (ROOT.parent / folder).rglob("*.py"):
        for path in imports(file):
            room = room_of(path)
            outside = room != ROOT and room not in file.parents and room not in (file.parent, WITHOUT_FACE)
            if not path.is_relative_to(ROOT):
                continue
            family = path.relative_to(ROOT).parts[:1]
            if outside and path != room and family != file.relative_to(ROOT.parent).parts[1:2]:
                past.append(f"{file.relative_to(ROOT.parent)}: {path.relative_to(ROOT)}")
    assert not past


@pytest.mark.parametrize("room", BELOW)
def test_arrows_point_down(room):
    files = [ROOT / f"{room}.py"] if (ROOT / f"{room}.py").exists() else (ROOT / room).rglob("*.py")
    seen = {path.relative_to(ROOT).parts[0] for file in files for path in imports(file) if path != ROOT}
    assert seen - {room, "utils", "compat", "__version__"} <= BELOW[room]
