"""View 3: attention's weights, of one head in full and of all heads as small pictures."""

import numpy as np

from npgpt.arrays import Array
from npgpt.explain import attention
from npgpt.play.api.body import Body
from npgpt.play.computation import Job, Reply
from npgpt.play.session import Session

SMALL = 24  # pixels of a small picture, at most


def head(body: Body, session: Session, job: Job) -> Reply:
    """Return the weights (T, T) of one head, and the tokens."""
    config = session.require().config
    layer = body.integer("layer", 0, config.n_layer - 1)
    number = body.integer("head", 0, config.n_head - 1)
    tokens, unread = body.read_tokens(session)
    found = attention.weights(session.model, tokens, layer)[number]
    arrays = {"weights": found, "tokens": np.asarray(tokens, np.int32)}
    return Reply({"unread": unread}, arrays)


def overview(body: Body, session: Session, job: Job) -> Reply:
    """Return a small picture of every head: (L, H, S, S) uint8, 255 for the largest weight."""
    layers = session.require().config.n_layer
    tokens, _ = body.read_tokens(session)
    found = []
    for weights in attention.every_layer(session.model, tokens):
        found.append(shrink(weights, SMALL))
        job.report(len(found), layers, "Attention, layer by layer")
    return Reply({}, {"small": np.stack(found)})


def shrink(weights: Array, most: int) -> Array:
    """(H, T, T) -> (H, S, S) uint8: return the largest weight of each tile, S = min(T, most)."""
    T = weights.shape[-1]
    edges = np.arange(min(T, most)) * T // min(T, most)
    tiles = np.maximum.reduceat(np.maximum.reduceat(weights, edges, axis=1), edges, axis=2)
    return np.rint(255 * tiles).astype(np.uint8)
