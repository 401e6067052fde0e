"""npgpt evaluate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from npgpt.cli.common import (
    ModelPath,
    OptionalTokenizer,
    OptionalWeights,
    announce_compilation,
    default,
    load,
    say,
)
from npgpt.system.console import track_progress
from npgpt.system.terminal import printable_line


@dataclass(kw_only=True)
class Evaluate:
    """Compute the loss and the perplexity of a model on a text.

    Parameters
    ----------
    data
        "bundled", "verdict" (downloaded once), a text file, a directory of .txt files, a file of
        documents (.jsonl, .parquet), or a directory of token files. Of these, their validation
        split, or all tokens without one.
    model
        A run directory, weights in any supported format, or gpt2-small to gpt2-xl once downloaded.
    weights
        Storage type of the weight matrices. bfloat16 and int8 are faster to read and less exact.
    tokenizer
        "byte", "gpt2", or the path of a tokenizer.json, of its directory, or of a model. Needed if
        the tokenizer is neither recorded with the model nor beside the weights.
    context_length
        Tokens per window.
    stride
        Tokens from the start of one window to the start of the next. With a smaller stride, tokens
        are predicted from a longer context; 512 is common for GPT-2.
    batch_size
        Windows per batch. It affects time and memory, not the result.
    eval_tokens
        Tokens to predict, in windows that are spread evenly over the text.
    """

    data: str
    model: ModelPath = None
    weights: OptionalWeights = None
    tokenizer: OptionalTokenizer = None
    context_length: Annotated[int | None, default("the model's", "INT")] = None
    stride: Annotated[int | None, default("the context length, as in the book", "INT")] = None
    batch_size: int = 2
    eval_tokens: Annotated[int | None, default("all", "INT")] = None

    @announce_compilation()
    def run(self) -> int:
        """Print loss and perplexity; return the exit status."""
        from npgpt.data import dataset
        from npgpt.inference import evaluate

        predicted = 0

        def track(batches: evaluate.Batches) -> Iterable[evaluate.Batch]:
            nonlocal predicted
            predicted = batches.predicted
            return track_progress(batches, len(batches))

        model, tokenizer = load(self.model, self.weights, self.tokenizer)
        source = dataset.read_source(self.data, tokenizer, 1.0, model.config.vocab_size, say)
        tokens = source.held_out
        loss = evaluate.evaluate(
            model,
            tokens,
            context_length=self.context_length,
            stride=self.stride,
            batch_size=self.batch_size,
            eval_tokens=self.eval_tokens,
            track=track,
        )
        length = self.context_length or model.config.context_length
        stride = self.stride or length
        perplexity = evaluate.perplexity(loss)
        shown = f"{perplexity:.2f}" if perplexity < 1e9 else f"{perplexity:.3g}"
        print(f"loss {loss:.4f} nats per token, perplexity {shown}")
        windows = f"windows of {length}" + (f", {stride} apart" if stride < length else "")
        print(f"over {predicted:,} tokens ({printable_line(str(tokenizer))}) in {windows}")
        return 0
