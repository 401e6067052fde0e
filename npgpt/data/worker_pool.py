"""Spawned processes that encode blocks: tiktoken's threads wait for each other.

Each worker has a pipe of its own, so that it ends when this process ends in any way.
"""

import multiprocessing
import signal
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

    At most one block per worker and one more are in memory. With one worker, no process is started.
    """
    if workers == 1:
        encoder = TextEncoder(tokenizer(name))
        for task in tasks:
            write_piece(task.path, task.block, task.digest, encoder, dtype)
            yield task
        return
    context = multiprocessing.get_context("spawn")
    idle = list[Connection]()
    busy = dict[Connection, Task]()
    processes = dict[Connection, Any]()
    try:
        for task in tasks:
            if not idle and len(processes) < workers:  # started when there is work
                connection, other = context.Pipe()
                process = context.Process(target=work, args=(other, name, dtype), daemon=True)
                process.start()
                other.close()
                processes[connection] = process
                idle.append(connection)
            while not idle:
                yield from finish(busy, idle, processes)
            connection = idle.pop()
            busy[connection] = task
            send(connection, task, processes)
        while busy:
            yield from finish(busy, idle, processes)
    finally:
        for connection in processes:
            connection.close()
        for process in processes.values():
            process.join(1)
            if process.is_alive():  # in the middle of a block
                process.terminate()
                process.join()


def finish(
    busy: dict[Connection, Task], idle: list[Connection], processes: dict[Connection, Any]
) -> Iterator[Task]:
    """Wait for workers, and yield what they have done. Raise the error of one that has failed."""
    for found in wait(list(busy)):
        connection: Any = found
        try:
            error = connection.recv()
        except (EOFError, OSError):
            raise ended(processes[connection]) from None
        if error is not None:
            kind, text = error
            raise KINDS[kind](text)
        idle.append(connection)
        yield busy.pop(connection)


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
    encoder = None
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
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
