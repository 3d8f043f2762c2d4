"""`pipeline("lifelong")`: answers texts or images without being told their tasks."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .adapter import active_config, knowledge_of, lifelong_of, predict, route
from .adapter.forward import NOWHERE, answer_prompts, decode_answers, shared_lock
from .knowledge import UNKNOWN, KnowledgeBase
from .objectives import (
    DataError,
    Modality,
    answer_columns,
    encode_inputs,
    encode_prompts,
    ensure_padding,
    kinds_on,
    prompt_of,
)

OPTIONS = ("policy", "group", "answer", "uncertainty", "per_batch", "kinds", "abstain")
"""Options of a pipeline. With a language model, the options of its `generate` are accepted too."""

# The result for an input that no learned task answers.
NOTHING = {"answer": None, "score": 0.0, "uncertainty": 1.0, "margin": 0.0, "novelty": NOWHERE}

# Fields of a model's output that answers are made from.
OUTPUT_FIELDS = ("task", "scores", "uncertainty", "margin", "novelty")

# Truncation is a setting of the tokenizer object, so two threads would truncate each other's texts.
TOKENISING = shared_lock()


class LifelongPipeline(Pipeline):
    """Answers inputs of any learned task without being told which task it is.

    ```python
    >>> import hf_lifelong
    >>> answer = pipeline("lifelong", model=model, tokenizer=tokenizer)
    >>> answer(["A joy from start to end.", {"question": "Who wrote it?", "context": "Ada wrote it."}])
    ```

    Inputs of different forms can be mixed: a string or `{"text": ..., "text_pair": ...}` (text classification, text
    regression), `{"question": ..., "context": ...}` (question answering), `{"tokens": [...]}` (token classification),
    or the form of your own kind. With a language model inputs are prompts: a string, which goes through the
    tokenizer's chat template if it has one, or the fields of a learned task's template or of a default template
    (`objectives.prompts.TEMPLATES`).

    A base that takes images gets `image_processor` instead of `tokenizer`. Its inputs are PIL images, arrays, paths,
    the bytes of files, or rows of `datasets.Image`.

    An answer is a dict:

    - `task`: the group that answered, or the one to which it adds labels; `"unknown"` if none did. A language model
      whose configuration says `unknown="base"` answers such an input with the base's own text.
    - `kind`: the kind of task.
    - `answer`: a label, a number, a span, one label per token, or with a language model a text. A span is `""` if the
      context has no answer and the task has such questions. `None` for an unknown task.
    - `score`: the probability of the answer; `None` for a number.
    - `uncertainty` and `margin`, and with `abstain` also `novelty`. For an unknown task `score` and `margin` are 0
      and `uncertainty` is 1.
    - `start` and `end`, for spans: positions in characters.
    """

    tokenizer: Any

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        unknown = sorted(set(options) - set(OPTIONS))
        if self.generates and options.get("kinds") is not None:
            raise ValueError("`kinds` is for bases whose tasks have several kinds; a language model has one.")
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
            inputs: One input, for which the result is a dict; a list or tuple, for which it is a list; or any other
                source of inputs, such as a generator, a column of a data set or a `KeyDataset`, for which it is an
                iterator that reads `batch_size` inputs at a time.
            batch_size (`int`, *optional*): Rows per batch; by default the value given to `pipeline`, or 32.
            abstain (`bool`, *optional*): Whether to answer `unknown` if an input is unlike the data of the chosen
                task, if no task of its form is learned, or if the model's numbers are not finite.
            options: `policy`, `group`, `answer`, `uncertainty`, `per_batch`, `kinds`, as in [`predict`] (an input's
                form restricts the kinds further). With a language model:
                `policy`, `group`, `per_batch`, `labels=True` (answer with the likeliest label if the task has labels),
                and the options of `model.generate`, such as `max_new_tokens` or `num_beams`. All can also be given to
                `pipeline`.

        Raises:
            ValueError: for an unknown option; for an input whose form is invalid, or which no learned task answers
                (names its position); when the model has learned no task.
        """
        settings = {**self._forward_params, **self._sanitize_parameters(**options)[1]}
        abstain = bool(settings.pop("abstain", False) if abstain is None else abstain)
        batch_size = self._batch_size if batch_size is None else batch_size
        batch_size = 32 if batch_size is None else batch_size
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` is {batch_size!r:.60}; give an integer of at least 1.")
        if self.of_base is None:
            raise ValueError(f"`{self.modality.processor}` is missing; give that of the base to `pipeline`.")
        answer = partial(self._answer_all, batch_size=batch_size, abstain=abstain, options=settings)
        if isinstance(inputs, list | tuple):
            return answer(inputs)
        many = hasattr(inputs, "__iter__") or hasattr(inputs, "__getitem__")
        if not many or self.modality.is_one(inputs):
            return answer([inputs])[0]
        items = iter(inputs) if hasattr(inputs, "__iter__") else (inputs[i] for i in range(len(inputs)))
        return _lazily(items, batch_size, answer)

    def _answer_all(
        self, items: Sequence[Any], start: int = 0, *, batch_size: int, abstain: bool, options: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Answers a batch of inputs whose first is `inputs[start]`."""
        if not items:
            return []
        features, sources = self._encoded(items, start)
        leaves_unknown = self.leaves_unknown and options.get("group") is None
        outputs = self._forward(
            features,
            start=start,
            batch_size=batch_size,
            ask=self._answer_batch,
            novelty=abstain or leaves_unknown,
            **options,
        )
        return self.postprocess(outputs, sources=sources, features=features, abstain=abstain)

    def route(self, inputs: Sequence[Any], batch_size: int = 32, abstain: bool = False) -> list[dict[str, Any]]:
        """Says which group would answer each input, without answering it: only the trunk runs.

        Args:
            inputs (`list`): Inputs, as for answering.
            batch_size (`int`): Rows per batch.
            abstain (`bool`): Whether an input that is unlike the data of its task goes to `"unknown"`.

        Returns:
            Per input `task` (as in an answer), `group` (`None` if unknown), `score` (the group's probability),
            `margin`, `runner_up` (the next likely group, `None` if no other may answer) and, with
            `abstain`, `novelty`. An input with several windows goes where most of them would go.

        Raises:
            ValueError: as for answering, and when the retrieval policy asks members before it chooses a group.
        """
        if not inputs:
            return []
        abstain = abstain or self.leaves_unknown
        features, _ = self._encoded(inputs, 0)
        found = self._forward(features, start=0, batch_size=batch_size, ask=self._route_batch, novelty=abstain)
        rows_of: list[list[dict[str, Any]]] = [[] for _ in inputs]
        for example, row in zip(features.get("example", range(len(inputs))), found, strict=True):
            rows_of[example].append(row)
        return [self._routed(rows, abstain) for rows in rows_of]

    @property
    def generates(self) -> bool:
        """Whether the model is a language model and answers with texts."""
        return bool(active_config(self.model).task_type == "CAUSAL_LM")

    @property
    def leaves_unknown(self) -> bool:
        """Whether the base answers inputs that are unlike those of all tasks."""
        return bool(active_config(self.model).unknown == "base")

    @property
    def modality(self) -> Modality:
        """What the base takes."""
        return lifelong_of(self.model).conductor.modality

    @property
    def of_base(self) -> Any:
        """The tokenizer or image processor, as the base needs."""
        return getattr(self, self.modality.processor)

    def preprocess(self, items: Any, start: int = 0) -> dict[str, Any]:  # type: ignore[override]
        return self._encoded(items, start)[0]

    def _encoded(self, items: Any, start: int) -> tuple[dict[str, Any], list[Any]]:
        """The features of inputs, and for each input the source text from which its answer is taken."""
        with TOKENISING:
            return self._encode(items, start)

    def _encode(self, items: Any, start: int) -> tuple[dict[str, Any], list[Any]]:
        config = active_config(self.model)
        if self.generates:
            ensure_padding(self.tokenizer)
            templates = [task.template for task in knowledge_of(self.model).tasks if task.template]
            answers = answer_columns(kinds_on(config.task_type))
            prompts = [prompt_of(item, i, templates, answers) for i, item in enumerate(items, start)]
            ids = encode_prompts(self.tokenizer, prompts, config.max_length)
            return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}, []
        return encode_inputs(items, self.of_base, config.max_length, config.stride, start, self.modality)

    def _forward(  # type: ignore[override]
        self,
        features: dict[str, Any],
        start: int,
        batch_size: int,
        ask: Callable[[dict[str, Any], dict[str, Any]], list[dict[str, Any]]],
        kinds: Sequence[str] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """What `ask(batch, options)` gives for each row; `{}` for rows that no learned task answers."""
        rows_of = self._rows_by_kinds(features, start, options["novelty"], kinds)
        columns = [name for name in self.modality.inputs if name in features]
        outputs: list[dict[str, Any]] = [{} for _ in features[columns[0]]]
        batches = [
            (answering, rows[i : i + batch_size])
            for answering, rows in rows_of.items()
            for i in range(0, len(rows), batch_size)
        ]
        for answering, rows in tqdm(batches, desc="Answering", delay=5, leave=False):
            batch = {name: [features[name][row] for row in rows] for name in columns}
            settings = options if answering is None else {**options, "kinds": answering}
            try:
                answers = ask(batch, settings)
            except DataError as error:
                raise ValueError(
                    f"inputs[{start + features['example'][rows[error.row or 0]]}]: {error.problem}"
                ) from error
            for row, output in zip(rows, answers, strict=True):
                outputs[row] = output
        return outputs

    def _rows_by_kinds(
        self, features: dict[str, Any], start: int, abstain: bool, among: Sequence[str] | None = None
    ) -> dict[tuple[str, ...] | None, list[int]]:
        """Kinds of tasks → the rows that tasks of these kinds may answer, longest first; `None` stands for any kind.

        Raises:
            ValueError: for an input that no learned task answers, unless the pipeline may abstain.
        """
        order = self.modality.order(features, len(features[self.modality.inputs[0]]))
        learned_kinds = {task.kind for task in knowledge_of(self.model).tasks}
        if self.generates or not learned_kinds:
            return {None: order}
        if among is not None:
            learned_kinds &= set(among)
        answering = [tuple(kind for kind in kinds if kind in learned_kinds) for kinds in features["kinds"]]
        foreign = next((row for row, kinds in enumerate(answering) if not kinds), None)
        if foreign is not None and not abstain:
            raise ValueError(
                f"inputs[{start + features['example'][foreign]}] has the form of "
                f"{' or '.join(features['kinds'][foreign])}, but no task of that kind is learned or may answer, only "
                f"{sorted(learned_kinds)}. Give it in their form, or `abstain=True` to answer it with `unknown`."
            )
        rows_of: dict[tuple[str, ...] | None, list[int]] = defaultdict(list)
        for row in order:
            if answering[row]:
                rows_of[answering[row]].append(row)
        return rows_of

    def _tensors(self, batch: dict[str, Any]) -> dict[str, Any]:
        return self.modality.batch(batch, self.of_base, "left" if self.generates else "right")

    def _route_batch(self, batch: dict[str, Any], options: dict[str, Any]) -> list[dict[str, Any]]:
        found = route(self.model, self._tensors(batch), **options)
        columns = {name: tensor.tolist() for name, tensor in vars(found).items() if tensor is not None}
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _routed(self, rows: list[dict[str, Any]], abstain: bool) -> dict[str, Any]:
        """Where an input goes, from the routes of its rows."""
        knowledge, rows = knowledge_of(self.model), [row for row in rows if row]
        votes = [row["group"] for row in rows]
        if not votes:
            return {"task": UNKNOWN, "group": None, "score": 0.0, "margin": 0.0, "runner_up": None, "novelty": NOWHERE}
        chosen = max(dict.fromkeys(votes), key=votes.count)
        rows = [row for row in rows if row["group"] == chosen]
        seconds = [row["runner_up"] for row in rows]
        second = max(dict.fromkeys(seconds), key=seconds.count)
        result = {
            "task": knowledge.answers_as(knowledge.tasks[knowledge.newest[chosen]]),
            "group": knowledge.groups[chosen],
            "score": float(np.mean([row["posterior"][chosen] for row in rows])),
            "margin": float(np.mean([row["margin"] for row in rows])),
            "runner_up": None if second < 0 else knowledge.groups[second],
        }
        if abstain:
            novelties = [row["novelty"] for row in rows]
            result["novelty"] = NOWHERE if NOWHERE in novelties else min(novelties)
            if result["novelty"] > 1:
                result |= {"task": UNKNOWN, "group": None}
        return result

    def _answer_batch(self, batch: dict[str, Any], options: dict[str, Any]) -> list[dict[str, Any]]:
        if self.generates:
            return answer_prompts(self.model, self._tensors(batch), self.tokenizer, **options)
        out = predict(self.model, self._tensors(batch), **options)
        # Hidden states are left out: they stay on their device, and may have a dtype that NumPy lacks.
        values = {key: tensor.cpu().numpy() for key in OUTPUT_FIELDS if (tensor := getattr(out, key)) is not None}
        return [{key: value[i] for key, value in values.items()} for i in range(len(next(iter(values.values()))))]

    def postprocess(  # type: ignore[override]
        self, found: list[dict[str, Any]], sources: Sequence[Any], features: dict[str, Any], abstain: bool
    ) -> list[dict[str, Any]]:
        knowledge = knowledge_of(self.model)
        if self.generates:
            return [self._result(knowledge, answer, abstain) for answer in found]
        rows = [row for row, output in enumerate(found) if output]
        table = {name: [values[row] for row in rows] for name, values in features.items()}
        answered = [found[row] for row in rows]
        chosen, scores = [int(output["task"]) for output in answered], [output["scores"] for output in answered]
        answers = decode_answers(knowledge, chosen, scores, table, sources)
        kinds_of = dict(zip(features["example"], features["kinds"], strict=True))
        out = []
        for i, answer in enumerate(answers):
            if not answer:
                out.append({"task": UNKNOWN, "kind": kinds_of[i][0], **NOTHING})
                continue
            of_input = [answered[row] for row in answer.pop("rows")]
            answer |= {key: float(np.mean([output[key] for output in of_input])) for key in ("uncertainty", "margin")}
            if abstain:
                novelties = [float(output["novelty"]) for output in of_input]
                answer["novelty"] = NOWHERE if NOWHERE in novelties else min(novelties)
            out.append(self._result(knowledge, answer, abstain))
        return out

    def _result(self, knowledge: KnowledgeBase, answer: dict[str, Any], abstain: bool) -> dict[str, Any]:
        answer = dict(answer)
        task = knowledge.tasks[answer.pop("task")]
        result = {"task": knowledge.answers_as(task), "kind": task.kind, **answer}
        is_unknown = result.get("novelty", 0.0) > 1
        if abstain and is_unknown:
            return {"task": UNKNOWN, "kind": task.kind, **NOTHING, "novelty": result["novelty"]}
        if is_unknown:
            result |= {"task": UNKNOWN, "margin": 0.0}
        if not abstain:
            result.pop("novelty", None)
        return result


def _lazily(
    items: Iterator[Any], batch_size: int, answer: Callable[[Sequence[Any], int], list[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    start = 0
    while batch := list(itertools.islice(items, batch_size)):
        yield from answer(batch, start)
        start += len(batch)


def register() -> None:
    """Makes `pipeline("lifelong")` known to transformers."""
    if "lifelong" not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline("lifelong", pipeline_class=LifelongPipeline, pt_model=AutoModel)


register()
