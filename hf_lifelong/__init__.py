"""Lifelong learning inside the Hugging Face `Trainer`: one model keeps every task it learns.

Importing this package registers the `DRIFT` method with PEFT and the `lifelong` task with `transformers.pipeline`. It
does not import either library. If a library is not loaded yet, the registration runs right after its import.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "AccuracyMatrix": "hf_lifelong.evaluation",
    "DriftAdapterConfig": "hf_lifelong.adapter",
    "DriftTrainer": "hf_lifelong.training",
    "DriftTrainingArguments": "hf_lifelong.training",
    "KnowledgeBase": "hf_lifelong.knowledge",
    "LifelongPipeline": "hf_lifelong.pipeline",
    "RetrievalPolicy": "hf_lifelong.retrieval",
    "SAPCallback": "hf_lifelong.pruning",
    "Task": "hf_lifelong.training",
    "TaskKind": "hf_lifelong.objectives",
    "TaskStatistic": "hf_lifelong.statistics",
    "export": "hf_lifelong.adapter",
    "forget": "hf_lifelong.adapter",
    "generate": "hf_lifelong.adapter",
    "knowledge_of": "hf_lifelong.adapter",
    "predict": "hf_lifelong.adapter",
    "register_kind": "hf_lifelong.objectives",
    "score_labels": "hf_lifelong.adapter",
    "union": "hf_lifelong.adapter",
}
# Modules that are available by their full names after `import hf_lifelong` alone.
_MODULES = ("fairness", "federated", "hub", "loading", "pruning", "safety", "selection", "serving", "statistics")
__all__ = [
    "AccuracyMatrix",
    "DriftAdapterConfig",
    "DriftTrainer",
    "DriftTrainingArguments",
    "KnowledgeBase",
    "LifelongPipeline",
    "RetrievalPolicy",
    "SAPCallback",
    "Task",
    "TaskKind",
    "TaskStatistic",
    "__version__",
    "export",
    "forget",
    "generate",
    "knowledge_of",
    "predict",
    "register_kind",
    "score_labels",
    "union",
]

if TYPE_CHECKING:
    from .adapter import DriftAdapterConfig, export, forget, generate, knowledge_of, predict, score_labels, union
    from .evaluation import AccuracyMatrix
    from .knowledge import KnowledgeBase
    from .objectives import TaskKind, register_kind
    from .pipeline import LifelongPipeline
    from .pruning import SAPCallback
    from .retrieval import RetrievalPolicy
    from .statistics import TaskStatistic
    from .training import DriftTrainer, DriftTrainingArguments, Task


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"hf_lifelong.{name}")
    if name not in _PUBLIC:
        raise AttributeError(f"module `hf_lifelong` has no attribute `{name}`")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


def _register_peft() -> None:
    if "hf_lifelong.adapter" not in sys.modules:  # if it imports PEFT itself, it also registers itself afterwards
        importlib.import_module("hf_lifelong.adapter")


def _register_pipeline() -> None:
    if "hf_lifelong.pipeline" not in sys.modules:
        importlib.import_module("hf_lifelong.pipeline")


class _AfterImport(importlib.abc.MetaPathFinder):
    """Runs a function once, right after a module's first import.

    PEFT has no entry point for methods of other packages. Importing it here would take 5 seconds of CPU time, compared
    with 0.02 for `import hf_lifelong` alone, and reading the version or the command line's help does not need it.
    """

    def __init__(self, module: str, function: Callable[[], None]) -> None:
        self.module, self.function = module, function

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute, function = spec.loader.exec_module, self.function

            def execute_then_register(module: ModuleType) -> None:
                execute(module)
                function()

            spec.loader.exec_module = execute_then_register  # type: ignore[method-assign]
        return spec


for _module, _function in (("peft", _register_peft), ("transformers.pipelines", _register_pipeline)):
    if _module in sys.modules:
        _function()
    else:
        sys.meta_path.insert(0, _AfterImport(_module, _function))
