"""How long do generating and reading a prompt take, beside transformers and llama.cpp?

    python -m benchmarks.generation [--rounds 7] [--threads 2] [--llama-python PATH] [--scratch DIR]
                                    [--weights bfloat16]

A random model of the 124M shape, float32, greedy: 128 tokens after a prompt of 32, and the first
token after a prompt of 512. npgpt and transformers (with its cache) read the same folder, llama.cpp
a GGUF file of the same parameters; its keys and values are float32 too. llama.cpp runs in the
interpreter --llama-python, which must have llama-cpp-python.

--weights bfloat16 or int8: npgpt with quantized matrices beside npgpt in float32, and beside
llama.cpp with matrices of as many bits; time and memory.

Lower bounds: all weights read once for every token, at the rate at which Numba sums an array larger
than the caches; the matrix products of a prompt, at the rate of NumPy's BLAS.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.baselines import llamacpp
from benchmarks.baselines.huggingface import Transformers
from benchmarks.baselines.llamacpp import LlamaCpp
from benchmarks.harness import Runner, alternate, compared, comparison, on_threads, once, serve
from npgpt.config import Config

CONFIG = Config()  # the 124M shape
PROMPT, NEW, LONG, ROWS = 32, 128, 512, 8
FORCED = 8  # tokens read one by one for the comparison
# relative to the largest logit. llama.cpp looks up GELU in a table of half precision
TOLERANCES = {"transformers": 1e-5, "llama.cpp": 2e-3}
COARSE = 0.05  # the same for quantized matrices
FILES = {
    "npgpt": "model", "npgpt float32": "model", "transformers": "model", "llama.cpp": "model.gguf"
}  # fmt: skip
GENERATING = f"{NEW} tokens after a prompt of {PROMPT}"
READING = f"the first token after a prompt of {LONG}"
# target ratios by what is measured: the work, {baseline: target}
AT_MOST = {
    "generate": (GENERATING, {"transformers": 0.40, "llama.cpp": 0.85, "bandwidth": 1.20}),
    "read": (READING, {"transformers": 0.70, "llama.cpp": 1.00, "blas": 1.35}),
}
NARROW_AT_MOST = {
    "bfloat16": {
        "generate": (GENERATING, {"npgpt float32": 0.58, "llama.cpp": 0.85}),
        "read": (READING, {"npgpt float32": 0.65, "llama.cpp": None}),
        "bytes": (f"memory of {GENERATING}", {"npgpt float32": None, "llama.cpp": None}),
    },
    "int8": {
        "generate": (GENERATING, {"npgpt float32": 0.38, "llama.cpp": 0.90}),
        "read": (READING, {"npgpt float32": None, "llama.cpp": None}),
        "bytes": (f"memory of {GENERATING}", {"npgpt float32": 0.45, "llama.cpp": None}),
    },
}
EIGHT_AT_MOST = 2.0  # time of eight sequences / time of one
NAMES = {
    "bandwidth": "lower bound: weights at the rate of reading",
    "blas": "lower bound: products by BLAS",
}


# Every program has `restart`, `next_logits` and `generate`, as Npgpt here.


class Npgpt:
    """A weight file's model. `next_logits` continues after the tokens since `restart`."""

    def __init__(self, path: str, threads: int):
        from npgpt.system import env_vars

        env_vars.set_defaults()
        import npgpt

        self.model, self.version = npgpt.load(path), npgpt.__version__

    def restart(self) -> None:
        """Drop the cached tokens."""
        from npgpt.model import kv_cache

        self.kv_cache = kv_cache.empty_cache(1, self.model.config)

    def next_logits(self, tokens: np.ndarray) -> np.ndarray:
        """(1, T) -> the logits (V,) of the next token"""
        return self.model.next_logits(tokens, past=self.kv_cache)[0]

    def generate(self, tokens: np.ndarray, count: int) -> np.ndarray:
        """(B, T) -> `count` new tokens (B, count), greedily"""
        from npgpt.inference.generate import generate

        return np.stack(list(generate(self.model, tokens, count)), axis=1)


PROGRAMS = {
    "npgpt": Npgpt,
    "npgpt float32": Npgpt,
    "transformers": Transformers,
    "llama.cpp": partial(LlamaCpp, config=CONFIG, longest=LONG),
}


