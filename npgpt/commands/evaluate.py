"""npgpt evaluate."""

from dataclasses import dataclass
from pathlib import Path

from npgpt.commands.shared import load, watched
from npgpt.errors import InputError


@dataclass(kw_only=True)
class Evaluate:
    """Loss and perplexity of a text: how surprised the model is by it."""

    data: str
    """"bundled", "verdict", a text file, or a folder of .txt files."""
    model: Path | None = None
    """A run's folder or a checkpoint [default: the newest under ./runs]."""
    batch_size: int = 2
    """Windows read at once: changes time and memory, not the result."""

    def run(self) -> int:
        """The exit code."""
        from npgpt import evaluate
        from npgpt.data import text
        from npgpt.report import perplexity

        if self.batch_size < 1:
            raise InputError(f"batch_size is {self.batch_size}, but has to be at least 1")
        model = load(self.model)
        tokens = evaluate.tokens_of(model, text.read(self.data))
        batches = evaluate.batches(tokens, model.config.context_length, self.batch_size)
        total = count = 0
        for inputs, targets in watched(batches, len(batches)):
            total += float(model.evaluate(inputs, targets)) * targets.size
            count += targets.size
        loss = total / count
        print(f"loss {loss:.4f} nats per token, perplexity {perplexity(loss):.2f}")
        print(f"over {count:,} tokens ({model.tokenizer or 'gpt2'}) in windows of "
              f"{model.config.context_length}")  # fmt: skip
        return 0
