"""Run a learner's file in a process of its own: bounded in time, memory and output."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, NamedTuple

from npgpt.learn import runner

SECONDS = 10.0  # a check takes a fraction of one
GRACE = 2.0  # seconds for the process to end by itself, after its alarm
KEPT = 20_000  # bytes of output shown, at the beginning and at the end
FIRST, LAST = 20, 5  # lines of output shown
MAX_REPLY = 200 << 20  # bytes


class Outcome(NamedTuple):
    """The end of a run: the reply of the runner, or None, and everything that was printed.

    `ended` says how the process ended if there is no reply, else which limit it had.
    """

    reply: dict[str, Any] | None
    printed: str
    ended: str = ""


def run_file(path: Path, cases: list[dict[str, Any]], seconds: float = SECONDS) -> Outcome:
    """Run the functions of a file on these cases."""
    limit = f"Stopped after {seconds:g} s"
    with tempfile.TemporaryDirectory(prefix="npgpt-learn-") as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_text(json.dumps(runner.encode(cases)), "utf-8")
        command = [sys.executable, "-P", "-u", runner.__file__, request, answer, path]
        process = subprocess.Popen(
            [*map(str, command), str(seconds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
            start_new_session=True,
        )
        assert process.stdout
        output = Output(process.stdout)
        try:
            process.wait(seconds + GRACE)
        except subprocess.TimeoutExpired:
            end(process)
            return Outcome({"error": "time", "text": "", "answers": []}, output.end(), limit)
        except BaseException:
            end(process)
            raise
        printed = output.end()
        reply = read_reply(answer)
        return Outcome(reply, printed, limit if reply else how_it_ended(process.returncode))


def environment() -> dict[str, str]:
    """Return the environment of the process: one thread, text as UTF-8, no files written."""
    more = {"PYTHONIOENCODING": "utf-8:backslashreplace", "PYTHONDONTWRITEBYTECODE": "1"}
    threads = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return os.environ | more | dict.fromkeys(threads, "1")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    if sys.platform == "win32":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)  # it has a session of its own
    process.wait()


def read_reply(path: Path) -> dict[str, Any] | None:
    """Return the reply of the runner, or None if it wrote none."""
    try:
        if path.stat().st_size > MAX_REPLY:
            return None
        reply = runner.decode(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return None
    return reply if isinstance(reply, dict) else None


def how_it_ended(status: int) -> str:
    """Return the end of a process that gave no answer, in words."""
    if status < 0:
        return f"Python was ended by signal {-status}"
    return f"Python ended with exit status {status} before your function returned"


class Output:
    """The beginning and the end of what a process prints, however much it is."""

    def __init__(self, stream: IO[bytes]):
        self.stream, self.first, self.last, self.size, self.lines = stream, b"", b"", 0, 0
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self) -> None:
        """Read until the end, and keep the first and the last bytes."""
        while chunk := os.read(self.stream.fileno(), 1 << 16):
            self.size += len(chunk)
            self.lines += chunk.count(b"\n")
            if len(self.first) < KEPT:
                self.first += chunk
            else:
                self.last = (self.last + chunk)[-KEPT:]

    def end(self) -> str:
        """Return the text, after the process has ended."""
        self.thread.join(1)
        if not self.thread.is_alive():
            self.stream.close()
        first, last = (part.decode("utf-8", "replace") for part in (self.first, self.last))
        hidden = self.size - len(self.first) - len(self.last)
        if self.lines > FIRST + LAST:
            begin, finish = first.splitlines()[:FIRST], (first + last).splitlines()[-LAST:]
            count = self.lines - len(begin) - len(finish)
            return "\n".join([*begin, f"... {count:,} lines are not shown ...", *finish])
        return first + (f"\n... {hidden:,} bytes are not shown ...\n" if hidden > 0 else "") + last
