"""Measure the time and the memory of loading a model, and the time until the first token.

    python -m benchmarks.loading [--rounds 7] [--no-xl] [--scratch FOLDER]

A random model of the 124M shape is written in every format. Each file is loaded in a process of
its own. Seconds: until one row of every parameter has been read. Memory: growth of the resident
size, mapped pages included, until the first logits. Baselines: PyTorch with the same weights from
torch.save, transformers with the same folder. `xl` is a file of gpt2-xl's shape, 6.2 GB, written to
--scratch and deleted.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.harness import peak_memory, table
from npgpt.model.params import size
from npgpt.preset import PRESETS

PROMPT = "Every effort moves you"
FILES = {
    "npgpt (HDF5)": "checkpoint.h5",
    "OpenAI (TensorFlow)": "openai",
    "Hugging Face, float32": "huggingface",
    "Hugging Face, bfloat16": "bfloat16",
    "llm.c, float32": "llmc.bin",
}
TOKENS = np.arange(64)[None]  # for the first logits


def write_all(folder: Path) -> None:
    """Write the 124M shape in every format, and by torch.save."""
    import torch

    import npgpt
    from npgpt.model.params import named
    from npgpt.weights.huggingface import write_huggingface
    from npgpt.weights.llmc import write_llmc
    from parity_tests.support.bundles import write_gpt2

    model = npgpt.GPT(PRESETS["gpt2-small"].config, seed=1, tokenizer="gpt2")
    arrays = dict(named(model.params))
    model.save(folder / FILES["npgpt (HDF5)"])
    write_gpt2(folder / FILES["OpenAI (TensorFlow)"], model.config, arrays)
    for name in ("float32", "bfloat16"):
        path = folder / FILES[f"Hugging Face, {name}"]
        write_huggingface(path, model.config, model.params, model.tokenizer, dtype=name)
    write_llmc(folder / FILES["llm.c, float32"], model.config, model.params, dtype="float32")
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, folder / "torch")


def npgpt_opens(path: str):
    import npgpt
    from npgpt.model.params import named

    small = npgpt.Config(vocab_size=99, context_length=64, n_layer=1, n_head=1, n_embd=8)
    npgpt.GPT(small).logits(TOKENS)  # loads the kernels

    def open_it():
        model = npgpt.load(path)
        for _, array in named(model.params):
            array[0].sum()
        return model

    return open_it, lambda model: model.logits(TOKENS)


def torch_opens(path: str):
    import torch

    from reference.gpt2 import GPT2, Config

    def open_it():
        config = asdict(PRESETS["gpt2-small"].config)
        model = GPT2(Config(**config))
        model.load_state_dict(torch.load(path, weights_only=True))
        return model

    return open_it, lambda model: model(torch.from_numpy(TOKENS)).detach()


def transformers_opens(path: str):
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()

    def open_it():
        return transformers.GPT2LMHeadModel.from_pretrained(path)

    return open_it, lambda model: model(torch.from_numpy(TOKENS)).logits.detach()


def npgpt_opens_xl(path: str):
    """As `npgpt_opens`, without logits, which would read the complete file."""
    return npgpt_opens(path)[0], lambda model: model.params.ln_f.bias


OPENERS = {
    "npgpt": npgpt_opens,
    "npgpt-xl": npgpt_opens_xl,
    "PyTorch": torch_opens,
    "transformers": transformers_opens,
}


def measure(who: str, path: str) -> dict[str, float]:
    """Load the file in this process; return seconds, bytes and the largest logit."""
    open_it, logits = OPENERS[who](path)
    before, started = resident(), time.perf_counter()
    model = open_it()
    seconds = time.perf_counter() - started
    first = np.asarray(logits(model))
    grown = peak_memory() - before
    return {"seconds": seconds, "bytes": grown, "check": float(np.abs(first).max())}


def resident() -> int:
    """Return the resident size of this process in bytes (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if "VmRSS" in line)


