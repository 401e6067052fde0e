"""npgpt evaluate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Optional

from npgpt.cli.common import (
    ModelPath,
    OptionalTokenizer,
    OptionalWeights,
    announce_compilation,
    default,
    load,
    say,
)
from npgpt.cli.evaluate_task import evaluate_task
from npgpt.distributed.world import World, once_per_machine, run_launched
from npgpt.errors import ConfigError
from npgpt.system.console import track_progress
from npgpt.system.terminal import number_of, printable_line

if TYPE_CHECKING:
    from npgpt.inference.evaluate import Batch, Share


@dataclass(kw_only=True)
class Evaluate:
    """Compute the loss and the perplexity of a model on a text, or its result in a task.

    Under mpirun or srun, the ranks share the windows. Their number does not affect the result.

    Parameters
    ----------
    data
        "bundled", "verdict" (downloaded once), a text file, a directory of .txt files, a file of
        documents (.jsonl, .parquet), or a directory of token files. Of these, their validation
        split, or all tokens without one. With --task: the file of the task.
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
        Windows per batch, or as many tokens in a batch of a task. It affects time and memory, not
        the result.
    eval_tokens
        Tokens to predict, in windows that are spread evenly over the text.
    task
        lambada, hellaswag or wikitext: an evaluation with published results, on a file as its
        authors distribute it.
    protocol
        How the task is scored. harness: as lm-evaluation-harness. karpathy, for hellaswag: as
        llm.c.
    limit
        Texts, questions or articles of the task to score, the first ones of the file.
    """

    data: str
    model: ModelPath = None
    weights: OptionalWeights = None
    tokenizer: OptionalTokenizer = None
    context_length: Annotated[int | None, default("the model's", "INT")] = None
    stride: Annotated[int | None, default("the context length, as in the book", "INT")] = None
    batch_size: int = 2
    eval_tokens: Annotated[int | None, default("all", "INT")] = None
    task: Annotated[Optional[str], default("none", "{lambada,hellaswag,wikitext}")] = None  # noqa: UP045
    protocol: Annotated[Optional[str], default("harness", "{harness,karpathy}")] = None  # noqa: UP045
    limit: Annotated[int | None, default("all", "INT")] = None

    @announce_compilation()
    def run(self) -> int:
        """Evaluate, alone or on all ranks of a launcher, and return the exit status."""
        return run_launched(self.run_on)

    def run_on(self, here: World) -> int:
        """Evaluate this rank's share; print loss and perplexity on the first one."""
        if self.task is not None:
            return evaluate_task(here, self, self.task)
        for name in ("protocol", "limit"):
            if getattr(self, name) is not None:
                raise ConfigError(f"--{name} is for a task: give --task")
        from npgpt.data import dataset
        from npgpt.distributed.evaluation import evaluate
        from npgpt.inference.evaluate import make_batches, perplexity

        model, tokenizer = load(self.model, self.weights, self.tokenizer)
        show = say if here.is_first else dataset.silent
        vocab = model.config.vocab_size
        source = once_per_machine(  # it may encode a text, or build an index
            here, lambda: dataset.read_source(self.data, tokenizer, 1.0, vocab, show)
        )
        batches = make_batches(
            model,
            source.held_out,
            context_length=self.context_length,
            stride=self.stride,
            batch_size=self.batch_size,
            eval_tokens=self.eval_tokens,
        )

        def track(share: "Share") -> "Iterable[Batch]":
            return track_progress(share, len(share)) if here.is_first else share

        loss = evaluate(here, model, batches, track)
        if not here.is_first:
            return 0
        length, stride = batches.length, batches.stride
        shown = f"{ppl:.2f}" if (ppl := perplexity(loss)) < 1e9 else f"{ppl:.3g}"
        print(f"loss {loss:.4f} nats per token, perplexity {shown}")
        windows = f"windows of {length}" + (f", {stride} apart" if stride < length else "")
        tokens, name = number_of(batches.predicted, "token"), printable_line(str(tokenizer))
        print(f"over {tokens} ({name}) in {windows}")
        return 0
