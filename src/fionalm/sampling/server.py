"""The OpenAI-compatible server: /v1/models, /v1/completions and /v1/chat/completions over one engine (extra: serve).

    app = build_app(EngineSampler(model, tokenizer), "my-model")
    run_app(app, socket.create_server(("127.0.0.1", 8000)))

`serving_requests` reads requests, `serving_loop` draws for all of them together, `serving_replies` writes answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from fionalm.errors import UserError, require
from fionalm.sampling.engine import EngineSampler
from fionalm.sampling.serving_loop import Draw, ServingLoop
from fionalm.sampling.serving_replies import Reply, ready_text
from fionalm.sampling.serving_requests import ApiError, Request, read_request

if TYPE_CHECKING:
    from starlette.applications import Starlette

LARGEST_BODY = 16 * 2**20


def build_app(sampler: EngineSampler, name: str, *, api_key: str | None = None) -> Starlette:
    """Return the ASGI application; its lifespan starts and stops the engine's loop, `app.state.loop`.

    Args:
        sampler: what completes.
        name: the model's name for clients.
        api_key: what clients must send as a bearer token. None: nothing.

    Raises:
        UserError: the extra `serve` is missing.
    """
    require("starlette", "serve")
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.routing import Route

    server = _Server(sampler, name, api_key)
    routes = [
        Route("/v1/models", server.models),
        Route("/v1/models/{name:path}", server.models),
        Route("/v1/completions", partial(server.complete, False), methods=["POST"]),
        Route("/v1/chat/completions", partial(server.complete, True), methods=["POST"]),
        Route("/health", server.health),
    ]
    handlers: Any = {ApiError: server.refuse, HTTPException: server.refuse, Exception: server.refuse}
    return Starlette(routes=routes, lifespan=server.lifespan, exception_handlers=handlers)


def run_app(app: Starlette, place: socket.socket) -> None:
    """Serve an application of `build_app` at a listening socket until Ctrl-C or SIGTERM; what is under way is given up.

    Raises:
        UserError: the extra `serve` is missing.
    """
    uvicorn = require("uvicorn", "serve")

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            # Else every open answer would be waited for.
            await asyncio.to_thread(app.state.loop.close)
            await super().shutdown(sockets)

    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)
    with contextlib.suppress(KeyboardInterrupt):
        Server(config).run(sockets=[place])


class _Server:
    def __init__(self, sampler: EngineSampler, name: str, api_key: str | None) -> None:
        self.sampler, self.name, self.api_key = sampler, name, api_key
        self.created = int(time.time())
        config: Any = sampler.model.config
        self.vocabulary = int((config.get_text_config() if hasattr(config, "get_text_config") else config).vocab_size)
        self.loop: ServingLoop | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        self.loop = app.state.loop = ServingLoop(self.sampler)
        try:
            yield
        finally:
            await asyncio.to_thread(self.loop.close)

    async def health(self, _request: Any) -> Any:
        from starlette.responses import JSONResponse

        return JSONResponse({"status": "ok"})

    async def models(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        self._authorize(request)
        model = {"id": self.name, "object": "model", "created": self.created, "owned_by": "fiona"}
        asked = request.path_params.get("name")
        if asked is None:
            return JSONResponse({"object": "list", "data": [model]})
        self._check_model(asked)
        return JSONResponse(model)

    async def complete(self, chat: bool, request: Any) -> Any:
        from starlette.responses import JSONResponse, StreamingResponse

        self._authorize(request)
        body = await _json(request)
        self._check_model(body.get("model"))
        assert self.loop is not None
        asked = read_request(
            body, self.sampler.tokenizer, chat=chat, context=self.sampler.context, vocabulary=self.vocabulary
        )
        if asked.stream and asked.echo:
            raise ApiError("echo with stream is not supported here", param="echo")
        echoed = await self._echo(asked)
        news = asyncio.Event()
        draws = self._submit(asked, news) if asked.draw else []
        reply = Reply(asked, draws, self.loop, self.name, echoed)
        if asked.stream:
            return StreamingResponse(self._stream(reply, news), media_type="text/event-stream")
        try:
            await _finished(request, reply.draws, news)
        finally:
            self.loop.cancel(reply.draws)
        if (error := next((draw.error for draw in reply.draws if draw.error), None)) is not None:
            raise ApiError(error, status=500)
        return JSONResponse(reply.whole())

    def refuse(self, _request: Any, error: Exception) -> Any:
        from starlette.responses import JSONResponse

        if not isinstance(error, ApiError):
            status = getattr(error, "status_code", 500)
            said = getattr(error, "detail", None) or f"{type(error).__name__}: {error}"
            error = ApiError(f"{said}: expected /v1/models, /v1/completions or /v1/chat/completions", status=status)
        return JSONResponse(error.body, error.status)

    def _submit(self, asked: Request, news: asyncio.Event) -> list[list[Draw]]:
        loop = asyncio.get_running_loop()

        def notify() -> None:
            with contextlib.suppress(RuntimeError):  # the client's loop may be gone at the end
                loop.call_soon_threadsafe(news.set)

        assert self.loop is not None
        draws: list[list[Draw]] = []
        try:
            for prompt, seeds in zip(asked.prompts, asked.seeds, strict=True):
                draws.append(self.loop.submit(prompt, asked.params, seeds, notify, top=asked.top))
        except UserError as error:
            self.loop.cancel([draw for row in draws for draw in row])
            raise ApiError(str(error), code="context_length_exceeded") from error
        return draws

    async def _echo(self, asked: Request) -> list[list[float | None]]:
        if not (asked.echo and asked.logprobs):
            return []
        assert self.loop is not None
        first, rest = [prompt[:1] for prompt in asked.prompts], [prompt[1:] for prompt in asked.prompts]
        try:
            scores = await asyncio.wrap_future(self.loop.call(lambda: self.sampler.score(first, rest)))
        except UserError as error:
            raise ApiError(str(error), code="context_length_exceeded") from error
        return [[None, *logps] for logps in scores]

    async def _stream(self, reply: Reply, news: asyncio.Event) -> AsyncIterator[str]:
        """Yield events as tokens come; a client that hangs up ends the generator, and so the drawing."""
        assert self.loop is not None
        told = [0] * len(reply.draws)
        sent = [""] * len(reply.draws)
        going = set(range(len(reply.draws)))
        try:
            while going:
                await news.wait()
                news.clear()
                for index in sorted(going):
                    draw = reply.draws[index]
                    ended, count = draw.ended, len(draw.steps)
                    if draw.error is not None:
                        yield _event(ApiError(draw.error, status=500).body)
                        return
                    text, stopped = self.loop.text(draw, count)
                    if not ended:
                        text = ready_text(text, draw.params.stop)
                    fresh = text[len(sent[index]) :] if text.startswith(sent[index]) else ""
                    if ended or (fresh and not stopped):
                        offset, first = len(sent[index]), not told[index]
                        choice = reply.delta(index, fresh, told[index], count, offset, first=first)
                        told[index], sent[index] = count, sent[index] + fresh
                        yield _event(reply.chunk([choice]))
                    if ended:
                        going.discard(index)
            if reply.request.include_usage:
                yield _event(reply.chunk([], usage=True))
            yield "data: [DONE]\n\n"
        finally:
            self.loop.cancel(reply.draws)

    def _authorize(self, request: Any) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.api_key is not None and not hmac.compare_digest(given.encode(), self.api_key.encode()):
            raise ApiError(
                "the key is missing or wrong: expected Authorization: Bearer KEY", status=401, code="invalid_api_key"
            )

    def _check_model(self, name: Any) -> None:
        if not isinstance(name, str):
            raise ApiError("model: expected the name of a model", param="model")
        if name != self.name:
            raise ApiError(
                f"there is no model {name!r} here: expected {self.name!r}",
                status=404,
                param="model",
                code="model_not_found",
            )


async def _json(request: Any) -> dict[str, Any]:
    # A page in a browser can send other types to any address without asking; JSON it cannot.
    if "json" not in request.headers.get("content-type", ""):
        raise ApiError("expected Content-Type: application/json", status=415)
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > LARGEST_BODY:
            raise ApiError(f"the request is larger than {LARGEST_BODY:,} bytes", status=413)
    try:
        body = json.loads(bytes(data))
    except ValueError as error:
        raise ApiError(f"the request is no JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiError("expected a JSON object")
    return body


async def _finished(request: Any, draws: Sequence[Draw], news: asyncio.Event) -> None:
    """Wait until all is drawn, or the client has hung up: then nobody reads the answer."""

    async def drawn() -> None:
        while not all(draw.ended for draw in draws):
            await news.wait()
            news.clear()

    async def hung_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waiting = [asyncio.create_task(drawn()), asyncio.create_task(hung_up())]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body)}\n\n"  # ASCII: some clients part lines at more than line feeds
