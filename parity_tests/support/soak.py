"""Train, generate and load for long: memory, descriptors, mappings and threads stay as they are.

    python -m parity_tests.support.soak

trains for 2,000 steps, generates 20,000 tokens and loads 500 files of each format, and prints what
the process holds after the first tenth of it and at the end.
"""

import argparse
import gc
import os
import resource
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

import npgpt
from npgpt import fused
from npgpt.config import TrainingConfig
from npgpt.errors import InputError
from npgpt.training import run_state
from npgpt.weights import checkpoint
from npgpt.weights.huggingface import read_huggingface
from npgpt.weights.quantized_file import write_quantized
from parity_tests.support import bundles
from parity_tests.support.checkpoints import training_of
from parity_tests.support.fuzz_hdf5 import state_of
from parity_tests.support.weight_files import CONFIG, llmc, numbers, write_huggingface


class Held(NamedTuple):
    """Resources of this process."""

    memory: float  # resident, in MB
    descriptors: int
    mappings: int
    threads: int


def held():
    """Return the resources that this process has now."""
    gc.collect()
    process = Path("/proc/self")
    resident = int((process / "statm").read_text().split()[1]) * resource.getpagesize()
    lines = (process / "maps").read_text().count("\n")
    counts = [len(os.listdir(process / kind)) for kind in ("fd", "task")]
    return Held(resident / 1e6, counts[0], lines, counts[1])


def soak(times, step):
    """Call `step` `times` times; return the resources after the first tenth, and at the end."""
    for _ in range(times // 10):
        step()
    warm = held()
    for _ in range(times - times // 10):
        step()
    return warm, held()


def training(config=CONFIG):
    """Return a function that trains for one step, evaluates and samples now and then."""
    model = npgpt.GPT(config, seed=1, ops=fused)
    tokens = np.random.default_rng(1).integers(config.vocab_size, size=300)  # 12 steps an epoch
    settings = TrainingConfig(steps=1 << 30, epochs=1 << 30, eval_every=5, sample_tokens=5)
    trainer = npgpt.Trainer(
        model, tokens, tokens[:100], settings, npgpt.Generator(1), prompt=[1, 2, 3]
    )
    events = trainer.events()

    def step():
        while not hasattr(event := next(events), "ends_epoch"):
            assert event

    return step


def generation(count, config=CONFIG):
    """Return a function that generates `count` tokens, beyond the context."""
    model = npgpt.GPT(config, seed=1, ops=fused)
    rng = npgpt.Generator(2)

    def step():
        assert sum(1 for _ in npgpt.generate(model, [1, 2, 3], count, 0.8, rng=rng)) == count

    return step


def loads(folder):
    """Write a file of each format; return functions that load it, by name."""
    write_huggingface(folder / "huggingface", CONFIG, numbers())
    write_huggingface(folder / "several files", CONFIG, numbers(), shards=3)
    bundles.write_gpt2(folder / "openai", CONFIG, numbers())
    (folder / "llm.c").write_bytes(llmc(CONFIG, numbers()))
    write_quantized(folder / "quantized", read_huggingface(folder / "huggingface"), "int8")
    model = npgpt.load(folder / "huggingface")
    model.save(folder / "checkpoint")
    names = "huggingface", "several files", "openai", "llm.c", "quantized", "checkpoint"
    found = {name: lambda name=name: use(npgpt.load(folder / name)) for name in names}
    saved = training_of(model)
    saved.state = state_of(CONFIG)
    checkpoint.write(folder / "run", model, saved)
    np.savez(folder / "refused.npz", **numbers())
    return found | {
        "run": lambda: use(run_state.read(folder / "run")[1]),
        "checkpoint, written": lambda: model.save(folder / "written"),
        "refused": lambda: refuse(folder / "refused.npz"),
    }


def use(model):
    """Read parameters of a model."""
    assert np.isfinite(model.params.ln_f.weight).all()
    assert np.isfinite(model.params.wpe.weight).all()


def refuse(path):
    """Load a file that is refused."""
    try:
        npgpt.load(path)
    except InputError:
        return
    raise AssertionError(f"{path} was read")


def run(steps, tokens, files):
    """Yield a name and what is held before and after, for each of them."""
    yield f"{steps:,} steps", *soak(steps, training())
    yield f"{tokens:,} tokens", *soak(20, generation(tokens // 20))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        for name, load in loads(Path(folder)).items():
            yield f"{files:,} times {name}", *soak(files, load)


def main():
    """Print what is held."""
    parser = argparse.ArgumentParser()
    for name, default in (("steps", 2000), ("tokens", 20_000), ("files", 500)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    print(f"{'':32}" + "".join(f"{name:>24}" for name in Held._fields))
    for name, warm, after in run(given.steps, given.tokens, given.files):
        pairs = zip(warm, after, strict=True)
        print(f"{name:32}" + "".join(f"{f'{a:,.5g} to {b:,.5g}':>24}" for a, b in pairs))


if __name__ == "__main__":
    main()
