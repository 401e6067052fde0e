"""`npgpt` and `python -m npgpt`."""

import gc
import sys


def main() -> int:
    """Runs the command that the arguments ask for; returns its exit code."""
    gc.set_threshold(50_000)  # imports leave no garbage, but looking takes a tenth of a start
    from npgpt.system import env_vars

    env_vars.set_defaults()  # before NumPy is imported, or OpenBLAS will not hear of it
    from npgpt.cli.main import main as run

    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
