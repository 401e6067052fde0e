"""Run each test file by itself, with no compiled kernels to begin with.

    python -m parity_tests.support.alone                          # all files, two at a time
    python -m parity_tests.support.alone parity_tests/cli/*.py    # these

No file may need another one to have run before it. What each file prints is shown if it fails.
"""

import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 2


def run(path: Path) -> tuple[Path, int, str, float]:
    """The file, the exit code, the output and the seconds of one file."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", str(path)]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | {"NUMBA_CACHE_DIR": cache},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    return path, done.returncode, done.stdout, time.monotonic() - started


def main(arguments: list[str]) -> int:
    paths = [Path(a).resolve() for a in arguments]
    paths = paths or sorted((ROOT / "parity_tests").rglob("test_*.py"))
    failed = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for path, code, output, seconds in pool.map(run, paths):
            print(f"{seconds:6.1f} s  {path.relative_to(ROOT)}", flush=True)
            if code:
                failed.append(path)
                print(output, flush=True)
    print(f"{len(paths) - len(failed)} of {len(paths)} files pass alone, from cold")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
