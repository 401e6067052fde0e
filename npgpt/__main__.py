"""The entry point of `npgpt` and `python -m npgpt`."""

import gc
import sys


def main() -> int:
    """Run the command named by the arguments and return the exit status."""
    gc.set_threshold(50_000)  # imports create no cycles, but collections take a tenth of a start
    from npgpt.system import env_vars, memory
    from npgpt.system.streams import reserve_descriptors

    reserve_descriptors()
    env_vars.set_defaults()  # before NumPy is imported: OpenBLAS reads its own then
    try:
        memory.require(memory.TO_START, "start")
        from npgpt.cli.main import main as run
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        cause = memory.find_cause(error)
        if not memory.is_shortage(cause):
            raise
        print(f"npgpt: {memory.describe(cause)}", file=sys.stderr)
        return 1
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
