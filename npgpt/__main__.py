"""`npgpt` and `python -m npgpt`."""

import sys


def main() -> int:
    from npgpt import threads

    threads.settle()  # before NumPy is imported, or OpenBLAS will not hear of it
    from npgpt import cli

    return cli.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