def tokens_of(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(CONFIG.vocab_size, size=(rows, length))


def program(name: str, path: str, threads: int) -> None:
    """Serve a program: its logits, then the seconds and the memory that it takes."""
    runs = PROGRAMS[name](path, threads)
    prompt, long = tokens_of(1, PROMPT), tokens_of(1, LONG)

    def read():
        runs.restart()
        runs.next_logits(long)

    def measure():
        found = {"generate": once(lambda: runs.generate(prompt, NEW)), "bytes": peak}
        found["read"] = once(read)
        if name == "npgpt":
            found["eight"] = once(lambda: runs.generate(tokens_of(ROWS, PROMPT), NEW))
        return found

    made = runs.generate(prompt, NEW).shape[1]
    peak = harness.peak_memory()  # of loading and generating, before the longer prompt
    runs.restart()
    logits = [runs.next_logits(prompt)]
    logits += [runs.next_logits(long[:, i : i + 1]) for i in range(FORCED)]
    read()
    some = np.stack(logits)[:, ::61].tolist()
    serve({"logits": some, "generated": made, "version": runs.version}, measure)


def lower_bound(name: str) -> None:
    """Serve a lower bound: the seconds that reading or multiplying alone takes."""
    from benchmarks.baselines import lower_bounds

    if name == "bandwidth":
        what, measure = "generate", lower_bounds.weights_read(CONFIG, NEW)
    else:
        what, measure = "read", lower_bounds.prompt_products(CONFIG, LONG)
    serve({what: measure()}, lambda: {what: measure()})


def write_models(folder: Path, weights: str) -> None:
    """Write one random model as Hugging Face's folder, as GGUF and as npgpt's quantized file."""
    import npgpt
    from benchmarks.baselines.gguf import write_gguf
    from npgpt.weights import formats
    from npgpt.weights.huggingface import write_huggingface
    from npgpt.weights.quantized_file import write_quantized

    model = npgpt.GPT(CONFIG, seed=1)
    write_huggingface(folder / "model", CONFIG, model.params, None, dtype="float32")
    write_gguf(folder / "model.gguf", CONFIG, model.params, weights)
    if weights != "float32":
        write_quantized(
            folder / f"model.{weights}", formats.open_weights(folder / "model"), weights
        )


def validate(runners: list[Runner], coarse: float | None = None) -> None:
    """Exit if a program's logits differ from the first program's, or if it stops early."""
    ours = np.array(runners[0].result["logits"])
    for runner in runners:
        if runner.result["generated"] != NEW:
            sys.exit(f"{runner.name} generated {runner.result['generated']} tokens, not {NEW}")
        apart = np.abs(np.array(runner.result["logits"]) - ours).max() / np.abs(ours).max()
        allowed = coarse or TOLERANCES.get(runner.name, 0)
        if not apart <= allowed:
            sys.exit(f"{runner.name}: logits {apart:.1e} of the largest apart, above {allowed:.0e}")
        print(f"{runner.name}: logits within {apart:.1e} of the largest, at most {allowed:.0e}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", choices=("float32", *NARROW_AT_MOST), default="float32")
    parser.add_argument("--llama-python", help="a Python interpreter with llama-cpp-python")
    parser.add_argument("--scratch", type=Path, help="a directory with 1 GB of free space")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve in PROGRAMS:
        return program(options.serve, options.path, options.threads)
    if options.serve:
        return lower_bound(options.serve)

    narrow = options.weights != "float32"
    names = ["npgpt", "npgpt float32" if narrow else "transformers", "llama.cpp"]
    if why := llamacpp.missing(options.llama_python):
        print(f"llama.cpp is skipped: {why}")
        names.remove("llama.cpp")
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        write_models(Path(scratch), options.weights)
        files = FILES | ({"npgpt": f"model.{options.weights}"} if narrow else {})
        start = dict(environment=on_threads(options.threads))
        module, threads = "benchmarks.generation", ("--threads", str(options.threads))
        runners = []
        for name in names:
            python = options.llama_python if name == "llama.cpp" else None
            path = str(Path(scratch) / files[name])
            runners.append(Runner(module, name, *threads, "--path", path, **start, python=python))
        validate(runners, COARSE if narrow else None)
        versions = {runner.name: runner.result["version"] for runner in runners}
        if not narrow:
            runners += [Runner(module, name, *threads, **start) for name in NAMES]
        found = alternate(runners, options.rounds)
    report(found, versions, options)


def report(found: dict[str, list[dict]], versions: dict[str, str], options) -> None:
    """Print the table and write the figures."""
    taken = {
        (who, what): [one[what] for one in measured]
        for who, measured in found.items()
        for what in measured[0]
    }
    weights = options.weights
    comparisons = []
    for what, (work, limits) in NARROW_AT_MOST.get(weights, AT_MOST).items():
        unit, size = ("GB", 1e9) if what == "bytes" else ("s", 1.0)
        for who, at_most in limits.items():
            if who in found:
                ours, theirs = ([v / size for v in taken[one, what]] for one in ("npgpt", who))
                beside = NAMES.get(who, who)
                comparisons.append(comparison(work, beside, ours, theirs, at_most, unit))
    if weights == "float32":
        eight, one = taken["npgpt", "eight"], taken["npgpt", "generate"]
        work = f"{ROWS} times {GENERATING}"
        comparisons.append(comparison(work, "npgpt, once", eight, one, EIGHT_AT_MOST))
    else:
        for made in comparisons:
            made["work"] += f", {weights} weights"
    print(f"\n{compared(comparisons)}")
    about = {"rounds": options.rounds, "threads": options.threads, "versions": versions}
    name = "generation" + (f"_{weights}" if weights != "float32" else "")
    harness.write(name, about | {"comparisons": comparisons})


if __name__ == "__main__":
    main()
