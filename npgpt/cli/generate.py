"""npgpt generate."""

import sys
import time
from dataclasses import dataclass
from typing import Annotated, Optional

from npgpt.cli.common import (
    ModelPath,
    OptionalTokenizer,
    OptionalWeights,
    announce_compilation,
    default,
    load,
)
from npgpt.errors import InputError, RunError
from npgpt.system.console import track_progress
from npgpt.system.terminal import printable_text


# Optional[X] is X | None, for which tyro would import a type checker: 0.08 s before the first token
@dataclass(kw_only=True)
class Generate:
    """Continue a prompt with a trained model.

    Parameters
    ----------
    prompt
        Text to continue.
    model
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    weights
        Storage type of the weight matrices. bfloat16 and int8 are faster to read and less exact.
    tokenizer
        "byte", "gpt2", or the path of a tokenizer.json, of its directory, or of a model. Needed if
        the tokenizer is neither recorded with the model nor beside the weights.
    max_new_tokens
        Maximum number of tokens to add. Generation stops earlier at the end-of-text token.
    temperature
        Divides the logits before sampling. 0 always takes the most likely token; higher values make
        unlikely tokens more frequent.
    top_k
        Sample only from the k most likely tokens.
    top_p
        Sample only from the most likely tokens that together reach this probability.
    seed
        Seed of the sampling. The same seed gives the same text.
    num_samples
        Number of continuations, generated as one batch.
    """

    prompt: str
    model: ModelPath = None
    weights: OptionalWeights = None
    tokenizer: OptionalTokenizer = None
    max_new_tokens: int = 200
    temperature: float = 0.8
    top_k: Annotated[Optional[int], default("all tokens", "INT")] = None  # noqa: UP045
    top_p: Annotated[Optional[float], default("all tokens", "FLOAT")] = None  # noqa: UP045
    seed: int = 123
    num_samples: int = 1

    @announce_compilation()
    def run(self) -> int:
        """Print the text; return the exit status."""
        import numpy as np

        from npgpt.data.text_stream import TextStream
        from npgpt.inference.generate import generate
        from npgpt.performance import precompile
        from npgpt.rng import Generator

        if self.num_samples < 1:
            raise InputError(f"num_samples is {self.num_samples}, but must be at least 1")
        rng = Generator(self.seed)
        model, encoding = load(self.model, self.weights, self.tokenizer)
        prompt = encoding.encode(self.prompt)
        kind = getattr(model.params.wte.weight, "kind", model.dtype.name)  # of a QuantizedMatrix
        precompile.compile_kernels("generate", kind)
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
        streams = [TextStream(encoding, prompt) for _ in texts]
        pending = self.prompt  # printed with the first token
        started, count, ended = time.perf_counter(), 0, np.zeros(self.num_samples, bool)
        try:
            for ids in track_progress(steps, self.max_new_tokens, quiet=self.num_samples == 1):
                if encoding.eot_token is not None:
                    ended |= ids == encoding.eot_token
                count += 1
                for i in np.flatnonzero(~ended):
                    texts[i] += (piece := streams[i].feed(ids[i]))
                    if self.num_samples == 1:
                        print(printable_text(pending + piece, sys.stdout), end="", flush=True)
                        pending = ""
        except RunError:
            if count and self.num_samples == 1:
                print(flush=True)  # ends the line before the error
            raise
        tails = [stream.end() for stream in streams]
        if self.num_samples == 1:
            print(printable_text(pending + tails[0], sys.stdout))
        else:
            for number, (text, tail) in enumerate(zip(texts, tails, strict=True), 1):
                print(f"--- sample {number} of {self.num_samples}")
                print(printable_text(text + tail, sys.stdout))
        if sys.stderr.isatty() and count:
            rate = count * self.num_samples / (time.perf_counter() - started)
            print(f"[{count * self.num_samples} tokens, {rate:,.1f} tokens/s]", file=sys.stderr)
        return 0
