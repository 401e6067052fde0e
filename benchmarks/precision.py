"""What does quantization cost in accuracy, and how much memory does gpt2-xl take in int8?

    python -m benchmarks.precision weights --name verdict --model RUN --data TEXT
    python -m benchmarks.precision weights --name shakespeare --model RUN --data TEXT
    python -m benchmarks.precision book [--steps 90] [--data verdict]
    python -m benchmarks.precision xl

`weights`: the perplexity of a trained model (a run's folder or weights) on the first tokens of a
text, with matrices in float32, bfloat16 and int8; and the number of greedy tokens, after prompts
from all over the text, before a quantized model first chooses another token than float32.

`book`: the run of the book's chapter 5 with --dtype bfloat16 beside float32, line by line.

`xl`: a random int8 model of gpt2-xl's shape, in a process of its own: memory while it generates.
"""

import argparse
import math
import statistics

import numpy as np

from benchmarks import book_log, harness
from benchmarks.harness import Runner, serve, table
from npgpt.model import params, quantize
from npgpt.parity.book_check import STEPS
from npgpt.preset import PRESETS

MOST_TOKENS, CONTEXT = 100_000, 256
PLACES, PROMPT, NEW = 8, 32, 128
RISE_AT_MOST = {"int8": 0.005}  # of the perplexity, relative to float32
FIRST_STEPS, FIRST_AT_MOST, END_AT_MOST = 10, 0.05, (1.0, 7.0)  # nats, training and validation
XL_AT_MOST, XL_PROMPT, XL_NEW = 2.2e9, 16, 16


