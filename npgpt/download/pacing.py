"""Limits for servers that send too slowly.

Each read of a connection has a timeout, which a server that sends a byte a second never reaches.
The headers of an answer therefore have a time limit, and its body a minimum rate.
"""

import io
import socket
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from typing import Any

HEADER_TIME = 60  # seconds, from a request to the end of its answer's headers
MIN_RATE, WINDOW = 1000, 60  # bytes per second of waiting, in each window of these seconds

clock = time.monotonic


class PacedReader(io.RawIOBase):
    """The bytes that a server sends, unless they come too slowly."""

    def __init__(self, raw: io.RawIOBase):
        self.raw, self.in_headers = raw, True
        self.waited, self.received = 0.0, 0  # in this window

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read as `io.RawIOBase.readinto`. Raise TimeoutError if the server is too slow."""
        started = clock()
        count = self.raw.readinto(buffer)
        self.waited += clock() - started
        self.received += count or 0
        if self.in_headers:
            if self.waited > HEADER_TIME:
                raise TimeoutError(f"the headers took more than {HEADER_TIME} seconds")
        elif self.waited > WINDOW:
            if self.received < MIN_RATE * WINDOW:
                raise TimeoutError(f"{self.received:,} bytes in {self.waited:.0f} seconds")
            self.waited, self.received = 0.0, 0
        return count

    def start_body(self) -> None:
        """Require a minimum rate from here on, in place of the time limit of the headers."""
        self.in_headers, self.waited, self.received = False, 0.0, 0

    def close(self) -> None:
        """Close the connection's reader too."""
        self.raw.close()
        super().close()


class PacedResponse(HTTPResponse):
    """A response that raises TimeoutError if it comes too slowly."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any):
        super().__init__(sock, *args, **kwargs)
        self.paced = PacedReader(self.fp.detach())
        self.fp = io.BufferedReader(self.paced)

    def begin(self) -> None:
        """Read the headers."""
        super().begin()
        self.paced.start_body()


class PacedHTTPHandler(urllib.request.HTTPHandler):
    """Open http URLs with a PacedResponse."""

    def do_open(self, http_class: Any, req: Any, **args: Any) -> Any:
        """Open a URL as `http_class` does."""
        return super().do_open(paced(http_class), req, **args)


class PacedHTTPSHandler(urllib.request.HTTPSHandler):
    """Open https URLs with a PacedResponse."""

    def do_open(self, http_class: Any, req: Any, **args: Any) -> Any:
        """Open a URL as `http_class` does."""
        return super().do_open(paced(http_class), req, **args)


def paced(http_class: Callable[..., HTTPConnection]) -> Callable[..., HTTPConnection]:
    """Return a function that makes a connection whose responses are a PacedResponse."""

    def connect(*args: Any, **kwargs: Any) -> HTTPConnection:
        connection = http_class(*args, **kwargs)
        connection.response_class = PacedResponse
        return connection

    return connect
