"""npgpt book."""

from dataclasses import dataclass
from typing import Literal

from npgpt.cli.common import announce_compilation
from npgpt.errors import InputError


@dataclass(kw_only=True)
class Book:
    """Does this machine print the book's numbers? Chapter 5, rung by rung; see docs/book.md."""

    data: str = "verdict"
    """The Verdict: "verdict" fetches it once, or the path of the file."""
    steps: int = 16
    """How far to walk the training log; all of it is 90 steps."""
    ops: Literal["fused", "numpy"] = "fused"
    """The backend that computes."""

    def run(self) -> int:
        """Prints the ladder as it goes; 1 where a rung does not hold."""
        from rich.console import Console
        from rich.progress import Progress

        from npgpt.parity.book_check import Check, run_checks

        if self.steps < 1:
            raise InputError(f"steps is {self.steps}, but has to be at least 1")
        columns = "{:<27} {:<25} {:<25} {:<10} {}"
        failed = None
        console = Console(stderr=True)
        bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        with announce_compilation(self.ops), bar:
            print(columns.format("rung", "the book", "here", "difference", ""), flush=True)
            task = bar.add_task("walking", total=self.steps)
            for seen in run_checks(self.data, self.steps, ops=self.ops):
                if not isinstance(seen, Check):
                    bar.advance(task)
                    continue
                failed = failed or (None if seen.holds else seen.what)
                word, gap = "ok" if seen.holds else "DIFFERS", f"{seen.difference:.1e}"
                line = columns.format(seen.what, seen.expected, seen.got, gap, word)
                print(line, flush=True)
        if failed is not None:
            print(f"\nThe first rung that differs: {failed}. docs/book.md says what that means.")
            return 1
        print("\nEvery rung holds: this machine prints the book's numbers.")
        return 0
