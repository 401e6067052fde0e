"""Forge checkpoints field by field, under valid checksums, and read them within limits.

    python -m parity_tests.support.fuzz_hdf5 100000 --seed 0

reads 100,000 forged files, each within one second of CPU time and 100 MB of memory, and prints how
often each outcome occurred. A file that fails is kept.
"""

import argparse
import json
import random
import re
import resource
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

import npgpt
from npgpt import ops
from npgpt.training import run_state
from npgpt.training.events import Evaluation, Progress, Sample
from npgpt.weights import checkpoint, checksum
from npgpt.weights.hdf5 import Reader
from npgpt.weights.mapped import MappedFile
from parity_tests.support import fuzz
from parity_tests.support.checkpoints import training_of, without_footer

SECONDS, MEMORY = 1.0, 100_000_000  # for each file
TOKENS = [  # to replace one token of JSON
    b"1e400", b"-1", b"1" * 401, b"9" * 20, b"9" * 19, b"Infinity", b"NaN", b"1e308", b"-0.5",
    b"null", b"true", b"[]", b"{}", b'""', b'"a"', b'"\\ud800"', b'"\x1b[2J"', b"\xff", b"[" * 500,
    b'{"":0}', b'[{"step":0}]', b",", b":", b"]", b"}",
]  # fmt: skip
PAD = 1000  # bytes in the JSON that make room for longer tokens
TOKEN = re.compile(rb'"[^"]*"|[-\d.e]+|[a-z]+|[\[\]{}:,]')


class Base:
    """A valid checkpoint, and where its structures are."""

    def __init__(self, path, *, run, **config):
        config = npgpt.Config(**dict(vocab_size=3, context_length=2, n_head=1, n_embd=2) | config)
        model = npgpt.GPT(config, seed=1, ops=ops, tokenizer="byte")
        training = training_of(model, order=range(run)) if run is not None else None
        if training is not None:
            training.state = state_of(config)
        checkpoint.write(path, model, training)
        self.content = without_footer(path.read_bytes())
        reader = Reader(MappedFile(path))
        tensors = reader.read().tensors
        numbers = {(t.start, t.start + t.nbytes) for t in tensors.values()}
        self.structures = [range(*one) for one in sorted(set(reader.claimed) - numbers)]
        self.structures = [one for one in self.structures if one]
        self.addresses = [start for start, _ in reader.claimed]
        self.blocks = [(t.start, t.nbytes) for t in tensors.values() if t.dtype.startswith("float")]
        state = tensors.get("training/state")
        self.state = None if state is None else slice(state.start, state.start + state.nbytes)


def state_of(config):
    """Return a valid state with room for longer tokens."""
    progress = Progress(step=2, epoch=1, tokens_seen=32)
    progress.history.append(vars(Evaluation(0, 1, 16, 5.5, 5.6, 1e-2, 100.0)))
    progress.samples.append(vars(Sample(1, 1, [195, 169, 7])))
    settings = npgpt.config.RunConfig(ops="numpy", config=config)
    return run_state.to_json(settings, progress, "a digest") | {"pad": " " * PAD}


def forge(base, rng):
    """Return the bytes of a checkpoint with one to four changed fields and a valid footer."""
    content = bytearray(base.content)
    for _ in range(rng.randint(1, 4)):
        if base.state is not None and rng.random() < 0.3:
            content[base.state] = with_token(bytes(content[base.state]), rng)
        else:
            change_field(content, base, rng)
    array = np.frombuffer(content, np.uint8)
    return content + checksum.make_footer(array, base.blocks)


def with_token(text, rng):
    """Return the JSON `text` with one token replaced, in the same number of bytes."""
    begin, end = rng.choice([one.span() for one in TOKEN.finditer(text)])
    changed = text[:begin] + rng.choice(TOKENS) + text[end:]
    surplus = len(changed) - len(text)
    if surplus < 0:
        return changed + b" " * -surplus
    at = changed.rfind(b" " * surplus)
    return changed[:at] + changed[at + surplus :] if at >= 0 else changed[: len(text)]


def change_field(content, base, rng):
    """Replace one field of a structure."""
    structure = rng.choice(base.structures)
    width = rng.choice([1, 1, 2, 4, 8, 8])
    step = rng.choice([width, 2, 1])  # the addresses in some messages are not aligned
    at = structure.start + rng.randrange(len(structure)) // step * step
    old = int.from_bytes(content[at : at + width], "little")
    other = rng.choice(base.structures)
    new = rng.choice([
        rng.choice(fuzz.NUMBERS), rng.choice(base.addresses), old ^ 1 << rng.randrange(8 * width),
        old + rng.choice([-8, -1, 1, 8]), rng.getrandbits(8), len(content) - rng.randrange(64),
        int.from_bytes(content[other.start : other.start + width], "little"),
    ])  # fmt: skip
    content[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "little")


def read(path):
    """Read everything in a checkpoint, as npgpt inspect and npgpt train --resume do."""
    found = checkpoint.read_checkpoint(path, verify=True)
    if "training/state" in Reader(MappedFile(path)).read().tensors:
        _, saved = checkpoint.read_training(path)
        json.dumps(run_state.from_json(saved.state, path).training.prompt)
    return found.tensors


def bases(directory):
    """Return valid checkpoints that use every structure: one with a B-tree of two levels."""
    return [
        Base(directory / "model.h5", run=None, n_layer=1),
        Base(directory / "run.h5", run=5, n_layer=1, tied=False),
        Base(directory / "epoch.h5", run=0, n_layer=2, qkv_bias=False),
        Base(directory / "deep.h5", run=None, n_layer=20),
    ]


def main():
    """Read forged files and print the outcomes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="fuzz"))
    files, path, outcomes, slowest = bases(directory), directory / "forged.h5", Counter(), 0.0
    for base in files:
        path.write_bytes(forge(base, random.Random(0)))
        fuzz.outcome(lambda: read(path), path)  # everything is imported
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        rng = random.Random(seed)
        path.write_bytes(forge(rng.choices(files, [4, 4, 4, 1])[0], rng))
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)  # the default action ends the process
        start = time.process_time()
        try:
            outcomes[fuzz.outcome(lambda: read(path), path)] += 1
        except BaseException:
            print(f"seed {seed}: {path}")
            raise
        slowest = max(slowest, time.process_time() - start)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    for outcome, count in outcomes.most_common():
        print(f"{count:8,} {outcome}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{arguments.count:,} files, {len(outcomes)} outcomes, slowest {slowest:.3f} s, "
          f"peak {peak:.0f} MB")  # fmt: skip
    for file in directory.iterdir():
        file.unlink()
    directory.rmdir()


if __name__ == "__main__":
    main()
