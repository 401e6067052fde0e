"""Wait for changes of files by asking for their times."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

INTERVAL = 0.3  # seconds


def changes(paths: Iterable[Path], interval: float = INTERVAL) -> Iterator[Path]:
    """Yield each file when it is saved, without an end."""
    paths = list(paths)
    known = {path: stamp(path) for path in paths}
    while True:
        time.sleep(interval)
        for path in paths:
            now = stamp(path)
            if now != known[path]:
                known[path] = now
                if now is not None:  # an editor deletes and writes anew
                    yield path


def stamp(path: Path) -> tuple[int, int] | None:
    """Return what changes when a file is saved, or None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
