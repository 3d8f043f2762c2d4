"""`pipeline("lifelong")`: texts in, answers out, no task named."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .adapter import active_config, knowledge_of, predict
from .adapter.forward import NOWHERE, answer_prompts, decode_answers, shared_lock
from .knowledge import UNKNOWN, KnowledgeBase
from .objectives import MODEL_INPUTS, encode_inputs, encode_prompts, ensure_padding, prompt_of

OPTIONS = ("policy", "group", "answer", "uncertainty", "per_batch", "abstain")
"""What a pipeline of heads may be asked; one of a language model takes those of its `generate` too."""

# What is said of an input that no learned task answers.
NOTHING = {"answer": None, "score": 0.0, "uncertainty": 1.0, "margin": 0.0, "novelty": NOWHERE}

# What of a model's output answers are made of.
SAID = ("task", "scores", "uncertainty", "margin", "novelty")

# Where a tokenizer cuts is set in the tokenizer itself, so that two threads would cut each other's texts.
TOKENISING = shared_lock()


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

    Inputs, mixed at will: a string or `{"text": ..., "text_pair": ...}` (text classification, text regression),
    `{"question": ..., "context": ...}` (question answering) or `{"tokens": [...]}` (token classification), or what a
    kind of your own takes. An answer is a dict: `task` (the group that answered, or `"unknown"`), `kind`, `answer`
    (a label; a number; a span, `""` where the context has no answer and the task has such questions; or a label per
    token; `None` where unknown), `score` (its probability; `None` of a number, which has none), `uncertainty` and
    `margin`; spans have `start` and `end` (characters), and with `abstain` there is `novelty`.
    """

    tokenizer: Any

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        unknown = sorted(set(options) - set(OPTIONS))
        if unknown and not self.generates:  # a language model's `generate` refuses what it does not know
            raise ValueError(f"`{unknown[0]}` is no option of this pipeline; choose among {list(OPTIONS)}.")
        return {}, options, {}

    def __call__(  # type: ignore[override]
        self,
        inputs: Any,
        batch_size: int | None = None,
        abstain: bool | None = None,
        **options: Any,
    ) -> Any:
        """Answers one input, a list of them, or a stream of them.

        Args:
            inputs: One input (answered by a dict), a list or tuple (by a list), or anything else that gives inputs one
                after another: a generator, a column of a data set, a data set of `KeyDataset`'s sort (by an iterator,
                which asks for `batch_size` inputs at a time).
            batch_size (`int`, *optional*): Rows of a batch; as given to `pipeline`, or 32.
            abstain (`bool`, *optional*): Answer `unknown` where an input lies outside of what the chosen task has
                seen, where no task of its form is known, or where the model gives no finite numbers.
            options: `policy`, `group`, `answer`, `uncertainty`, `per_batch`, as in [`predict`]. With a language model
                `policy`, `group`, `per_batch`, `labels=True` (the likeliest label answers where the task has labels)
                and those of `model.generate`, such as `max_new_tokens` or `num_beams`. They may also be given to
                `pipeline`.

        Raises:
            ValueError: for an unknown option; for an input of another form, or of a form that no learned task answers,
                naming its position; when the model knows no task.
        """
        given = {**self._forward_params, **self._sanitize_parameters(**options)[1]}
        abstain = bool(given.pop("abstain", False) if abstain is None else abstain)
        batch_size = self._batch_size if batch_size is None else batch_size
        batch_size = 32 if batch_size is None else batch_size
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size!r:.60}; give an integer of at least 1.")
        if self.tokenizer is None:
            raise ValueError("`tokenizer` is missing; give that of the base to `pipeline`.")
        answer = partial(self._answer_all, batch_size=batch_size, abstain=abstain, options=given)
        if isinstance(inputs, list | tuple):
            return answer(inputs)
        many = hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__")
        if isinstance(inputs, str | Mapping) or not many:
            return answer([inputs])[0]
        items = iter(inputs) if hasattr(inputs, "__iter__") else (inputs[i] for i in range(len(inputs)))
        return _lazily(items, batch_size, answer)

    def _answer_all(
        self, items: Sequence[Any], start: int = 0, *, batch_size: int, abstain: bool, options: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Answers inputs of which the first is `inputs[start]`."""
        if not items:
            return []
        features, sources = self._encoded(items, start)
        rows_of = self._rows_by_kinds(features, start, abstain)
        found = self._forward(features, rows_of=rows_of, batch_size=batch_size, novelty=abstain, **options)
        return self.postprocess(found, sources=sources, features=features, abstain=abstain)

    @property
    def generates(self) -> bool:
        """Whether the model is a language model, which answers with texts."""
        return bool(active_config(self.model).task_type == "CAUSAL_LM")

    def preprocess(self, items: Any, start: int = 0) -> dict[str, Any]:  # type: ignore[override]
        return self._encoded(items, start)[0]

    def _encoded(self, items: Any, start: int) -> tuple[dict[str, Any], list[Any]]:
        """The features of inputs, and what each input's answer is cut from."""
        with TOKENISING:
            return self._encode(items, start)

    def _encode(self, items: Any, start: int) -> tuple[dict[str, Any], list[Any]]:
        config = active_config(self.model)
        if self.generates:
            ensure_padding(self.tokenizer)
            templates = [task.template for task in knowledge_of(self.model).tasks if task.template]
            prompts = [prompt_of(item, i, templates) for i, item in enumerate(items, start)]
            ids = encode_prompts(self.tokenizer, prompts, config.max_length)
            return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}, []
        return encode_inputs(items, self.tokenizer, config.max_length, config.stride, start)

    def _forward(  # type: ignore[override]
        self,
        features: dict[str, Any],
        rows_of: dict[tuple[str, ...] | None, list[int]],
        batch_size: int,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """What answers each row; `{}` of rows that are in no list of `rows_of`."""
        columns = [name for name in MODEL_INPUTS if name in features]
        found: list[dict[str, Any]] = [{} for _ in features["input_ids"]]
        batches = [
            (kinds, rows[i : i + batch_size])
            for kinds, rows in rows_of.items()
            for i in range(0, len(rows), batch_size)
        ]
        for kinds, rows in tqdm(batches, desc="Answering", disable=len(batches) < 4, leave=False):
            batch = {name: [features[name][row] for row in rows] for name in columns}
            asked = options if kinds is None else {**options, "kinds": kinds}
            for row, answer in zip(rows, self._answer_batch(batch, asked), strict=True):
                found[row] = answer
        return found

    def _rows_by_kinds(
        self, features: dict[str, Any], start: int, abstain: bool
    ) -> dict[tuple[str, ...] | None, list[int]]:
        """The rows that tasks of the same kinds may answer, longest first; `None` stands for any kind.

        Raises:
            ValueError: for an input that no learned task answers, unless the pipeline may abstain.
        """
        order = np.argsort([-len(ids) for ids in features["input_ids"]], kind="stable").tolist()
        known = {task.kind for task in knowledge_of(self.model).tasks}
        if self.generates or not known:
            return {None: order}
        answering = [tuple(kind for kind in kinds if kind in known) for kinds in features["kinds"]]
        foreign = next((row for row, kinds in enumerate(answering) if not kinds), None)
        if foreign is not None and not abstain:
            raise ValueError(
                f"inputs[{start + features['example'][foreign]}] has the form of "
                f"{' or '.join(features['kinds'][foreign])}, but no task of that kind is learned, only "
                f"{sorted(known)}. Give it in their form, or `abstain=True` to answer it with `unknown`."
            )
        rows_of: dict[tuple[str, ...] | None, list[int]] = defaultdict(list)
        for row in order:
            if answering[row]:
                rows_of[answering[row]].append(row)
        return rows_of

    def _answer_batch(self, batch: dict[str, Any], options: dict[str, Any]) -> list[dict[str, Any]]:
        if self.generates:
            padded = self.tokenizer.pad(batch, return_tensors="pt", padding_side="left")
            return answer_prompts(self.model, padded, self.tokenizer, **options)
        out = predict(
            self.model, dict(self.tokenizer.pad(batch, return_tensors="pt", padding_side="right")), **options
        )
        # Not all of it: hidden states stay on their device, and may be of a dtype that NumPy lacks.
        given = {key: part.cpu().numpy() for key in SAID if (part := getattr(out, key)) is not None}
        return [{key: value[i] for key, value in given.items()} for i in range(len(batch["input_ids"]))]

    def postprocess(  # type: ignore[override]
        self, found: list[dict[str, Any]], sources: Sequence[Any], features: dict[str, Any], abstain: bool
    ) -> list[dict[str, Any]]:
        knowledge = knowledge_of(self.model)
        if self.generates:
            return [self._result(knowledge, answer, abstain) for answer in found]
        rows = [row for row, answer in enumerate(found) if answer]
        table = {name: [values[row] for row in rows] for name, values in features.items()}
        asked = [found[row] for row in rows]
        chosen, scores = [int(row["task"]) for row in asked], [row["scores"] for row in asked]
        answers = decode_answers(knowledge, chosen, scores, table, sources)
        kinds_of = dict(zip(features["example"], features["kinds"], strict=True))
        out = []
        for i, answer in enumerate(answers):
            if not answer:
                out.append({"task": UNKNOWN, "kind": kinds_of[i][0], **NOTHING})
                continue
            own = [asked[row] for row in answer.pop("rows")]
            answer |= {key: float(np.mean([row[key] for row in own])) for key in ("uncertainty", "margin")}
            if abstain:
                novelties = [float(row["novelty"]) for row in own]
                answer["novelty"] = NOWHERE if NOWHERE in novelties else min(novelties)
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


def _lazily(items: Iterator[Any], batch_size: int, answer: Any) -> Iterator[dict[str, Any]]:
    start = 0
    while batch := list(itertools.islice(items, batch_size)):
        yield from answer(batch, start)
        start += len(batch)


def register() -> None:
    """Makes `pipeline("lifelong")` known to transformers."""
    if "lifelong" not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline("lifelong", pipeline_class=LifelongPipeline, pt_model=AutoModel)


register()
