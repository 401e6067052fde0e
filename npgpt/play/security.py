"""The guard in front of the page: which requests are answered, and the headers of every answer.

A page of another site must neither read a number nor start a computation. Its requests come from
the same browser, with its cookies and from the same machine, so that an address proves nothing:

- Host must name this machine. DNS rebinding makes another site's name point here: then Origin
  equals Host, and only the name gives it away.
- Origin, if there is one, must be the page's own.
- A POST needs the token that is written into the page anew for each server.
- A body is JSON of at most 64 KiB, so that no form can send one.
"""

import hmac
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

MAX_BODY = 64 << 10  # bytes
HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
TOKEN_HEADER = b"x-npgpt-token"
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
    ),  # data: pictures that are drawn
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
ENCODED_HEADERS = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


class Refusal(NamedTuple):
    """The status and the line of an answer to a request that is refused."""

    status: int
    reason: str


class Guard:
    """An ASGI application that refuses requests before `app` sees them.

    `token`: what a POST must have in its header X-Npgpt-Token.
    """

    def __init__(self, app: App, token: str):
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a websocket, which no part of the page opens
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *ENCODED_HEADERS]
            await send(message)

        refusal = check(scope["method"], scope["headers"], self.token)
        if refusal is None and scope["method"] == "POST":
            body = await read_body(receive)
            if isinstance(body, Refusal):
                refusal = body
            else:
                receive = body_first(body, receive)
        if refusal is not None:
            await answer(refusal, send_guarded)
            return
        await self.app(scope, receive, send_guarded)


def check(method: str, headers: list[tuple[bytes, bytes]], token: bytes) -> Refusal | None:
    """Return the refusal of a request, or None if it may be answered."""
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name.lower(), []).append(value)

    def one(name: bytes) -> str | None:
        found = values.get(name, [])
        return found[0].decode("latin-1") if len(found) == 1 else None

    host = one(b"host")
    if host is None or not HOST.fullmatch(host):
        return Refusal(421, "the Host header must be localhost, 127.0.0.1 or [::1]")
    if values.get(b"origin") and (one(b"origin") or "").lower() != f"http://{host.lower()}":
        return Refusal(403, "a request from another origin is refused")
    if method in ("GET", "HEAD"):
        return None
    if method != "POST":
        return Refusal(405, f"the method {method} is not supported")
    if one(b"sec-fetch-site") not in (None, "same-origin"):
        return Refusal(403, "a request from another site is refused")
    if not hmac.compare_digest((one(TOKEN_HEADER) or "").encode("latin-1"), token):
        return Refusal(403, "the token is missing or that of another server: reload the page")
    if (one(b"content-type") or "").partition(";")[0].strip().lower() != "application/json":
        return Refusal(415, "a request must have the type application/json")
    length = one(b"content-length")
    if length is not None and not (length.isascii() and length.isdigit()):
        return Refusal(400, "the Content-Length must be a number")
    if length is not None and int(length[:20]) > MAX_BODY:
        return Refusal(413, f"a request must have at most {MAX_BODY} bytes")
    return None


async def read_body(receive: Receive) -> bytes | Refusal:
    """Return the body, or its refusal if it is too large: its length may not be declared."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return Refusal(400, "the request has ended early")
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return Refusal(413, f"a request must have at most {MAX_BODY} bytes")
        if not message.get("more_body"):
            return body


def body_first(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, and then what follows it."""
    unread: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    return receive_again


async def answer(refusal: Refusal, send: Send) -> None:
    """Send a refusal as one line of text."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{refusal.reason}\n".encode()})
