"""Time a sampled token beside a greedy one, and log-probabilities of given tokens beside evaluate.

    python -m benchmarks.sampling [--rounds 5] [--threads 2] [--layers 12]

A model of the 124M shape. Tokens are sampled with matrices in int8, where the time outside of the
model counts most: 64 tokens after a prompt of 32, at temperature 0.8, each variant in a process of
its own. The logits of a random model are nearly equal. Here they are scaled to an entropy of about
5 nats, as those of a trained one, so that top-p keeps some tokens and not most of them.

`log_probs` and `evaluate` score 2 x 256 tokens in float32; their peak memory is compared too.
"""

import argparse
import statistics
from dataclasses import replace

import numpy as np

from benchmarks import harness
from benchmarks.harness import Runner, alternate, compared, comparison, on_threads, once, serve
from npgpt.config import Config

PROMPT, NEW, TEMPERATURE = 32, 64, 0.8
GAIN = 7.0  # of the last LayerNorm: the standard deviation of the logits becomes 3.9
SAMPLING = {  # the first one is the baseline of the others
    "greedy": {},
    "top-k 50": dict(temperature=TEMPERATURE, top_k=50),
    "top-p 0.9": dict(temperature=TEMPERATURE, top_p=0.9),
    "top-k 50 and top-p 0.9": dict(temperature=TEMPERATURE, top_k=50, top_p=0.9),
}
SAMPLED_AT_MOST, SCORED_AT_MOST, MEMORY_AT_MOST = 1.08, 1.05, 1.0
SCORED = "log_probs", "evaluate"
SHAPE = 2, 256


def model_of(layers: int, weights: str):
    """Return a random model whose matrices are stored as `weights`."""
    from npgpt.system import env_vars

    env_vars.set_defaults()
    import npgpt
    from npgpt.model import quantize

    config = replace(Config(), n_layer=layers)
    made = npgpt.GPT(config, seed=1)
    made.params.ln_f.weight.fill(GAIN)
    if weights == "float32":
        return made
    return npgpt.GPT.from_params(config, quantize.quantize(made.params, weights))


def serve_one(name: str, layers: int) -> None:
    """Serve one of the names to a Runner."""
    if name in SCORED:
        model = model_of(layers, "float32")
        drawn = np.random.default_rng(0).integers(model.config.vocab_size, size=(SHAPE[0], 257))
        score = getattr(model, name)

        def run():
            return score(drawn[:, :-1], drawn[:, 1:])
    else:
        import npgpt

        model = model_of(layers, "int8")
        prompt = np.arange(PROMPT)

        def run():
            return list(
                npgpt.generate(model, prompt, NEW, **SAMPLING[name], rng=npgpt.Generator(1))
            )

    found = run()
    if name == "log_probs":
        result = -float(np.mean(found[0], dtype=np.float64))
    else:
        result = found if name == "evaluate" else len(found)
    harness.reset_peak_memory()  # that of making the model
    serve(result, lambda: {"seconds": once(run), "bytes": harness.peak_memory()})


def comparisons_of(found: dict[str, list[dict]]) -> list[dict]:
    """Compare sampled with greedy tokens, and log_probs with evaluate: time, then memory."""
    seconds = {name: [one["seconds"] for one in measured] for name, measured in found.items()}
    greedy, *sampled = SAMPLING
    made = []
    for name in sampled:
        work = f"{NEW} tokens, int8, {name}"
        limit = SAMPLED_AT_MOST if name == sampled[-1] else None
        made.append(comparison(work, "npgpt, greedy", seconds[name], seconds[greedy], limit))
    ours, theirs = SCORED
    work = f"log-probabilities of {SHAPE[0]} x {SHAPE[1]} tokens"
    sides = seconds[ours], seconds[theirs]
    made.append(comparison(work, "npgpt, evaluate", *sides, SCORED_AT_MOST))
    peaks = [[max(one["bytes"] for one in found[name]) / 1e9] for name in SCORED]
    made.append(
        comparison(f"memory of {work}", "npgpt, evaluate", *peaks, MEMORY_AT_MOST, unit="GB")
    )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=12, help="fewer, to try it out")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve_one(options.serve, options.layers)
    start = dict(environment=on_threads(options.threads))
    given = "--layers", str(options.layers)
    names = *SAMPLING, *SCORED
    runners = [Runner("benchmarks.sampling", name, *given, **start) for name in names]
    results = {runner.name: runner.result for runner in runners}
    if not np.isclose(*(results[name] for name in SCORED), rtol=1e-5):
        raise SystemExit(f"log_probs and evaluate differ: {results}")
    if {results[name] for name in SAMPLING} != {NEW}:
        raise SystemExit(f"not {NEW} tokens each: {results}")
    found = alternate(runners, options.rounds)
    comparisons = comparisons_of(found)
    print(compared(comparisons))
    for name in SAMPLING:
        taken = statistics.median(one["seconds"] for one in found[name])
        print(f"{name}: {1e3 * taken / NEW:.2f} ms a token")
    if options.layers != Config().n_layer:
        return print("not written: the model is another one")
    about = {"rounds": options.rounds, "threads": options.threads}
    harness.write("sampling", about | {"comparisons": comparisons})


if __name__ == "__main__":
    main()
