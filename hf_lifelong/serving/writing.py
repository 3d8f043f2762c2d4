"""Texts of a language model, token by token: prompts that share a batch, each with its own listener."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from ..adapter import Generated, active_config, ends_of, generate
from ..knowledge import UNKNOWN
from .jobs import Served
from .limits import INVALID, RequestError

# What the decoder gives for the first bytes of a character whose last bytes are in the next token.
HALF = "\ufffd"
COLDEST = 1e-3  # below it, logits that are divided by it overflow


@dataclass(eq=False)
class Prompt:
    """A prompt, and who listens to its answer.

    Args:
        text (`str`): The prompt.
        listener (`Callable`, *optional*): Called with each piece of the answer, in the worker's thread.
        cancelled (`threading.Event`): Set when nobody listens any more; the answer then ends.
    """

    text: str
    listener: Callable[[str], None] | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Written:
    """The answer to a prompt.

    Args:
        text (`str`): The answer.
        ended (`bool`): Whether it ended by itself, or at a stop text; `False` if it was cut.
        prompt_tokens, tokens (`int`): Tokens of the prompt and of the answer.
        task (`str`): The task that answered, or `"unknown"`.
        margin (`float`): By how much its group was preferred to the next one.
        novelty (`float`, *optional*): As in the pipeline, if the client lets it abstain.
    """

    text: str
    ended: bool
    prompt_tokens: int
    tokens: int
    task: str
    margin: float
    novelty: float | None = None


@dataclass(frozen=True)
class Write:
    """How a language model answers prompts.

    Args:
        task (`str`, *optional*): The task, if the client names it.
        abstain (`bool`): Whether prompts that are unlike the data of their task get no answer.
        new_tokens (`int`, *optional*): Tokens that are written at most; the adapter's `max_new_tokens` by default.
        temperature, top_p (`float`): Of sampling; a temperature below `COLDEST` takes the likeliest token.
        seed (`int`, *optional*): Of sampling. Such a prompt has a batch of its own.
        stop (`tuple[str, ...]`): Texts before which an answer ends.
        alone (`int`): Different in jobs that must not share a batch.
    """

    task: str | None = None
    abstain: bool = False
    new_tokens: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    alone: int = 0

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature >= COLDEST

    def run(self, served: Served, rows: list[Prompt], batch_size: int) -> Sequence[Written]:
        served.check_writes()
        served.check_task(self.task)
        step = 1 if self.seed is not None else batch_size
        return [answer for i in range(0, len(rows), step) for answer in self._write(served, rows[i : i + step])]

    def _write(self, served: Served, prompts: list[Prompt]) -> list[Written]:
        pipe, new_tokens = served.pipe, self.new_tokens or active_config(served.pipe.model).max_new_tokens
        features = pipe.preprocess([prompt.text for prompt in prompts])
        lengths = [len(ids) for ids in features["input_ids"]]
        room = getattr(pipe.model.config, "max_position_embeddings", None)
        if room is not None and max(lengths) + new_tokens > room:
            if len(prompts) > 1:  # how long an answer may be must not depend on the others
                return [answer for prompt in prompts for answer in self._write(served, [prompt])]
            new_tokens = room - lengths[0]
            if new_tokens < 1:
                raise RequestError(INVALID, f"The prompt has {lengths[0]:,} tokens, and the model takes {room:,}.")
        # A text that may yet turn out to be unknown is not shown before it is complete.
        ends = ends_of(pipe.model, pipe.tokenizer)
        texts = [Text(pipe.tokenizer, ends, self.stop, None if self.abstain else p.listener) for p in prompts]
        found = self._generate(pipe, features, Rows(texts, prompts), new_tokens, ends)
        novelty = [None] * len(prompts) if found.novelty is None else found.novelty.tolist()
        tasks = [served.knowledge.tasks[task] for task in found.task.tolist()]
        answers = []
        for i, (prompt, text) in enumerate(zip(prompts, texts, strict=True)):
            is_unknown = (novelty[i] or 0) > 1
            whole = "" if is_unknown and self.abstain else text.finish()
            if self.abstain and prompt.listener is not None and whole:
                prompt.listener(whole)
            task = UNKNOWN if is_unknown else served.knowledge.answers_as(tasks[i])
            margin = 0.0 if is_unknown else float(found.margin[i])
            answers.append(Written(whole, text.ended, lengths[i], len(text.tokens), task, margin, novelty[i]))
        return answers

    def _generate(
        self, pipe: Any, features: dict[str, Any], rows: Rows, new_tokens: int, ends: list[int]
    ) -> Generated:
        tokenizer = pipe.tokenizer
        options: dict[str, Any] = {"do_sample": self.samples, "max_new_tokens": new_tokens}
        if self.samples:
            options |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0}
        if self.task is not None:
            options |= {"policy": "oracle", "group": self.task}
        with torch.random.fork_rng(enabled=self.seed is not None):
            if self.seed is not None:
                torch.manual_seed(self.seed)
            return generate(
                pipe.model,
                tokenizer.pad(features, return_tensors="pt", padding_side="left"),
                per_batch=False,  # a batch holds the rows of several clients
                novelty=self.abstain or (pipe.leaves_unknown and self.task is None),
                eos_token_id=ends,
                pad_token_id=tokenizer.pad_token_id,
                streamer=rows,
                stopping_criteria=StoppingCriteriaList([rows.ended]),
                **options,
            )


class Text:
    """An answer that grows by tokens.

    What a listener hears adds up to the final text: without the blanks around it, cut at the first stop text.

    Args:
        tokenizer: Of the base.
        ends (`list[int]`): Tokens that end it.
        stop (`tuple[str, ...]`): Texts before which it ends.
        listener (`Callable`, *optional*): Hears each piece.
    """

    def __init__(
        self, tokenizer: Any, ends: list[int], stop: tuple[str, ...], listener: Callable[[str], None] | None
    ) -> None:
        self.tokenizer, self.ends, self.stop, self.listener = tokenizer, ends, stop, listener
        self.tokens: list[int] = []
        self.ended = False
        self.heard = ""

    def add(self, token: int) -> None:
        """One more token; ignored after the end."""
        if self.ended:
            return
        if token in self.ends:
            self.ended = True
            return
        self.tokens.append(token)
        if self.listener is None and not self.stop:
            return
        text = self._decoded()
        cut = self._cut(text)
        self.ended = cut < len(text)
        self._tell(text[:cut] if self.ended else self._certain(text))

    def finish(self) -> str:
        """The whole text."""
        text = self._decoded()
        text = text[: self._cut(text)].strip()
        self._tell(text)
        return text

    def _decoded(self) -> str:
        return str(self.tokenizer.decode(self.tokens, skip_special_tokens=True))

    def _cut(self, text: str) -> int:
        """Where the first stop text begins, or the end."""
        return min((at for stop in self.stop if (at := text.find(stop)) >= 0), default=len(text))

    def _certain(self, text: str) -> str:
        """The beginning that no later token changes: no half character, nothing that may become a stop text."""
        text = text.rstrip(HALF)
        begun = (n for stop in self.stop for n in range(1, len(stop)) if text.endswith(stop[:n]))
        return text[: len(text) - max(begun, default=0)]

    def _tell(self, text: str) -> None:
        text = text.strip()
        if self.listener is not None and len(text) > len(self.heard) and text.startswith(self.heard):
            self.listener(text[len(self.heard) :])
            self.heard = text


class Rows(BaseStreamer):
    """Gives each row's tokens to its text, as `generate` finds them.

    Attributes:
        ended (`StoppingCriteria`): Ends a row when its text has ended or nobody listens.
    """

    def __init__(self, texts: Sequence[Text], prompts: Sequence[Prompt]) -> None:
        self.texts, self.prompts = texts, prompts
        self.ended = Ended(self)
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        if self._is_prompt:  # `generate` begins with the prompts
            self._is_prompt = False
            return
        for text, token in zip(self.texts, value.tolist(), strict=True):
            text.add(token)

    def end(self) -> None:
        """Nothing is left to do: `Text.finish` gives what was held back."""


class Ended(StoppingCriteria):
    """Which rows have ended."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        pairs = zip(self.rows.texts, self.rows.prompts, strict=True)
        ended = [text.ended or prompt.cancelled.is_set() for text, prompt in pairs]
        return torch.tensor(ended, device=input_ids.device)
