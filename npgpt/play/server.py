"""The server of `npgpt play`: addresses, the port, and the end."""

import contextlib
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from npgpt.errors import InputError
from npgpt.play import static_files
from npgpt.play.api import FUNCTIONS, IMMEDIATE
from npgpt.play.api.body import Body
from npgpt.play.computation import TO_END, Job, Reply, Runner
from npgpt.play.security import App, Guard
from npgpt.play.session import Prepare, Session

LOOPBACK = "127.0.0.1", "localhost", "::1"
PORTS = 20  # how many are tried


class Answer:
    """An ASGI response that computes, and streams the frames."""

    def __init__(self, runner: Runner, compute: Callable[[Job], Reply], *, watches: bool):
        self.runner, self.compute, self.watches = runner, compute, watches

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.runner.answer(self.compute, receive, send, watches=self.watches)


def make_app(session: Session, runner: Runner, token: str | None = None) -> App:
    """Return the ASGI application. `token`: by default a random one, as it must be."""
    token = secrets.token_urlsafe(24) if token is None else token
    files = static_files.read(token)

    async def serve_file(request: Request) -> Response:
        file = files.get(request.url.path)
        if file is None:
            return PlainTextResponse("not found\n", 404)
        return Response(file.content, media_type=file.media_type)

    async def call(request: Request) -> Any:
        name = request.path_params["name"]
        try:
            body = Body.parse(await request.body())
        except InputError as error:
            return PlainTextResponse(f"{error}\n", 400)
        if name == "model":
            return Answer(runner, session.wait, watches=True)
        if name not in FUNCTIONS:
            return PlainTextResponse("not found\n", 404)
        return Answer(
            runner, lambda job: FUNCTIONS[name](body, session, job), watches=name in IMMEDIATE
        )

    routes = [
        Route("/api/{name}", call, methods=["POST"]),
        Route("/{path:path}", serve_file, methods=["GET"]),
    ]
    return Guard(Starlette(routes=routes), token)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket on the first free port from `port` on.

    Raises InputError for a host that other machines can reach, and if no port is free.
    """
    if host not in LOOPBACK:
        raise InputError(
            f"host is {host!r}, but must be one of {', '.join(LOOPBACK)}: the page is for this "
            f"machine alone. From another one, forward the port: {forward(port)}"
        )
    if not 0 <= port <= 65535:
        raise InputError(f"port is {port}, but must be from 0 (any that is free) to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    last = min(port + PORTS, 65536) if port else 1
    reason: OSError | None = None
    for number in range(port, last):
        found = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # or a port is taken for a minute after a server has ended
                found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, number))
            found.listen(64)
            return found
        except OSError as error:
            found.close()
            reason = error
    raise InputError(
        f"no port from {port} to {last - 1} is free ({reason and reason.strerror}): "
        "choose another --port"
    )


def forward(port: int) -> str:
    """Return the command with which another machine reaches the page."""
    port = port or 8124
    return f"ssh -L {port}:127.0.0.1:{port} HOST, and open http://127.0.0.1:{port}/ there"


class Server(uvicorn.Server):
    """A server of the page, which cancels its computations when it is asked to end."""

    def __init__(self, prepare: Prepare):
        self.session, self.runner = Session(prepare), Runner()
        super().__init__(
            uvicorn.Config(
                make_app(self.session, self.runner),
                log_level="warning",
                log_config=None,  # its handlers would keep this moment's sys.stderr
                access_log=False,
                http="h11",
                ws="none",
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=2,
                limit_concurrency=100,
            )
        )

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Handle Ctrl-C and SIGTERM."""
        self.cancel()
        super().handle_exit(sig, frame)

    def cancel(self) -> None:
        """Cancel the computations, and the training of the model."""
        self.session.stopped.set()
        self.runner.cancel_all()

    def serve_on(self, listening: socket.socket, *, patience: float = TO_END) -> bool:
        """Load the model, and serve the page until the server is asked to end.

        Return True if all computations end within `patience` seconds.
        """
        self.runner.worker.submit(self.session.load)
        with contextlib.suppress(KeyboardInterrupt):  # raised again when the server has ended
            self.run(sockets=[listening])
        self.cancel()
        return self.runner.close(patience)
