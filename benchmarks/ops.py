"""Time each op, forward and backward, beside PyTorch's.

    python -m benchmarks.ops [--rounds 15]

The shapes are those of the 124M model on 2 x 256 tokens, float32. `numpy` is the NumPy backend,
`fused` the fast one. torch runs its own kernel of the same op, gradients by autograd.
"""

import argparse
import statistics
import sys
import time

import numpy as np

from benchmarks import harness
from benchmarks.harness import Runner, alternate, ratio, serve, table

B, T, C, H, V = 2, 256, 768, 12, 50257
SHAPES = {  # op -> what it reads; parameters after the semicolon
    "embedding": "wte (V, C), wpe (T, C)",
    "layernorm": "x (B, T, C)",
    "linear": "x (B, T, C) to (B, T, 4C)",
    "attention": "qkv (B, T, 3C)",
    "gelu": "x (B, T, 4C)",
    "linear_cross_entropy": "x (B, T, C), head (V, C)",
    "adamw": "(V, C)",
}


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def normal(*shape, scale=1.0):
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    return {
        "tokens": rng.integers(V, size=(B, T)),
        "targets": rng.integers(V, size=(B, T)),
        "x": normal(B, T, C),
        "dx": normal(B, T, C),
        "wide": normal(B, T, 4 * C),
        "dwide": normal(B, T, 4 * C),
        "qkv": normal(B, T, 3 * C),
        "wte": normal(V, C, scale=0.02),
        "dwte": normal(V, C, scale=0.02),
        "wpe": normal(T, C, scale=0.02),
        "norm": normal(C),
        "weight": normal(C, 4 * C, scale=0.02),
        "bias": normal(4 * C),
    }


def npgpt_ops(backend: str):
    """Return, by op, a function that runs it forward and backward and returns its results."""
    from npgpt.system import env_vars

    env_vars.set_defaults()
    from npgpt import fused, ops

    ops, a = {"fused": fused, "numpy": ops}[backend], arrays()
    E, N, L = ops.embedding.Params, ops.layernorm.Params, ops.linear.Params
    g = {name: np.zeros_like(a[name]) for name in ("wte", "wpe", "norm", "weight", "bias")}
    g["shift"], m, v = np.zeros_like(a["norm"]), np.zeros_like(a["wte"]), np.zeros_like(a["wte"])

    def embedding():
        out, cache = ops.embedding.forward(a["tokens"], E(a["wte"], a["wpe"]))
        g["wte"].fill(0)
        ops.embedding.backward(a["dx"], cache, E(g["wte"], g["wpe"]))
        return out, g["wte"][a["tokens"]]

    def layernorm():
        out, cache = ops.layernorm.forward(a["x"], N(a["norm"], a["norm"]))
        return out, ops.layernorm.backward(a["dx"], cache, N(g["norm"], g["shift"]))

    def linear():
        out, cache = ops.linear.forward(a["x"], L(a["weight"], a["bias"]))
        return out, ops.linear.backward(a["dwide"], cache, L(g["weight"], g["bias"]))

    def attention():
        out, cache = ops.attention.forward(a["qkv"], n_head=H)
        return out, ops.attention.backward(a["dx"], cache)

    def gelu():
        out, cache = ops.gelu.forward(a["wide"])
        return out, ops.gelu.backward(a["dwide"], cache)

    def linear_cross_entropy():
        out, cache = ops.linear_cross_entropy.forward(a["x"], a["wte"], a["targets"])
        return out, ops.linear_cross_entropy.backward(1.0, cache, g["wte"])

    def adamw():
        ops.adamw.update(a["wte"], a["dwte"], m, v, step=1, lr=1e-4, betas=(0.9, 0.999), eps=1e-8,
                         weight_decay=0.1)  # fmt: skip
        return a["wte"], m

    return locals()


def digest(results) -> list[float]:
    """Return sums that are equal only if the results agree."""
    signs = np.resize(np.array([1.0, -1.0, 0.5]), 1 << 16)
    out = []
    for result in results:
        flat = np.asarray(result, np.float64).ravel()[: 1 << 16]
        out.append(float(flat @ signs[: flat.size]) / max(1.0, float(np.abs(flat).sum())))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        if options.serve == "torch":
            from benchmarks.baselines import pytorch_ops

            made = pytorch_ops.functions(arrays(), n_head=H)
        else:
            made = npgpt_ops(options.serve)
        functions = {name: made[name] for name in SHAPES}

        def measure():
            seconds = {}
            for name, function in functions.items():
                started = time.perf_counter()
                function()
                seconds[name] = time.perf_counter() - started
            return seconds

        serve({name: digest(function()) for name, function in functions.items()}, measure)
        return

    runners = [Runner("benchmarks.ops", name) for name in ("fused", "numpy", "torch")]
    *ours, torch = runners
    for runner in ours:
        for name, expected in torch.result.items():
            if not np.allclose(runner.result[name], expected, rtol=1e-4, atol=1e-6):
                sys.exit(f"{name}: {runner.name} {runner.result[name]}, torch {expected}")
    print("validated: all ops agree with torch\n")

    found = alternate(runners, options.rounds)
    figures, rows = {}, [["op", "what", "fused ms", "numpy ms", "torch ms", "fused / torch"]]
    for name, what in SHAPES.items():
        seconds = {who: [m[name] for m in measured] for who, measured in found.items()}
        middle = {who: statistics.median(taken) for who, taken in seconds.items()}
        share = ratio(seconds["fused"], seconds["torch"])
        figures[name] = {"seconds": middle, "fused_over_torch": share}
        times = (f"{1e3 * middle[who]:.2f}" for who in ("fused", "numpy", "torch"))
        rows.append([name, what, *times, f"{share['median']:.2f}"])
    print(table(rows))
    harness.write("ops", {"rounds": options.rounds, **figures})


if __name__ == "__main__":
    main()
