"""npgpt book."""

import sys
from dataclasses import dataclass
from typing import Literal

from npgpt.cli.common import announce_compilation
from npgpt.errors import InputError
from npgpt.system.console import make_bar


@dataclass(kw_only=True)
class Book:
    """Check that this machine prints the numbers of the book's chapter 5; see docs/book.md.

    Parameters
    ----------
    data
        The Verdict: "verdict" downloads it once; otherwise the path of the file.
    steps
        Number of training steps to compare, at most 90.
    ops
        Backend: compiled Numba kernels, or plain NumPy.
    """

    data: str = "verdict"
    steps: int = 16
    ops: Literal["fused", "numpy"] = "fused"

    def run(self) -> int:
        """Print each check as it is made; return 1 if one of them differs."""
        from npgpt.parity.book_check import Check, run_checks

        if self.steps < 1:
            raise InputError(f"steps is {self.steps}, but must be at least 1")
        columns = "{:<27} {:<25} {:<25} {:<10} {}"
        first_failed = None
        head = columns.format("check", "the book", "here", "difference", "") + "\n"
        bar = make_bar(sys.stderr, transient=True)
        with announce_compilation(self.ops), bar:
            task = bar.add_task("training", total=self.steps)
            for event in run_checks(self.data, self.steps, ops=self.ops):
                if not isinstance(event, Check):
                    bar.advance(task)
                    continue
                if not event.holds and first_failed is None:
                    first_failed = event.name
                word, gap = "ok" if event.holds else "DIFFERS", f"{event.difference:.1e}"
                line = columns.format(event.name, event.expected, event.actual, gap, word)
                print(head + line, flush=True)
                head = ""
        if first_failed is not None:
            print(f"\nThe first check that differs: {first_failed}. docs/book.md explains it.")
            return 1
        print("\nEvery check holds: this machine prints the book's numbers.")
        return 0
