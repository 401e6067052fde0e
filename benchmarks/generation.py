"""Time generating and reading a prompt, beside other programs at their best.

    python -m benchmarks.generation [--weights float32 bfloat16 int8] [--rounds 3] [--threads 2]
                                    [--works generate read ...] [--programs NAME ...] [--layers 12]

A random model of the 124M shape, greedy. Works: 128 tokens after a prompt of 32, the first token
after prompts of 512 and 1,024, batches of 8 and 32 sequences, and 16 tokens after position 1,000.

Every program reads the folder or the GGUF file that npgpt wrote, and stores the matrices as
--weights. It runs in an environment of its own (benchmarks/peers.py); one that is not installed is
skipped. Before anything is timed, logits are compared, and the first tokens of every work. Programs
that are far behind in the first round of a work are not measured in the others.

Lower bounds: all weights read once for every token, at the rate at which Numba sums an array larger
than the caches; the matrix products of prompts and of batches, each shape in the fastest of NumPy's
BLAS, PyTorch and npgpt itself.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks import harness, peers
from benchmarks.harness import Runner, compared, comparison, on_threads, race, serve
from npgpt.config import Config


class Work(NamedTuple):
    """`count` tokens after B prompts of T tokens, and the targets beside the best program."""

    name: str
    B: int
    T: int
    count: int
    at_most: dict[str, float]


class Program(NamedTuple):
    """A class in benchmarks/baselines/, its environment (peers.py), and what it can do.

    tolerance: of float32 logits, relative to the largest. works: None for all.
    """

    location: str
    environment: str
    tolerance: float
    weights: tuple[str, ...] = ("float32", "bfloat16", "int8")
    works: tuple[str, ...] | None = None


CONFIG = Config()  # the 124M shape
PROMPT, NEW = 32, 128
FORCED = 8  # tokens read one by one for the comparison
COARSE = {"bfloat16": 0.05, "int8": 0.05}  # tolerances of quantized matrices
WORKS = {
    "generate": Work(f"{NEW} tokens after a prompt of {PROMPT}", 1, PROMPT, NEW,
                     {"float32": 0.95, "bfloat16": 0.85, "int8": 0.75}),
    "read": Work("the first token after a prompt of 512", 1, 512, 1,
                 {"float32": 0.95, "bfloat16": 0.90, "int8": 0.85}),
    "read_1024": Work("the first token after a prompt of 1,024", 1, 1024, 1, {}),
    "batch_8": Work(f"8 times 64 tokens after a prompt of {PROMPT}", 8, PROMPT, 64,
                    {"float32": 0.85, "bfloat16": 0.85, "int8": 0.85}),
    "batch_32": Work(f"32 times 48 tokens after a prompt of {PROMPT}", 32, PROMPT, 48,
                     {"float32": 0.85, "bfloat16": 0.85, "int8": 0.85}),
    "late": Work("16 tokens after position 1,000", 1, 1000, 17, {}),  # the first is not timed
}  # fmt: skip
GGUF_GELU = 2e-3  # llama.cpp reads GELU from a table of half precision
PROGRAMS = {
    "OpenVINO GenAI": Program("openvino:OpenVino", "openvino", 2e-3),  # cache of half precision
    "llama.cpp": Program("llamacpp:LlamaCpp", "llamacpp", GGUF_GELU),
    "ONNX Runtime": Program("onnxruntime:OnnxRuntime", "onnxruntime", 2e-5, ("float32", "int8")),
    "CTranslate2": Program("ctranslate2:CTranslate2", "ctranslate2", 2e-5, ("float32", "int8")),
    "PyTorch, compiled": Program(
        "static_cache:StaticCache", "torch", 2e-5, ("float32", "bfloat16"), ("generate",)
    ),
    "transformers": Program(
        "huggingface:Transformers", "transformers", 2e-5, ("float32", "bfloat16")
    ),
}
# npgpt itself and the lower bounds beside it, with targets
WIDE = "npgpt float32"
WIDE_WORKS = "generate", "read"
WIDE_AT_MOST = {
    "bfloat16": {"generate": 0.58, "read": 0.65},
    "int8": {"generate": 0.38, "memory": 0.45},
}
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}  # of a weight
BOUNDS = {  # their works, and the target in these
    "lower bound: weights at the rate of reading": (("generate",), 1.10),
    "lower bound: products in the fastest library": (("read", "batch_8", "batch_32"), 1.05),
}


# Every program has `version`, `settings`, `logits` and `generate`, as Npgpt here.


class Npgpt:
    """The model as npgpt loads it."""

    def __init__(self, path: Path, threads: int, weights: str):
        from npgpt.system import env_vars

        env_vars.set_defaults()
        import npgpt

        file = path / ("model" if weights == "float32" else f"model.{weights}")
        self.model, self.version = npgpt.load(file), npgpt.__version__
        self.cache = "float32" if weights == "float32" else "bfloat16"
        self.settings = f"cache {self.cache}"

    def logits(self, prompt: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """(T,), (N,) -> (1 + N, V), after the prompt and after each forced token"""
        past = self.model.kv_cache(1, dtype=self.cache)
        given = prompt[None], *forced[:, None, None]
        return np.concatenate([self.model.next_logits(tokens, past=past) for tokens in given])

    def generate(self, tokens: np.ndarray, count: int, after: Callable[[], None]) -> np.ndarray:
        """(B, T) -> `count` new tokens (B, count), greedily"""
        from npgpt.inference.generate import generate

        made = []
        for new in generate(self.model, tokens, count, cache_dtype=self.cache):
            made.append(new)
            after()
        return np.stack(made, axis=1)


def tokens_of(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(CONFIG.vocab_size, size=(rows, length))


def load(name: str, path: Path, options, weights: str):
    """Return a program with its model."""
    if name in ("npgpt", WIDE):
        return Npgpt(path, options.threads, "float32" if name == WIDE else weights)
    module, function = PROGRAMS[name].location.split(":")
    found = getattr(import_module(f"benchmarks.baselines.{module}"), function)
    return found(path, options.threads, weights)


def run_program(name: str, options, weights: str) -> None:
    """Serve a program: its logits and first tokens, then the seconds that a work takes."""
    out = harness.own_stdout()
    runs = load(name, options.path, options, weights)
    harness.reset_peak_memory()  # that of converting the model
    made = runs.generate(tokens_of(1, PROMPT), NEW, lambda: None)
    peak = harness.peak_memory()  # before longer prompts
    logits = runs.logits(tokens_of(1, PROMPT)[0], tokens_of(1, 512)[0, :FORCED])
    works = works_of(name, options.works)
    first = {work: seconds_of(runs, WORKS[work], shortened=True)[1] for work in works}

    def measure(work):
        return {"seconds": seconds_of(runs, WORKS[work])[0]}

    about = {"version": runs.version, "settings": runs.settings, "bytes": peak, "works": works}
    some = logits[:, ::61].tolist()
    serve(about | {"logits": some, "generated": made.shape[1], "first": first}, measure, out)


def works_of(name: str, chosen: list[str]) -> list[str]:
    """Return the chosen works that a program can do."""
    only = WIDE_WORKS if name == WIDE else name in PROGRAMS and PROGRAMS[name].works
    return [work for work in chosen if not only or work in only]


def seconds_of(runs, work: Work, *, shortened: bool = False) -> tuple[float, list[int]]:
    """Return the seconds of a work and the first token of each row.

    shortened: with two tokens, to prepare for its shapes. "late" is timed from its first token on.
    """
    stamps = []
    tokens, count = tokens_of(work.B, work.T), min(work.count, 2) if shortened else work.count
    started = time.perf_counter()
    made = runs.generate(tokens, count, lambda: stamps.append(time.perf_counter()))
    taken = time.perf_counter() - started
    if work is WORKS["late"]:
        taken = stamps[-1] - stamps[0]
    return taken, made[:, 0].tolist()


def run_bound(name: str, options, weights: str) -> None:
    """Serve a lower bound: the seconds that reading or multiplying alone takes."""
    from benchmarks.baselines.generated_products import generated_products
    from benchmarks.baselines.lower_bounds import weights_read

    works, measures = [work for work in options.works if work in BOUNDS[name][0]], {}
    for work in works:
        _, B, T, count, _ = WORKS[work]
        if work == "generate":
            measures[work] = weights_read(CONFIG, NEW, BYTES[weights])
        else:
            measures[work] = generated_products(CONFIG, B, T, count, weights)
        measures[work]()
    serve({"works": works}, lambda work: {"seconds": measures[work]()})


def write_models(folder: Path, config: Config, weights: str) -> None:
    """Write one random model as Hugging Face's folder, as GGUF and as npgpt's quantized file."""
    import npgpt
    from benchmarks.baselines.gguf import write_gguf
    from npgpt.weights import formats
    from npgpt.weights.huggingface import write_huggingface
    from npgpt.weights.quantized_file import write_quantized

    model = npgpt.GPT(config, seed=1)
    write_huggingface(folder / "model", config, model.params, None, dtype="float32")
    write_gguf(folder / "model.gguf", config, model.params, weights)
    if weights != "float32":
        write_quantized(
            folder / f"model.{weights}", formats.open_weights(folder / "model"), weights
        )


def validate(runners: list[Runner], weights: str) -> None:
    """Exit if a program's logits differ from the first program's, or if it generates other tokens.

    Where two tokens are nearly as likely, rounding decides: half of the first tokens must agree.
    """
    ours = runners[0].result
    right = np.array(ours["logits"])
    for runner in runners:
        name, result = runner.name, runner.result
        if result["generated"] != NEW:
            sys.exit(f"{name} generated {result['generated']} tokens, not {NEW}")
        apart = np.abs(np.array(result["logits"]) - right).max() / np.abs(right).max()
        own = PROGRAMS[name].tolerance if name in PROGRAMS else 0.0
        allowed = COARSE.get(weights, own)
        if not apart <= allowed:
            sys.exit(f"{name}: logits {apart:.1e} of the largest apart, above {allowed:.0e}")
        equal = [
            one == other
            for work, tokens in result["first"].items()
            for one, other in zip(tokens, ours["first"][work], strict=True)
        ]
        if 2 * sum(equal) < len(equal):
            sys.exit(f"{name}: {sum(equal)} of {len(equal)} first tokens are npgpt's")
        print(
            f"{name} {result['version']}, {result['settings']}: logits within {apart:.1e} of the "
            f"largest, at most {allowed:.0e}; {sum(equal)} of {len(equal)} first tokens equal"
        )


def names(weights: str, programs: list[str], works: list[str]) -> list[str]:
    """Return npgpt and the installed programs that can do a work; say why others are skipped."""
    chosen = ["npgpt"]
    if weights != "float32" and works_of(WIDE, works):
        chosen.append(WIDE)
    for name in programs:
        if weights not in PROGRAMS[name].weights or not works_of(name, works):
            continue
        if why := peers.missing(PROGRAMS[name].environment):
            print(f"{name} is skipped: {why}")
        else:
            chosen.append(name)
    return chosen


def bounds(works: list[str]) -> list[str]:
    """Return the lower bounds of the chosen works."""
    return [name for name, (bounded, _) in BOUNDS.items() if set(bounded) & set(works)]


def run(weights: str, options) -> None:
    """Compare the programs with one kind of weights; print and write the figures."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        write_models(Path(scratch), replace(CONFIG, n_layer=options.layers), weights)
        given = ["--weights", weights, "--threads", str(options.threads), "--path", scratch]
        given += ["--works", *options.works]
        start = dict(environment=on_threads(options.threads))
        runners = []
        for name in names(weights, options.programs, options.works):
            own = PROGRAMS[name].environment if name in PROGRAMS else ""
            python = peers.python_of(own) if own else None
            runners.append(Runner("benchmarks.generation", name, *given, **start, python=python))
        validate(runners, weights)
        results = {runner.name: runner.result for runner in runners}
        if options.layers == CONFIG.n_layer:
            for name in bounds(options.works):
                runners.append(Runner("benchmarks.generation", name, *given, **start))
        always = "npgpt", WIDE, *BOUNDS
        found = race(runners, options.works, options.rounds, always)
    comparisons = comparisons_of(found, results, weights)
    print(f"\n{compared(comparisons)}")
    if options.layers != CONFIG.n_layer:
        return print("not written: the model is another one")
    about = {
        "rounds": options.rounds,
        "threads": options.threads,
        "versions": {name: result["version"] for name, result in results.items()},
        "settings": {name: result["settings"] for name, result in results.items()},
    }
    name = "generation" + (f"_{weights}" if weights != "float32" else "")
    harness.write(name, about | {"comparisons": comparisons})


