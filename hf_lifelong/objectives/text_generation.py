"""Text generation: every task as a prompt and the text that answers it, on a causal language model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .base import TaskKind
from .labels import IGNORED, label_ids, label_index
from .matching import match_scores, same_text
from .module_forms import Forms, text_forms
from .prompts import encode_answers, encode_prompts, ensure_padding, with_prompts
from .rows import (
    DataError,
    check_comparable,
    check_dataset,
    check_not_empty,
    check_references,
    column_values,
    is_string,
)
from .stock import StockUse

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase


class TextGeneration(TaskKind):
    """A text that answers a prompt. The loss is that of the answer's tokens alone, which end with the end-of-text
    token.

    The answer's column holds texts, lists of right texts, SQuAD's answers (the first is learned, each is right), or
    labels (`ClassLabel`), whose names are the answers; such a task can also be answered by the likeliest label.

    Metrics, in [0, 1]: `exact_match` (primary) and `f1` (of words), both after SQuAD v1.1's normalisation, except that
    numbers, and answers of which it leaves nothing, are compared as they are. For a task with labels, the scorer adds
    the `accuracy` of the likeliest label.
    """

    kind = "text-generation"
    task_type = "CAUSAL_LM"
    hub_task = "text-generation"
    example = '"A joy from start to end."'
    stock = StockUse(
        batch='batch = tokenizer("Once upon a time", return_tensors="pt")\n',
        answers="""\
