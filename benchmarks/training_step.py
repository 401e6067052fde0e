"""Time a training step of the 124M shape, beside PyTorch, JAX and a lower bound.

    python -m benchmarks.training_step [--shape 2x256 1x1024 4x64 book] [--rounds 5] [--threads 2]
                                       [--dtype bfloat16] [--llmc PROGRAM] [--scratch DIR]

float32: README's loop (loss_and_gradients, AdamW) on B x T tokens, no dropout, tied head. Beside it
the same step by loss and backward with out=. Baselines: PyTorch at its best (its own layers,
scaled_dot_product_attention, fused AdamW), eager and compiled; JAX, where benchmarks/peers.py finds
it; at 4 x 64 also llm.c's CPU program --llmc (train_gpt2, compiled from train_gpt2.c). The fastest
counts. Lower bound: each of the step's matrix products at the best rate of NumPy's BLAS, PyTorch's
and npgpt's own, which three processes measure in turn, and all other arrays at the rate of memory.

--dtype bfloat16: bfloat16 products, beside npgpt's float32 step and PyTorch's bfloat16 autocast.

`book`: the step of the book's chapter 5 (2 x 256, dropout 0.1, untied head) beside the book's
PyTorch model, which draws the same parameters and the same masks.
"""

import argparse
import os
import re
import shutil
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import harness, peers
from benchmarks.baselines import llmc, lower_bounds
from benchmarks.harness import Runner, alternate, compared, comparison, on_threads, once, serve
from npgpt.config import Config
from npgpt.preset import PRESETS

CONFIG, BOOK = Config(), PRESETS["book"].config  # both of the 124M shape
SEED = 123
ADAMW = {"lr": 1e-4, "weight_decay": 0.0}  # llm.c's, which takes no other
BOOK_ADAMW = {"lr": 4e-4, "weight_decay": 0.1}
# target ratios, npgpt / baseline: "best" is the fastest other program, "memory" the smallest;
# "npgpt-out" limits time and memory
AT_MOST = {
    "2x256": {
        "best": 0.78,
        "floor": 1.08,
        "npgpt-1-thread": 1 / 1.8,
        "memory": 0.90,
        "npgpt-out": 1.03,
    },
    "1x1024": {"best": 0.76, "floor": 1.08, "memory": 0.90},
    "4x64": {"best": 0.82, "floor": 1.08, "llm.c": 0.25, "memory": 0.90, "npgpt-out": 1.03},
    "book": {"best": 0.58, "memory": 0.90},
}
BFLOAT16_AT_MOST = {
    "2x256": {"best": 0.70, "npgpt": 0.60, "floor": 1.08, "memory": 0.90},
    "4x64": {"best": 0.70, "floor": 1.08, "memory": 0.90},
}
TOLERANCE = {"float32": 2e-5, "bfloat16": 2e-2}  # relative, of the first three losses
NAMES = {
    "torch-eager": "PyTorch",
    "torch-compiled": "PyTorch, compiled",
    "torch-book": "the book's PyTorch model",
    "npgpt-1-thread": "npgpt, one thread",
    "npgpt-out": "npgpt with out= (loss, backward)",
    "npgpt": "npgpt float32",
    "torch-eager-bfloat16": "PyTorch bfloat16",
    "torch-compiled-bfloat16": "PyTorch bfloat16, compiled",
    "jax": "JAX",
    "llm.c": "llm.c",
    "floor": "lower bound: best products, memory's rate",
}
BOUND_PARTS = {  # measured in turn, and combined to "floor"
    "float32": ("floor-numpy", "floor-torch", "floor-npgpt"),
    "bfloat16": ("floor-torch", "floor-npgpt"),
}


def weights() -> dict[str, np.ndarray]:
    """Return random parameters by checkpoint name, for every implementation."""
    from npgpt.model import params

    rng, made = np.random.default_rng(0), {}
    for name, shape in params.named(params.shapes(CONFIG)):
        made[name] = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        if "ln_" in name and name.endswith("weight"):
            made[name] += 1
    return made


