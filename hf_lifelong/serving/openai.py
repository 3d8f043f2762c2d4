"""The forms of OpenAI's API: from a request to prompts, from answers to a response or a stream of events."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .jobs import Served
from .limits import INVALID, Limits, RequestError
from .writing import COLDEST, Write, Written

# Fields that change nothing here, and fields that are refused unless they have a value that changes nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "audio": (),
}
_SEEDED = itertools.count(1)


@dataclass(frozen=True)
class Completion:
    """A request for texts.

    Args:
        model (`str`): As the client named it.
        prompts (`list[str]`): One prompt of a chat, one or more of a completion.
        job ([`Write`]): How they are answered.
        chat (`bool`): Whether it is a chat.
        stream (`bool`): Whether the answer comes piece by piece.
        usage (`bool`): Whether a stream ends with the numbers of tokens.
    """

    model: str
    prompts: list[str]
    job: Write
    chat: bool
    stream: bool
    usage: bool


def read_completion(body: Any, chat: bool, served: Served, limits: Limits) -> Completion:
    """Reads the body of `/v1/chat/completions` or `/v1/completions`.

    Raises:
        RequestError: for a field that is missing, wrong, too large, or asks for what is not supported; names it.
    """
    if not isinstance(body, Mapping):
        raise RequestError(INVALID, "The body is no JSON object.")
    served.check_writes()
    task = task_of(_get(body, "model", str, required=True), served)
    for name, values in NEUTRAL.items():
        if body.get(name) is not None and body[name] not in values:
            raise RequestError(INVALID, f"`{name}` is not supported; leave it out.")
    prompts = [_conversation(body)] if chat else _prompts(body)
    limits.check_rows(len(prompts))
    for i, prompt in enumerate(prompts):
        limits.check_text(prompt, f"Prompt {i}" if len(prompts) > 1 else "The prompt")
        if not prompt.strip():
            raise RequestError(INVALID, "A prompt is empty; there is nothing to answer.")
    options = _get(body, "stream_options", dict) or {}
    return Completion(
        model=body["model"],
        prompts=prompts,
        job=_job(body, task, limits),
        chat=chat,
        stream=bool(_get(body, "stream", bool)),
        usage=bool(options.get("include_usage")),
    )


def task_of(model: str, served: Served) -> str | None:
    """The task that `model` names: `None` for the adapter's name, which leaves the choice to the adapter.

    Raises:
        RequestError: when it is neither the adapter's name nor `adapter:task`.
    """
    if model == served.name:
        return None
    task = model.removeprefix(f"{served.name}:")
    if task == model or task not in served.knowledge.names:
        raise RequestError(404, f"There is no model {model!r:.100}; `/v1/models` lists those that there are.")
    return task


def models(served: Served, since: int) -> dict[str, Any]:
    """The response of `/v1/models`: the adapter, which chooses the task, then each of its tasks."""
    names = [served.name, *(f"{served.name}:{task}" for task in served.tasks)]
    return {
        "object": "list",
        "data": [{"id": name, "object": "model", "created": since, "owned_by": "hf_lifelong"} for name in names],
    }


class Response:
    """The response to a request, with its id and its time.

    Args:
        request ([`Completion`]): The request.
    """

    def __init__(self, request: Completion) -> None:
        self.request = request
        self.id = f"{'chatcmpl' if request.chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def whole(self, answers: Sequence[Written]) -> dict[str, Any]:
        """The response at once."""
        chat, choices = self.request.chat, []
        for i, answer in enumerate(answers):
            text = {"message": {"role": "assistant", "content": answer.text}} if chat else {"text": answer.text}
            choices.append({"index": i, **text, **_end(answer)})
        kind = "chat.completion" if chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": usage_of(answers)}

    def piece(self, index: int, text: str, first: bool = False) -> str:
        """An event with a piece of the answer to a prompt."""
        if not self.request.chat:
            return self._event([{"index": index, "text": text, "logprobs": None, "finish_reason": None}])
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return self._event([{"index": index, "delta": delta, "logprobs": None, "finish_reason": None}])

    def last(self, index: int, answer: Written) -> str:
        """The event that ends the answer to a prompt."""
        text: dict[str, Any] = {"delta": {}} if self.request.chat else {"text": ""}
        return self._event([{"index": index, **text, **_end(answer)}])

    def end(self, answers: Sequence[Written]) -> str:
        """What ends the stream."""
        usage = self._event([], usage=usage_of(answers)) if self.request.usage else ""
        return f"{usage}data: [DONE]\n\n"

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.request.model}

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        kind = "chat.completion.chunk" if self.request.chat else "text_completion"
        return event({**self._head(kind), "choices": choices, **more})


def event(data: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False, allow_nan=False)}\n\n"


def error_of(status: int, message: str) -> dict[str, Any]:
    """The body of a response that is an error."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


