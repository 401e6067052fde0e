"""Exercises on attention: values, scores, scale and mask, heads, and all of it."""

from typing import Any

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise, Region
from npgpt.learn.sizes import D, H, Sizes, T
from npgpt.ops import attention


def drawn(s: Sizes) -> Arguments:
    """Return all arrays of the forward pass, and the gradients that go into backward."""
    rng = sizes.rng("attention")
    B, T, H, D, C = s.B, s.T, s.H, s.D, s.C
    qkv = sizes.normal(rng, B, T, 3 * C)
    _, cache = attention.forward(qkv, n_head=H)
    return {
        "qkv": qkv,
        "q": np.ascontiguousarray(cache.q),
        "k": np.ascontiguousarray(cache.k),
        "v": np.ascontiguousarray(cache.v),
        "probs": cache.probs,
        "dout": sizes.normal(rng, B, T, C),
        "dheads": sizes.normal(rng, B, H, T, D),
        "dscores": sizes.normal(rng, B, H, T, T),
        "full": attention.softmax(sizes.normal(rng, B, H, T, T)),  # without a mask
        "scores": 3 * sizes.normal(rng, B, H, T, T),
    }


def case(s: Sizes, *given: str, **renamed: str) -> Case:
    """Return the case with these arrays; `dout="dheads"` passes one by another name."""
    all_arrays = drawn(s)
    arguments = {name: all_arrays[source] for name, source in renamed.items()}
    return Case(arguments | {name: all_arrays[name] for name in given}, extra=all_arrays)


def mask_regions(a: Arguments) -> dict[str, list[Region]]:
    """Return the scores of later positions, of earlier ones, and the diagonal."""
    row, column = np.arange(T)[:, None], np.arange(T)
    found = [
        Region("the masked scores, above the diagonal,", column > row),
        Region("the scores on the diagonal", column == row),
        Region("the scores that are not masked", column <= row),
        Region("the scores one above the diagonal", column == row + 1),
    ]
    return dict.fromkeys(("out", "dscores"), found)


VALUES = Exercise(
    name="attention_values",
    title="Attention: the weighted mean of the values",
    results={"values_backward": ("dprobs", "dv")},
    axes={"dprobs": "B H T T", "dv": "B H T D"},
    cases=lambda s: [case(s, "v", dout="dheads", probs="full")],
    loss=lambda a: (a["dout"] * (a["probs"] @ a["v"])).sum(),
    inputs={"dprobs": "probs", "dv": "v"},
    factors="T D H B",
)
SCORES = Exercise(
    name="attention_scores",
    title="Attention: the scores of queries and keys",
    results={"scores_backward": ("dq", "dk")},
    axes={"dq": "B H T D", "dk": "B H T D"},
    cases=lambda s: [case(s, "dscores", "q", "k")],
    loss=lambda a: (a["dscores"] * (a["q"] @ a["k"].mT)).sum(),
    inputs={"dq": "q", "dk": "k"},
    factors="sqrt(D) D T H B",
)


def mask_cases(s: Sizes) -> list[Case]:
    """Return one case of each direction."""
    all_arrays = drawn(s)
    forward = {"scores": all_arrays["scores"], "D": s.D}
    backward = {"dout": all_arrays["dscores"], "D": s.D}
    extra = {"scores": all_arrays["scores"]}
    return [Case(forward), Case(backward, extra, function="scale_and_mask_backward")]


MASK = Exercise(
    name="attention_mask",
    title="Attention: scale and mask",
    results={"scale_and_mask": ("out",), "scale_and_mask_backward": ("dscores",)},
    axes={"out": "B H T T", "dscores": "B H T T"},
    cases=mask_cases,
    loss=lambda a: (a["dout"] * np.where(np.tri(T), a["scores"] / D**0.5, 0)).sum(),
    inputs={"dscores": "scores"},
    regions=mask_regions,
    factors="sqrt(D) D T H",
)


def heads_cases(s: Sizes) -> list[Case]:
    """Return one case of each direction."""
    all_arrays = drawn(s)
    gradients = {f"d{name}": 1.5 * all_arrays[name] for name in "qkv"}
    extra = {"qkv": all_arrays["qkv"]}
    return [
        Case({"qkv": all_arrays["qkv"], "n_head": s.H}),
        Case(gradients, extra, function="split_qkv_backward"),
    ]


def heads_loss(a: Arguments) -> Any:
    """Return the loss whose gradient is asked for."""
    parts = np.split(a["qkv"], 3, axis=-1)
    return sum(
        (a[f"d{name}"] * attention.split_heads(part, H)).sum()
        for name, part in zip("qkv", parts, strict=True)
    )


HEADS = Exercise(
    name="attention_heads",
    title="Attention: split into heads, and merge",
    results={"split_qkv": ("q", "k", "v"), "split_qkv_backward": ("dqkv",)},
    axes={"q": "B H T D", "k": "B H T D", "v": "B H T D", "dqkv": "B T 3*H*D"},
    cases=heads_cases,
    loss=heads_loss,
    inputs={"dqkv": "qkv"},
)


def attention_loss(a: Arguments) -> Any:
    """Return the loss of the whole forward pass."""
    return (a["dout"] * attention.forward(a["qkv"], n_head=H)[0]).sum()


def attention_summands(a: Arguments) -> dict[str, dict[str, Array]]:
    """Return the terms of the softmax in the gradients of q and k."""
    dheads = attention.split_heads(a["dout"], H)
    dprobs, probs = dheads @ a["v"].mT, a["probs"]
    zero = np.zeros_like(a["q"])
    first, second = probs * dprobs, -probs * (dprobs * probs).sum(-1, keepdims=True)

    def merged(*parts: Array) -> Array:
        return np.concatenate([attention.merge_heads(one) for one in parts], axis=-1)

    return {
        "dqkv": {
            "in dq, the softmax's term probs * dprobs": merged(first @ a["k"] / D**0.5, zero, zero),
            "in dq, the softmax's term of the sum": merged(second @ a["k"] / D**0.5, zero, zero),
            "in dk, the softmax's term probs * dprobs": merged(
                zero, first.mT @ a["q"] / D**0.5, zero
            ),
            "in dk, the softmax's term of the sum": merged(zero, second.mT @ a["q"] / D**0.5, zero),
            "dv": merged(zero, zero, probs.mT @ dheads),
        }
    }


ATTENTION = Exercise(
    name="attention",
    title="Attention: the whole backward pass",
    results={"attention_backward": ("dqkv",)},
    axes={"dqkv": "B T 3*H*D"},
    cases=lambda s: [case(s, "dout", "q", "k", "v", "probs")],
    loss=attention_loss,
    inputs={"dqkv": "qkv"},
    summands=attention_summands,
    factors="sqrt(D) D T H B",
)
