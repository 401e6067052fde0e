"""Time speculation on a text that repeats itself and on one that does not, beside no speculation.

    python -m benchmarks.speculation [--weights float32 bfloat16 int8] [--rounds 5] [--threads 2]
                                     [--tokens 256] [--model PATH --prompt TEXT [--draft PATH]]

Each text is generated in turn without speculation and with drafts of each kind, in one process.
Texts are compared first: no token may differ. By default, a random model of the 124M shape: greedy
it repeats itself, sampled it never does. Its draft model are its first two blocks.

With --model: a trained one of your own, which continues the prompt greedily and at temperature 0.8.
"""

import argparse
import os
import sys
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.harness import compared, comparison, on_threads, once

DRAFT_BLOCKS = 2
PROMPT = 32
# time / time without speculation, at most
REPEATING, OTHER = 1 / 1.5, 1 / 0.95
# temperature, and the target of prompt lookup
TEXTS = {"a text that repeats itself": (0.0, REPEATING), "a text that never does": (1.0, OTHER)}
OWN_TEXTS = {"greedy": (0.0, OTHER), "temperature 0.8": (0.8, OTHER)}


def random_models(weights: str):
    """Return a model of the 124M shape, its draft model and a prompt."""
    import npgpt
    from npgpt.model import quantize

    config = npgpt.Config()
    params = npgpt.GPT(config, seed=1).params
    if weights != "float32":
        params = quantize.quantize(params, weights)
    short = npgpt.Config(n_layer=DRAFT_BLOCKS)
    draft = npgpt.GPT.from_params(short, params._replace(h=params.h[:DRAFT_BLOCKS]))
    prompt = np.random.default_rng(PROMPT).integers(config.vocab_size, size=PROMPT)
    return npgpt.GPT.from_params(config, params), draft, prompt


def own_models(options, weights: str):
    """Return the models of the flags, and the prompt."""
    import npgpt
    from npgpt.data.tokenizer import tokenizer_of

    model = npgpt.load(options.model, weights=weights)
    draft = options.draft and npgpt.load(options.draft, weights=weights)
    return model, draft, tokenizer_of(model).encode(options.prompt)


def run(weights: str, options) -> list[dict]:
    """Measure all texts with one kind of weights."""
    import npgpt

    model, draft, prompt = own_models(options, weights) if options.model else random_models(weights)
    drafts = {"plain": None, "prompt lookup": (), "draft model": (draft,)}
    if draft is None:
        del drafts["draft model"]
    made = []
    for text, (temperature, at_most) in (OWN_TEXTS if options.model else TEXTS).items():
        seconds, shares, texts = {}, {}, {}

        def generate(name, temperature=temperature, shares=shares, texts=texts):
            source = drafts[name]
            speculation = None if source is None else npgpt.Speculation(*source)
            rng = npgpt.Generator(7) if temperature else None
            ids = npgpt.generate(
                model, prompt, options.tokens, temperature, rng=rng, speculate=speculation
            )
            texts[name] = list(ids)
            if speculation:
                shares[name] = f"{speculation.accepted} of {speculation.proposed} accepted"

        for name in drafts:
            generate(name)
            if texts[name] != texts["plain"]:
                sys.exit(f"{text}: with {name} other tokens are generated")
        for _ in range(options.rounds):
            for name in drafts:
                seconds.setdefault(name, []).append(once(lambda name=name: generate(name)))
        plain = seconds.pop("plain")
        for name, taken in seconds.items():
            work = f"{text}, {name}, {weights}: {shares[name]}"
            limit = at_most if name == "prompt lookup" else OTHER
            made.append(comparison(work, "npgpt without speculation", taken, plain, limit))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--weights", nargs="+", default=["float32", "bfloat16", "int8"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--model", type=Path, help="in place of the random one")
    parser.add_argument("--draft", type=Path, help="the draft model of --model")
    parser.add_argument("--prompt", default="\n", help="continued by --model")
    options = parser.parse_args()
    os.environ.update(on_threads(options.threads))
    comparisons = [made for weights in options.weights for made in run(weights, options)]
    print(compared(comparisons))
    if options.model:
        return
    about = {"rounds": options.rounds, "threads": options.threads, "tokens": options.tokens}
    harness.write("speculation", about | {"comparisons": comparisons})


if __name__ == "__main__":
    main()
