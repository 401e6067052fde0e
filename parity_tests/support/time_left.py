"""Progress of the long forms: a line at most every ten seconds, with the time left."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from npgpt.system.units import duration

T = TypeVar("T")
INTERVAL = 10.0  # seconds


def with_time_left(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Iterate over `total` items; write to standard error how many are done."""
    started = shown = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - shown >= INTERVAL:
            shown, left = now, (now - started) / done * (total - done)
            print(f"{what}: {done:,} of {total:,}, {duration(left)} left", file=sys.stderr)
        yield item
