"""The model that the page shows, and how far it is on its way."""

import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import InputError, RunError
from npgpt.explain import next_token
from npgpt.explain.backward import Backward
from npgpt.explain.live import Live
from npgpt.explain.passes import Passes
from npgpt.gpt import GPT
from npgpt.model import quantize
from npgpt.play.computation import Cancelled, Job, Reply, describe
from npgpt.training import run_state

Report = Callable[[int, int, str], None]  # done, total, text; raises Cancelled
Prepare = Callable[[Report], tuple[GPT, Tokenizer, str]]


class Session:
    """A model, its tokenizer and its name, once `load` has run.

    `prepare(report)`: returns them. It may train the model first, and reports how far it is.
    """

    model: GPT
    tokenizer: Tokenizer
    name: str

    def __init__(self, prepare: Prepare):
        self.prepare = prepare
        self.progress = 0, 0, "Loading the model"
        self.error: str | None = None
        self.ready, self.stopped = threading.Event(), threading.Event()
        self.last: tuple[tuple[int, ...], Array] | None = None  # a prompt and its logits
        self.backward: tuple[tuple[int, ...], Backward] | None = None  # of the last text
        self.passes: tuple[tuple[int, ...], Passes] | None = None  # the same
        self.live: tuple[int, Live] | None = None  # the run that is under way
        self.run_numbers = itertools.count()

    def load(self) -> None:
        """Load the model. An error is kept for the page."""
        try:
            self.model, self.tokenizer, self.name = self.prepare(self.report)
        except Cancelled:
            self.error = "the server has ended"
        except BaseException as error:
            self.error = describe(error)
        finally:
            self.ready.set()

    def report(self, done: int, total: int, text: str) -> None:
        """Set the progress. Raise Cancelled if the server ends."""
        self.progress = done, total, text
        if self.stopped.is_set():
            raise Cancelled

    def require(self) -> GPT:
        """Wait for the model, and return it. Raise RunError if it could not be loaded."""
        self.ready.wait()
        if self.error is not None:
            raise RunError(self.error)
        return self.model

    def wait(self, job: Job) -> Reply:
        """Report the progress until the model is loaded, and return its description."""
        while not self.ready.wait(0.02):
            job.report(*self.progress)
            time.sleep(0.03)
        model = self.require()
        text = b"".join(pieces := self.pieces())
        lengths = [len(piece) for piece in pieces]
        data: dict[str, Any] = {
            "name": self.name,
            "tokenizer": str(self.tokenizer),
            "end_of_text": self.tokenizer.eot_token,
            "parameters": model.size,
            "dtype": quantize.kind_of(model.params),
            "run": None if model.path is None else run_state.read_position(model.path),
            "config": asdict(model.config),
        }
        return Reply(
            data,
            {"text": np.frombuffer(text, np.uint8), "lengths": np.asarray(lengths, np.uint16)},
        )

    def pieces(self) -> list[bytes]:
        """Return the bytes of every token of the model's vocabulary, none for an unknown one."""
        pieces = (self.tokenizer.token_bytes(i) for i in range(self.model.config.vocab_size))
        return [(piece or b"")[: (1 << 16) - 1] for piece in pieces]

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt. Raise InputError if it is empty."""
        self.require()
        tokens = self.tokenizer.encode(text)
        if not tokens:
            raise InputError("the prompt is empty: write at least one character")
        return tokens

    def next_logits(self, tokens: list[int]) -> Array:
        """Return the logits (V,) of the token after these, and keep those of the last prompt.

        Settings of the draw change more often than the prompt.
        """
        read = tuple(tokens)
        if self.last is None or self.last[0] != read:
            self.last = read, next_token.logits(self.require(), tokens)
        return self.last[1]
