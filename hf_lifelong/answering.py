"""`pipeline("lifelong")`: texts in, answers out, no task named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .adapter import knowledge_of, lifelong_of, predict
from .adapter.decoding import decode_answers
from .objectives.base import MODEL_INPUTS
from .objectives.inputs import encode_inputs

UNKNOWN = "unknown"


class LifelongPipeline(Pipeline):
    """Answers texts of any learned task without being told which.

    ```python
    >>> import hf_lifelong
    >>> answer = pipeline("lifelong", model=model, tokenizer=tokenizer)
    >>> answer(["A joy from start to end.", {"question": "Who wrote it?", "context": "Ada wrote it."}])
    ```

    Inputs, mixed at will: a string, `{"text": ..., "text_pair": ...}`, `{"question": ..., "context": ...}` or
    `{"tokens": [...]}`. An answer is a dict: `task` (the group that answered, or `"unknown"`), `kind`, `answer` (a
    label, a span, or a label per token; `None` where unknown), `score` (its probability), `uncertainty` and `margin`;
    spans have `start` and `end` (characters), and with `abstain` there is `novelty`.
    """

    tokenizer: Any

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        return {}, options, {}

    def __call__(  # type: ignore[override]
        self,
        inputs: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        batch_size: int = 32,
        abstain: bool = False,
        **options: Any,
    ) -> Any:
        """Answers one input or a list of them.

        Args:
            inputs: One input or a list.
            batch_size (`int`, *optional*, defaults to `32`): Rows of a batch.
            abstain (`bool`, *optional*, defaults to `False`): Answer `unknown` where an input lies outside of what
                the chosen task has seen.
            options: `policy`, `answer`, `uncertainty`, `per_batch`, as in [`predict`].

        Raises:
            ValueError: for an input of another form, naming its position; when the model knows no task.
        """
        single = isinstance(inputs, str | Mapping) or not isinstance(inputs, Iterable)
        items = [inputs] if single else list(inputs)
        if not items:
            return []
        features = self.preprocess(items)
        found = self._forward(features, batch_size=batch_size, novelty=abstain, **options)
        answers = self.postprocess(found, items=items, features=features, abstain=abstain)
        return answers[0] if single else answers

    def preprocess(self, items: Any, **_: Any) -> dict[str, Any]:  # type: ignore[override]
        root = lifelong_of(self.model)
        config = root.config[root.active_adapters[0]]
        return encode_inputs(items, self.tokenizer, config.max_length, config.stride)[0]

    def _forward(self, features: dict[str, Any], batch_size: int = 32, **options: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        order = np.argsort([-len(ids) for ids in features["input_ids"]], kind="stable").tolist()
        columns = [name for name in MODEL_INPUTS if name in features]
        found: list[dict[str, Any]] = [{} for _ in order]
        starts = range(0, len(order), batch_size)
        for start in tqdm(starts, desc="Answering", disable=len(starts) < 4, leave=False):
            rows = order[start : start + batch_size]
            batch = {name: [features[name][row] for row in rows] for name in columns}
            out = predict(self.model, dict(self.tokenizer.pad(batch, return_tensors="pt")), **options)
            for i, row in enumerate(rows):
                found[row] = {key: value[i].cpu().numpy() for key, value in out.items() if value is not None}
        return found

    def postprocess(  # type: ignore[override]
        self, found: list[dict[str, Any]], items: list[Any], features: dict[str, Any], abstain: bool
    ) -> list[dict[str, Any]]:
        knowledge = knowledge_of(self.model)
        chosen = [int(row["task"]) for row in found]
        answers = decode_answers(knowledge, chosen, [row["scores"] for row in found], features, sources(items))
        out = []
        for answer in answers:
            task, rows = knowledge.tasks[answer.pop("task")], answer.pop("rows")
            numbers = {key: float(np.mean([found[row][key] for row in rows])) for key in ("uncertainty", "margin")}
            result = {"task": task.group, "kind": task.kind, **answer, **numbers}
            if abstain:
                result["novelty"] = float(min(found[row]["novelty"] for row in rows))
                if result["novelty"] > 1:
                    result |= {"task": UNKNOWN, "answer": None}
            out.append(result)
        return out


def sources(items: Sequence[Any]) -> list[Any]:
    """What spans and token labels are cut from, per input."""
    return [item.get("context") or item.get("tokens") or "" if isinstance(item, Mapping) else "" for item in items]


def register() -> None:
    """Makes `pipeline("lifelong")` known to transformers."""
    if "lifelong" not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline("lifelong", pipeline_class=LifelongPipeline, pt_model=AutoModel)


register()
