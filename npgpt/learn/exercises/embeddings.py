"""Exercises on the embeddings and on the output head, which shares a matrix with them."""

import numpy as np

from npgpt.arrays import Array
from npgpt.learn import sizes
from npgpt.learn.exercise import Arguments, Case, Exercise, Region
from npgpt.learn.sizes import T_MAX, Sizes, T, V


def embedding_cases(s: Sizes) -> list[Case]:
    """Return one case: gradients that are not zero before, and tokens that repeat."""
    rng = sizes.rng("embedding")
    arguments = {
        "dout": sizes.normal(rng, s.B, s.T, s.C),
        "tokens": sizes.tokens(rng, s),
        "dwte": sizes.normal(rng, s.V, s.C),
        "dwpe": sizes.normal(rng, s.T_MAX, s.C),
    }
    return [Case(arguments, extra={"wte": np.ones((s.V, s.C)), "wpe": np.ones((s.T_MAX, s.C))})]


def embedding_loss(a: Arguments) -> float:
    """Return the loss whose gradients are asked for."""
    return float((a["dout"] * (a["wte"][a["tokens"]] + a["wpe"][:T])).sum())


def rows_of(tokens: Array) -> list[Region]:
    """Return the rows of repeated tokens, of tokens that occur, and of those that do not."""
    counts = np.bincount(tokens.ravel(), minlength=V)[:, None]
    return [
        Region("the rows of tokens that occur more than once", counts > 1),
        Region("the rows of tokens that occur", counts > 0),
        Region("the rows of tokens that do not occur", counts == 0),
    ]


def embedding_regions(a: Arguments) -> dict[str, list[Region]]:
    """Return the rows of some tokens, and of positions with and without a use."""
    position = np.arange(T_MAX)[:, None]
    return {
        "dwte": rows_of(a["tokens"]),
        "dwpe": [
            Region("the rows of positions that are not used", position >= T),
            Region("the rows of positions that are used", position < T),
        ],
    }


EMBEDDING = Exercise(
    name="embedding",
    title="Token and position embeddings: both tables",
    results={"embedding_backward": ("dwte", "dwpe")},
    axes={"dwte": "V C", "dwpe": "T_max C"},
    cases=embedding_cases,
    changes=("dwte", "dwpe"),
    adds=("dwte",),
    loss=embedding_loss,
    inputs={"dwte": "wte", "dwpe": "wpe"},
    regions=embedding_regions,
    factors="B T B*T",
)


def head_cases(s: Sizes) -> list[Case]:
    """Return one case, with a gradient of the matrix that is not zero before."""
    rng = sizes.rng("tied_head")
    arguments = {
        "dlogits": sizes.normal(rng, s.B, s.T, s.V),
        "x": sizes.normal(rng, s.B, s.T, s.C),
        "wte": sizes.normal(rng, s.V, s.C),
        "dwte": sizes.normal(rng, s.V, s.C),
    }
    return [Case(arguments)]


TIED_HEAD = Exercise(
    name="tied_head",
    title="The output head, tied to the token embedding",
    results={"head_backward": ("dx", "dwte")},
    axes={"dx": "B T C", "dwte": "V C"},
    cases=head_cases,
    changes=("dwte",),
    adds=("dwte",),
    loss=lambda a: (a["dlogits"] * (a["x"] @ a["wte"].T)).sum(),
    inputs={"dx": "x", "dwte": "wte"},
    factors="B T B*T V C",
)
