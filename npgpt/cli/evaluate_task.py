"""The part of npgpt evaluate that runs a task."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from npgpt.cli.common import load
from npgpt.distributed.world import World
from npgpt.errors import ConfigError, InputError
from npgpt.system.console import track_progress
from npgpt.system.terminal import number_of, printable_line

if TYPE_CHECKING:
    from npgpt.cli.evaluate import Evaluate
    from npgpt.evaluation.task import Metric
    from npgpt.inference.scoring import Batch


def evaluate_task(here: World, flags: "Evaluate", name: str) -> int:
    """Score this rank's share of a task; print the metrics on the first one."""
    from npgpt.distributed.evaluation import score
    from npgpt.evaluation import task as tasks
    from npgpt.evaluation.tasks import find
    from npgpt.inference.scoring import TOKENS

    for flag in ("context_length", "stride", "eval_tokens"):
        if getattr(flags, flag) is not None:
            shown = flag.replace("_", "-")
            raise ConfigError(f"--{shown} is for a text, not for the task {name}: leave it out")
    for flag, number in (("limit", flags.limit), ("batch-size", flags.batch_size)):
        if number is not None and number < 1:
            raise ConfigError(f"--{flag} is {number}, but must be at least 1")
    task = find(name, flags.protocol)
    model, tokenizer = load(flags.model, flags.weights, flags.tokenizer)
    length = model.config.context_length
    items = tasks.read_items(task, flags.data, tokenizer, length, flags.limit)
    if not items:
        raise InputError(f"{flags.data} has no {task.unit}s")

    def track(share: "list[Batch]") -> "Iterable[Batch]":
        return track_progress(share, len(share)) if here.is_first else share

    tokens = max(TOKENS, flags.batch_size * length)
    scores = score(here, model, tasks.join_requests(items), tokens, track)
    if here.is_first:
        print(", ".join(map(describe, tasks.measure(task, items, scores))))
        count = f"{number_of(len(items), task.unit)} ({printable_line(str(tokenizer))})"
        if len(items) == 1:
            count += ", too few for a standard error"
        print(f"{name}, protocol {task.protocol}, over {count}: {task.method}")
    return 0


def describe(metric: "Metric") -> str:
    """Return a metric with its standard error."""
    value, error = metric.value, metric.error
    digits = 4 if value < 10 else 2
    shown = f"{value:.{digits}f}" if value < 1e9 else f"{value:.3g}"
    if math.isfinite(error):
        shown += f" +/- {error:.{digits}f}" if error < 1e9 else f" +/- {error:.3g}"
    return f"{metric.name} {shown}"
