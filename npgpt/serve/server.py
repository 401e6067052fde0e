"""The HTTP server: addresses, limits, and the end of a request whose client has left."""

import asyncio
import functools
import hmac
import re
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol

from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError, show
from npgpt.gpt import GPT
from npgpt.inference.speculation import Speculation
from npgpt.serve.engine import Choice, Engine, Piece
from npgpt.serve.request import CompletionRequest, UnknownModel, parse
from npgpt.serve.response import LAST_EVENT, error_object, event
from npgpt.serve.response import Response as Completion

MAX_BODY = 1 << 20  # bytes
MAX_WAITING = 1024  # choices
RECEIVE_TIME = 30.0  # seconds for a body
SEND_TIME = 60.0  # seconds for a client to read what it was sent
END_TIME = 2.0  # seconds for clients to read the end of their texts, when the server ends
LOOPBACK = "127.0.0.1", "localhost", "::1"
LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, code: str | None = None):
        self.status, self.message, self.code = status, message, code

    def response(self) -> JSONResponse:
        """Return the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return JSONResponse(error_object(self.message, kind, self.code), self.status)


class Service:
    """The completions of one model for any number of clients.

    `key`: what clients must send as a bearer token, if it is not None. `local_only`: refuse a Host
    that is not this machine, which another site's page would send after DNS rebinding.
    """

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, name: str, *, size: int, key: str | None = None,
        local_only: bool = True, send_time: float = SEND_TIME,
        speculate: Speculation | None = None, cache_dtype: str | None = None,
    ):  # fmt: skip
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.key, self.local_only, self.send_time = key, local_only, send_time
        self.engine = Engine(model, tokenizer, size, speculate, cache_dtype)

    def app(self) -> Starlette:
        """Return the ASGI application."""
        return Starlette(
            routes=[
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/v1/models", self.models, methods=["GET"]),
                Route("/v1/models/{name:path}", self.models, methods=["GET"]),
            ],
            exception_handlers={Refusal: refuse, HTTPException: refuse_address},  # type: ignore[dict-item]
        )

    async def models(self, request: Request) -> Response:
        """Answer GET /v1/models and /v1/models/NAME."""
        self.check(request)
        one = {"id": self.name, "object": "model", "created": 0, "owned_by": "npgpt"}
        if "name" not in request.path_params:
            return JSONResponse({"object": "list", "data": [one]})
        if request.path_params["name"] != self.name:
            raise Refusal(404, f"the only model is {self.name!r}", "model_not_found")
        return JSONResponse(one)

    async def complete(self, request: Request) -> Any:
        """Answer POST /v1/completions."""
        self.check(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # what a page of another site cannot send unasked
            raise Refusal(415, "the request must have the type application/json")
        body = await read_body(request)
        try:
            found = await asyncio.to_thread(parse, body, self.name, self.model, self.tokenizer)
        except UnknownModel as error:
            raise Refusal(404, str(error), "model_not_found") from None
        except InputError as error:
            raise Refusal(400, str(error)) from None
        if self.engine.load >= MAX_WAITING:
            raise Refusal(429, "too many requests are waiting: try again later")
        return Answer(self, found)

    def check(self, request: Request) -> None:
        """Raise Refusal for a request to another host, or without the key."""
        if self.local_only and not LOCAL_HOST.fullmatch(request.headers.get("host", "")):
            raise Refusal(421, "the Host header must be localhost, 127.0.0.1 or [::1]")
        if self.key is not None:
            given = request.headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(given, f"Bearer {self.key}".encode()):
                raise Refusal(401, "the API key is missing or wrong", "invalid_api_key")


async def refuse(request: Request, error: Refusal) -> Response:
    """Answer a request that is refused."""
    return error.response()


async def refuse_address(request: Request, error: HTTPException) -> Response:
    """Answer a request to an address that does not exist, or with another method."""
    return Refusal(
        error.status_code, f"{request.method} {request.url.path}: {error.detail}"
    ).response()


async def read_body(request: Request) -> bytes:
    """Return the body. Raise Refusal if it is too large or too slow."""
    body = bytearray()
    try:
        async with asyncio.timeout(RECEIVE_TIME):
            async for part in request.stream():
                body += part
                if len(body) > MAX_BODY:
                    raise Refusal(413, f"a request must have at most {MAX_BODY:,} bytes")
    except TimeoutError:
        raise Refusal(408, f"the request has not arrived within {RECEIVE_TIME:g} s") from None
    except ClientDisconnect:
        raise Refusal(400, "the request has ended early") from None
    return bytes(body)


class Answer:
    """An ASGI response that waits for the pieces, and ends them if the client leaves."""

    def __init__(self, service: Service, request: CompletionRequest):
        self.service, self.request = service, request
        self.pieces = asyncio.Queue[Piece]()
        loop = asyncio.get_running_loop()

        def deliver(piece: Piece) -> None:  # in the engine's thread
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self.pieces.put_nowait, piece)

        prompts = [prompt for prompt in request.prompts for _ in range(request.n)]
        self.choices = [
            Choice(index, prompt, request, service.tokenizer, deliver)
            for index, prompt in enumerate(prompts)
        ]
        self.completion = Completion(service.name, service.tokenizer, self.choices)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        respond = self.stream if self.request.stream else self.whole
        answering = asyncio.ensure_future(respond(scope, receive, send))
        leaving = asyncio.ensure_future(disconnected(receive))
        self.service.engine.submit(self.choices)
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                with suppress(OSError):  # the client has left
                    await answering
        finally:
            self.service.engine.cancel(self.choices)
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def all_pieces(self) -> AsyncIterator[Piece]:
        """Yield the pieces of all choices, as they come."""
        left = len(self.choices)
        while left:
            piece = await self.pieces.get()
            yield piece
            if piece.error is not None:
                return
            left -= piece.finish_reason is not None

    async def whole(self, scope: Any, receive: Any, send: Any) -> None:
        """Send one JSON object."""
        pieces = [piece async for piece in self.all_pieces()]
        if (error := pieces[-1].error) is not None:
            response: Response = Refusal(500, error).response()
        else:
            response = JSONResponse(self.completion.whole(pieces))
        await response(scope, receive, send)

    async def stream(self, scope: Any, receive: Any, send: Any) -> None:
        """Send a server-sent event for each piece."""
        headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        async def send_part(part: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": part, "more_body": more})
            await asyncio.sleep(0)  # to see that the client has left: asyncio warns of writes

        async for piece in self.all_pieces():
            if piece.error is not None:
                await send_part(event(error_object(piece.error, "server_error")), more=False)
                return
            if piece.text or piece.tokens or piece.finish_reason:
                await send_part(self.completion.chunk(piece))
        if self.request.include_usage:
            await send_part(self.completion.usage_chunk())
        await send_part(LAST_EVENT, more=False)


async def disconnected(receive: Any) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raise InputError if the address is not free or not valid."""
    if not 0 <= port <= 65535:
        raise InputError(f"port is {port}, but must be from 0 (any that is free) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen(128)
    except (OSError, UnicodeError) as error:
        found.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"cannot listen on {show(host)}, port {port}: {reason}; choose another --host or --port"
        ) from None
    return found


