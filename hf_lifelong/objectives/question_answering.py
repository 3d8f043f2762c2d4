"""Extractive question answering: the span of a context that answers a question (SQuAD layout)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .base import NO_CONSTANTS
from .forms import QUESTION
from .head import HeadKind
from .inputs import check_texts, tokenize_windows
from .labels import IGNORED, most_frequent
from .matching import match_scores, normalise
from .module_forms import Forms, squad_forms
from .numeric import LOG_2, fit, mask_padding, mean_cross_entropy, padded
from .rows import DataError, check_comparable, check_references, column_values, is_string
from .stock import StockUse

if TYPE_CHECKING:
    from datasets import Dataset, Features
    from transformers import PreTrainedTokenizerBase

LONGEST_ANSWER = 30
"""Longest answer that decoding considers, in tokens: the customary limit for SQuAD. Tasks store the limit that they
were learned with."""
MOST_LONGEST = 1000

_STOCK = StockUse(
    batch="""\
questions = ["Who wrote it?", "When was it?"]
contexts = ["Ada Lovelace wrote it.", "It was in the summer of 1843, they say."]
batch = tokenizer(questions, contexts, padding=True, return_tensors="pt")
""",
    answers="""\
for tokens, (first, last) in zip(batch["input_ids"], logits.argmax(1).tolist()):
    print(tokenizer.decode(tokens[first : last + 1]))
""",
    auto_class="AutoModelForQuestionAnswering",
    mapping="MODEL_FOR_QUESTION_ANSWERING_MAPPING",
    task_type="QUESTION_ANS",
    logits="""\