def parameters():
    """Return the same parameters as npgpt's tree."""
    from npgpt.model import params

    tree, named = params.zeros(CONFIG), weights()
    for name, array in params.named(tree):
        array[...] = named[name]
    return tree


def batch(B: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tokens (B, T) and targets, the next tokens; the first token follows the last."""
    tokens = np.random.default_rng(1).integers(CONFIG.vocab_size, size=B * T)
    return tokens.reshape(B, T), np.roll(tokens, -1).reshape(B, T)


# Each returns a function that takes one step and returns the loss before it.


def npgpt_step(B: int, T: int, *, bfloat16=False, with_out=False):
    from npgpt.system import env_vars

    env_vars.set_defaults()
    import npgpt
    from npgpt import fused, mixed

    ops = mixed if bfloat16 else fused
    model = npgpt.GPT.from_params(CONFIG, parameters(), ops=ops)
    if with_out:
        return stepping_with_out(model, batch(B, T))
    return partial(next, readme_loop(model, *batch(B, T)))


def npgpt_book_step(B: int, T: int):
    from npgpt.system import env_vars

    env_vars.set_defaults()
    import npgpt

    rng = npgpt.Generator(SEED)
    model = npgpt.GPT(BOOK, seed=rng, scheme="book")
    return partial(next, readme_loop(model, *batch(B, T), rng, BOOK_ADAMW))


def readme_loop(model, tokens, targets, rng=None, adamw=ADAMW):
    """Take a step of README's loop for each loss that is taken.

    As there, batches are lists, and `gradients` names the last tree while the next is computed.
    """
    import npgpt

    optimizer = npgpt.AdamW(model.params, **adamw)
    tokens, targets = tokens.tolist(), targets.tolist()
    while True:
        loss, gradients = model.loss_and_gradients(tokens, targets, rng)
        optimizer.step(gradients)
        yield loss


def stepping_with_out(model, pair):
    """Return the same by loss and backward, with a gradient tree of the caller's."""
    import npgpt

    optimizer = npgpt.AdamW(model.params, **ADAMW)
    gradients = npgpt.zeros_like(model.params)
    tokens, targets = pair

    def step():
        loss, cache = model.loss(tokens, targets, out=gradients)
        model.backward(cache, out=gradients)
        optimizer.step(gradients)
        return float(loss)

    return step


def torch_step(B: int, T: int, **options):
    import torch

    from benchmarks.baselines import pytorch

    named = {name: torch.tensor(array) for name, array in weights().items()}
    model = pytorch.best(*sizes(CONFIG), named)
    return pytorch.training_step(model, *batch(B, T), fused=True, **options, **ADAMW)


def torch_book_step(B: int, T: int):
    import torch

    from benchmarks.baselines import book, pytorch

    torch.manual_seed(SEED)
    model = book.chapter5(*sizes(BOOK), BOOK.dropout)
    return pytorch.training_step(model, *batch(B, T), **BOOK_ADAMW)


def jax_step(B: int, T: int, threads: int):
    from benchmarks.baselines import jax

    return jax.training_step(CONFIG, weights(), *batch(B, T), threads=threads, **ADAMW)


def sizes(config: Config) -> tuple[int, ...]:
    """Return V, T_max, C, H and L, as the baselines take them."""
    c = config
    return c.vocab_size, c.context_length, c.n_embd, c.n_head, c.n_layer


STEPS = {
    "npgpt": npgpt_step,
    "npgpt-1-thread": npgpt_step,
    "npgpt-out": lambda B, T: npgpt_step(B, T, with_out=True),
    "torch-eager": torch_step,
    "torch-compiled": lambda B, T: torch_step(B, T, compiled=True),
    "npgpt-bfloat16": lambda B, T: npgpt_step(B, T, bfloat16=True),
    "torch-eager-bfloat16": lambda B, T: torch_step(B, T, bfloat16=True),
    "torch-compiled-bfloat16": lambda B, T: torch_step(B, T, compiled=True, bfloat16=True),
    "npgpt-book": npgpt_book_step,
    "torch-book": torch_book_step,
}


def serve_one(name: str, B: int, T: int, threads: int, dtype: str) -> None:
    """Serve one of the names to a Runner."""
    if name in BOUND_PARTS[dtype]:
        program = name.removeprefix("floor-")
        measure = lower_bounds.step_products(CONFIG, B * T, program, dtype)
        return serve(measure(), measure)
    step = jax_step(B, T, threads) if name == "jax" else STEPS[name](B, T)
    losses = [step() for _ in range(3)]  # gradients and AdamW are in the last two
    serve(losses, lambda: {"seconds": once(step), "bytes": harness.peak_memory()})


def names(
    shape: str, *, compiled: bool, with_jax=False, with_llmc=False, dtype: str = "float32"
) -> list[str]:
    """Return the implementations for a shape, first npgpt's that is compared with the others."""
    if dtype == "bfloat16":
        others = ["torch-eager-bfloat16", *["torch-compiled-bfloat16"] * compiled]
        return ["npgpt-bfloat16", "npgpt", *others, *BOUND_PARTS[dtype]]
    if shape == "book":
        return ["npgpt-book", "torch-book"]
    chosen = ["npgpt", "npgpt-out", "torch-eager", *["torch-compiled"] * compiled]
    chosen += ["jax"] * with_jax + ["llm.c"] * (with_llmc and shape == llmc.SHAPE)
    chosen += ["npgpt-1-thread"] * ("npgpt-1-thread" in AT_MOST.get(shape, {}))
    return [*chosen, *BOUND_PARTS[dtype]]


def run(shape: str, options) -> None:
    """Compare the implementations at one shape; print and write the figures."""
    B, T = (2, 256) if shape == "book" else map(int, shape.split("x"))
    dtype, narrow = options.dtype, options.dtype == "bfloat16"
    chosen = dict(compiled=options.compiled, with_llmc=bool(options.llmc), dtype=dtype)
    chosen["with_jax"] = options.jax
    runners = [started(name, B, T, options) for name in names(shape, **chosen)]
    ours = runners[0]
    for other in runners[1:]:
        if other.name in BOUND_PARTS[dtype]:
            continue
        if not np.allclose(ours.result, other.result, rtol=TOLERANCE[dtype]):
            sys.exit(f"not the same losses: npgpt {ours.result}, {other.name} {other.result}")
    print(f"{shape}: the same losses over three steps, {ours.result}")
    found = alternate(runners, options.rounds)
    bounds = floor_of(found, B, T)
    work = f"training step, {B} x {T} tokens" + (", the book's" if shape == "book" else "")
    work += ", bfloat16" * narrow
    limits = (BFLOAT16_AT_MOST if narrow else AT_MOST).get(shape, {})
    comparisons = comparisons_of(work, limits, found)
    print(f"\n{compared(comparisons)}")
    ours = statistics.median(measured["seconds"] for measured in found[ours.name])
    print(f"npgpt: {B * T / ours:,.0f} tokens/s")
    about = {"rounds": options.rounds, "threads": options.threads, "tokens": B * T}
    if bounds:
        about["lower_bound"] = bounds
        by = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in bounds["by"].items())
        print(f"lower bound: {bounds['products']:.2f} s of products (linear layers: {by}), and "
              f"{bounds['memory']:.2f} s of other arrays")  # fmt: skip
    harness.write(
        f"training_step_{shape}" + "_bfloat16" * narrow, about | {"comparisons": comparisons}
    )


