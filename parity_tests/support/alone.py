"""Run each test file by itself.

    python -m parity_tests.support.alone                          # all files, two at a time
    python -m parity_tests.support.alone parity_tests/cli/*.py    # these

No file may need another one to have run before it. Slow tests are left out: most start processes of
their own, and the two whole suites of CI run them in two orders. A file whose tests start processes
or look at the cache begins without compiled kernels, because compilation takes part of their time,
memory and disk. The others share what has been compiled. What a file prints is shown if it fails.
"""

import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 2
NO_TESTS = 5  # pytest's exit code if all are slow
COMMAND = [
    sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", "-m", "not slow"
]  # fmt: skip
FROM_COLD = re.compile(
    r"subprocess|multiprocessing|NUMBA|numba|support\.(processes|ranks|memory_limits|library_process)"
)


def run(path: Path, shared: str) -> tuple[Path, bool, str, float]:
    """Return the file, whether it failed, the output and the seconds of one file."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as own:
        cache = own if FROM_COLD.search(path.read_text()) else shared
        done = subprocess.run(
            [*COMMAND, str(path)], cwd=ROOT, env=os.environ | {"NUMBA_CACHE_DIR": cache},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    failed = done.returncode not in (0, NO_TESTS)
    return path, failed, done.stdout, time.monotonic() - started


def main(arguments: list[str]) -> int:
    paths = [Path(a).resolve() for a in arguments]
    paths = paths or sorted((ROOT / "parity_tests").rglob("test_*.py"))
    failed = []
    with tempfile.TemporaryDirectory() as shared, ThreadPoolExecutor(AT_ONCE) as pool:
        for path, fails, output, seconds in pool.map(run, paths, itertools.repeat(shared)):
            print(f"{seconds:6.1f} s  {path.relative_to(ROOT)}", flush=True)
            if fails:
                failed.append(path)
                print(output, flush=True)
    print(f"{len(paths) - len(failed)} of {len(paths)} files pass alone")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