output = model(**batch)
logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
""",
    unwrapped=True,
    note="Ask what `PeftModel.get_base_model()` gives: PEFT's own wrapper for questions drops `token_type_ids`.",
)


class QuestionAnswering(HeadKind):
    """Start and end token of the answer in each window of the context.

    Features of `encode(training=False)` carry `example` and `offsets` (per token `[start, end]` in characters of the
    context, `[-1, -1]` outside it). A window without the whole answer has token 0 as its target. A question without
    gold answers (SQuAD 2.0) has the empty answer as its right one, which a task with such questions can give.

    Metrics: `f1` (primary) and `exact_match`, of SQuAD 2.0 (which are those of v1.1 where every question has an
    answer) but in [0, 1] instead of per cent.
    """

    kind = "question-answering"
    hub_task = "question-answering"
    example = '{"question": "Who wrote the notes?", "context": "In 1843 Ada Lovelace wrote the notes."}'
    forms = (QUESTION,)
    stock = _STOCK
    fixed_labels = ("start", "end")
    targets = ("start_positions", "end_positions")
    per_token = True
    metric = "f1"
    likeness = "f1"
    columns = {"question": "question", "context": "context", "answers": "answers"}
    extras = ("example", "offsets")

    def constants(self, dataset: Dataset, columns: Mapping[str, str]) -> dict[str, float]:
        """`{"longest": 30.0}`, the longest answer in tokens; with `"unanswered": 1.0` where some questions have no
        answer, so that no answer may be the right one."""
        limit = {"longest": float(LONGEST_ANSWER)}
        if "answers" not in self.resolve_columns(dataset, columns):
            return limit
        references = self.references(dataset, columns, ())
        return limit | ({"unanswered": 1.0} if any(not reference["text"] for reference in references) else {})

    def check_constants(self, constants: Mapping[str, float]) -> None:
        longest, unanswered = constants.get("longest", LONGEST_ANSWER), constants.get("unanswered", 1)
        if set(constants) - {"longest", "unanswered"} or unanswered != 1 or longest not in range(1, MOST_LONGEST + 1):
            raise ValueError(
                f"`constants` are {dict(constants)!r:.100}, but a {self.kind} task has at most `longest`, an integer "
                f"from 1 to {MOST_LONGEST}, and `unanswered`: 1."
            )

    def loss(self, logits: Tensor, batch: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Mean of the cross entropies of start and end over the T tokens; targets outside the tokens do not count."""
        losses = []
        for i, name in enumerate(self.targets):
            targets = batch[name]
            clamped = targets.clamp(0, mask.shape[1] - 1)
            valid = (targets == clamped) & (mask.gather(1, clamped[:, None])[:, 0] != 0)
            losses.append(mean_cross_entropy(mask_padding(logits[..., i], mask), targets.where(valid, IGNORED)))
        return (losses[0] + losses[1]) / 2

    def distributions(self, logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D = 2 (start, end) and C = T: the softmax over the tokens of a row."""
        probabilities = mask_padding(logits.transpose(1, 2), mask).softmax(dim=-1)
        weights = torch.full_like(probabilities[:, :, 0], 0.5)
        tokens = (mask != 0).sum(dim=1, keepdim=True).to(weights.dtype)
        return probabilities, weights, tokens.log().clamp(min=LOG_2).expand_as(weights)

    def sizes(self, tokens: int, labels: int) -> tuple[int, int]:
        return 2, tokens

    def decode_rows(
        self,
        scores: np.ndarray,
        features: Mapping[str, Any],
        sources: Sequence[Any],
        labels: Sequence[str],
        constants: Mapping[str, float] = NO_CONSTANTS,
    ) -> list[dict[str, Any]]:
        """`{"answer": text, "score": p(start) * p(end), "start": char, "end": char}`, `end` exclusive.

        The best span over all windows of an example that lies in the context and has at most as many tokens as the
        constant `longest` says; `""` with score 0 if no span has a positive probability.

        With the constant `unanswered`, a window has no answer with the probability that start and end are token 0, and
        a question has none (`""`, with that score) where even in the window that speaks most for one this probability
        is larger than the best span's: the smallest over all windows, as in SQuAD 2.0.
        """
        offsets = padded(features["offsets"], entry=(2,))
        example = np.asarray(features["example"], dtype=np.int64)
        fitted = fit(scores, len(example), 2, max(offsets.shape[1], 1))
        longest = int(constants.get("longest", LONGEST_ANSWER))
        best, first, last = best_spans(fitted[..., : offsets.shape[1]], offsets[..., 0] >= 0, longest)
        answers = [{"answer": "", "score": 0.0, "start": 0, "end": 0} for _ in sources]
        for i in np.flatnonzero(best > 0):
            source = sources[example[i]]
            if best[i] > answers[example[i]]["score"]:
                start, end = int(offsets[i, first[i], 0]), int(offsets[i, last[i], 1])
                answers[example[i]] = _cut_answer(source, start, end, float(best[i]))
        if constants.get("unanswered"):
            none = np.full(len(sources), np.inf)
            np.minimum.at(none, example, fitted[:, 0, 0] * fitted[:, 1, 0])
            for answer, probability in zip(answers, none, strict=True):
                if answer["score"] < probability < np.inf:
                    answer |= {"answer": "", "score": float(probability), "start": 0, "end": 0}
        return answers

    def references(
        self, examples: Dataset, columns: Mapping[str, str], labels: Sequence[str]
    ) -> list[dict[str, list[Any]]]:
        """`{"text": all gold answers, "answer_start": their first characters}` per example, SQuAD's layout."""
        column = self.resolve_columns(examples, columns).get("answers")
        if column is None:
            raise ValueError(
                f"columns['answers']: a tokenised data set needs its gold answers to be scored, but it has only "
                f"{examples.column_names}; keep the column or give the data set before it was tokenised."
            )
        golds = [_gold(value, row, column) for row, value in enumerate(column_values(examples, column))]
        return [{"text": texts, "answer_start": starts} for texts, starts in golds]

    def score(self, answers: Sequence[Any], references: Sequence[Mapping[str, list[str]]]) -> dict[str, float]:
        check_comparable(answers, references)
        # Gold answers of which normalisation leaves nothing are none, as in SQuAD 2.0.
        golds = [{"text": [text for text in gold["text"] if normalise(text)]} for gold in references]
        return match_scores(answers, golds)

    def majority(self, references_train: Sequence[Any], references_test: Sequence[Any]) -> float:
        """See the base class; where most questions have no answer, that is the empty one."""
        check_references(references_train)
        frequent = most_frequent([(reference["text"] or [""])[0] for reference in references_train])
        return self.score([frequent] * len(references_test), references_test)[self.metric]

    def right_answer(self, reference: Mapping[str, list[str]]) -> str:
        return (reference["text"] or [""])[0]

    def module_forms(
        self, options: Sequence[Features], answers: Sequence[Any], references: Sequence[Any], labels: Sequence[str]
    ) -> Forms:
        return squad_forms(options, answers, references)

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
        question, context, answers = (columns[role] for role in self.columns)
        for column in (question, context):
            check_texts(batch[column], rows, column)
        encoded = tokenize_windows(tokenizer, batch[question], batch[context], max_length, stride)
        golds = [
            _first_answer(value, text, row, answers)
            for value, text, row in zip(batch[answers], batch[context], rows, strict=True)
        ]
        spans = [
            token_span(np.array(window), *golds[i])
            for i, window in zip(encoded["example"], encoded["offsets"], strict=True)
        ]
        encoded["example"] = [rows[i] for i in encoded["example"]]
        return {
            **encoded,
            "start_positions": [start for start, _ in spans],
            "end_positions": [end for _, end in spans],
        }

    def expected_type(self, role: str, feature: Any) -> str | None:
        if role != "answers":
            return None if is_string(feature) else "strings"
        fields = getattr(feature, "feature", feature)
        fits = isinstance(fields, Mapping) and {"text", "answer_start"} <= set(fields)
        return None if fits else '{"text": [...], "answer_start": [...]} per row (SQuAD layout)'

    def sources_of(self, examples: Dataset, columns: Mapping[str, str]) -> list[Any]:
        if "context" not in columns:
            raise ValueError(
                f"columns['context']: answers are cut from the context, but the tokenised data set has only "
                f"{examples.column_names}; keep the column or give the data set before it was tokenised."
            )
        return column_values(examples, columns["context"])

    # Targets of a tokenised data set need no check: `loss` leaves out those that lie outside the tokens.

    def _tokenised_extras(self, dataset: Dataset) -> dict[str, list[Any]]:
        if "offsets" not in dataset.column_names:
            raise ValueError(
                f"dataset is tokenised, but has no column 'offsets' to find answers in the context with; it has "
                f"{dataset.column_names}. Give the data set before it was tokenised."
            )
        return {**super()._tokenised_extras(dataset), "offsets": column_values(dataset, "offsets")}


def token_span(offsets: np.ndarray, start: int, end: int) -> tuple[int, int]:
    """Returns the first and last token of an answer, `(0, 0)` unless the window holds all of it.

    Args:
        offsets (`np.ndarray` of shape `[T, 2]`): Characters of each token, -1 outside the context.
        start (`int`): First character of the answer in the context.
        end (`int`): The character after its last one; `end <= start` means that there is no answer.
    """
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if end <= start or not len(inside):
        return 0, 0
    starts, ends = offsets[inside, 0], offsets[inside, 1]
    if starts[0] > start or ends[-1] < end:
        return 0, 0
    first, last = np.flatnonzero(ends > start)[0], np.flatnonzero(starts < end)[-1]
    return (int(inside[first]), int(inside[last])) if first <= last else (0, 0)


def best_spans(
    scores: np.ndarray, inside: np.ndarray, longest: int = LONGEST_ANSWER
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds each window's best span of at most `longest` tokens; of equally good ones the shortest.

    Args:
        scores (`np.ndarray` of shape `[F, 2, T]`): Probabilities of start and end.
        inside (`np.ndarray` of shape `[F, T]`): bool, tokens of the context.
        longest (`int`): Most tokens of a span.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`, all of shape `[F]`: probability, first and last token. The
        probability is 0 where no span is possible.
    """
    starts, ends = scores[:, 0] * inside, scores[:, 1] * inside
    windows, tokens = starts.shape
    best = np.zeros(windows, dtype=scores.dtype)
    first, last = np.zeros((2, windows), dtype=np.int64)
    # One diagonal of the table start x end at a time: every window at once, in far less memory than the tables.
    for length in range(min(longest, tokens)):
        products = starts[:, : tokens - length] * ends[:, length:]
        at = products.argmax(axis=1)
        value = products[np.arange(windows), at]
        better = value > best
        best = np.where(better, value, best)
        first, last = np.where(better, at, first), np.where(better, at + length, last)
    return best, first, last


def _cut_answer(source: Any, start: int, end: int, score: float) -> dict[str, Any]:
    text = source[start:end]
    # Byte-level tokens begin with the blank before the word.
    start += len(text) - len(text.lstrip())
    text = text.strip()
    return {"answer": text, "score": score, "start": start, "end": start + len(text)}


def _gold(value: Any, row: int, column: str) -> tuple[list[str], list[int]]:
    """Returns texts and starts, from a dict of lists or from a list of dicts."""
    if isinstance(value, list):
        value = {key: [answer[key] for answer in value] for key in ("text", "answer_start")}
    texts, starts = (value.get(key) for key in ("text", "answer_start")) if value else (None, None)
    if texts is None or starts is None or len(texts) != len(starts) or None in (*texts, *starts):
        problem = '{"text": [...], "answer_start": [...]}, with empty lists if there is no answer.'
        raise DataError(column, f"{value!r} does not give as many texts as starts; give {problem}", row)
    return list(texts), list(starts)


def _first_answer(value: Any, context: str, row: int, column: str) -> tuple[int, int]:
    """Returns start and end, in characters, of the first gold answer; `(0, 0)` if there is none."""
    texts, starts = _gold(value, row, column)
    if not texts or not texts[0].strip():
        return 0, 0
    text, start = texts[0], starts[0]
    found = context[start : start + len(text)] if start >= 0 else ""
    # Case may differ, because data sets lower-case one of the two; anything else would train on a wrong span.
    if found.casefold() != text.casefold():
        problem = f"the context has {found!r} at answer_start={start}, not the answer {text!r}"
        raise DataError(column, f"{problem}; correct answer_start or drop the row.", row)
    blanks = len(text) - len(text.lstrip())
    return start + blanks, start + blanks + len(text.strip())


KIND = QuestionAnswering()
