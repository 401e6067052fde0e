"""Run each test file by itself.

    python -m parity_tests.support.alone                          # all files, two at a time
    python -m parity_tests.support.alone parity_tests/cli/*.py    # these

No file may need another one to have run before it. Slow tests are left out, unless a file has no
others: most start processes of their own, and the two whole suites of CI run them in two orders. A
file whose tests start processes or look at the cache begins without compiled kernels, because
compilation takes part of their time, memory and disk. The others share what has been compiled.
What a file prints is shown if it fails.
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
NO_TESTS = 5  # pytest's exit code if none was selected
FROM_COLD = re.compile(
    r"subprocess|multiprocessing|NUMBA|numba|support\.(processes|ranks|memory_limits|library_process)"
)


def run(path: Path, shared: str) -> tuple[Path, int, str, float]:
    """Return the file, the exit code, the output and the seconds of one file."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as own:
        cache = own if FROM_COLD.search(path.read_text()) else shared
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", str(path)]
        for selection in ["-m", "not slow"], []:
            done = subprocess.run(
                [*command, *selection], cwd=ROOT, env=os.environ | {"NUMBA_CACHE_DIR": cache},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            if done.returncode != NO_TESTS:
                break
    return path, done.returncode, done.stdout, time.monotonic() - started


def main(arguments: list[str]) -> int:
    paths = [Path(a).resolve() for a in arguments]
    paths = paths or sorted((ROOT / "parity_tests").rglob("test_*.py"))
    failed = []
    with tempfile.TemporaryDirectory() as shared, ThreadPoolExecutor(AT_ONCE) as pool:
        for path, code, output, seconds in pool.map(run, paths, itertools.repeat(shared)):
            print(f"{seconds:6.1f} s  {path.relative_to(ROOT)}", flush=True)
            if code:
                failed.append(path)
                print(output, flush=True)
    print(f"{len(paths) - len(failed)} of {len(paths)} files pass alone")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
