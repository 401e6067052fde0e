"""Help texts and errors of tyro, adapted to the terminal.

tyro writes colours and bullets to every stream, and breaks lines at the width of COLUMNS, but not
those of the usage and of a description.
"""

import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from npgpt.system.console import has_colors

COLOR = re.compile(r"\x1b\[[0-9;]*m")
BULLET = "\u2022"  # of tyro's lists
MIN_WIDTH = 40  # columns; tyro never returns with fewer than 8


class HelpStream:
    """A stream that passes help texts on: with colours and bullets only if the other shows them."""

    def __init__(self, stream: Any, columns: int):
        self.stream, self.has_colors, self.columns = stream, has_colors(stream), columns
        encoding = getattr(stream, "encoding", None) or "utf-8"
        self.bullet = BULLET if "utf" in encoding.lower() else "*"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        shown = text if self.has_colors else COLOR.sub("", text)
        lines = shown.replace(BULLET, self.bullet).split("\n")
        self.stream.write("\n".join(wrap(line, self.columns) for line in lines))
        return len(text)


def wrap(line: str, columns: int) -> str:
    """Break a line that is too long between its words; a comma within a word ends one, too."""
    lines, length = [""], 0
    for part in re.findall(r"(?:[^ ,]|,(?=\d))*(?:, ?| |$)", line):
        size = len(COLOR.sub("", part))
        if length and length + len(COLOR.sub("", part).rstrip()) > columns:
            lines.append("")
            length = 0
        lines[-1] += part
        length += size
    return "\n".join(one.rstrip() for one in lines) if len(lines) > 1 else line


lock = threading.Lock()  # the streams and COLUMNS belong to the whole process


@contextmanager
def help_output() -> Iterator[None]:
    """Adapt help texts and errors of tyro to the two streams and to the width of the terminal."""
    with lock:
        stdout, stderr, width = sys.stdout, sys.stderr, os.environ.get("COLUMNS")
        try:
            columns = max(MIN_WIDTH, shutil.get_terminal_size().columns)
            sys.stdout, sys.stderr = HelpStream(stdout, columns), HelpStream(stderr, columns)
            os.environ["COLUMNS"] = str(columns)
            yield
        finally:
            sys.stdout, sys.stderr = stdout, stderr
            if width is None:
                del os.environ["COLUMNS"]
            else:
                os.environ["COLUMNS"] = width
