"""What do `npgpt profile` and `npgpt estimate` print for the 124M shape?

    python -m benchmarks.profile [--rounds 5]

A training step of 2 x 256 tokens and a new token in the middle of the context, op by op, and the
estimated time of ten billion tokens. docs/performance.md shows the results.
"""

import argparse
import json
import subprocess
import sys

from benchmarks import harness

SHAPE = "--preset", "gpt2-small", "--batch-size", "2", "--context-length", "256"
COMMANDS = {
    "step": ("profile", *SHAPE),
    "token": ("profile", "--preset", "gpt2-small", "--generate"),
    "estimate": ("estimate", *SHAPE, "--tokens", "10e9"),
}


def said(command: tuple[str, ...], rounds: int) -> dict:
    """Run the command; return its JSON."""
    run = [sys.executable, "-m", "npgpt", *command]
    if command[0] == "profile":
        run += ["--rounds", str(rounds)]
    print(f"npgpt {' '.join(run[3:])}", flush=True)
    out = subprocess.run([*run, "--json"], check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    figures = {name: said(command, options.rounds) for name, command in COMMANDS.items()}
    harness.write("profile", {"rounds": options.rounds, **figures})


if __name__ == "__main__":
    main()