class Protocol(H11Protocol):
    """A connection, which is cut if its client does not read what it was sent in time.

    Its request ends then as that of a client that has left.
    """

    def __init__(self, send_time: float, **options: Any):
        super().__init__(**options)
        self.send_time = send_time
        self.cut: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Wait for the client, whose buffer is full."""
        super().pause_writing()
        self.cut = self.loop.call_later(self.send_time, self.transport.abort)

    def resume_writing(self) -> None:
        """Cancel the end of the connection: the client has read."""
        super().resume_writing()
        if self.cut is not None:  # uvicorn resumes at the end of every connection
            self.cut.cancel()


class Server(uvicorn.Server):
    """uvicorn's server, which ends all texts before it waits for its clients."""

    def __init__(self, service: Service):
        self.service = service
        protocol: Any = functools.partial(Protocol, service.send_time)
        config = uvicorn.Config(
            service.app(), log_level="warning", access_log=False, http=protocol, ws="none",
            lifespan="off", server_header=False, backlog=128,
        )  # fmt: skip
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End all texts. Cut the connections of clients that do not read the end in time."""
        await asyncio.to_thread(self.service.engine.close)
        cut = asyncio.get_running_loop().call_later(END_TIME, self.abort)
        await super().shutdown(sockets)
        cut.cancel()

    def abort(self) -> None:
        """Cut all connections."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def serve(service: Service, listening: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    try:
        Server(service).run(sockets=[listening])
    finally:
        service.engine.close()
