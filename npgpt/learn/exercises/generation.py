"""Exercises on generation: probabilities of the next token, and a key/value cache."""

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise, Region
from npgpt.learn.sizes import Sizes


def sampling_cases(s: Sizes) -> list[Case]:
    """Return temperature, top-k and top-p alone, all together, and the ends of each."""
    logits = 1.5 * sizes.normal(sizes.rng("sampling"), s.B, s.V)

    def case(
        about: str, temperature: float, k: int | None, p: float | None, shift: float | Array = 0
    ) -> Case:
        settings = {"temperature": temperature, "top_k": k, "top_p": p}
        return Case({"logits": logits + shift, **settings}, about=about)

    return [
        case("", 0.7, None, None),
        case("top_k = 4", 1.0, 4, None),
        case("top_p = 0.8", 1.0, None, 0.8),
        case("top_k, temperature and top_p together", 1.8, 5, 0.75),
        case("a top_k larger than V", 1.0, s.V + 3, None),
        case("a top_p that one token reaches", 1.0, None, 0.01),
        case("a top_p of 1", 1.0, None, 1.0),
        case("logits near 1000", 0.7, 4, 0.8, 1000),
        case("rows 2000 apart", 0.7, None, None, sizes.apart(s.B)[:, None]),
    ]


SAMPLING = Exercise(
    name="sampling",
    title="Sampling: temperature, top-k, top-p",
    results={"probabilities": ("probs",)},
    axes={"probs": "B V"},
    cases=sampling_cases,
)


def cache_cases(s: Sizes) -> list[Case]:
    """Return one new position, several at once, and an empty cache."""
    rng = sizes.rng("kv_cache")

    def case(n: int, S: int, about: str) -> Case:
        new = {name: sizes.normal(rng, s.B, s.H, n, s.D) for name in "qkv"}
        old = {name: sizes.normal(rng, s.B, s.H, S, s.D) for name in ("keys", "values")}
        return Case(new | old, about=about)

    return [
        case(1, 4, ""),
        case(3, 2, "three new positions at once"),
        case(5, 0, "an empty cache"),
    ]


def cache_regions(a: Arguments) -> dict[str, list[Region]]:
    """Return the cached and the new positions."""
    S, n = a["keys"].shape[2], a["k"].shape[2]
    position = np.arange(S + n)[:, None]
    found = [
        Region("the positions of the old cache", position < S),
        Region("the new positions", position >= S),
    ]
    return {"keys": found, "values": found}


KV_CACHE = Exercise(
    name="kv_cache",
    title="A key/value cache",
    results={"attend": ("out", "keys", "values")},
    axes={"out": "B H n D", "keys": "B H S+n D", "values": "B H S+n D"},
    cases=cache_cases,
    regions=cache_regions,
    factors="sqrt(D) D H",
)
