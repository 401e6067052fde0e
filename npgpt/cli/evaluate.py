"""npgpt evaluate."""

from dataclasses import dataclass
from pathlib import Path

from npgpt.cli.common import Weights, announce_compilation, load, track_progress
from npgpt.errors import InputError


@dataclass(kw_only=True)
class Evaluate:
    """Loss and perplexity of a text: how surprised the model is by it."""

    data: str
    """"bundled", "verdict", a text file, or a folder of .txt files."""
    model: Path | None = None
    """A run's folder, weights of any format, or gpt2-small to gpt2-xl once downloaded
    [default: the newest under ./runs]."""
    weights: Weights | None = None
    """What its matrices are kept as: fewer bits are read sooner, and round
    [default: as npgpt quantize wrote them, else float32]."""
    context_length: int | None = None
    """Tokens in a window [default: the model's]."""
    stride: int | None = None
    """Tokens from one window to the next [default: the context length, as in the book]. A smaller
    one lets every token be predicted from a longer past: 512 is usual for GPT-2."""
    batch_size: int = 2
    """Windows read at once: changes time and memory, not the result."""

    @announce_compilation()
    def run(self) -> int:
        """The exit code."""
        from npgpt.data import text
        from npgpt.inference import evaluate
        from npgpt.inference.evaluate import perplexity

        for name in ("batch_size", "context_length", "stride"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}, but has to be at least 1")
        model = load(self.model, self.weights)
        longest = model.config.context_length
        length = self.context_length or longest
        stride = self.stride or length
        if length > longest:
            raise InputError(f"context_length is {length}, but the model reads at most {longest}")
        if stride > length:
            raise InputError(
                f"stride is {stride}: with windows of {length}, tokens would be left out"
            )
        tokens = evaluate.tokens_of(model, text.read(self.data))
        batches = evaluate.batches(tokens, length, self.batch_size, stride)
        total = count = 0
        for inputs, targets in track_progress(batches, len(batches)):
            total += float(model.evaluate(inputs, targets)) * targets.size
            count += targets.size
        loss = total / count
        print(f"loss {loss:.4f} nats per token, perplexity {perplexity(loss):.2f}")
        windows = f"windows of {length}" + (f", {stride} apart" if stride < length else "")
        print(f"over {count:,} tokens ({model.tokenizer or 'gpt2'}) in {windows}")
        return 0