def evaluated(path: str, weights: str, data: str) -> dict:
    """Return the perplexity of a text, and greedy continuations of prompts from all over it."""
    import npgpt
    from npgpt.data import text
    from npgpt.inference import evaluate
    from npgpt.inference.generate import generate

    model = npgpt.load(path, weights=weights)
    length = min(CONTEXT, model.config.context_length)
    tokens = evaluate.encode_text(model, text.read(data))[:MOST_TOKENS]
    total = count = 0
    for inputs, targets in evaluate.batches(tokens, length, 4):
        total += model.evaluate(inputs, targets) * targets.size
        count += targets.size
    texts = []
    for start in np.linspace(0, len(tokens) - PROMPT, PLACES).astype(int):
        new = generate(model, tokens[start : start + min(PROMPT, length // 2)], NEW)
        texts.append(list(new))
    return {"perplexity": math.exp(total / count), "tokens": count, "texts": texts}


def equal_tokens(texts: list[list[int]], others: list[list[int]]) -> list[int]:
    """Return the number of equal tokens at the start of each pair of texts."""
    return [
        next((i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b), len(pair[0]))
        for pair in zip(texts, others, strict=True)
    ]


def compare_weights(name: str, path: str, data: str) -> None:
    """Print and write how quantization changes a model's results."""
    found = {kind: evaluated(path, kind, data) for kind in ("float32", "bfloat16", "int8")}
    wide, figures = found["float32"], {}
    for kind, one in found.items():
        equal = equal_tokens(wide["texts"], one["texts"])
        figures[kind] = {
            "perplexity": one["perplexity"],
            "rise": one["perplexity"] / wide["perplexity"] - 1,
            "rise_at_most": RISE_AT_MOST.get(kind),
            "equal_tokens": equal,
        }
    print(table(weight_rows(figures)))
    about = {"model": name, "tokens": wide["tokens"], "new_tokens": NEW, "weights": figures}
    harness.write(f"precision_{name}", about)


def weight_rows(figures: dict[str, dict]) -> list[list[str]]:
    """Return the rows of a table."""
    rows = [["weights", "perplexity", "rise", "target", f"equal of {NEW} greedy tokens"]]
    for kind, one in figures.items():
        equal, limit = one["equal_tokens"], one["rise_at_most"]
        rows.append(
            [
                kind,
                f"{one['perplexity']:.4f}",
                f"{one['rise']:+.3%}",
                "" if limit is None else f"{limit:+.1%}",
                f"{statistics.median(equal):.0f} (fewest {min(equal)}, {len(equal)} texts)",
            ]
        )
    return rows


def compare_books(steps: int, data: str) -> None:
    """Print and write both logs."""
    logs = {
        dtype: book_log.collect("npgpt", dtype, steps, data) for dtype in ("float32", "bfloat16")
    }
    lines = [{"step": step} | {dtype: log[step] for dtype, log in logs.items()}
             for step in logs["float32"]]  # fmt: skip
    said = sayings(lines)
    print(f"\n{table(book_rows(lines))}\n\n{said}")
    harness.write("precision_book", {"steps": steps, "lines": lines, **said})


def apart(line: dict) -> float:
    """Return the larger difference of the two losses of a line."""
    return max(abs(a - b) for a, b in zip(line["float32"], line["bfloat16"], strict=True))


def book_rows(lines: list[dict]) -> list[list[str]]:
    """Return the rows of a table: training / validation loss."""
    rows = [["step", "float32", "bfloat16", "apart"]]
    for line in lines:
        both = (" / ".join(f"{x:.3f}" for x in line[dtype]) for dtype in ("float32", "bfloat16"))
        rows.append([str(line["step"]), *both, f"{apart(line):.3f}"])
    return rows


def sayings(lines: list[dict]) -> dict:
    """Return the largest differences and the last losses, with their targets."""
    first = [apart(line) for line in lines if line["step"] <= FIRST_STEPS]
    return {
        "largest_of_first": max(first),
        "largest_of_first_at_most": FIRST_AT_MOST,
        "largest": max(map(apart, lines)),
        "end": lines[-1]["bfloat16"],
        "end_at_most": END_AT_MOST,
    }


def random_xl():
    """Return a random int8 model of gpt2-xl's shape, drawn as int8."""
    import npgpt
    from npgpt.quantized_matrix import MOST, QuantizedMatrix

    config, rng = PRESETS["gpt2-xl"].config, np.random.default_rng(1)
    names = iter([name for name, _ in params.named(params.shapes(config))])

    def draw(shape):
        name = next(names)
        if not quantize.is_quantizable(name):
            ones = name.endswith("weight") and "ln_" in name
            return np.full(shape, 1 if ones else 0, np.float32)
        axis = quantize.output_axis(name)
        values = rng.integers(-MOST, MOST + 1, shape, np.int8)
        return QuantizedMatrix(values, np.full(shape[axis], 0.03 / MOST, np.float32), axis)

    return npgpt.GPT.from_params(config, params.map_leaves(params.shapes(config), draw))


def generate_xl() -> dict:
    """Generate with it; return memory and seconds."""
    from npgpt.inference.generate import generate

    model = random_xl()
    held = harness.peak_memory()
    prompt = np.arange(XL_PROMPT)
    seconds = harness.once(lambda: list(generate(model, prompt, XL_NEW)))
    return {"bytes": harness.peak_memory(), "before": held, "seconds": seconds}


def measure_xl() -> None:
    """Print and write what gpt2-xl takes."""
    runner = Runner("benchmarks.precision", "xl")
    found = runner.result
    runner.close()
    print(f"gpt2-xl in int8: {found['bytes'] / 1e9:.2f} GB at most, to be {XL_AT_MOST / 1e9} GB")
    figures = {"at_most": XL_AT_MOST, "new_tokens": XL_NEW}
    figures["float32_bytes"] = 4 * params.size(PRESETS["gpt2-xl"].config)
    harness.write("precision_xl", found | figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="?", choices=("weights", "book", "xl"))
    parser.add_argument("--name", help="of the model, for the file that is written")
    parser.add_argument("--model", help="a run's folder, or weights")
    parser.add_argument("--data", help="as of npgpt train")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"1 to {STEPS}")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(generate_xl(), dict)
    elif options.what == "xl":
        measure_xl()
    elif options.what == "book":
        compare_books(options.steps, options.data or "verdict")
    elif None in (options.what, options.name, options.model, options.data):
        parser.error("what is measured? weights (with --name, --model, --data), book or xl")
    else:
        compare_weights(options.name, options.model, options.data)


if __name__ == "__main__":
    main()
