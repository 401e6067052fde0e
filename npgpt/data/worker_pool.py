"""Spawned processes that encode blocks: tiktoken's threads wait for each other.

Each worker has a pipe of its own, so that it ends when this process ends in any way.
"""

import multiprocessing
import queue
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from npgpt.data.documents import Block
from npgpt.data.pieces import write_piece
from npgpt.data.text_encoder import TextEncoder
from npgpt.data.tokenizer import tokenizer
from npgpt.errors import InputError, RunError
from npgpt.weights.tokenizer_files import TokenizerName

AHEAD = 2  # tasks of a worker: one that it encodes, and the next one
KINDS: dict[str, Any] = {"InputError": InputError, "RunError": RunError, "MemoryError": MemoryError}


class Task(NamedTuple):
    """A block, its hash, and the file for its tokens."""

    path: Path
    block: Block
    digest: str


def run_tasks(
    tasks: Iterable[Task], name: TokenizerName, dtype: str, workers: int
) -> Iterator[Task]:
    """Encode blocks and write their pieces; yield each task that is done, in any order.

    At most AHEAD blocks per worker and one more are in memory. With one worker, no process is
    started.
    """
    if workers == 1:
        encoder = TextEncoder(tokenizer(name))
        for task in tasks:
            write_piece(task.path, task.block, task.digest, encoder, dtype)
            yield task
        return
    context = multiprocessing.get_context("spawn")
    tasks_of = dict[Connection, deque[Task]]()  # that each worker has not answered, in order
    processes = dict[Connection, Any]()
    try:
        for task in tasks:
            if len(processes) < workers and all(tasks_of.values()):  # started when there is work
                connection, other = context.Pipe()
                process = context.Process(target=work, args=(other, name, dtype), daemon=True)
                process.start()
                other.close()
                processes[connection], tasks_of[connection] = process, deque()
            while all(len(waiting) >= AHEAD for waiting in tasks_of.values()):
                yield from finish(tasks_of, processes)
            connection = min(tasks_of, key=lambda one: len(tasks_of[one]))
            tasks_of[connection].append(task)
            send(connection, task, processes)
        while any(tasks_of.values()):
            yield from finish(tasks_of, processes)
    finally:
        for connection in processes:
            connection.close()
        for process in processes.values():
            process.join(1)
            if process.is_alive():  # in the middle of a block
                process.terminate()
                process.join()


def finish(
    tasks_of: dict[Connection, deque[Task]], processes: dict[Connection, Any]
) -> Iterator[Task]:
    """Wait for workers, and yield what they have done. Raise the error of one that has failed."""
    for found in wait([connection for connection, waiting in tasks_of.items() if waiting]):
        connection: Any = found
        try:
            error = connection.recv()
        except (EOFError, OSError):
            raise ended(processes[connection]) from None
        if error is not None:
            kind, text = error
            raise KINDS[kind](text)
        yield tasks_of[connection].popleft()


def send(connection: Connection, task: Task, processes: dict[Connection, Any]) -> None:
    """Send a task to a worker."""
    try:
        connection.send(task)
    except OSError:
        raise ended(processes[connection]) from None


def ended(process: Any) -> RunError:
    """Return the error for a worker that was killed."""
    process.join()
    return RunError(
        f"a worker process ended with exit code {process.exitcode}: run the same command again, "
        "with fewer --workers if memory is short"
    )


def work(connection: Connection, name: TokenizerName, dtype: str) -> None:
    """Encode blocks until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process ends this one
    received = queue.Queue[Task | None](1)
    threading.Thread(target=receive, args=(connection, received), daemon=True).start()
    encoder = None
    while (task := received.get()) is not None:
        error = None
        try:
            if encoder is None:
                encoder = TextEncoder(tokenizer(name))
            write_piece(task.path, task.block, task.digest, encoder, dtype)
        except tuple(KINDS.values()) as found:
            kind = next(kind for kind, cls in KINDS.items() if isinstance(found, cls))
            error = kind, str(found)
        try:
            connection.send(error)
        except OSError:
            return


def receive(connection: Connection, received: "queue.Queue[Task | None]") -> None:
    """Receive tasks while another one is encoded, so that the worker never waits for one."""
    try:
        while True:
            received.put(connection.recv())
    except (EOFError, OSError):
        received.put(None)
