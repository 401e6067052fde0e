"""The entry point of `npgpt` and `python -m npgpt`."""

import atexit
import errno
import gc
import sys
from collections.abc import Callable, Sequence


def main() -> int:
    """Run the command named by the arguments and return the exit status."""
    try:
        run = prepare()
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as in cli/signals.py, which may not be imported yet
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        reason = describe(error)
        if reason is None:
            raise
        print(f"npgpt: {reason}", file=sys.stderr)
        return 1
    return run(sys.argv[1:])


def prepare() -> Callable[[Sequence[str]], int]:
    """Set the process up, import the command line and return the function that runs a command."""
    gc.set_threshold(50_000)  # imports create no cycles, but collections take a tenth of a start
    atexit.register(gc.freeze)  # or the last collection visits all of Numba, which takes 0.2 s
    from npgpt.system import env_vars, memory
    from npgpt.system.streams import reserve_descriptors

    reserve_descriptors()
    env_vars.set_defaults()  # before NumPy is imported: OpenBLAS reads its own then
    memory.require(memory.TO_START, "start")
    from npgpt.cli.main import main as run

    return run


def describe(error: Exception) -> str | None:
    """Return the line for an error before any command runs, None if its cause is unknown."""
    if isinstance(error, ModuleNotFoundError) and error.name and error.name[:5] != "npgpt":
        advice = "leave out -S, which hides it"
        if not sys.flags.no_site:
            advice = "install npgpt with pip, which installs it too"
        return f"the package {error.name} is missing: {advice}"
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}: raise the limit of open files (ulimit -n)"
    from npgpt.system import memory

    cause = memory.find_cause(error)
    return memory.describe(cause) if memory.is_shortage(cause) else None


if __name__ == "__main__":
    sys.exit(main())
