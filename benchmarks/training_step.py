"""How long is one training step of the 124M shape beside PyTorch?

    python -m benchmarks.training_step [--rounds 9] [--shape 2x256]

float32, no dropout, tied head, 2 x 256 tokens: forward, backward, AdamW. Three implementations:
npgpt; the book's PyTorch model (attention, LayerNorm, GELU and AdamW spelled out as in the book);
and PyTorch at its best (scaled_dot_product_attention, its own layers, fused AdamW).
"""

import argparse
import statistics
import sys

import numpy as np

from benchmarks import harness
from benchmarks.harness import Runner, alternate, once, ratio, serve, table

VOCABULARY, WIDTH, HEADS, LAYERS, CONTEXT = 50257, 768, 12, 12, 1024
LR, DECAY = 4e-4, 0.1


def weights() -> dict[str, np.ndarray]:
    """The same parameters for everybody, by checkpoint name, drawn without npgpt or torch."""
    rng = np.random.default_rng(0)
    shapes = {"wte.weight": (VOCABULARY, WIDTH), "wpe.weight": (CONTEXT, WIDTH)}
    for i in range(LAYERS):
        shapes |= {f"h.{i}.{norm}.{kind}": (WIDTH,) for norm in ("ln_1", "ln_2") for kind in
                   ("weight", "bias")}  # fmt: skip
        for name, i_, o in (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1),
                            ("mlp.c_fc", 1, 4), ("mlp.c_proj", 4, 1)):  # fmt: skip
            shapes[f"h.{i}.{name}.weight"] = (i_ * WIDTH, o * WIDTH)
            shapes[f"h.{i}.{name}.bias"] = (o * WIDTH,)
    shapes |= {"ln_f.weight": (WIDTH,), "ln_f.bias": (WIDTH,)}
    made = {}
    for name, shape in shapes.items():
        made[name] = rng.standard_normal(shape, np.float32) * np.float32(0.02)
        if "ln_" in name and name.endswith("weight"):
            made[name] += 1
    return made


def batch(B: int, T: int) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(1).integers(VOCABULARY, size=(B, T + 1))
    return tokens[:, :-1], tokens[:, 1:]


def npgpt_step(B: int, T: int):
    from npgpt import threads

    threads.settle()
    import npgpt
    from npgpt import params

    config = npgpt.Config(context_length=CONTEXT)
    tree, named = params.zeros(config), weights()
    for name, array in params.named(tree):
        array[...] = named[name]
    model = npgpt.GPT.of(config, tree)
    optimizer = npgpt.AdamW(model.params, lr=LR, weight_decay=DECAY)
    gradients = params.zeros(config)
    tokens, targets = batch(B, T)

    def step():
        loss, cache = model.loss(tokens, targets, out=gradients)
        model.backward(cache, out=gradients)
        optimizer.step(gradients)
        return float(loss)

    return step


def torch_step(B: int, T: int, *, best: bool):
    import torch
    import torch.nn.functional as F

    from benchmarks import book_model

    named = {name: torch.tensor(array) for name, array in weights().items()}
    build = book_model.best if best else book_model.book
    model = build(VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS, named)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=DECAY, fused=best or None)
    tokens, targets = (torch.tensor(a) for a in batch(B, T))

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def implementation(name: str, B: int, T: int):
    if name == "npgpt":
        return npgpt_step(B, T)
    return torch_step(B, T, best=name == "torch-best")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shape", default="2x256", help="B x T")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    B, T = map(int, options.shape.split("x"))
    if options.serve:
        step = implementation(options.serve, B, T)
        losses = [step() for _ in range(3)]  # three steps: gradients and AdamW are in the last two
        serve(losses, lambda: {"seconds": once(step), "bytes": harness.peak_memory()})
        return

    runners = [
        Runner("benchmarks.training_step", name, "--shape", options.shape)
        for name in ("npgpt", "torch-book", "torch-best")
    ]
    ours, *others = runners
    for other in others:
        if not np.allclose(ours.result, other.result, rtol=2e-5):
            sys.exit(f"not the same losses: npgpt {ours.result}, {other.name} {other.result}")
    print(f"the same losses over three steps: {ours.result}\n")

    found = alternate(runners, options.rounds)
    seconds = {name: [m["seconds"] for m in measured] for name, measured in found.items()}
    figures = {
        name: {
            "seconds": statistics.median(taken),
            "tokens_per_s": B * T / statistics.median(taken),
            "peak_bytes": max(m["bytes"] for m in found[name]),
            "npgpt_ratio": ratio(seconds["npgpt"], taken),
        }
        for name, taken in seconds.items()
    }
    rows = [["implementation", "seconds", "tokens/s", "peak GB", "npgpt takes"]]
    for name, f in figures.items():
        r = f["npgpt_ratio"]
        share = "" if name == "npgpt" else f"{r['median']:.3f} ({r['low']:.3f} to {r['high']:.3f})"
        rows.append([name, f"{f['seconds']:.3f}", f"{f['tokens_per_s']:.0f}",
                     f"{f['peak_bytes'] / 1e9:.2f}", share])  # fmt: skip
    print(table(rows))
    harness.write(f"training_step_{options.shape}", {"rounds": options.rounds, **figures})


if __name__ == "__main__":
    main()
