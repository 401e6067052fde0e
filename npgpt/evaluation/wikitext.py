"""WikiText: the perplexity of articles, per word of the text as published.

Merity et al. 2016, arXiv:1609.07843. The file is one of the raw texts, such as wiki.test.raw, or
has lines {"page": ...} or {"text": ...}, one document each. Tokens of the text stand apart there;
they are joined again before the model reads them. Words and bytes are those of the file.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

from npgpt.data.text import decode
from npgpt.data.tokenizer import Tokenizer
from npgpt.evaluation.lines import Record, parse_lines, read_data
from npgpt.evaluation.requests import rolling_windows
from npgpt.evaluation.task import Item, Metric, Scored, Task, perplexity

JOINED = (  # in this order, as lm-evaluation-harness replaces them
    ("s '", "s'"), (" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), (" : ", ": "), (" ; ", "; "),
    (" . ", ". "), (" ! ", "! "), (" ? ", "? "), (" , ", ", "),
)  # fmt: skip
BRACKETS = ("(", ")"), ("[", "]"), ("{", "}")
JOINED_LAST = (
    ("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" \u00b0 ", "\u00b0"), (" \n", "\n"),
    ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s"),
)  # fmt: skip


def read(path: str | Path) -> Iterator[Record]:
    """Yield the documents of a file."""
    data = read_data(path)
    if data.lstrip()[:1] == b"{":
        yield from parse_lines(path, data)
        return
    for number, page in enumerate(split_pages(decode(data, path)), 1):
        yield Record(f"{path}, document {number:,}", {"page": page})


def split_pages(text: str) -> Iterator[str]:
    """Yield the articles of a raw text. Each begins with a line such as " = Title = "."""
    page = list[str]()
    for line in text.split("\n"):
        bare = line.replace("= = =", "===").replace("= =", "==").strip()
        if bare.startswith("= ") and bare.endswith(" ="):
            if "\n".join(page).strip():
                yield "\n".join(page)
            page = []
        page.append(line)
    yield "\n".join(page)


def make_item(record: Record, tokenizer: Tokenizer, length: int) -> Item:
    """Return windows over the whole document, and its numbers of words and of bytes."""
    page = record.text("page" if "page" in record.values else "text")
    if not page.strip():
        raise ValueError("the document is empty")
    counts = len(re.split(r"\s+", page)), len(page.encode())
    return Item(list(rolling_windows(tokenizer, detokenize(page), length)), counts)


def detokenize(text: str) -> str:
    """Return the text with its tokens joined."""
    for apart, joined in JOINED:
        text = text.replace(apart, joined)
    for opening, closing in BRACKETS:
        text = strip_inside(text, opening, closing)
    for quote in "\"'":
        parts = text.split(quote)
        for i in range(1, len(parts) - 1, 2):
            parts[i] = parts[i].strip()
        text = quote.join(parts)
    for apart, joined in JOINED_LAST:
        text = text.replace(apart, joined)
    return text


def strip_inside(text: str, opening: str, closing: str) -> str:
    """Return the text without white space behind an opening bracket and before its closing one."""
    *parts, rest = text.split(closing)
    for i, part in enumerate(parts):
        before, found, inside = part.partition(opening)
        parts[i] = before + found + (inside.strip() if found else inside)
    return closing.join([*parts, rest])


def measure(items: list[Scored]) -> list[Metric]:
    """Return the perplexities per word and per byte, and the bits per byte."""
    log_probs = [sum(score.log_prob for score in scores) for scores, _ in items]
    words, size = zip(*(about for _, about in items), strict=True)
    by_byte = perplexity("byte_perplexity", log_probs, size)
    bits = Metric(
        "bits_per_byte", math.log2(by_byte.value), by_byte.error / by_byte.value / math.log(2)
    )
    return [perplexity("word_perplexity", log_probs, words), by_byte, bits]


PROTOCOLS = {
    "harness": Task(
        "wikitext", "harness",
        "whole articles in rolling windows, tokens joined; per word of the file",
        "article", read, make_item, measure,
    ),
}  # fmt: skip
