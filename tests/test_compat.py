"""What `compat` names is there, and nothing else that is private is used: a release that lacks it is noticed here."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from transformers import Trainer

import hf_lifelong
from hf_lifelong import DriftTrainer, compat
from hf_lifelong.adapter import DriftModel
from hf_lifelong.adapter.layers import DriftTunerLayer
from hf_lifelong.compat import ABSENT, INTERNAL, OVERRIDDEN, READ, UNUSED
from hf_lifelong.fairness import FairSteps

PACKAGE = Path(hf_lifelong.__file__).parent


def theirs(path):
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("name", INTERNAL)
def test_internal_names_are_there(name):
    assert getattr(compat, name) is getattr(import_module(INTERNAL[name]), name)


@pytest.mark.parametrize("owner", OVERRIDDEN)
def test_overridden_methods_are_there(owner):
    missing = [name for name in OVERRIDDEN[owner] if not callable(getattr(theirs(owner), name, None))]
    assert not missing


@pytest.mark.parametrize("owner", READ)
def test_names_that_are_read_are_there(owner):
    source = inspect.getsource(theirs(owner))
    assert not [name for name in READ[owner] if name not in source]


PAIRS = [
    (DriftTrainer, Trainer),
    (FairSteps, Trainer),
    (DriftModel, BaseTuner),
    (DriftTunerLayer, BaseTunerLayer),
]


@pytest.mark.parametrize(("ours", "base"), PAIRS)
def test_every_private_method_that_is_overridden_is_listed(ours, base):
    listed = {name for names in OVERRIDDEN.values() for name in names}
    own = {name for name in vars(ours) if name.startswith("_") and callable(getattr(ours, name))}
    private = {name for name in own if not name.startswith("__") and hasattr(base, name)}
    assert private and private <= listed


def test_a_trainer_has_what_is_reset():
    source = inspect.getsource(Trainer)
    assert not [name for name in (*UNUSED, *ABSENT, "_train_batch_size") if f"self.{name}" not in source]


def test_nothing_else_imports_private_names():
    for path in PACKAGE.rglob("*.py"):
        if path.name == "compat.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("transformers", "peft"):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                assert not [part for part in parts if part.startswith("_") or part in INTERNAL], (path, node.lineno)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        compat.nothing_of_this_name  # noqa: B018
