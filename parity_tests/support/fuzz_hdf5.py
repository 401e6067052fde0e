"""Forge checkpoints field by field, under valid checksums."""

import json

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

STATE = "training/state"
ROOM = 6000  # bytes after the JSON of a state, for a longer one


class Base:
    """A valid checkpoint, and where its structures are."""

    def __init__(self, path, *, run=None, **config):
        config = npgpt.Config(**dict(vocab_size=3, context_length=2, n_head=1, n_embd=2) | config)
        model = npgpt.GPT(config, seed=1, ops=ops, tokenizer="byte")
        training = None
        if run is not None:
            training = training_of(model, order=range(run))
            self.state = state_of(config)
            training.state = self.state | {"room": " " * ROOM}
        checkpoint.write(path, model, training)
        self.content = without_footer(path.read_bytes())
        reader = Reader(MappedFile(path))
        tensors = reader.read().tensors
        numbers = {(t.start, t.start + t.nbytes) for t in tensors.values()}
        self.structures = [range(*one) for one in sorted(set(reader.claimed) - numbers)]
        self.structures = [one for one in self.structures if one]
        self.addresses = [start for start, _ in reader.claimed]
        self.blocks = [(t.start, t.nbytes) for t in tensors.values() if t.dtype.startswith("float")]
        if run is not None:
            start = tensors[STATE].start
            self.text = slice(start, start + tensors[STATE].nbytes)

    def forge(self, rng):
        """Return a checkpoint with one to four changed fields."""
        content = bytearray(self.content)
        for _ in range(rng.randint(1, 4)):
            self.change_field(content, rng)
        return self.with_footer(content)

    def forge_state(self, rng):
        """Return a checkpoint with another state of its run."""
        content = bytearray(self.content)
        size = self.text.stop - self.text.start
        if rng.random() < 0.2:
            text = fuzz.change_bytes(json.dumps(self.state).encode(), rng, fuzz.as_text)
        else:
            text = fuzz.change_json(self.state, rng)
        content[self.text] = text[:size].ljust(size)
        return self.with_footer(content)

    def change_field(self, content, rng):
        """Replace one field of a structure."""
        structure = rng.choice(self.structures)
        width = rng.choice([1, 1, 2, 4, 8, 8])
        step = rng.choice([width, 2, 1])  # the addresses in some messages are not aligned
        at = structure.start + rng.randrange(len(structure)) // step * step
        old = int.from_bytes(content[at : at + width], "little")
        other = rng.choice(self.structures)
        new = rng.choice([
            rng.choice(fuzz.NUMBERS), rng.choice(self.addresses),
            old ^ 1 << rng.randrange(8 * width), old + rng.choice([-8, -1, 1, 8]),
            rng.getrandbits(8), len(content) - rng.randrange(64),
            int.from_bytes(content[other.start : other.start + width], "little"),
        ])  # fmt: skip
        content[at : at + width] = (new % (1 << 8 * width)).to_bytes(width, "little")

    def with_footer(self, content):
        """Return the bytes with a valid checksum footer."""
        return content + checksum.make_footer(np.frombuffer(content, np.uint8), self.blocks)


def state_of(config):
    """Return a valid state of a run."""
    progress = Progress(step=2, epoch=1, tokens_seen=32)
    progress.history += [vars(Evaluation(i, 1, 16, 5.5, 5.6, 1e-2, 100.0)) for i in range(2)]
    progress.samples.append(vars(Sample(1, 1, [195, 169, 7])))
    settings = npgpt.config.RunConfig(ops="numpy", config=config)
    record = run_state.Record(settings, "a digest")
    return json.loads(json.dumps(run_state.to_json(record, progress)))
