"""Every op, the PyTorch function it must equal, and shapes worth trying.

A new op is one new row here; the tests are written once, over the table.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F

from npgpt.kernels.parallel import WORTH

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Case:
    op: str  # module in npgpt.ops and in npgpt.fused
    torch: Callable  # the same function, differentiable, taking everything below by name
    x: dict[str, Shape] = field(default_factory=dict)  # float arguments
    p: dict[str, Shape | None] = field(default_factory=dict)  # parameters; None: left out
    ids: dict[str, tuple[Shape, int]] = field(default_factory=dict)  # integers: (shape, bound)
    ignored: tuple[int, ...] = ()  # these targets are -100
    keep: Shape | None = None  # a dropout mask; its rate is among the options
    options: dict = field(default_factory=dict)
    scale: dict[str, float] = field(default_factory=dict)  # how large floats are; 1 if not named
    values: dict[str, list] = field(default_factory=dict)  # floats that are not drawn
    adds: tuple[str, ...] = ()  # parameters whose gradient the op adds to
    unit: float = 0.0  # the largest number that cancels on the way to a smaller result
    note: str = ""  # what is special, for the test's name

    def __str__(self):
        shapes = [*self.x.values(), *(s for s, _ in self.ids.values()), *self.p.values()]
        return "-".join(filter(None, (self.op, "x".join(map(str, shapes[0])), self.note)))


def embedding(wte, wpe, tokens):
    return F.embedding(tokens, wte) + F.embedding(torch.arange(tokens.shape[-1]), wpe)


def layer_norm(x, weight, bias):
    return F.layer_norm(x, weight.shape, weight, bias)


def linear(x, weight, bias):
    return F.linear(x, weight.T, bias)


def lora(x, weight, bias, lora_a, lora_b):
    return linear(x, weight, bias) + x @ lora_a @ lora_b


def gelu(x):
    return F.gelu(x, approximate="tanh")


def dropout(x, rate, keep=None):
    return x if keep is None else x * keep / (1 - rate)


def attention(qkv, n_head, rate=0.0, keep=None):
    B, T, C = qkv.shape
    q, k, v = (a.view(B, T, n_head, -1).transpose(1, 2) for a in qkv.split(C // 3, dim=-1))
    if keep is None:
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:  # PyTorch's own takes no mask of what to drop
        scores = q @ k.mT / q.shape[-1] ** 0.5
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        y = dropout(scores.masked_fill(later, -torch.inf).softmax(-1), rate, keep) @ v
    return y.transpose(1, 2).reshape(B, T, C // 3)


def linear_cross_entropy(x, weight, targets):
    return F.cross_entropy((x @ weight.T).flatten(0, -2), targets.flatten())


B, T, C, H, V = 2, 7, 48, 4, 65  # no two alike, so a swapped axis cannot go unseen


def embedding_case(B, T, V=V, T_max=11, C=C, **more):
    return Case(op="embedding", torch=embedding, p=dict(wte=(V, C), wpe=(T_max, C)),
                ids=dict(tokens=((B, T), V)), adds=("wte",), **more)  # fmt: skip


def norm_case(*x, **more):
    C = x[-1]
    return Case(op="layernorm", torch=layer_norm, x=dict(x=x), p=dict(weight=(C,), bias=(C,)),
                **more)  # fmt: skip


def linear_case(*x, outputs, bias=True, **more):
    p = dict(weight=(x[-1], outputs), bias=(outputs,) if bias else None)
    return Case(op="linear", torch=linear, x=dict(x=x), p=p, **more)


def lora_case(*x, outputs, rank, bias=True, **more):
    I = x[-1]
    p = dict(weight=(I, outputs), bias=(outputs,) if bias else None, lora_a=(I, rank),
             lora_b=(rank, outputs))  # fmt: skip
    return Case(op="lora", torch=lora, x=dict(x=x), p=p, **more)


def attention_case(B, T, C, n_head, rate=0.0, **more):
    keep, options = None, dict(n_head=n_head)
    if rate:
        keep, options = (B, n_head, T, T), options | dict(rate=rate)
    return Case(op="attention", torch=attention, x=dict(qkv=(B, T, 3 * C)), options=options,
                keep=keep, **more)  # fmt: skip


def loss_case(*x, V=V, ignored=(), **more):
    # The gradient is a sum of (probability - 1) / N, which may cancel, and what is rounded off a
    # logit, sqrt(C) large, is a share of its probability.
    N, C = math.prod(x[:-1]) - len(ignored), x[-1]
    return Case(op="linear_cross_entropy", torch=linear_cross_entropy, x=dict(x=x),
                p=dict(weight=(V, x[-1])), ids=dict(targets=(x[:-1], V)), 
                unit=C**0.5 / N, ignored=tuple(ignored), **more)  # fmt: skip


MANY = (2 * WORTH + 7,)  # numbers that two tasks share, the one getting more than the other
FAR = [0.0, -0.0, *(s * 10.0**e for e in range(-8, 5) for s in (-1, 1)), -5.0, 5.0, -9.0, 9.0]

CASES = [
    embedding_case(B, T),
    embedding_case(3, 11, note="whole-context"),
    embedding_case(4, 5, V=3, note="repeated"),  # 20 tokens of 3 kinds
    embedding_case(1, 1, V=2, C=1),

    norm_case(B, T, C),
    norm_case(3, 100, C),
    norm_case(B, T, C, scale=dict(x=100.0), note="wide"),
    norm_case(B, T, C, scale=dict(x=1e-3), note="below-eps"),  # the variance is a tenth of eps
    # C = 2 normalises to (-1, 1) for any x, C = 1 to 0: dx and dweight are what cancellation
    # leaves of rstd * dout, in which rstd is 1 for these x, or 1 / sqrt(eps) = 316
    norm_case(1, 1, 2, values=dict(x=[[[-1.5, 0.5]]]), unit=3.0),
    norm_case(5, 1, unit=1000.0),

    linear_case(B, T, C, outputs=3 * C),
    linear_case(B, T, C, outputs=3 * C, bias=False, note="no-bias"),
    linear_case(1, 1, 1, outputs=1),
    linear_case(33, C, outputs=5),

    # the sum of the adapter's products passes through x A, whose numbers are sqrt(C) large
    lora_case(B, T, C, outputs=3 * C, rank=4, unit=C**0.5),
    lora_case(33, C, outputs=5, rank=1, bias=False, unit=C**0.5, note="no-bias"),

    attention_case(B, T, C, H),
    attention_case(3, 33, C, H),
    attention_case(B, T, C, 1, note="one-head"),
    attention_case(B, T, 6, 6, note="heads-of-1"),
    attention_case(B, 1, C, H),
    # scores reach 300, and what is rounded off a score is a share of a probability
    attention_case(B, T, C, H, scale=dict(qkv=10.0), unit=300.0, note="sharp"),
    attention_case(B, T, C, H, rate=0.25, note="dropout"),
    attention_case(1, 1, C, 2, rate=0.5, note="dropout"),

    Case(op="gelu", torch=gelu, x=dict(x=(B, T, 4 * C))),
    Case(op="gelu", torch=gelu, x=dict(x=(1,))),
    Case(op="gelu", torch=gelu, x=dict(x=MANY), note="two tasks"),
    # at x = 5 the last place of 1 - tanh^2 is multiplied by 0.5 x dinner = 9
    Case(op="gelu", torch=gelu, x=dict(x=(2, len(FAR) // 2)), note="far", unit=9.0,
         values=dict(x=np.reshape(FAR, (2, -1)))),

    Case(op="dropout", torch=dropout, x=dict(x=(B, T, C)), keep=(B, T, C), options=dict(rate=0.1)),
    Case(op="dropout", torch=dropout, x=dict(x=(3, 5)), keep=(3, 5), options=dict(rate=0.5)),
    Case(op="dropout", torch=dropout, x=dict(x=MANY), keep=MANY, options=dict(rate=0.1),
         note="two tasks"),
    Case(op="dropout", torch=dropout, x=dict(x=(B, T, C)), options=dict(rate=0.1), note="no-rng"),

    loss_case(B, T, C),  # fewer rows than one chunk of 256 holds, as many, more
    loss_case(2, 128, 8),
    loss_case(3, 200, 8),
    loss_case(B, T, C, options=dict(chunk=4), note="chunk-of-4"),  # 14 rows: 4, 4, 4, 2
    loss_case(B, T, C, ignored=range(1, 14, 3), note="ignored"),
    loss_case(B, T, C, ignored=range(2, 14), options=dict(chunk=4), note="two-count"),
    loss_case(1, 1, 1, V=2),
    loss_case(B, T, C, V=2, scale=dict(weight=0.1), note="two-words"),
    loss_case(B, T, C, scale=dict(weight=100.0), note="sharp"),  # logits in the hundreds
    loss_case(B, T, C, V=9000, note="many-words"),
]  # fmt: skip
