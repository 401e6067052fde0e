"""npgpt play."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npgpt.cli.common import (
    ModelPath,
    OptionalTokenizer,
    announce_compilation,
    load,
    needs_extra,
)
from npgpt.cli.train import Train
from npgpt.cli.train_flags import RunFlags
from npgpt.errors import RunError, WeightFileError
from npgpt.system.terminal import printable_line

if TYPE_CHECKING:
    from npgpt.data.tokenizer import Tokenizer
    from npgpt.gpt import GPT

Report = Callable[[int, int, str], None]  # done, total, text; raises Cancelled to end it

COMPILING = "Loading kernels; the first time, they are compiled for this CPU in about a minute"


@dataclass(kw_only=True)
class Play:
    """Open a page in the browser that shows how a model computes, forwards and backwards.

    The page is for this machine alone, and needs no network. Ctrl-C ends it.

    Parameters
    ----------
    model
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
        Without it and without a run, a small model is trained first, as npgpt train does.
    tokenizer
        "byte", "gpt2", or the path of a tokenizer.json, of its directory, or of a model. Needed if
        the tokenizer is neither recorded with the model nor beside the weights.
    port
        Port of the page. If it is in use, the next free one is taken.
    host
        Address to listen on: 127.0.0.1, ::1 or localhost.
    browser
        Open the page in the browser.
    """

    model: ModelPath = None
    tokenizer: OptionalTokenizer = None
    port: int = 8124
    host: str = "127.0.0.1"
    browser: bool = True

    def run(self) -> int:
        """Serve the page until Ctrl-C; return the exit status."""
        with needs_extra("play"):
            from npgpt.play import server

        found = self.find()
        listening = server.bind(self.host, self.port)
        port = listening.getsockname()[1]
        if self.port not in (port, 0):
            print(f"Port {self.port} is in use; the page is on port {port}.")
        host = f"[{self.host}]" if ":" in self.host else self.host
        address = f"http://{host}:{port}/"
        print(f"The page is {address} (Ctrl-C ends it)", flush=True)
        if self.browser:  # the socket listens already: the page waits for the server
            threading.Thread(target=open_browser, args=(address,), daemon=True).start()
        if not server.Server(found).serve_on(listening):
            sys.stdout.flush()
            os._exit(0)  # a kernel is being compiled, which takes up to a minute
        return 0

    def find(self) -> "Callable[[Report], tuple[GPT, Tokenizer, str]]":
        """Return a function that gives the model, its tokenizer and its name.

        A model that exists is loaded now, so that an error ends the command. Another one is
        trained by the function.
        """
        from npgpt.training import run_dir

        loaded, path = None, self.model
        if path is not None:
            loaded = load(path, None, self.tokenizer)
        for path in run_dir.latest_checkpoints() if loaded is None else ():
            try:
                loaded = load(path, None, self.tokenizer)
                break
            except WeightFileError as error:
                print(f"npgpt: the newest run is passed over: {error}", file=sys.stderr)

        def prepare(report: Report) -> "tuple[GPT, Tokenizer, str]":
            if loaded is None:
                print("There is no model yet: training a small one, as npgpt train does.")
                where = train_tiny(report)
                model, tokenizer = load(where, None, self.tokenizer)
            else:
                where = path  # type: ignore[assignment]
                model, tokenizer = loaded
            report(0, 0, COMPILING)
            with announce_compilation():
                compile_for(model)
            return model, tokenizer, printable_line(str(where))

        return prepare


def train_tiny(report: Report) -> Path:
    """Train the model of `npgpt train` without arguments, and return its run directory."""
    from npgpt.preset import defaults

    report(0, 0, f"Training a small model first. {COMPILING}")
    train = TrainAndReport(flags=RunFlags.of(defaults("tiny")))
    train.report = report
    if status := train.run():
        raise RunError(f"training the small model ended with status {status}: see the terminal")
    return train.path


class TrainAndReport(Train):
    """npgpt train, whose steps are reported to the page too.

    `report`: Cancelled, if it raises that, asks the run to save its state and stop.
    """

    report: Report
    path: Path

    def follow(self, trainer: Any, directory: Any, bar: Any, stop: Any) -> int:
        """Show and store every event, as Train does, and report it."""
        self.path = directory.path
        shown: Any = ReportingBar(bar, self.report, stop)
        return super().follow(trainer, directory, shown, stop)


class ReportingBar:
    """The bar in the terminal, whose steps go to `report` too."""

    def __init__(self, bar: Any, report: Report, stop: Any):
        self.bar, self.report, self.stop = bar, report, stop
        self.print = bar.print

    def show(self, event: Any) -> None:
        """Show an event."""
        from npgpt.play.computation import Cancelled
        from npgpt.training.events import Step

        self.bar.show(event)
        if isinstance(event, Step):
            text = f"Training a small model first: loss {event.loss:.2f}"
            try:
                self.report(event.step + 1, self.bar.total_steps, text)
            except Cancelled:
                self.stop.number = signal.SIGINT  # as Ctrl-C: the state is saved


def compile_for(model: "GPT") -> None:
    """Compile the kernels that the views need, and load them: the first view does not wait."""
    from npgpt.model.finite import ignore_overflow
    from npgpt.model.quantize import is_quantized, kind_of
    from npgpt.performance import precompile

    kind = kind_of(model.params)
    precompile.compile_kernels("generate", kind)
    if not is_quantized(model.params):
        precompile.compile_kernels("train", kind)
    with ignore_overflow():
        model.next_logits([[0]])


def open_browser(address: str) -> None:
    """Open a page in the browser, if there is one with windows."""
    import webbrowser

    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return  # what would open is a browser in this terminal
    with suppress(webbrowser.Error, OSError):
        webbrowser.open(address)
