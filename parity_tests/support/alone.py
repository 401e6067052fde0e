"""Run each test file by itself.

    python -m parity_tests.support.alone                          # all files, two at a time
    python -m parity_tests.support.alone parity_tests/cli/*.py    # these

No file may need another one to have run before it, and no test the ones before it: the tests of
each file run in a random order. Slow tests are left out: most start processes of their own, and
CI's suites run them in two orders. Every file runs in a fork of this process, which has imported
nothing but libraries, and what conftest.py imports first of npgpt.

Files share compiled kernels with all that runs here. A file whose tests start processes or look at
the cache may depend on finding them, because compilation takes part of the time, memory and disk.
One in `TURNS` of such files begins without any, another one for another seed; `--cold` takes all.
What a file prints is shown if it fails, and `--seed` repeats what was drawn.
"""

import argparse
import atexit
import gc
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
AT_ONCE = 2
TURNS = 3
NO_TESTS = 5  # pytest's exit code if all are slow
OPTIONS = [
    "-p", "no:cacheprovider", "-n0", "-m", "not slow",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",  # these have been imported
]  # fmt: skip
FROM_COLD = re.compile(
    r"subprocess|multiprocessing|NUMBA|numba|support\.(processes|ranks|memory_limits|library_process)"
)


def import_libraries() -> None:
    """Import what most files and plugins import, and what takes the longest; no fork frees it."""
    from npgpt.system import env_vars

    env_vars.set_defaults()  # before Numba is imported
    import anyio.pytest_plugin  # noqa: F401
    import hypothesis  # noqa: F401 (its plugin imports it in the end)
    import numba  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401

    gc.collect()
    gc.freeze()


def start(path: Path, seed: int, cache: str | None, output: Path) -> int:
    """Start the tests of a file. Return the process's number."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        with open(output, "wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if cache is not None:
            import numba

            os.environ["NUMBA_CACHE_DIR"] = cache
            numba.config.reload_config()  # it has read the variable when it was imported
        import pytest

        status = pytest.main([*OPTIONS, "--shuffle", str(seed), str(path)])
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def colds(paths: list[Path], seed: int, *, every: bool) -> set[Path]:
    """Return the files that begin without compiled kernels."""
    found = [path for path in paths if FROM_COLD.search(path.read_text())]
    return {path for i, path in enumerate(found) if every or (i + seed) % TURNS == 0}


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 16))
    parser.add_argument("--cold", action="store_true")
    given = parser.parse_args()
    paths = [path.resolve() for path in given.paths]
    paths = paths or sorted((ROOT / "parity_tests").rglob("test_*.py"))
    cold = colds(paths, given.seed, every=given.cold)
    import_libraries()
    waiting, running, failed = paths[::-1], {}, []
    folder = tempfile.mkdtemp()  # no TemporaryDirectory, which every fork would delete at its end
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                path, number = waiting.pop(), len(waiting)
                cache, output = f"{folder}/{number}-cache", Path(folder, f"{number}.txt")
                process = start(path, given.seed, cache if path in cold else None, output)
                running[process] = path, output
            process, status, used = os.wait4(-1, 0)
            path, output = running.pop(process)
            seconds, how = used.ru_utime + used.ru_stime, ", from cold" if path in cold else ""
            print(f"{seconds:6.1f} s of CPU  {path.relative_to(ROOT)}{how}", flush=True)
            if os.waitstatus_to_exitcode(status) not in (0, NO_TESTS):
                failed.append(path)
                print(output.read_text(errors="replace"), flush=True)
    finally:
        shutil.rmtree(folder)
    print(f"{len(paths) - len(failed)} of {len(paths)} files pass alone (--seed {given.seed})")
    return bool(failed)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
