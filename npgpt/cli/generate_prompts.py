"""npgpt generate --prompts, and --jsonl."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from npgpt.cli.common import load_speculation, say
from npgpt.data.prompts import Prompt, count_prompts, find_prompts, read_prompts
from npgpt.data.sources import STDIN
from npgpt.distributed.generation import continue_prompts
from npgpt.distributed.world import World
from npgpt.errors import InputError
from npgpt.inference.bulk import Continuation
from npgpt.system.console import track_progress
from npgpt.system.terminal import number_of, printable_text

if TYPE_CHECKING:
    from npgpt.cli.generate import Generate


def run(command: "Generate", here: World) -> int:
    """Print the continuations of all prompts in their order; return the exit status."""
    from npgpt.cli.generate import ContextNotes

    options = command.options()
    prompts, count, digest = open_prompts(command, here)
    model, tokenizer = command.load()
    options.check(model)
    speculation = load_speculation(command.speculate, command.draft, model, command.weights)
    notes = ContextNotes(model.config.context_length, command.keep)
    found = continue_prompts(here, model, tokenizer, prompts, options, digest, speculation)
    total = count * options.num_samples
    for one in track_progress(found, total, quiet=not (here.is_first and total)):
        notes.note_prompt(one.prompt_tokens, f"prompt {one.number + 1:,}")
        notes.note_tokens(one.prompt_tokens - one.cropped + len(one.tokens))
        alone = command.prompts is None and options.num_samples == 1
        text = to_json(one) if command.jsonl else to_text(one, options.num_samples, alone)
        print(text, flush=True)
    if notes.cropped > 1:
        say(f"{number_of(notes.cropped, 'continuation')} of prompts that were cropped")
    return 0


def open_prompts(command: "Generate", here: World) -> tuple[Iterator[Prompt], int, str]:
    """Return the prompts, their number (0 if it is not known) and a digest.

    A file is read once before: an invalid line is found before anything is generated.
    """
    if command.prompts is None:
        return iter([Prompt(command.prompt or "")]), 1, ""
    source = find_prompts(command.prompts)
    if source.name == STDIN and here.size > 1:
        raise InputError("--prompts - cannot be shared by ranks: write the prompts to a file")
    count, digest = count_prompts(source)
    return read_prompts(source), count, digest


def to_text(one: Continuation, samples: int, alone: bool) -> str:
    """Return a continuation for people, under its number unless it is alone."""
    text = printable_text(one.prompt + one.text, sys.stdout)
    if alone:
        return text
    sample = f", sample {one.sample + 1} of {samples}" if samples > 1 else ""
    return f"--- prompt {one.number + 1}{sample}\n{text}"


def to_json(one: Continuation) -> str:
    """Return a continuation as a JSON object in one line."""
    found: dict[str, Any] = {
        "index": one.number,
        "sample": one.sample,
        "prompt": one.prompt,
        "text": one.text,
        "finish_reason": one.finish_reason,
        "tokens": one.tokens,
        "log_probabilities": one.log_probabilities,
        "prompt_tokens": one.prompt_tokens,
        "cropped": one.cropped,
    }
    if one.most_likely:
        found["most_likely"] = one.most_likely
    return json.dumps(found)
