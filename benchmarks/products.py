"""Time the matrix products of a training step alone, beside NumPy's BLAS.

    python -m benchmarks.products [--rounds 7] [--threads 2]

The 124M shape on 512 tokens: the forward product and the two backward products of every linear
layer, the output head included, as often as a step computes them. npgpt's float32 and bfloat16
(operands are float32 and are rounded while they are packed, which is timed too), and NumPy's
float32. Within a step, between other ops, products are slower: their operands are not in the cache.
"""

import argparse
import statistics
import sys

import numpy as np

from benchmarks import harness
from benchmarks.harness import Runner, alternate, compared, comparison, on_threads, once, serve
from npgpt import arrays
from npgpt.config import Config
from npgpt.performance import flops

ROWS = 512
BFLOAT16_AT_MOST = 0.60  # of the time that NumPy's float32 products need
TOLERANCE = {"npgpt": 1e-5, "npgpt-bfloat16": 2e-2}  # of the largest number of a product


def products(config: Config, rows: int):
    """Yield (count, a, b, out) for the products of a step. Arrays begin at a cache line, as a
    model's do."""
    rng = np.random.default_rng(0)

    def drawn(*shape):
        out = arrays.zeros(shape, np.float32)
        rng.standard_normal(dtype=np.float32, out=out)
        return out

    for count, inputs, outputs in flops.linears(config):
        x, w, y = drawn(rows, inputs), drawn(inputs, outputs), drawn(rows, outputs)
        yield count, x, w, arrays.zeros(y.shape, np.float32)
        yield count, y, w.T, arrays.zeros(x.shape, np.float32)
        yield count, x.T, y, arrays.zeros(w.shape, np.float32)


def operations(config: Config, rows: int) -> float:
    """Return the number of floating-point operations of all products."""
    return 3 * sum(2.0 * rows * count * i * o for count, i, o in flops.linears(config))


def multiplication(name: str):
    """Return the implementation's function like np.matmul."""
    if name == "numpy":
        return np.matmul
    from npgpt.system import env_vars

    env_vars.set_defaults()
    from npgpt.kernels import gemm
    from npgpt.kernels import gemm_bf16 as narrow

    return (narrow if name == "npgpt-bfloat16" else gemm).matmul


def corners_of(matmul, made) -> list[list[list[float]]]:
    """Return the first 4 rows and 4 columns of every product."""
    corners = []
    for _, a, b, out in made:
        matmul(a, b, out=out)
        corners.append(out[:4, :4].tolist())
    return corners


def serve_one(name: str) -> None:
    matmul, made = multiplication(name), list(products(Config(), ROWS))
    corners = corners_of(matmul, made)

    def measure():
        seconds = [count * once(lambda a=a, b=b, out=out: matmul(a, b, out=out))
                   for count, a, b, out in made]  # fmt: skip
        return {"seconds": sum(seconds)}

    serve(corners, measure)


def validate(runners: list[Runner]) -> None:
    """Exit if a product differs from the last runner's, NumPy's."""
    *own, numpy = runners
    for runner in own:
        for ours, theirs in zip(runner.result, numpy.result, strict=True):
            # a corner of numbers as large as the square root of the terms: their spread
            worst = np.abs(np.subtract(ours, theirs)).max() / np.std(theirs)
            if not worst <= TOLERANCE[runner.name]:
                sys.exit(f"{runner.name}: {worst:.1e} away from NumPy's product")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve_one(options.serve)
    names = "npgpt-bfloat16", "npgpt", "numpy"
    environment = on_threads(options.threads)
    runners = [Runner("benchmarks.products", name, environment=environment) for name in names]
    validate(runners)
    found = {
        name: [one["seconds"] for one in measured]
        for name, measured in alternate(runners, options.rounds).items()
    }
    work = f"products of a step of {ROWS} tokens"
    comparisons = [
        comparison(work, "NumPy", found["npgpt"], found["numpy"]),
        comparison(f"{work}, bfloat16", "NumPy float32", found["npgpt-bfloat16"], found["numpy"],
                   BFLOAT16_AT_MOST),
    ]  # fmt: skip
    print(compared(comparisons))
    wanted = operations(Config(), ROWS)
    rates = {name: wanted / statistics.median(taken) / 1e9 for name, taken in found.items()}
    print(", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in rates.items()))
    about = {"rounds": options.rounds, "threads": options.threads, "gflops": rates}
    harness.write("products", about | {"comparisons": comparisons})


if __name__ == "__main__":
    main()