def usage_of(answers: Sequence[Written]) -> dict[str, int]:
    """The numbers of tokens of some answers."""
    read, written = sum(answer.prompt_tokens for answer in answers), sum(answer.tokens for answer in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _end(answer: Written) -> dict[str, Any]:
    found = {"task": answer.task, "margin": answer.margin}
    if answer.novelty is not None:
        found["novelty"] = answer.novelty
    return {"logprobs": None, "finish_reason": "stop" if answer.ended else "length", **found}


def _job(body: Mapping[str, Any], task: str | None, limits: Limits) -> Write:
    tokens = _number(body, "max_completion_tokens", 1, limits.new_tokens, whole=True)
    if tokens is None:
        tokens = _number(body, "max_tokens", 1, limits.new_tokens, whole=True)
    temperature, top_p = _number(body, "temperature", 0, 2) or 0.0, _number(body, "top_p", 0, 1)
    seed = _number(body, "seed", -(2**63), 2**63 - 1, whole=True)
    stop = body.get("stop") or []
    stop = [stop] if isinstance(stop, str) else stop
    if not isinstance(stop, list) or len(stop) > 16 or not all(isinstance(s, str) and 0 < len(s) < 1000 for s in stop):
        raise RequestError(INVALID, "`stop` must be a text, or a list of at most 16 texts.")
    seeded = seed is not None and temperature >= COLDEST
    return Write(
        task=task,
        abstain=bool(_get(body, "abstain", bool)),
        new_tokens=None if tokens is None else int(tokens),
        temperature=float(temperature),
        top_p=1.0 if top_p is None else float(top_p),
        seed=int(seed) if seeded else None,  # type: ignore[arg-type]
        stop=tuple(stop),
        alone=next(_SEEDED) if seeded else 0,
    )


def _prompts(body: Mapping[str, Any]) -> list[str]:
    given = body.get("prompt")
    prompts: list[Any] = given if isinstance(given, list) else [given]
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise RequestError(INVALID, "`prompt` must be a text or a list of texts; tokens are not taken.")
    return prompts


def _conversation(body: Mapping[str, Any]) -> str:
    """The prompt of a chat. Tasks are learned as a prompt and its answer, so a chat is one turn of the user, which
    system messages come before."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(isinstance(m, Mapping) for m in messages):
        raise RequestError(INVALID, "`messages` must be a list with at least one message.")
    texts = []
    for i, message in enumerate(messages):
        if message.get("role") not in ("system", "developer", "user"):
            raise RequestError(
                INVALID,
                f"messages[{i}] has the role {message.get('role')!r:.40}; tasks are learned as one turn, so send "
                "messages of `system` and `user` only.",
            )
        texts.append(_content(message.get("content"), i))
    return "\n\n".join(texts)


def _content(content: Any, i: int) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [None]
    texts: list[Any] = [
        part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in parts
    ]
    if not all(isinstance(text, str) for text in texts):
        raise RequestError(INVALID, f"The content of messages[{i}] must be a text, or a list of parts with texts.")
    return "".join(texts)


def _get(body: Mapping[str, Any], name: str, kind: type, required: bool = False) -> Any:
    value = body.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, kind):
        words = {str: "a text", bool: "true or false", dict: "an object"}[kind]
        raise RequestError(INVALID, f"`{name}` is {value!r:.60}; give {words}.")
    return value


def _number(body: Mapping[str, Any], name: str, least: float, most: float, whole: bool = False) -> float | None:
    value = body.get(name)
    if value is None:
        return None
    kinds = int if whole else (int, float)
    if not isinstance(value, kinds) or isinstance(value, bool) or not least <= value <= most:
        raise RequestError(
            INVALID, f"`{name}` is {value!r:.60}; give {'an integer' if whole else 'a number'} from {least} to {most}."
        )
    return value