def apart(who: str, path: Path) -> dict[str, float]:
    """Run `measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.loading", "--open", who, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def command(*arguments) -> dict[str, float]:
    """Return seconds and peak memory of the process `npgpt ARGUMENTS`."""
    run = [sys.executable, "-m", "npgpt", *map(str, arguments)]
    started = time.perf_counter()
    with subprocess.Popen(run, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"npgpt {' '.join(run[3:])} ended with {process.returncode}")
    return {"seconds": time.perf_counter() - started, "bytes": usage.ru_maxrss * 1024}


def generate(model: Path, tokens: int) -> dict[str, float]:
    return command("generate", "--model", model, "--prompt", PROMPT, "--max-new-tokens", tokens)


def write_xl(folder: Path) -> None:
    """Write a file of gpt2-xl's shape, drawn a block at a time."""
    from npgpt.model import params
    from npgpt.weights.huggingface import write_config
    from npgpt.weights.safetensors import TensorStream, write_safetensors

    config, rng = PRESETS["gpt2-xl"].config, np.random.default_rng(1)
    draw = 0.02 * rng.standard_normal(1 << 22, np.float32)

    def numbers(size):
        for start in range(0, size, draw.size):
            yield np.roll(draw, start)[: size - start]

    named = params.named(params.shapes(config))
    pieces = {n: TensorStream(tuple(s), "float32", numbers(math.prod(s))) for n, s in named}
    folder.mkdir()
    write_safetensors(folder / "model.safetensors", pieces)
    write_config(folder, config, "gpt2", dtype="float32")


WRITERS = {"all": write_all, "xl": write_xl}


def write(what: str, folder: Path) -> None:
    """Run one of WRITERS in a process of its own: a child's peak memory starts at its parent's."""
    command = [sys.executable, "-m", "benchmarks.loading", "--write", what, str(folder)]
    subprocess.run(command, check=True)


def middle(measured: list[dict[str, float]], key: str) -> float:
    return statistics.median(one[key] for one in measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--xl", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--scratch", type=Path, help="a directory with 9 GB of free space")
    parser.add_argument("--open", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--write", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        what, folder = options.write
        WRITERS[what](Path(folder))
        return
    if options.open:
        print(json.dumps(measure(*options.open)))
        return

    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        folder = Path(scratch)
        write("all", folder)
        weights = 4 * size(PRESETS["gpt2-small"].config)
        kinds = [("npgpt", name, folder / file) for name, file in FILES.items()]
        kinds += [("PyTorch", "torch.save", folder / "torch")]
        kinds += [("transformers", "Hugging Face, float32", folder / "huggingface")]
        found = {kind: [] for kind in kinds}
        for _ in range(options.rounds):
            for who, name, path in kinds:
                found[who, name, path].append(apart(who, path))
        checks = {name: middle(f, "check") for (_, name, _), f in found.items()}
        exact = [c for name, c in checks.items() if "bfloat16" not in name]
        if max(exact) - min(exact) > 1e-4 * max(exact):
            sys.exit(f"not the same logits: {checks}")

        rows = [["loaded by", "format", "seconds", "memory / weights"]]
        opening = []
        for (who, name, _), measured in found.items():
            seconds, share = middle(measured, "seconds"), middle(measured, "bytes") / weights
            opening.append({"who": who, "format": name, "seconds": seconds, "memory": share})
            rows.append([who, name, f"{seconds:.3f}", f"{share:.2f}"])
        print(table(rows), end="\n\n")

        generate(folder / "huggingface", 1)  # compiles the kernels
        firsts = [generate(folder / "huggingface", 1) for _ in range(options.rounds)]
        figures = {"opening": opening, "first_token": middle(firsts, "seconds")}
        print(f"npgpt generate to the first token, all of it: {figures['first_token']:.2f} s")

        if options.xl:
            figures["xl"] = xl(folder / "xl")
    harness.write("loading", {"rounds": options.rounds, **figures})


def xl(folder: Path) -> dict[str, float]:
    """Measure loading, generating with and inspecting gpt2-xl's shape."""
    write("xl", folder)
    written = (folder / "model.safetensors").stat().st_size
    opened = apart("npgpt-xl", folder)["seconds"]
    generated, inspected = generate(folder, 8), command("inspect", folder)
    print(
        f"gpt2-xl, a file of {written / 1e9:.2f} GB: loaded in {opened:.3f} s; 8 tokens in "
        f"{generated['bytes'] / written:.3f} of its size ({generated['seconds']:.1f} s); "
        f"inspected in {inspected['bytes'] / 1e9:.2f} GB ({inspected['seconds']:.1f} s)"
    )
    return {
        "file": written,
        "open_seconds": opened,
        "generate_memory": generated["bytes"] / written,
        "inspect_bytes": inspected["bytes"],
    }


if __name__ == "__main__":
    main()
