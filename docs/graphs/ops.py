"""The graphs of the ops: the letters and the formulas of npgpt/ops, one step a node.

B sequences of T positions, N = B * T rows, C numbers each, H heads of D, V words. Sums keep their
axis, so that what is summed can be broadcast back.
"""

import numpy as np

from docs.graphs.graph import Graph, Node, constant, leaf, parameter


def E(x):
    """(..., C) -> (..., 1), the mean of each row."""
    return x.mean(-1, keepdims=True)


def Σ(x):
    """(..., C) -> (..., 1), the sum of each row."""
    return x.sum(-1, keepdims=True)


def Σ_n(x):
    """(N, C) -> (C,), the sum over the rows."""
    return x.sum(0)


def Σ_b(x):
    """(B, T, C) -> (T, C), the sum over the sequences."""
    return x.sum(0)


def softmax(x):
    """Return the softmax of each row."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def scatter(rows, x, like):
    """Return zeros like `like`, with each row of `x` added to the row that `rows` names."""
    out = np.zeros_like(like)
    np.add.at(out, rows, x)
    return out


def split_heads(x, H):
    """(B, T, C) -> (B, H, T, D)"""
    B, T, C = x.shape
    return x.reshape(B, T, H, C // H).transpose(0, 2, 1, 3)


def merge_heads(x):
    """(B, H, T, D) -> (B, T, C)"""
    B, H, T, D = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, T, H * D)


def heads(qkv, i, H):
    """(B, T, 3C) -> (B, H, T, D): the queries, the keys or the values."""
    return split_heads(np.split(qkv, 3, -1)[i], H)


def joined(dx, i):
    """(B, H, T, D) -> (B, T, 3C): the backward of `heads`, zero in the other two parts."""
    parts = [np.zeros_like(merge_heads(dx)) for _ in range(3)]
    parts[i] = merge_heads(dx)
    return np.concatenate(parts, -1)


FUNCTIONS = {
    **{f.__name__: f for f in (E, Σ, Σ_n, Σ_b, softmax, scatter)},
    **{f.__name__: f for f in (split_heads, merge_heads, heads, joined)},
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "where": np.where,
    "inf": np.inf,
}

LINEAR = Graph(
    "linear",
    [
        leaf("x", "(N, I)"),
        parameter("weight", "(I, O)", column=1.0),
        Node("product", "(N, O)", "x @ weight",
             {"x": "dproduct @ weight.T", "weight": "x.T @ dproduct"}),
        parameter("bias", "(O,)", column=1.0),
        Node("out", "(N, O)", "product + bias", {"product": "dout", "bias": "Σ_n(dout)"}),
    ],
    FUNCTIONS,
)  # fmt: skip

LORA = Graph(
    "lora",
    [
        leaf("x", "(N, I)"),
        constant("weight", "(I, O)", column=-1.2),
        Node("frozen", "(N, O)", "x @ weight", {"x": "dfrozen @ weight.T"}, -0.3),
        parameter("lora_a", "(I, R)", column=1.8),
        Node("low", "(N, R)", "scale * (x @ lora_a)",
             {"x": "scale * dlow @ lora_a.T", "lora_a": "scale * x.T @ dlow"}, 0.5),
        parameter("lora_b", "(R, O)", column=2.0),
        Node("added", "(N, O)", "low @ lora_b",
             {"low": "dadded @ lora_b.T", "lora_b": "low.T @ dadded"}, 0.8),
        Node("out", "(N, O)", "frozen + added", {"frozen": "dout", "added": "dout"}),
    ],
    FUNCTIONS,
)  # fmt: skip

GELU = Graph(
    "gelu",
    [
        leaf("x", "(...)"),
        Node("inner", "(...)", "SCALE * (x + CUBIC * x*x*x)",
             {"x": "dinner * SCALE * (1 + 3 * CUBIC * x*x)"}, 1),
        Node("t", "(...)", "tanh(inner)", {"inner": "dt * (1 - t*t)"}, 1),
        Node("gate", "(...)", "0.5 * (1 + t)", {"t": "dgate * 0.5"}, 1),
        Node("out", "(...)", "x * gate", {"x": "dout * gate", "gate": "dout * x"}),
    ],
    FUNCTIONS,
)  # fmt: skip

DROPOUT = Graph(
    "dropout",
    [
        leaf("x", "(...)"),
        constant("keep", "(...) bool", column=1.0),
        Node("out", "(...)", "x * (keep * scale)", {"x": "dout * (keep * scale)"}),
    ],
    FUNCTIONS,
)

EMBEDDING = Graph(
    "embedding",
    [
        parameter("wte", "(V, C)", row=0),
        constant("tokens", "(B, T)", column=-0.9),
        Node("token", "(B, T, C)", "wte[tokens]", {"wte": "scatter(tokens, dtoken, wte)"}),
        parameter("wpe", "(T_max, C)", column=1, row=0),
        Node("position", "(T, C)", "wpe[:T]", {"wpe": "scatter(range(T), dposition, wpe)"}, 1),
        Node("out", "(B, T, C)", "token + position",
             {"token": "dout", "position": "Σ_b(dout)"}, 0.5),
    ],
    FUNCTIONS,
    column=220,
)  # fmt: skip

LAYERNORM = Graph(
    "layernorm",
    [
        leaf("x", "(N, C)"),
        Node("mean", "(N, 1)", "E(x)", {"x": "dmean / C"}, 1),
        Node("centered", "(N, C)", "x - mean", {"x": "dcentered", "mean": "-Σ(dcentered)"}),
        Node("var", "(N, 1)", "E(centered**2)", {"centered": "dvar * 2 * centered / C"}, 1),
        Node("rstd", "(N, 1)", "(var + eps)**-0.5", {"var": "drstd * -0.5 * rstd**3"}, 1),
        Node("norm", "(N, C)", "centered * rstd",
             {"centered": "dnorm * rstd", "rstd": "Σ(dnorm * centered)"}),
        parameter("weight", "(C,)", column=1.1),
        Node("scaled", "(N, C)", "norm * weight",
             {"norm": "dscaled * weight", "weight": "Σ_n(dscaled * norm)"}),
        parameter("bias", "(C,)", column=1.1),
        Node("out", "(N, C)", "scaled + bias", {"scaled": "dout", "bias": "Σ_n(dout)"}),
    ],
    FUNCTIONS,
)  # fmt: skip

LINEAR_CROSS_ENTROPY = Graph(
    "linear_cross_entropy",
    [
        leaf("x", "(N, C)"),
        parameter("weight", "(V, C)", column=1),
        Node("logits", "(N, V)", "x @ weight.T",
             {"x": "dlogits @ weight", "weight": "dlogits.T @ x"}),
        Node("e", "(N, V)", "exp(logits)", {"logits": "de * e"}, 1),
        Node("s", "(N, 1)", "Σ(e)", {"e": "ds"}, 1),
        Node("lse", "(N, 1)", "log(s)", {"s": "dlse / s"}, 1),
        constant("onehot", "(N, V)", column=-0.9, row=4),
        Node("score", "(N, 1)", "Σ(logits * onehot)", {"logits": "dscore * onehot"}, row=4),
        Node("losses", "(N, 1)", "lse - score", {"lse": "dlosses", "score": "-dlosses"}),
        Node("loss", "scalar", "losses.mean()", {"losses": "dloss / N"}),
    ],
    FUNCTIONS,
)  # fmt: skip

SOFTMAX = Graph(
    "softmax",
    [
        leaf("x", "(N, V)"),
        Node("e", "(N, V)", "exp(x)", {"x": "de * e"}),
        Node("s", "(N, 1)", "Σ(e)", {"e": "ds"}, 1),
        Node("p", "(N, V)", "e / s", {"e": "dp / s", "s": "-Σ(dp * e) / s**2"}),
    ],
    FUNCTIONS,
)

ATTENTION = Graph(
    "attention",
    [
        leaf("qkv", "(B, T, 3C)", column=1),
        Node("q", "(B, H, T, D)", "heads(qkv, 0, H)", {"qkv": "joined(dq, 0)"}),
        Node("k", "(B, H, T, D)", "heads(qkv, 1, H)", {"qkv": "joined(dk, 1)"}, 1),
        Node("v", "(B, H, T, D)", "heads(qkv, 2, H)", {"qkv": "joined(dv, 2)"}, 2),
        Node("scores", "(B, H, T, T)", "q @ k.mT * D**-0.5",
             {"q": "dscores @ k * D**-0.5", "k": "dscores.mT @ q * D**-0.5"}, 0.5),
        constant("mask", "(T, T)", column=-0.5),
        Node("masked", "(B, H, T, T)", "where(mask, scores, -inf)",
             {"scores": "where(mask, dmasked, 0)"}, 0.5),
        Node("probs", "(B, H, T, T)", "softmax(masked)",
             {"masked": "probs * (dprobs - Σ(dprobs * probs))"}, 0.5),
        constant("keep", "(B, H, T, T)", column=-0.6),
        Node("dropped", "(B, H, T, T)", "probs * (keep * scale)",
             {"probs": "ddropped * (keep * scale)"}, 0.5),
        Node("y", "(B, H, T, D)", "dropped @ v",
             {"dropped": "dy @ v.mT", "v": "dropped.mT @ dy"}, 0.5),
        Node("out", "(B, T, C)", "merge_heads(y)", {"y": "split_heads(dout, H)"}, 0.5),
    ],
    FUNCTIONS,
    column=204,
)  # fmt: skip

ADAMW = Graph(
    "adamw",
    [
        leaf("p", ""),
        leaf("m", "", column=0.9),
        leaf("grad", "", column=1.65),
        leaf("v", "", column=2.7),
        Node("decayed", "", "p * (1 - lr * weight_decay)", row=3),
        Node("m_new", "", "beta1 * m + (1 - beta1) * grad", column=0.9),
        Node("v_new", "", "beta2 * v + (1 - beta2) * grad**2", column=2.3),
        Node("mhat", "", "m_new / (1 - beta1**step)", column=0.9),
        Node("vhat", "", "v_new / (1 - beta2**step)", column=2.3),
        Node("move", "", "lr * mhat / (sqrt(vhat) + eps)", column=1.6),
        Node("p_new", "", "decayed - move", column=0.8),
    ],
    FUNCTIONS,
    column=200,
)

GRAPHS = [LINEAR, LORA, GELU, DROPOUT, EMBEDDING, LAYERNORM, LINEAR_CROSS_ENTROPY, ATTENTION, ADAMW,
          SOFTMAX]  # fmt: skip
