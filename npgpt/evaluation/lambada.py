"""LAMBADA: the last word of a text, which only the text as a whole tells.

Paperno et al. 2016, arXiv:1606.06031, in the version of OpenAI: a file of lines {"text": ...}.
"""

from npgpt.data.tokenizer import Tokenizer
from npgpt.evaluation.lines import Record, read_lines
from npgpt.evaluation.requests import encode_pair
from npgpt.evaluation.task import Item, Metric, Scored, Task, mean, perplexity


def make_item(record: Record, tokenizer: Tokenizer, length: int) -> Item:
    """Return the request for the last word, with the space before it."""
    text = record.text("text")
    if not text.strip():
        raise ValueError('its "text" is empty')
    context, _, word = text.rpartition(" ")
    return Item([encode_pair(tokenizer, context, f" {word}")])


def measure(items: list[Scored]) -> list[Metric]:
    """Return how often greedy generation writes the word, and the perplexity per word."""
    scores = [score for item in items for score in item.scores]
    return [
        mean("accuracy", [score.is_greedy for score in scores]),
        perplexity("perplexity", [score.log_prob for score in scores], [1] * len(scores)),
    ]


PROTOCOLS = {
    "harness": Task(
        "lambada", "harness",
        "the last word, after the rest of the text; accuracy: all its tokens are the most likely",
        "text", read_lines, make_item, measure,
    ),
}  # fmt: skip
