"""Lines of metrics.jsonl: one per step and one per evaluation, written, validated and kept.

The line of a step has its `loss`, the line of an evaluation a `val_loss`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO

from npgpt.errors import InputError, show
from npgpt.system.machine import resident_memory
from npgpt.training.events import Evaluation, Step, is_count, is_number
from npgpt.weights.strict_json import parse_json

MAX_LINE = 4096  # bytes; a step has 250
# Two runs with the same settings have equal lines, but for these.
CLOCK_KEYS = frozenset(
    ("seconds", "tokens_per_s", "communication", "slowest_rank", "time", "memory")
)
RANKS = "communication", "slowest_rank"  # only in runs on many ranks
EVALUATION = ("tokens_seen", "train_loss", "val_loss")
STEP = ("tokens_seen", "loss", "lr", "norm")


def evaluation_line(evaluation: Evaluation | Mapping[str, Any]) -> str:
    """Return the line of an evaluation, or of its fields."""
    fields = vars(evaluation) if isinstance(evaluation, Evaluation) else evaluation
    return json.dumps(fields) + "\n"


def step_line(step: Step) -> str:
    """Return the line of a step, with the time of day and the memory of this process."""
    fields = {name: value for name, value in vars(step).items() if name != "ends_epoch"}
    if step.slowest_rank is None:
        fields = {name: value for name, value in fields.items() if name not in RANKS}
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return json.dumps(fields | {"time": now, "memory": resident_memory()}) + "\n"


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the lines of a file. Of a line above MAX_LINE, only the first MAX_LINE + 1 bytes."""
    while line := file.readline(MAX_LINE + 1):
        yield line
        while len(line) > MAX_LINE and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE + 1)


def parse_line(line: bytes, about: str) -> dict[str, Any]:
    """Return a line of metrics.jsonl. Raise InputError if it is invalid."""
    if len(line) > MAX_LINE:
        raise InputError(f"{about} has more than {MAX_LINE:,} bytes")
    found = parse_json(line, about)
    if not isinstance(found, dict):
        raise InputError(f"{about} is {show(found)}, but must be a JSON object")
    for name in STEP if "loss" in found else EVALUATION:
        if name not in found:
            raise InputError(f"{about} has no {name}: not a line of a run")
        value = found[name]
        is_valid, kind = (is_count, "a count") if name == "tokens_seen" else (is_number, "a number")
        if not is_valid(value) and not (name == "norm" and value is None):
            raise InputError(f"{about}: {name} is {show(value)}, but must be {kind}")
    return found


def lines_before(
    step: int, evaluations: Sequence[Mapping[str, Any]], file: BinaryIO
) -> Iterator[bytes]:
    """Yield the lines of the steps before `step`, from the file of a run that is resumed.

    Evaluations are in the checkpoint, too, and come from there. Steps are in the file alone: they
    are kept as they were written. A line that is damaged, repeated or another program's is dropped.
    """
    waiting, last = list(reversed(evaluations)), -1
    for line in read_lines(file):
        number = step_of(line)
        if number is not None and last < number < step:
            while waiting and waiting[-1]["step"] <= number:
                yield evaluation_line(waiting.pop()).encode()
            yield line
            last = number
    while waiting:
        yield evaluation_line(waiting.pop()).encode()


def step_of(line: bytes) -> int | None:
    """Return the number of the step in the line of a step; None if it is another line."""
    try:
        found = parse_line(line, "")
    except InputError:
        return None
    number = found.get("step")
    return number if "loss" in found and is_count(number) and line.endswith(b"\n") else None
