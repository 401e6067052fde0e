"""npgpt generate."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from tyro.conf import UseAppendAction

from npgpt.cli.common import (
    CacheDtype,
    ModelPath,
    OptionalTokenizer,
    OptionalWeights,
    announce_compilation,
    default,
    load,
    load_speculation,
    say,
)
from npgpt.errors import InputError, RunError, show
from npgpt.system.console import track_progress
from npgpt.system.terminal import number_of, printable_text

if TYPE_CHECKING:
    from npgpt.data.tokenizer import Tokenizer
    from npgpt.gpt import GPT
    from npgpt.inference.bulk import Options


# Optional[X] is X | None, and tuple stands for tuple[str, ...]: for those, tyro would import a type
# checker, 0.05 s before the first token
@dataclass(kw_only=True)
class Generate:
    """Continue a prompt, or many, with a trained model.

    Under mpirun or srun, the ranks share the prompts of --prompts.

    Parameters
    ----------
    prompt
        Text to continue.
    prompts
        File of prompts to continue together: one per line, or "prompt" of each object of a .jsonl
        file. "-" is standard input. Each continuation is that of --prompt.
    model
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    weights
        Storage type of the weight matrices. bfloat16 and int8 are faster to read and less exact.
    tokenizer
        "byte", "gpt2", or the path of a tokenizer.json, of its directory, or of a model. Needed if
        the tokenizer is neither recorded with the model nor beside the weights.
    max_new_tokens
        Maximum number of tokens to add. Generation stops earlier at the end-of-text token.
    stop
        End at this text, which is not printed. May be repeated.
    temperature
        Divides the logits before sampling. 0 always takes the most likely token; higher values make
        unlikely tokens more frequent.
    top_k
        Sample only from the k most likely tokens.
    top_p
        Sample only from the most likely tokens that together reach this probability.
    min_p
        Sample only from tokens of at least this share of the largest probability.
    repetition_penalty
        Divide the logits of tokens that have occurred by this number, or multiply negative ones.
    logit_bias
        Add a number to the logit of a token id. May be repeated.
    seed
        Seed of the sampling. The same seed gives the same text.
    num_samples
        Number of continuations of a prompt. With --prompts or --jsonl, each has a seed of its own:
        one more than the one before.
    beams
        Search for the most likely continuation with this number of beams, instead of sampling.
    keep
        When the context is full, keep this number of first tokens and half of the others, and read
        them once. By default the oldest token is dropped, and all others are read for every token.
    speculate
        Verify several tokens in one pass: those that followed when the last few tokens occurred
        before in the text. The text stays the same, and one that repeats itself is faster. For a
        single continuation.
    draft
        Verify instead the tokens that this smaller model proposes. Its tokenizer must be the same.
    cache_dtype
        Storage type of keys and values. bfloat16 takes half of the memory, and is less exact.
    batch_size
        Number of prompts of --prompts that are continued together. It affects time and memory, not
        the result.
    jsonl
        Print a JSON object per continuation: text, token ids, their log-probabilities, and why it
        ended.
    log_probs
        Number of most likely tokens in each object of --jsonl. Beam search has none.
    """

    prompt: Annotated[Optional[str], default("required without --prompts", "TEXT")] = None  # noqa: UP045
    prompts: Annotated[Optional[str], default("one --prompt", "FILE")] = None  # noqa: UP045
    model: ModelPath = None
    weights: OptionalWeights = None
    tokenizer: OptionalTokenizer = None
    max_new_tokens: int = 200
    stop: Annotated[tuple, UseAppendAction, default("none", "TEXT")] = ()
    temperature: float = 0.8
    top_k: Annotated[Optional[int], default("all tokens", "INT")] = None  # noqa: UP045
    top_p: Annotated[Optional[float], default("all tokens", "FLOAT")] = None  # noqa: UP045
    min_p: Annotated[Optional[float], default("all tokens", "FLOAT")] = None  # noqa: UP045
    repetition_penalty: float = 1.0
    logit_bias: Annotated[tuple, UseAppendAction, default("none", "ID=NUMBER")] = ()
    seed: int = 123
    num_samples: int = 1
    beams: Annotated[Optional[int], default("sampling", "INT")] = None  # noqa: UP045
    keep: Annotated[Optional[int], default("the window slides", "INT")] = None  # noqa: UP045
    speculate: bool = False
    draft: Annotated[Optional[Path], default("the text itself", "MODEL")] = None  # noqa: UP045
    cache_dtype: CacheDtype = "float32"
    batch_size: int = 8
    jsonl: bool = False
    log_probs: int = 0

    @announce_compilation()
    def run(self) -> int:
        """Print the text; return the exit status."""
        if (self.prompt is None) == (self.prompts is None):
            raise InputError("generate continues one --prompt TEXT, or --prompts FILE: give one")
        if self.beams is not None and (self.top_k, self.top_p, self.min_p) != (None, None, None):
            raise InputError("--beams does not sample: leave out --top-k, --top-p and --min-p")
        if self.beams is not None and self.temperature != Generate.temperature:
            raise InputError("--beams does not sample: leave out --temperature")
        if self.beams is not None and (self.speculate or self.draft is not None):
            raise InputError("--beams does not speculate: leave out --speculate and --draft")
        if self.log_probs and (not self.jsonl or self.beams is not None):
            raise InputError("--log-probs is for --jsonl without --beams")
        if self.prompts is None and not self.jsonl and self.beams is None:
            return self.run_prompt()
        from npgpt.cli.generate_prompts import run
        from npgpt.distributed.world import World, run_launched

        if self.prompts is None:
            return run(self, World())
        return run_launched(lambda here: run(self, here))

    def options(self) -> "Options":
        """Return the settings of a continuation."""
        from npgpt.inference.bulk import Options
        from npgpt.inference.sampling import Sampling

        sampling = Sampling(
            self.temperature, self.top_k, self.top_p, self.min_p, self.repetition_penalty,
            dict(map(parse_bias, self.logit_bias)) or None,
        )  # fmt: skip
        return Options(
            sampling, self.max_new_tokens, self.seed, self.num_samples, self.stop, self.keep,
            self.log_probs if self.jsonl else None, self.batch_size, self.beams,
            self.cache_dtype,
        )  # fmt: skip

    def load(self) -> tuple["GPT", "Tokenizer"]:
        """Return the model and its tokenizer, with kernels that are being compiled."""
        from npgpt.model import quantize
        from npgpt.performance import precompile

        model, tokenizer = load(self.model, self.weights, self.tokenizer)
        one_row = self.prompts is None and self.num_samples == 1 and self.beams is None
        one_row &= not self.speculate and self.draft is None  # guesses are rows, too
        work = "generate" if one_row else "batches"
        kind = quantize.kind_of(model.params)
        precompile.compile_kernels(work, kind, cache_dtype=self.cache_dtype)
        return model, tokenizer

    def run_prompt(self) -> int:
        """Print the continuations of one prompt; return the exit status."""
        import numpy as np

        from npgpt.inference.generate import generate
        from npgpt.inference.stop import StoppableText
        from npgpt.rng import Generator

        assert self.prompt is not None
        if self.num_samples < 1:
            raise InputError(f"num_samples is {self.num_samples}, but must be at least 1")
        options, rng = self.options(), Generator(self.seed)
        model, encoding = self.load()
        options.check(model)
        speculation = load_speculation(self.speculate, self.draft, model, self.weights)
        prompt = encoding.encode(self.prompt)
        limits = ContextNotes(model.config.context_length, self.keep)
        limits.note_prompt(len(prompt), "the prompt")
        steps = generate(
            model,
            np.tile(np.asarray(prompt, np.int64), (self.num_samples, 1)),
            self.max_new_tokens,
            **vars(options.sampling),
            eos_id=encoding.eot_token,
            rng=rng,
            keep=self.keep,
            speculate=speculation,
            cache_dtype=self.cache_dtype,
        )
        texts = [self.prompt] * self.num_samples
        streams = [StoppableText(encoding, prompt, self.stop) for _ in texts]
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
                    ended[i] = streams[i].has_stopped
                if ended.all():
                    break
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
        read = min(len(prompt), model.config.context_length)
        limits.note_tokens(read + count)  # only now, and not in the middle of the text
        if sys.stderr.isatty() and count:
            total = count * self.num_samples
            line = f"{total} tokens, {total / (time.perf_counter() - started):,.1f} tokens/s"
            if speculation is not None:
                accepted, proposed = speculation.accepted, speculation.proposed
                line += f", {accepted} of {number_of(proposed, 'draft token')} accepted"
            print(f"[{line}]", file=sys.stderr)
        return 0


def parse_bias(text: str) -> tuple[int, float]:
    """Return the token id and the number of ID=NUMBER."""
    token, _, number = text.partition("=")
    try:
        return int(token), float(number)
    except ValueError:
        raise InputError(f"logit_bias is {show(text)}, but must be ID=NUMBER") from None


class ContextNotes:
    """Says once on standard error that a prompt was cropped, and that the context was full."""

    def __init__(self, context_length: int, keep: int | None):
        self.context_length, self.keep = context_length, keep
        self.cropped, self.is_full = 0, False

    def note_prompt(self, length: int, name: str) -> None:
        """Count a prompt of this many tokens, if it was cropped. Say it of the first one."""
        if length <= self.context_length:
            return
        self.cropped += 1
        if self.cropped == 1:
            say(
                f"Of the {length:,} tokens of {name}, only the last {self.context_length:,} are "
                "read: the length of the context"
            )

    def note_tokens(self, length: int) -> None:
        """Say what the last tokens of a text of this length have cost if the context was full."""
        if self.keep is None and not self.is_full and length > self.context_length + 1:
            self.is_full = True
            say(
                f"The context of {self.context_length:,} tokens was full: all of them were read "
                "again for every further token. --keep N keeps the first N and half of the "
                "others, and reads them once"
            )