def floor_of(found: dict[str, list[dict]], B: int, T: int, config: Config = CONFIG) -> dict | None:
    """Replace the parts of the lower bound by "floor". Return its medians, None without parts.

    "by": the seconds of all linear layers' products in each program.
    """
    parts = {name: found.pop(name) for name in list(found) if name.startswith("floor-")}
    if not parts:
        return None
    rounds = zip(*parts.values(), strict=True)
    found["floor"] = bounds = [lower_bounds.step_bound(config, B, T, list(one)) for one in rounds]
    medians: dict = {key: statistics.median(one[key] for one in bounds) for key in bounds[0]}
    medians["by"] = {
        name.removeprefix("floor-"): statistics.median(sum(one["products"]) for one in measured)
        for name, measured in parts.items()
    }
    return medians


def started(name: str, B: int, T: int, options) -> Runner | llmc.LlmC:
    """Start one of the names."""
    if name == "llm.c":
        folder = tempfile.TemporaryDirectory(dir=options.scratch)
        llmc.write_files(Path(folder.name), CONFIG, parameters(), batch(B, T)[0])
        return llmc.LlmC(options.llmc, folder, options.threads)
    environment = on_threads(1 if name == "npgpt-1-thread" else options.threads)
    given = ["--shape", f"{B}x{T}", "--threads", str(options.threads), "--dtype", options.dtype]
    python = peers.python_of("jax") if name == "jax" else None
    return Runner("benchmarks.training_step", name, *given, environment=environment, python=python)


