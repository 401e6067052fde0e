"""View 5: the backward pass, step by step, and the gradients of the parameters."""

from typing import Any

import numpy as np

import npgpt.ops
from npgpt.arrays import Array
from npgpt.backends import name_of
from npgpt.errors import InputError
from npgpt.explain import backward as explained
from npgpt.explain import blocks, gradients, threads
from npgpt.play.api.body import Body
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session

MOST_TOKENS = 256
SMALL = 1 << 24  # parameters: NumPy, whose code is shown, computes these as fast
ROWS, COLUMNS = 64, 128  # pixels of a matrix, at most
CHANNELS = 256  # pixels of a token's gradient, at most


def steps(body: Body, session: Session, job: Job) -> Reply:
    """Return every step of backward: op, formula, code, and the gradient's length per token."""
    found, unread = run(body, session, job)
    sources: dict[tuple, int] = {}
    listed: list[dict[str, Any]] = []
    for one in found.steps:
        source = sources.setdefault((one.op, one.formula, one.code), len(sources))
        own = {"op": one.op, "name": one.name, "layer": one.layer, "ran": one.ran}
        listed.append({**own, "parameters": one.parameters, "source": source})
    texts = [
        {"op": op, "formula": formula, "code": [part._asdict() for part in code]}
        for op, formula, code in sources
    ]
    model = session.model
    sizes = [
        one._asdict() | {"ratio": one.ratio if one.weight else None}
        for one in gradients.sizes(model.params, found.gradients)
    ]
    data = {
        "unread": unread, "loss": found.loss, "steps": listed, "sources": texts, "sizes": sizes,
        "stream": found.stream.names, "matrices": gradients.sums(found),
        "backend": name_of(backend(session)),
    }  # fmt: skip
    arrays = {
        "tokens": found.tokens, "targets": found.targets, "losses": found.losses,
        "dout": stack([one.dout for one in found.steps]),
        "dx": stack([one.dx for one in found.steps]), "norms": stack(list(found.stream.norms)),
    }  # fmt: skip
    return Reply(data, arrays)


def numbers(body: Body, session: Session, job: Job) -> Reply:
    """Return the gradient that arrives at a step (T, channels), as means if these are many.

    `channels`: how many there are.
    """
    found, _ = run(body, session, job)
    one = found.steps[body.integer("step", 0, len(found.steps) - 1)]
    name = "ln_f" if one.op == "linear_cross_entropy" else one.name
    array = found.dactivations[name][0]
    return Reply(
        {"channels": array.shape[1]},
        {"values": stack([blocks.means(array, len(array), CHANNELS)])[0]},
    )


def outer(body: Body, session: Session, job: Job) -> Reply:
    """Return one matrix's gradient as a sum over tokens, in means of blocks.

    The block means of outer(x, dy) are outer(means of x, means of dy), which the page multiplies.
    `error`: of the sum over tokens in float64, relative to the gradient that backward wrote.
    """
    found, _ = run(body, session, job)
    one = gradients.outer(found, body.text("parameter", 100))
    total = one.x.astype(np.float64).T @ one.dy
    error = np.linalg.norm(total - one.gradient) / (np.linalg.norm(one.gradient) or 1)
    N, (I, O) = len(one.x), one.gradient.shape
    arrays = {
        "x": blocks.means(one.x, N, ROWS), "dy": blocks.means(one.dy, N, COLUMNS),
        "gradient": blocks.means(one.gradient, ROWS, COLUMNS), "shares": one.shares,
    }  # fmt: skip
    data = {
        "rows": I, "columns": O, "error": float(error), "parts": one.parts, "axes": one.axes,
    }  # fmt: skip
    return Reply(data, {name: np.asarray(array, np.float32) for name, array in arrays.items()})


def run(body: Body, session: Session, job: Job) -> tuple[explained.Backward, int]:
    """Return the backward pass of a text, which is kept for the next request, and how many tokens
    come before those that are read."""
    tokens, unread = read_targeted(body, session)
    key = tuple(tokens)
    if session.backward is None or session.backward[0] != key:
        session.backward = None  # its gradients are large
        with threads.limit(session.model):
            found = explained.run(
                session.model, tokens, ops=backend(session),
                progress=lambda done, total: job.report(done, total, "Forward and backward"),
            )  # fmt: skip
        session.backward = key, found
    return session.backward[1], unread


def read_targeted(body: Body, session: Session, most: int = MOST_TOKENS) -> tuple[list[int], int]:
    """Return the last tokens of a text, of which each but the last one predicts the next.

    With them, how many come before. Raise InputError if there are fewer than two.
    """
    tokens = body.tokens(session)
    if len(tokens) < 2:
        raise InputError("the text must have at least two tokens: each predicts the next one")
    unread = max(0, len(tokens) - 1 - min(most, session.require().config.context_length))
    return tokens[unread:], unread


def backend(session: Session) -> Any:
    """Return NumPy for a small model, and for a large one the backend that it was loaded with."""
    model = session.require()
    return npgpt.ops if model.size < SMALL else model.ops


def stack(arrays: list[Array]) -> Array:
    """Return arrays of one shape as one of float32."""
    return np.stack(arrays).astype(np.float32)