print(tokenizer.batch_decode(model.generate(**batch, max_new_tokens=32), skip_special_tokens=True))
""",
        auto_class="AutoModelForCausalLM",
        mapping="MODEL_FOR_CAUSAL_LM_MAPPING",
        task_type="CAUSAL_LM",
        note="It is asked as in training: in a user's turn of the tokenizer's chat template, else with the bare "
        "prompt.",
    )
    padding_side = "left"  # answers follow prompts
    targets = ("labels",)
    metric = "exact_match"
    likeness = "f1"
    columns = {"prompt": "prompt", "answer": "answer"}
    label_role = "answer"
    aliases = {
        "prompt": ("text", "question"),
        "answer": ("completion", "label", "labels", "answers", "target", "summary"),
    }

    def prepare_tokenizer(self, tokenizer: Any) -> None:
        ensure_padding(tokenizer)

    def prepare(self, dataset: Dataset, columns: Mapping[str, str], template: str | None) -> Dataset:
        return with_prompts(dataset, columns, template)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> DataCollatorForSeq2Seq:
        from transformers import DataCollatorForSeq2Seq

        return DataCollatorForSeq2Seq(tokenizer)

    def is_tokenised(self, dataset: Dataset) -> bool:
        """Never: answers are compared as texts, so texts must be given."""
        return False

    def label_names(self, dataset: Dataset, columns: Mapping[str, str]) -> list[str]:
        """The names of a `ClassLabel` column of answers, none for other columns. The prompts may still be missing."""
        check_dataset(dataset)
        check_not_empty(dataset)
        return self._declared(dataset, self._answers(dataset, columns)) or []

    def classes(self, dataset: Dataset, columns: Mapping[str, str]) -> list[Any] | None:
        column = self._answers(dataset, columns)
        return column_values(dataset, column) if self._declared(dataset, column) else None

    def _answers(self, dataset: Dataset, columns: Mapping[str, str]) -> str:
        return str(self._column_of("answer", dataset, columns, required=True))

    def head_width(self, labels: Sequence[str]) -> int:
        """0: the language model's own head answers."""
        return 0

    def references(
        self, examples: Dataset, columns: Mapping[str, str], labels: Sequence[str]
    ) -> list[dict[str, list[str]]]:
        """`{"text": all right answers}` per example."""
        columns = self.resolve_columns(examples, columns)
        values = self._named(examples, columns, labels)
        return [{"text": golds} for golds in right_answers(values, range(len(values)), columns["answer"], labels)]

    def score(self, answers: Sequence[Any], references: Sequence[Mapping[str, list[str]]]) -> dict[str, float]:
        check_comparable(answers, references)
        scores = match_scores(answers, references)
        same = [
            any(same_text(answer, gold) for gold in reference["text"] or [""]) if isinstance(answer, str) else False
            for answer, reference in zip(answers, references, strict=True)
        ]
        return {"exact_match": sum(same) / len(same), "f1": max(scores["f1"], sum(same) / len(same))}

    def majority(self, references_train: Sequence[Any], references_test: Sequence[Any]) -> float:
        check_references(references_train)
        texts = Counter(reference["text"][0] for reference in references_train if reference["text"])
        frequent = min(texts, key=lambda text: (-texts[text], text)) if texts else ""
        return self.score([frequent] * len(references_test), references_test)[self.metric]

    def right_answer(self, reference: Mapping[str, list[str]]) -> str:
        return (reference["text"] or [""])[0]

    def module_forms(
        self, options: Sequence[Features], answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> Forms:
        return text_forms(options, answers, references)

    def _encode_batch_for(
        self, batch: Mapping[str, list[Any]], rows: Sequence[int], training: bool, **options: Any
    ) -> dict[str, list[Any]]:
        """`training=True` gives prompt and answer with `labels` (`-100` on the prompt), `training=False` the prompt
        alone; `max_length` limits each of the two, and `stride` is not used."""
        encoded = self.encode_batch(batch, rows, **options)
        texts = encoded.pop("answers")
        if training:
            prompts = encoded["input_ids"]
            answers = encode_answers(options["tokenizer"], texts, options["max_length"])
            encoded["input_ids"] = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
            encoded["labels"] = [[IGNORED] * len(p) + a for p, a in zip(prompts, answers, strict=True)]
            del encoded["example"]
        return {**encoded, "attention_mask": [[1] * len(ids) for ids in encoded["input_ids"]]}

    def encode_batch(
        self,
        batch: Mapping[str, list[Any]],
        rows: Sequence[int],
        columns: Mapping[str, str],
        labels: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        stride: int,
        constants: Mapping[str, float],
    ) -> dict[str, list[Any]]:
        prompt, answer = columns["prompt"], columns["answer"]
        for value, row in zip(batch[prompt], rows, strict=True):
            if not isinstance(value, str) or not value.strip():
                raise DataError(prompt, f"{value!r} is no text; correct it or drop the row.", row)
        golds = right_answers(batch[answer], rows, answer, labels)
        return {
            "input_ids": encode_prompts(tokenizer, batch[prompt], max_length),
            "answers": [texts[0] if texts else "" for texts in golds],
            "example": list(rows),
        }

    def expected_type(self, role: str, feature: Any) -> str | None:
        if role == "prompt":
            return None if is_string(feature) else "texts"
        if is_string(feature) or type(feature).__name__ == "ClassLabel":
            return None
        fields = getattr(feature, "feature", feature)
        if is_string(fields) or (isinstance(fields, Mapping) and "text" in fields):
            return None
        return "texts, lists of texts, SQuAD's answers or labels with names (`dataset.class_encode_column`)"


def right_answers(values: Sequence[Any], rows: Sequence[int], column: str, labels: Sequence[str]) -> list[list[str]]:
    """All right answers of each row, from any form that the answer's column may have; labels are given by name.

    Raises:
        DataError: If a value is missing, no text or outside the labels; the message names its row.
    """
    if labels:
        return [[labels[i]] for i in label_ids(values, rows, column, label_index(labels), labels)]
    golds = []
    for value, row in zip(values, rows, strict=True):
        texts = value.get("text") if isinstance(value, Mapping) else value
        texts = [texts] if isinstance(texts, str) else texts
        if isinstance(texts, list) and texts and isinstance(texts[0], Mapping):
            texts = [entry.get("text") for entry in texts]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            problem = "give a text or a list of texts (an empty list where there is no answer)."
            raise DataError(column, f"{value!r:.100} gives no answer; {problem}", row)
        golds.append(texts)
    return golds


KIND = TextGeneration()
