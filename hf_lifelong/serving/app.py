"""The HTTP server: a thin shell of FastAPI around [`Engine`]."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from typing import Any

try:
    from fastapi import FastAPI, Request, Response
    from fastapi.responses import JSONResponse, StreamingResponse
    from fastapi.routing import APIRoute
    from pydantic import BaseModel, ConfigDict, Field, ValidationError
    from starlette.exceptions import HTTPException
    from starlette.middleware.trustedhost import TrustedHostMiddleware
except ImportError as error:
    raise ImportError('A server needs FastAPI: run `pip install "hf_lifelong[serve]"`.') from error

from .. import __version__
from ..utils.texts import one_line
from . import openai
from .engine import Engine
from .inputs import inputs_of
from .jobs import Answer, Job, Route
from .limits import INVALID, TOO_MANY, RequestError
from .metrics import Metrics
from .middleware import BodyLimit, Measured
from .writing import Prompt

logger = logging.getLogger(__name__)

METHODS, WRONG_METHOD = {"DELETE", "GET", "PATCH", "POST", "PUT"}, 405
FAILED = "The server failed; its log says why."
PATHS = (
    "/answer",
    "/classify",
    "/route",
    "/v1/models",
    "/v1/completions",
    "/v1/chat/completions",
    "/reload",
    "/health",
    "/metrics",
)


class Ask(BaseModel):
    """Body of `/answer`, `/classify` and `/route`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Any = Field(
        description='An input or a list of them: a text, {"text", "text_pair"}, {"question", "context"}, {"tokens"}, '
        '{"image"} with a file in base64, or the fields of a template or of your own kind.'
    )
    abstain: bool = Field(default=False, description="Answer `unknown` to inputs of no task that was learned.")
    task: str | None = Field(default=None, description="The task, if the adapter need not choose it.")


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": Ask.model_json_schema()},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def create_app(engine: Engine, hosts: Sequence[str] | None = None) -> FastAPI:
    """The application of a server.

    Args:
        engine ([`Engine`]): Answers. It is closed when the application ends.
        hosts (`list[str]`, *optional*): Names under which a client may reach the server; all by default. A server on
            this machine alone needs it, or a page from elsewhere could reach it under a name of its own.
    """
    metrics, since = Metrics(lambda: engine.batcher.waiting), int(time.time())
    engine.batcher.on_batch = metrics.batch_rows.observe

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(engine.close)

    # The pages of FastAPI that describe an API load their scripts from elsewhere.
    app = FastAPI(title="hf_lifelong", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    app.add_middleware(BodyLimit, limits=engine.limits)
    app.add_middleware(Measured, metrics=metrics, paths=PATHS)

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        headers = {"Retry-After": "1"} if error.status == TOO_MANY else None
        return JSONResponse(openai.error_of(error.status, one_line(error.message)), error.status, headers)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: HTTPException) -> JSONResponse:
        answer = openai.error_of(error.status_code, one_line(str(error.detail)))
        return JSONResponse(answer, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:  # the traceback goes into the log
        return JSONResponse(openai.error_of(500, FAILED), 500)

    async def ask(request: Request, job: Callable[[Ask], Job]) -> dict[str, Any]:
        body, served = await _asked(request), engine.served
        rows = inputs_of(body.inputs, served.knowledge.modality, engine.limits)
        return {"model": served.name, "answers": await _result(engine.submit(job(body), rows))}

    @app.post("/answer", openapi_extra=BODY)
    async def answer(request: Request) -> dict[str, Any]:
        """Answers inputs of any form: the task is found, and comes back with the answer."""
        return await ask(request, lambda body: Answer(body.abstain, body.task))

    @app.post("/classify", openapi_extra=BODY)
    async def classify(request: Request) -> dict[str, Any]:
        """As `/answer`, but only tasks with one label for each input answer."""
        return await ask(request, lambda body: Answer(body.abstain, body.task, labels=True))

    @app.post("/route", openapi_extra=BODY)
    async def route(request: Request) -> dict[str, Any]:
        """Says which group would answer, by the trunk alone, which is a part of the cost of an answer."""
        return await ask(request, _route)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The adapter, which chooses the task itself, and `adapter:task` for each task."""
        return openai.models(engine.served, since)

    async def complete(request: Request, chat: bool) -> Any:
        completion = openai.read_completion(_json(request, await request.body()), chat, engine.served, engine.limits)
        if completion.stream:
            return await _streamed(engine, completion)
        prompts = [Prompt(text) for text in completion.prompts]
        answers = await _result(engine.submit(completion.job, prompts))
        return openai.Response(completion).whole(answers)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Any:
        """OpenAI's completions, for language models."""
        return await complete(request, chat=False)

    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Any:
        """OpenAI's chat completions, for language models."""
        return await complete(request, chat=True)

    @app.post("/reload")
    async def reload() -> dict[str, Any]:
        """Loads the adapter again if it has changed."""
        try:
            changed = await asyncio.to_thread(engine.reload)
        except (OSError, ValueError) as error:
            logger.warning(f"The changed adapter was not loaded: {error}")
            message = "What is there now cannot be loaded, so the adapter from before answers; the log says why."
            raise RequestError(500, message) from error
        return {"reloaded": changed, "tasks": engine.served.knowledge.names}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it answers, and what it knows."""
        served = engine.served
        return {
            "status": "ok",
            "model": served.name,
            "tasks": served.knowledge.names,
            "waiting": engine.batcher.waiting,
        }

    @app.get("/metrics")
    async def counted() -> Response:
        """Counts in the text format of Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    _refuse_other_methods(app)
    return app


def _refuse_other_methods(app: FastAPI) -> None:
    """Answers every other method of a path with 405. Otherwise the page, which is mounted at `/`, would answer."""
    for route in [route for route in app.routes if isinstance(route, APIRoute)]:
        others = sorted(METHODS - (route.methods or set()))
        app.add_api_route(route.path, _refusing(route), methods=others, include_in_schema=False)


def _refusing(route: APIRoute) -> Callable[[], Any]:
    taken = ", ".join(sorted(route.methods or ()))

    async def refused() -> None:
        raise HTTPException(WRONG_METHOD, f"`{route.path}` takes {taken}.", {"Allow": taken})

    return refused


async def _asked(request: Request) -> Ask:
    body = await request.body()
    if request.headers.get("content-type", "").startswith("image/"):
        return Ask(inputs=[body])
    try:
        return Ask.model_validate(_json(request, body))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "The body"
        raise RequestError(INVALID, f"`{where}`: {first['msg']}.") from error


def _json(request: Request, body: bytes) -> Any:
    """The JSON of a body. Its type must be stated, because a page from elsewhere cannot state it unasked."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RequestError(INVALID, "Send JSON, with the header `Content-Type: application/json`.")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(INVALID, f"The body is no JSON ({error}).") from error


def _route(body: Ask) -> Route:
    if body.task is not None:
        raise RequestError(INVALID, "`/route` finds the task; leave `task` out.")
    return Route(body.abstain)


async def _result(future: Future[list[Any]]) -> list[Any]:
    try:
        return await asyncio.wrap_future(future)
    except ValueError as error:  # what the pipeline says of inputs
        raise RequestError(INVALID, str(error)) from error


async def _streamed(engine: Engine, completion: openai.Completion) -> StreamingResponse:
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[tuple[int, str] | None]()

    def tell(piece: tuple[int, str] | None) -> None:
        with suppress(RuntimeError):  # the loop is closed, so nobody listens
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

    prompts = [Prompt(text, lambda piece, i=i: tell((i, piece))) for i, text in enumerate(completion.prompts)]  # type: ignore[misc]
    result = engine.submit(completion.job, prompts)
    result.add_done_callback(lambda _: tell(None))
    first = await pieces.get()
    if first is None:  # errors that are known before the first word get a status of their own
        await _result(result)

    async def events() -> AsyncIterator[str]:
        response, piece, begun = openai.Response(completion), first, set[int]()
        try:
            while piece is not None:
                yield response.piece(*piece, first=piece[0] not in begun)
                begun.add(piece[0])
                piece = await pieces.get()
            try:
                answers = await _result(result)
            except RequestError as error:
                yield openai.event(openai.error_of(error.status, one_line(error.message)))
                return
            except Exception:
                logger.exception("A stream failed.")
                yield openai.event(openai.error_of(500, FAILED))
                return
            for i, answer in enumerate(answers):
                yield response.last(i, answer)
            yield response.end(answers)
        finally:
            result.cancel()
            for prompt in prompts:
                prompt.cancelled.set()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
