"""A library that is slow to import, in a process of its own that is started once.

Its script defines functions, and ends with `answer(save, load)`. It then runs the jobs that
`LibraryProcess.ask` sends, [name of a function, its arguments ...], until its standard input is
closed.
"""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress


class LibraryProcess:
    """The process that runs a script.

    Parameters
    ----------
    script : str
        The path of the Python file.
    environment : dict
        Environment variables beside those of this process.
    """

    def __init__(self, script: str, environment: dict):
        self.script, self.environment, self.process = script, environment, None

    def ask(self, jobs: list[list], python: str = sys.executable) -> None:
        """Run jobs, one after the other. The first that fails ends them, and is raised here."""
        if self.process is None:
            self.start(python)
        with suppress(BrokenPipeError):  # it has ended: that is seen when it does not answer
            self.process.stdin.write(json.dumps(jobs, default=str) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        said = json.loads(line) if line else self.stop()
        assert said == "", said

    def start(self, python: str) -> None:
        """Start the process, which ends when this one does."""
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self.said = tempfile.TemporaryFile("w+", errors="replace")
        self.process = subprocess.Popen(
            [python, self.script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            env=os.environ | self.environment | {"PYTHONPATH": root},
        )
        atexit.register(self.stop)

    def stop(self) -> str:
        """End the process. Return its status and what it wrote to standard error."""
        atexit.unregister(self.stop)
        process, self.process = self.process, None
        process.communicate()  # closes its standard input
        with self.said as said:
            said.seek(0)
            return f"exit status {process.returncode}\n{said.read()}"


def answer(*functions) -> None:
    """Run the jobs that are read from standard input, and write "" or what went wrong for each."""
    named = {function.__name__: function for function in functions}
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    for line in sys.stdin:
        said = ""
        try:
            for name, *arguments in json.loads(line):
                named[name](*arguments)
        except Exception:
            said = traceback.format_exc()
        print(json.dumps(said), file=answers, flush=True)
