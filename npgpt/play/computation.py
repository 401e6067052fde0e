"""One computation at a time, in a thread; it is cancelled when its client leaves.

A view's function gets a `Job`, through which it reports and learns that it is no longer wanted.
Others wait for their turn: two at once would share the cores, and the model's gradients.
"""

import asyncio
import contextlib
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from npgpt.arrays import Array
from npgpt.errors import InputError, RunError, one_line
from npgpt.play import frames
from npgpt.play.security import Receive, Send
from npgpt.system import memory

MAX_UNSENT = 64  # frames: a view that is faster than its reader waits
INTERVAL = 0.05  # seconds between two reports of progress
WAITING = "Waiting for another computation, perhaps of another page"
TO_END = 5.0  # seconds: a training run saves its state


class Cancelled(Exception):
    """Raised inside a computation whose client has left."""


class Reply(NamedTuple):
    """The result of a view: JSON, and arrays by name."""

    data: dict[str, Any]
    arrays: dict[str, Array] = {}  # noqa: RUF012 (never written to)


class Job:
    """The side of a computation that runs in the thread.

    `put`: called with each frame, in the thread.
    """

    def __init__(self, put: Callable[[bytes], None]):
        self.put = put
        self.cancelled = threading.Event()
        self.unsent = threading.Semaphore(MAX_UNSENT)
        self.reported = 0.0

    def check(self) -> None:
        """Raise Cancelled if the result is no longer wanted. Call it between steps."""
        if self.cancelled.is_set():
            raise Cancelled

    def report(self, done: int, total: int, text: str = "") -> None:
        """Report progress, and check. At most one report in 50 ms is sent."""
        self.check()
        now = time.monotonic()
        if now - self.reported >= INTERVAL:
            self.reported = now
            self.send("progress", {"done": done, "total": total, "text": text})

    def emit(self, data: dict[str, Any], arrays: dict[str, Array] | None = None) -> None:
        """Send a part of the result: an event, which the page draws before the next one comes."""
        self.send("event", data, arrays)

    def send(self, kind: str, data: dict[str, Any], arrays: dict[str, Array] | None = None) -> None:
        """Send a frame. Wait while too many are unsent; raise Cancelled if the client leaves."""
        frame = frames.encode(kind, data, arrays)
        while not self.unsent.acquire(timeout=0.1):
            self.check()
        self.put(frame)


class Worker:
    """A thread that calls functions, one after the other.

    It is a daemon: a function that cannot be cancelled, as the compilation of a kernel, does not
    keep the process.
    """

    def __init__(self) -> None:
        self.functions = queue.SimpleQueue[Callable[[], object] | None]()
        self.thread = threading.Thread(target=self.run, daemon=True, name="npgpt-play")
        self.thread.start()

    def submit(self, function: Callable[[], object]) -> None:
        """Call the function when its turn has come."""
        self.functions.put(function)

    def run(self) -> None:
        """Call the functions until the worker is closed."""
        while (function := self.functions.get()) is not None:
            function()

    def close(self, timeout: float) -> bool:
        """Wait for all functions, at most `timeout` seconds. Return True if they have ended."""
        self.functions.put(None)
        self.thread.join(timeout)
        return not self.thread.is_alive()


class Runner:
    """The worker that computes, and the jobs that it has yet to finish."""

    def __init__(self) -> None:
        self.worker = Worker()
        self.jobs: set[Job] = set()

    async def answer(
        self,
        compute: Callable[[Job], Reply],
        receive: Receive,
        send: Send,
        *,
        watches: bool = False,
    ) -> None:
        """Compute, and send the frames of the answer. Cancel when the client leaves.

        `watches`: it computes nothing, and need not wait for its turn.
        """
        loop, unsent = asyncio.get_running_loop(), asyncio.Queue[bytes | None]()
        job = Job(lambda frame: tell(loop, unsent, frame))
        waits = bool(self.jobs) and not watches
        self.jobs.add(job)
        headers = [(b"content-type", b"application/octet-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

        def run() -> None:
            try:
                if waits:
                    job.send("progress", {"done": 0, "total": 0, "text": "Computing"})
                run_job(compute, job)
            finally:
                tell(loop, unsent, None)

        if waits:
            job.send("progress", {"done": 0, "total": 0, "text": WAITING})
        if watches:
            threading.Thread(target=run, daemon=True).start()
        else:
            self.worker.submit(run)
        pump = asyncio.ensure_future(self.pump(job, unsent, send))
        left = asyncio.ensure_future(wait_for_end(receive))
        try:
            await asyncio.wait({pump, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            job.cancelled.set()  # without effect if it is finished
            self.jobs.discard(job)
            left.cancel()
            if not pump.done():
                pump.cancel()
            with contextlib.suppress(OSError, asyncio.CancelledError):  # the client has left
                await pump

    async def pump(self, job: Job, unsent: "asyncio.Queue[bytes | None]", send: Send) -> None:
        """Send the frames until the computation ends."""
        while (frame := await unsent.get()) is not None:
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            job.unsent.release()
        await send({"type": "http.response.body", "body": b""})

    def cancel_all(self) -> None:
        """Cancel every computation: the server ends."""
        for job in list(self.jobs):
            job.cancelled.set()

    def close(self, timeout: float = TO_END) -> bool:
        """Cancel everything. Return True if all has ended within `timeout` seconds."""
        self.cancel_all()
        return self.worker.close(timeout)


def tell(loop: asyncio.AbstractEventLoop, unsent: asyncio.Queue, frame: bytes | None) -> None:
    """Put a frame into the queue of the event loop, from the thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(unsent.put_nowait, frame)


def run_job(compute: Callable[[Job], Reply], job: Job) -> None:
    """Compute, and send the result or the error."""
    with contextlib.suppress(Cancelled):
        try:
            job.check()
            reply = compute(job)
            job.send("result", reply.data, reply.arrays)
        except Cancelled:
            raise
        except BaseException as error:  # a panic of the tokenizer's Rust code is no Exception
            job.send("error", {"message": describe(error)})


def describe(error: BaseException) -> str:
    """Return the line for an error. One that is not expected is printed in the terminal."""
    cause = memory.find_cause(error)
    if memory.is_shortage(cause):
        return memory.describe(cause)
    if isinstance(cause, InputError | RunError):
        return " ".join(str(cause).split())
    traceback.print_exception(error, file=sys.stderr)
    return f"npgpt has failed ({type(error).__name__}: {one_line(error)}); see the terminal"


async def wait_for_end(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
