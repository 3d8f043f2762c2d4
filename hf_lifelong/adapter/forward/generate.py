"""Answers of a language model: generated freely, or chosen among the labels of the input's task."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from ...compat import cache_argument, cache_of
from ...objectives import encode_answers
from ...retrieval import BUILT_IN, PolicyLike
from ..heads import Lifelong, active_config, knowledge_of
from .answer import LifelongOutput
from .causal import positions
from .finite import broken_rows, without_broken
from .predict import asking, joined, question
from .query import Query, leaves_to_base
from .values import Answer

# Largest number of (prompt, label) rows that run at once.
MOST_LABEL_ROWS = 256


@dataclass(frozen=True)
class Generated:
    """The result of `generate` for B prompts.

    Args:
        tokens (`Tensor`): `[B·n, L]`, the answers without prompts, n for each prompt (`num_return_sequences`).
        group (`Tensor`): `[B]`, the group that answered.
        task (`Tensor`): `[B]`, position of that group's newest task.
        margin (`Tensor`): `[B]`, by how much the group was preferred to the next one.
        score (`Tensor`, *optional*): `[B·n]`, probability of the answer; `None` with beams.
        uncertainty (`Tensor`, *optional*): `[B·n]`, entropy of the next-token distributions as a share of the largest
            possible entropy, averaged over the answer; `None` with beams.
        novelty (`Tensor`, *optional*): `[B]`, as in `LifelongOutput`.
    """

    tokens: Tensor
    group: Tensor
    task: Tensor
    margin: Tensor
    score: Tensor | None = None
    uncertainty: Tensor | None = None
    novelty: Tensor | None = None


def generate(
    model: nn.Module,
    batch: Mapping[str, Any],
    policy: PolicyLike | None = None,
    group: int | str | Tensor | None = None,
    per_batch: bool | None = None,
    novelty: bool = False,
    unknown: str | None = None,
    **options: Any,
) -> Generated:
    """Answers a batch of prompts without being told their tasks. The group is chosen for each prompt.

    `model.generate(...)` does the same with the configuration's policy, but does not return the groups.

    Args:
        model (`nn.Module`): A language model with a lifelong adapter, however it was loaded.
        batch (`dict[str, Tensor]`): `input_ids` and `attention_mask`, `[B, T]`, padded on the left.
        policy, group, per_batch, novelty: As in [`predict`].
        unknown (`str`, *optional*): `"nearest"` or `"base"`; by default the configuration's.
        options: Options of `model.generate`. Greedy decoding, sampling, beams and streaming are supported; chunked
            prefill, assisted decoding and continuous batching are refused.

    Raises:
        ValueError: as `predict`; when prompts are padded on the right; or when groups cannot be chosen on the whole
            prompt in the requested mode.
    """
    root, inputs, query = _prompts(model, batch, policy, group, per_batch, novelty, unknown)
    rows, length = inputs["input_ids"].shape
    settings = effective_settings(model, options)
    meter = _Meter(settings.eos_token_id, rows, counts=(settings.num_beams or 1) == 1)
    options["logits_processor"] = LogitsProcessorList([*(options.get("logits_processor") or []), meter])
    with asking(model, root, query) as call:
        sequences: Any = model.generate(**inputs, **options)  # type: ignore[operator]
    sequences = sequences if isinstance(sequences, Tensor) else sequences.sequences
    chosen = _answered(call.answer)
    first = slice(None, None, len(chosen.group) // rows)  # the first beam of each prompt
    score, uncertainty = meter.result(sequences, length)
    answer = Generated(
        tokens=sequences[:, length:],
        group=chosen.group[first],
        task=chosen.task[first],
        margin=chosen.margin[first],
        score=score,
        uncertainty=uncertainty,
        novelty=chosen.novelty[first] if chosen.novelty is not None else None,
    )
    return without_broken(answer, meter.broken | broken_rows((answer.margin, answer.novelty), rows))


def score_labels(
    model: nn.Module,
    batch: Mapping[str, Any],
    tokenizer: Any,
    policy: PolicyLike | None = None,
    group: int | str | Tensor | None = None,
    per_batch: bool | None = None,
    novelty: bool = False,
    unknown: str | None = None,
) -> LifelongOutput:
    """Probabilities of the labels of each prompt's task, from the likelihoods of the labels' names as answers.

    The prompts run once. The names of all labels then continue from their cache, at most `MOST_LABEL_ROWS` at a time.

    Args:
        model, batch, policy, group, per_batch, novelty, unknown: As in [`generate`].
        tokenizer: The base's tokenizer.

    Returns:
        [`LifelongOutput`] with `scores [B, 1, C]`, zero padded and all zero if the task has no labels, `group`,
        `task`, `uncertainty` (entropy of the scores as a share of the largest possible entropy), `margin` and
        `novelty`.
    """
    root, inputs, query = _prompts(model, batch, policy, group, per_batch, novelty, unknown)
    tasks = root.knowledge[root.active_adapters[0]].tasks
    rows, most = len(inputs["input_ids"]), max((len(task.labels) for task in tasks), default=0)
    step = max(1, MOST_LABEL_ROWS // max(most, 1))
    if step >= rows:
        return _scored(model, root, inputs, query, tokenizer)
    with asking(model, root, query) as call:  # for the whole batch: `per_batch` may request one group
        model(**inputs, use_cache=True, **_last_logits(root))
    chosen = _answered(call.answer)
    outputs = []
    for start, groups in zip(range(0, rows, step), chosen.group.split(step), strict=True):
        part = {name: value[start : start + step] for name, value in inputs.items()}
        given = replace(query, policy=BUILT_IN["oracle"], group=groups, per_batch=False)
        outputs.append(_scored(model, root, part, given, tokenizer))
    whole = replace(joined(outputs), margin=chosen.margin)
    return without_broken(whole, broken_rows([whole.margin], rows))


def _scored(
    model: nn.Module, root: Lifelong, inputs: Mapping[str, Tensor], query: Query, tokenizer: Any
) -> LifelongOutput:
    """The scores of prompts that run at once."""
    tasks = root.knowledge[root.active_adapters[0]].tasks
    with asking(model, root, query) as call:
        output: Any = model(**inputs, use_cache=True, **_last_logits(root))
        chosen = _answered(call.answer)
        names = [tasks[t].labels for t in chosen.task.tolist()]
        scores = _label_scores(model, root, inputs, output, names, tokenizer)
    largest = torch.tensor([float(max(len(labels), 2)) for labels in names], device=scores.device).log()
    answer = LifelongOutput(
        scores=scores,
        group=chosen.group,
        task=chosen.task,
        margin=chosen.margin,
        novelty=chosen.novelty,
        uncertainty=torch.special.entr(scores).sum((1, 2)) / largest,
    )
    return without_broken(answer, broken_rows((scores, answer.margin, answer.novelty), len(scores)))


def _last_logits(root: Lifelong) -> dict[str, int]:
    """The option of a base that computes the logits of the last token alone, if it has one."""
    return {"logits_to_keep": 1} if "logits_to_keep" in root.conductor.base_names else {}


def _label_scores(
    model: nn.Module,
    root: Any,
    inputs: Mapping[str, Tensor],
    output: Any,
    names: list[tuple[str, ...]],
    tokenizer: Any,
) -> Tensor:
    """Probabilities of the labels `names` of each row, `[B, 1, C]`. `output` is the output of the pass over the
    prompts."""
    device = output.logits.device
    counts = torch.tensor([len(labels) for labels in names], device=device)
    logits = torch.full((len(names), 1, max(int(counts.max()), 1)), float("-inf"), device=device)
    if counts.any():
        tokens, is_token = _padded_answers(tokenizer, [name for labels in names for name in labels], device)
        row = torch.repeat_interleave(torch.arange(len(names), device=device), counts)
        column = torch.arange(len(row), device=device) - (counts.cumsum(0) - counts)[row]
        logits[row, 0, column] = _likelihood(model, root, inputs, output, row, tokens, is_token)
    # A row without labels has only -inf, whose softmax is NaN.
    return logits.softmax(-1).masked_fill((counts == 0)[:, None, None], 0.0)


def answer_prompts(
    model: nn.Module, batch: Mapping[str, Any], tokenizer: Any, labels: bool = False, **options: Any
) -> list[dict[str, Any]]:
    """Answers a batch of prompts with texts.

    Args:
        model, batch: As in [`generate`].
        tokenizer: The base's tokenizer, which defines the end of an answer.
        labels (`bool`): Whether the likeliest label is the answer if the chosen task has labels.
        options: Options of [`generate`]. The default is greedy decoding with at most `max_new_tokens` of the
            configuration.

    Returns:
        Per prompt `task` (position), `answer`, `margin` and, if available, `score`, `uncertainty` and `novelty`, which
        is measured also where the base answers unknown prompts.
    """
    routing = {k: options.pop(k) for k in ("policy", "group", "per_batch", "novelty", "unknown") if k in options}
    if routing.get("group") is None and leaves_to_base(active_config(model), routing.get("unknown")):
        routing["novelty"] = True  # the text of the base is no label
    if options.get("generation_config") is None:
        options = {"do_sample": False, "max_new_tokens": active_config(model).max_new_tokens, **options}
    if (effective_settings(model, options).num_return_sequences or 1) > 1:
        raise ValueError("`num_return_sequences` is above 1, but each prompt gets one answer here; use `generate`.")
    ends = ends_of(model, tokenizer, options)
    options = {"pad_token_id": tokenizer.pad_token_id, **options, "eos_token_id": ends}
    generated = generate(model, batch, **routing, **options)
    written = [list(takewhile(lambda token: token not in ends, row)) for row in generated.tokens.tolist()]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    columns = {name: getattr(generated, name) for name in ("margin", "score", "uncertainty", "novelty")}
    numbers = {name: column.tolist() for name, column in columns.items() if column is not None}
    answers = [
        {"task": task, "answer": text.strip(), **{k: values[i] for k, values in numbers.items()}}
        for i, (task, text) in enumerate(zip(generated.task.tolist(), texts, strict=True))
    ]
    return likeliest_labels(model, batch, tokenizer, answers, generated.group) if labels else answers


def likeliest_labels(
    model: nn.Module, batch: Mapping[str, Any], tokenizer: Any, answers: list[dict[str, Any]], group: Tensor
) -> list[dict[str, Any]]:
    """The `answers` of [`answer_prompts`], with the likeliest label instead of the text if the task has labels and the
    prompt is not known to be unlike its task."""
    tasks = knowledge_of(model).tasks
    if not any(tasks[answer["task"]].labels for answer in answers):
        return answers
    scored: Any = score_labels(model, batch, tokenizer, "oracle", group, novelty="novelty" in answers[0])
    best = scored.scores[:, 0].max(-1)
    has_labels = [bool(tasks[one["task"]].labels) and one.get("novelty", 0.0) <= 1 for one in answers]
    best_of = zip(best.indices.tolist(), best.values.tolist(), scored.uncertainty.tolist(), strict=True)
    return [
        answer | {"answer": tasks[answer["task"]].labels[label], "score": score, "uncertainty": uncertainty}
        if labelled
        else answer
        for answer, labelled, (label, score, uncertainty) in zip(answers, has_labels, best_of, strict=True)
    ]


def _likelihood(
    model: nn.Module,
    root: Any,
    inputs: Mapping[str, Tensor],
    output: Any,
    row: Tensor,
    tokens: Tensor,
    is_token: Tensor,
) -> Tensor:
    """Log-likelihoods `[N]` of `tokens [N, L]` after the prompts of the rows `row [N]`. Padding, where
    `is_token [N, L]` is false, does not count."""
    cache = cache_of(output)
    cache.batch_select_indices(row)
    root.conductor.follow(cache, row)
    mask = inputs.get("attention_mask")
    mask = torch.ones_like(inputs["input_ids"]) if mask is None else mask
    mask = torch.cat([mask[row], is_token[:, :-1].long()], dim=1)
    first = output.logits[row, -1:]
    rest = first[:, :0]
    if tokens.shape[1] > 1:
        place = positions(mask)[:, inputs["input_ids"].shape[1] :]
        rest = model(
            input_ids=tokens[:, :-1],
            attention_mask=mask,
            position_ids=place,
            use_cache=True,
            **{cache_argument(): cache},
        ).logits
    log_p = torch.cat([first, rest], dim=1).float().log_softmax(-1)
    return (log_p.gather(2, tokens[..., None])[..., 0] * is_token).sum(1)


def _padded_answers(tokenizer: Any, names: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    ids = [torch.tensor(row) for row in encode_answers(tokenizer, names, most=10**6)]
    tokens = nn.utils.rnn.pad_sequence(ids, batch_first=True).to(device)
    lengths = torch.tensor([len(row) for row in ids], device=device)
    return tokens, torch.arange(tokens.shape[1], device=device) < lengths[:, None]


def effective_settings(model: Any, options: Mapping[str, Any]) -> Any:
    """The generation settings that `model.generate(**options)` would use."""
    configured = options.get("generation_config")
    settings = copy.deepcopy(model.generation_config if configured is None else configured)
    settings.update(**{name: value for name, value in options.items() if value is not None})
    return settings


def ends_of(model: Any, tokenizer: Any, options: Mapping[str, Any] | None = None) -> list[int]:
    """The tokens that end an answer: the tokenizer's, which members learn to write, and those of the generation
    settings, because a base that was trained on chats ends its turns with another."""
    ends = effective_settings(model, options or {}).eos_token_id
    return sorted({tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None})


def _prompts(
    model: nn.Module,
    batch: Mapping[str, Any],
    policy: PolicyLike | None,
    group: int | str | Tensor | None,
    per_batch: bool | None,
    novelty: bool,
    unknown: str | None,
) -> tuple[Lifelong, dict[str, Tensor], Query]:
    """The root of a model, the checked prompts of a batch, and the query.

    Raises:
        ValueError: when the prompts are not token ids or are padded on the right, or the model is no language model.
    """
    root, inputs, query = question(model, batch, policy, group, None, None, per_batch, novelty, None, False, unknown)
    if active_config(model).task_type != "CAUSAL_LM":
        raise ValueError("`model` is no language model, so it writes no text; ask it with `predict`.")
    if "input_ids" not in inputs:
        raise ValueError(f"`batch` has no `input_ids`, only {sorted(inputs)}; give what the tokenizer gives.")
    mask = inputs.get("attention_mask")
    if mask is not None and bool((mask[:, -1] == 0).any()):
        raise ValueError("`batch` is padded on the right; a language model continues at the end, so pad on the left.")
    return root, inputs, query


def _answered(answer: Answer | None) -> Answer:
    """The answer of a call.

    Raises:
        RuntimeError: when no pass has chosen groups, because something keeps the base's hooks from running.
    """
    if answer is None:
        raise RuntimeError("No group was chosen: the forward hooks of the base model did not run. Leave them on.")
    return answer


class _Meter(LogitsProcessor):
    """Sums the log-probability and entropy of each answer's tokens. It changes no scores, except that NaN becomes 0.

    Args:
        prompts (`int`): Number of prompts.
        counts (`bool`): Whether to sum over tokens, which is not possible for beams; otherwise it only looks for NaN.
    """

    def __init__(self, ends: int | list[int] | None, prompts: int, counts: bool) -> None:
        self.ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        self.prompts, self.counts = prompts, counts
        self.steps = 0
        self.scores: Tensor | None = None
        self.broken: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        nan = scores.amax(-1).isnan()
        broken = nan.view(self.prompts, -1).any(1)
        self.broken = broken if self.broken is None else self.broken | broken
        scores = scores.masked_fill(nan[:, None], 0.0)  # no token can be sampled from NaN
        if not self.counts:
            return scores
        if self.scores is None:
            self.log_p, self.entropy, self.length = (scores.new_zeros(len(scores), dtype=torch.float32) for _ in "abc")
            self.open = torch.ones(len(scores), dtype=torch.bool, device=scores.device)
        else:
            self._count(input_ids[:, -1])
        self.scores, self.steps = scores.float(), self.steps + 1
        return scores

    def _count(self, token: Tensor) -> None:
        log_p = self.scores.log_softmax(-1)  # type: ignore[union-attr]
        largest = torch.tensor(float(log_p.shape[-1]), device=log_p.device).log()
        self.log_p += log_p.gather(1, token[:, None])[:, 0].where(self.open, 0.0)
        self.entropy += (torch.special.entr(log_p.exp()).sum(-1) / largest).where(self.open, 0.0)
        self.length += self.open
        self.open &= ~torch.isin(token, torch.tensor(self.ends, device=token.device))

    def result(self, sequences: Tensor, prompt: int) -> tuple[Tensor | None, Tensor | None]:
        """Probability and mean uncertainty of each answer, `[rows]`; `None` without `counts`."""
        if not self.counts:
            return None, None
        last = prompt + self.steps - 1
        if last < sequences.shape[1]:
            self._count(sequences[:, last])
        return self.log_p.exp(), self.entropy / self.length.clamp_min(1)
