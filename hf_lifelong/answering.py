"""`pipeline("lifelong")`: texts in, answers out, no task named."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .adapter import knowledge_of, predict
from .adapter.decoding import decode_answers
from .adapter.generation import answer_prompts
from .adapter.heads import active_config
from .knowledge import UNKNOWN, KnowledgeBase
from .objectives import SPAN_KINDS
from .objectives.base import MODEL_INPUTS
from .objectives.inputs import encode_inputs
from .objectives.prompts import encode_prompts, ensure_padding, prompt_of


class LifelongPipeline(Pipeline):
    """Answers texts of any learned task without being told which.

    ```python
    >>> import hf_lifelong
    >>> answer = pipeline("lifelong", model=model, tokenizer=tokenizer)
    >>> answer(["A joy from start to end.", {"question": "Who wrote it?", "context": "Ada wrote it."}])
    ```

    With a language model an answer is a text, and inputs are prompts: a string, which goes through the tokenizer's
    chat template where it has one, or the fields of a learned task's template, or of a default one
    (`objectives.prompts.TEMPLATES`).

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
        batch_size: int | None = None,
        abstain: bool | None = None,
        **options: Any,
    ) -> Any:
        """Answers one input or a list of them.

        Args:
            inputs: One input or a list.
            batch_size (`int`, *optional*): Rows of a batch; as given to `pipeline`, or 32.
            abstain (`bool`, *optional*): Answer `unknown` where an input lies outside of what
                the chosen task has seen.
            options: `policy`, `answer`, `uncertainty`, `per_batch`, as in [`predict`]. With a language model `policy`,
                `per_batch`, `labels=True` (the likeliest label answers where the task has labels) and those of
                `model.generate`, such as `max_new_tokens` or `num_beams`. They may also be given to `pipeline`.

        Raises:
            ValueError: for an input of another form, naming its position; when the model knows no task.
        """
        single = isinstance(inputs, str | Mapping) or not isinstance(inputs, Iterable)
        items = [inputs] if single else list(inputs)
        if not items:
            return []
        given = {**self._forward_params, **options}
        abstain = bool(given.pop("abstain", False) if abstain is None else abstain)
        batch_size = self._batch_size if batch_size is None else batch_size
        batch_size = 32 if batch_size is None else batch_size
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size!r:.60}; give an integer of at least 1.")
        if self.tokenizer is None:
            raise ValueError("`tokenizer` is missing; give that of the base to `pipeline`.")
        features = self.preprocess(items)
        found = self._forward(features, batch_size=batch_size, novelty=abstain, **given)
        answers = self.postprocess(found, items=items, features=features, abstain=abstain)
        return answers[0] if single else answers

    @property
    def generates(self) -> bool:
        """Whether the model is a language model, which answers with texts."""
        return bool(active_config(self.model).task_type == "CAUSAL_LM")

    def preprocess(self, items: Any, **_: Any) -> dict[str, Any]:  # type: ignore[override]
        config = active_config(self.model)
        if self.generates:
            ensure_padding(self.tokenizer)
            templates = [task.template for task in knowledge_of(self.model).tasks if task.template]
            prompts = [prompt_of(item, i, templates) for i, item in enumerate(items)]
            ids = encode_prompts(self.tokenizer, prompts, config.max_length)
            return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
        return encode_inputs(items, self.tokenizer, config.max_length, config.stride)[0]

    def _forward(self, features: dict[str, Any], batch_size: int = 32, **options: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        columns = [name for name in MODEL_INPUTS if name in features]
        found: list[dict[str, Any]] = [{} for _ in features["input_ids"]]
        batches = [
            (kinds, rows[i : i + batch_size])
            for kinds, rows in self._rows_by_form(features)
            for i in range(0, len(rows), batch_size)
        ]
        for kinds, rows in tqdm(batches, desc="Answering", disable=len(batches) < 4, leave=False):
            batch = {name: [features[name][row] for row in rows] for name in columns}
            for row, answer in zip(rows, self._answer_batch(batch, {**kinds, **options}), strict=True):
                found[row] = answer
        return found

    def _rows_by_form(self, features: dict[str, Any]) -> list[tuple[dict[str, Any], list[int]]]:
        """The rows of each form of input, longest first, and which kinds of tasks it leaves in question."""
        order = np.argsort([-len(ids) for ids in features["input_ids"]], kind="stable").tolist()
        known = {task.kind for task in knowledge_of(self.model).tasks}
        if self.generates or not known - set(SPAN_KINDS) or not known & set(SPAN_KINDS):
            return [({}, order)]
        spans = [row for row in order if features["offsets"][row]]
        texts = [row for row in order if not features["offsets"][row]]
        kinds = ([kind for kind in known if (kind in SPAN_KINDS) == asked] for asked in (True, False))
        return [({"kinds": sorted(some)}, rows) for some, rows in zip(kinds, (spans, texts), strict=True)]

    def _answer_batch(self, batch: dict[str, Any], options: dict[str, Any]) -> list[dict[str, Any]]:
        if self.generates:
            padded = self.tokenizer.pad(batch, return_tensors="pt", padding_side="left")
            return answer_prompts(self.model, padded, self.tokenizer, **options)
        out = predict(
            self.model, dict(self.tokenizer.pad(batch, return_tensors="pt", padding_side="right")), **options
        )
        given = {key: value.cpu().numpy() for key, value in out.items() if value is not None}
        return [{key: value[i] for key, value in given.items()} for i in range(len(batch["input_ids"]))]

    def postprocess(  # type: ignore[override]
        self, found: list[dict[str, Any]], items: list[Any], features: dict[str, Any], abstain: bool
    ) -> list[dict[str, Any]]:
        knowledge = knowledge_of(self.model)
        if self.generates:
            return [self._result(knowledge, answer, abstain) for answer in found]
        chosen = [int(row["task"]) for row in found]
        answers = decode_answers(knowledge, chosen, [row["scores"] for row in found], features, sources(items))
        out = []
        for answer in answers:
            rows = answer.pop("rows")
            answer |= {key: float(np.mean([found[row][key] for row in rows])) for key in ("uncertainty", "margin")}
            if abstain:
                answer["novelty"] = float(min(found[row]["novelty"] for row in rows))
            out.append(self._result(knowledge, answer, abstain))
        return out

    def _result(self, knowledge: KnowledgeBase, answer: dict[str, Any], abstain: bool) -> dict[str, Any]:
        answer = dict(answer)
        task = knowledge.tasks[answer.pop("task")]
        result = {"task": task.group, "kind": task.kind, **answer}
        if abstain and result["novelty"] > 1:
            result |= {"task": UNKNOWN, "answer": None}
        elif not abstain:
            result.pop("novelty", None)
        return result


def sources(items: Sequence[Any]) -> list[Any]:
    """What spans and token labels are cut from, per input."""
    return [item.get("context") or item.get("tokens") or "" if isinstance(item, Mapping) else "" for item in items]


def register() -> None:
    """Makes `pipeline("lifelong")` known to transformers."""
    if "lifelong" not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline("lifelong", pipeline_class=LifelongPipeline, pt_model=AutoModel)


register()