def comparisons_of(work: str, limits: dict[str, float], found: dict[str, list[dict]]) -> list[dict]:
    """Compare the first with all others. "best" limits the fastest, "memory" the smallest."""
    seconds = {name: [one["seconds"] for one in measured] for name, measured in found.items()}
    ours, *others = found
    programs = [name for name in others if not name.startswith(("npgpt", "floor"))]
    fastest = min(programs, key=lambda name: statistics.median(seconds[name]))
    made = []
    for name in others:
        limit = limits.get("best" if name == fastest else name)
        made.append(comparison(work, NAMES[name], seconds[ours], seconds[name], limit))

    def peak(name):
        return [max(one["bytes"] for one in found[name]) / 1e9]

    measured = [name for name in programs if "bytes" in found[name][0]]
    smallest = min(measured, key=peak)
    for name in [*measured, *(["npgpt-out"] * ("npgpt-out" in found))]:
        key = "memory" if name == smallest else name
        what = f"memory of a {work}", NAMES[name], peak(ours), peak(name)
        made.append(comparison(*what, limits.get(key), unit="GB"))
    return made


def lacks_compiler() -> bool:
    """Return True if torch.compile finds no C++ compiler."""
    return not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "c++")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", nargs="+", help='B x T, or "book" [default: all, or 2x256]')
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--llmc", metavar="PROGRAM", help="llm.c's train_gpt2, compiled")
    parser.add_argument("--scratch", type=Path, help="a directory with 0.5 GB of free space")
    parser.add_argument("--compiled", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    narrow = options.dtype == "bfloat16"
    options.shape = options.shape or list(BFLOAT16_AT_MOST if narrow else AT_MOST)
    if narrow and "book" in options.shape:
        parser.error("--shape book must be float32: omit --dtype")
    if options.serve:
        B, T = map(int, options.shape[0].split("x"))
        return serve_one(options.serve, B, T, options.threads, options.dtype)
    if options.compiled and lacks_compiler():
        print("torch-compiled is skipped: torch.compile needs a C++ compiler (g++, clang++, $CXX)")
        options.compiled = False
    options.jax = not narrow and options.shape != ["book"]
    if options.jax and (why := peers.missing("jax")):
        print(f"JAX is skipped: {why}")
        options.jax = False
    if llmc.SHAPE in options.shape and not narrow and (why := llmc.missing(options.llmc)):
        print(f"llm.c is skipped: {why}")
        options.llmc = None
    if options.llmc and options.rounds > llmc.MOST_ROUNDS:
        parser.error(f"--rounds must be at most {llmc.MOST_ROUNDS} with --llmc: {options.rounds}")
    for shape in options.shape:
        if shape != "book" and not re.fullmatch(r"[1-9]\d*x[1-9]\d*", shape):
            parser.error(f'--shape must be B x T, such as 2x256, or "book": {shape}')
    for shape in options.shape:
        run(shape, options)


if __name__ == "__main__":
    main()
