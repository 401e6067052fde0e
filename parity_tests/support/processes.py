"""Other processes, which end with the test that started them, be it by an assertion."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LONG = 300  # seconds: for a first compilation on a busy machine; no test asserts on time


@contextmanager
def started(*arguments, **options) -> Iterator[subprocess.Popen]:
    """`python arguments ...`, with its output in pipes; killed at the end if it still runs."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, *arguments], **pipes | options) as process:
        try:
            yield process
        finally:
            process.kill()