def comparisons_of(found: dict, results: dict[str, dict], weights: str) -> list[dict]:
    """Compare npgpt with all others: the time of each work, then memory.

    The target of a work is beside the quickest other program.
    """
    suffix = f", {weights} weights" if weights != "float32" else ""
    made = []
    for key, seconds in found.items():
        ours, median = seconds.pop("npgpt"), statistics.median
        others = [name for name in seconds if name in PROGRAMS]
        quickest = min(others, key=lambda name: median(seconds[name]), default=None)
        limits = {quickest: WORKS[key].at_most.get(weights)}
        limits |= {WIDE: WIDE_AT_MOST.get(weights, {}).get(key)}
        limits |= {name: limit for name, (works, limit) in BOUNDS.items() if key in works}
        for name, theirs in seconds.items():
            work = WORKS[key].name + suffix
            made.append(comparison(work, name, ours, theirs, limits.get(name)))
    work = f"memory of {WORKS['generate'].name}{suffix}"
    limits = {WIDE: WIDE_AT_MOST.get(weights, {}).get("memory")}
    ours, *others = results
    for name in others:
        peaks = [[results[one]["bytes"] / 1e9] for one in (ours, name)]
        made.append(comparison(work, name, *peaks, limits.get(name), unit="GB"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", nargs="+", choices=BYTES, default=["float32"])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--programs", nargs="*", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=CONFIG.n_layer, help="fewer, to try it out")
    parser.add_argument("--scratch", type=Path, help="a directory with 3 GB of free space")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve in BOUNDS:
        return run_bound(options.serve, options, *options.weights)
    if options.serve:
        return run_program(options.serve, options, *options.weights)
    for weights in options.weights:
        run(weights, options)


if __name__ == "__main__":
    main()
