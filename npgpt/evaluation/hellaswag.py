"""HellaSwag: the one of four endings that continues a text.

Zellers et al. 2019, arXiv:1905.07830. A file of lines {"ctx": ..., "ctx_a", "ctx_b",
"activity_label", "endings": [...], "label": 0}. The ending with the largest log-probability is the
answer: as it is (accuracy), or divided by its length (accuracy_norm).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from npgpt.data.tokenizer import Tokenizer
from npgpt.errors import show
from npgpt.evaluation.lines import Record, read_lines
from npgpt.evaluation.requests import encode_pair
from npgpt.evaluation.task import Item, Metric, Scored, Task, mean
from npgpt.inference.scoring import Request


class Question(NamedTuple):
    """The right ending, and the length of each."""

    label: int
    lengths: list[int]


def harness_item(record: Record, tokenizer: Tokenizer, length: int) -> Item:
    """Return the requests of lm-evaluation-harness. The length of an ending is in characters."""
    first, second = record.text("ctx_a"), record.text("ctx_b").capitalize()
    context = clean(f"{record.text('activity_label')}: {first} {second}")
    endings = [clean(ending) for ending in read_endings(record)]
    requests = [encode_pair(tokenizer, context, f" {ending}") for ending in endings]
    return Item(requests, Question(read_label(record), list(map(len, endings))))


def karpathy_item(record: Record, tokenizer: Tokenizer, length: int) -> Item:
    """Return the requests of llm.c's dev/data/hellaswag.py. Lengths are in tokens."""
    context = tokenizer.encode(record.text("ctx"))
    endings = [tokenizer.encode(f" {ending}") for ending in read_endings(record)]
    if not context:
        raise ValueError('its "ctx" is empty')
    requests = [Request(context, ending) for ending in endings]
    return Item(requests, Question(read_label(record), list(map(len, endings))))


def read_endings(record: Record) -> list[str]:
    """Return the endings, at least two."""
    found: Any = record.values.get("endings")
    if not isinstance(found, list) or len(found) < 2 or set(map(type, found)) != {str}:
        raise record.error(f'its "endings" must be a list of texts, not {show(found)}')
    return found


def read_label(record: Record) -> int:
    """Return the number of the right ending, which some files have as a text."""
    found, count = record.values.get("label"), len(read_endings(record))
    if str(found) not in map(str, range(count)):
        raise record.error(f'its "label" must be 0 to {count - 1}, not {show(found)}')
    return int(str(found))


def clean(text: str) -> str:
    """Return a text of WikiHow without its marks in brackets."""
    text = text.strip().replace(" [title]", ". ")
    return "\n".join(map(drop_brackets, text.split("\n"))).replace("  ", " ")


def drop_brackets(line: str) -> str:
    """Return a line without its first bracket up to the next closing one, and so on."""
    *parts, rest = line.split("]")
    kept = (part.partition("[")[0] if "[" in part else f"{part}]" for part in parts)
    return "".join(kept) + rest


def measure(items: list[Scored]) -> list[Metric]:
    """Return the shares of questions that are answered right."""
    right, right_norm = [], []
    for scores, (label, lengths) in items:
        log_probs = np.array([score.log_prob for score in scores])
        right.append(choose(log_probs) == label)
        right_norm.append(choose(log_probs / np.maximum(lengths, 1)) == label)
    return [mean("accuracy", right), mean("accuracy_norm", right_norm)]


def choose(log_probs: Sequence[float] | np.ndarray) -> int:
    """Return the number of the largest one, the first if several are equal."""
    return int(np.argmax(log_probs))


PROTOCOLS = {
    "harness": Task(
        "hellaswag", "harness",
        "activity and context, marks in brackets removed; accuracy_norm: per character",
        "question", read_lines, harness_item, measure,
    ),
    "karpathy": Task(
        "hellaswag", "karpathy",
        "the context as it is; accuracy_norm: per token",
        "question", read_lines, karpathy_item, measure,
    ),
}  # fmt: skip
