"""npgpt generate."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from npgpt.cli.common import Weights, announce_compilation, load, track_progress
from npgpt.errors import InputError


# Optional[X] is X | None, for which tyro would import a type checker: 0.08 s before the first token
@dataclass(kw_only=True)
class Generate:
    """Continue a prompt with a trained model."""

    prompt: str
    """The text to go on from."""
    model: Optional[Path] = None  # noqa: UP045
    """A run's folder, weights of any format, or gpt2-small to gpt2-xl once downloaded
    [default: the newest under ./runs]."""
    weights: Optional[Weights] = None  # noqa: UP045
    """What its matrices are kept as: fewer bits are read sooner, and round
    [default: as npgpt quantize wrote them, else float32]."""
    max_new_tokens: int = 200
    """How many tokens to add, unless the text ends before."""
    temperature: float = 0.8
    """0 always takes the likeliest token; higher is bolder."""
    top_k: Optional[int] = None  # noqa: UP045
    """Choose among the k likeliest tokens only."""
    top_p: Optional[float] = None  # noqa: UP045
    """Choose among the likeliest tokens that together have this probability."""
    seed: int = 123
    """The same seed gives the same text."""
    num_samples: int = 1
    """How many continuations, made side by side."""

    @announce_compilation()
    def run(self) -> int:
        """The exit code."""
        import numpy as np

        from npgpt.data.tokenizer import encode, tokenizer
        from npgpt.inference.generate import TextStream, generate
        from npgpt.performance import precompile
        from npgpt.rng import Generator

        if self.num_samples < 1:
            raise InputError(f"num_samples is {self.num_samples}, but has to be at least 1")
        rng = Generator(self.seed)
        model = load(self.model, self.weights)
        encoding = tokenizer(model.tokenizer or "gpt2")
        prompt = encode(encoding, self.prompt)
        kept_as = getattr(model.params.wte.weight, "kind", model.dtype.name)  # of a QuantizedMatrix
        precompile.compile_kernels("generate", kept_as)
        steps = generate(
            model,
            np.tile(np.asarray(prompt, np.int64), (self.num_samples, 1)),
            self.max_new_tokens,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            eos_id=encoding.eot_token,
            rng=rng,
        )
        texts = [self.prompt] * self.num_samples
        streams = [TextStream(encoding) for _ in texts]
        unseen = self.prompt  # it is shown with the first token
        started, count, ended = time.perf_counter(), 0, np.zeros(self.num_samples, bool)
        for ids in track_progress(steps, self.max_new_tokens, quiet=self.num_samples == 1):
            ended |= ids == encoding.eot_token
            count += 1
            for i in np.flatnonzero(~ended):
                texts[i] += (piece := streams[i].feed(ids[i]))
                if self.num_samples == 1:
                    print(unseen + piece, end="", flush=True)
                    unseen = ""
        tails = [stream.end() for stream in streams]
        if self.num_samples == 1:
            print(unseen + tails[0])
        else:
            for i, (text, tail) in enumerate(zip(texts, tails, strict=True), 1):
                print(f"--- sample {i} of {self.num_samples}\n{text}{tail}")
        if sys.stderr.isatty() and count:
            rate = count * self.num_samples / (time.perf_counter() - started)
            print(f"[{count * self.num_samples} tokens, {rate:,.1f} a second]", file=sys.stderr)
        return 0
