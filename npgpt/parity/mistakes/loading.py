"""Weights that were loaded wrongly, by the name of the mistake with the same forward pass.

The port's parameters are wrong, and it computes rightly with them: its gradients are in the order
in which it has read the columns.
"""

from itertools import permutations

TIE = "npgpt.parity.steps:tie"

SPLIT = "np.split(w, 3, -1)"
PER_HEAD = "w.reshape(*w.shape[:-1], n_head, 3, -1)"
BLOCKS = "np.concatenate([m.T for m in np.split(w, 3, -1)], -1)"


def attention(layer: str, wrong: str) -> tuple[str, str, str]:
    """Return the edit by which a layer of attention has other parameters `w`."""
    return (
        TIE,
        "return p",
        f"""def load(layer):
        return layer._replace(**{{k: {wrong} for k, w in layer._asdict().items() if w is not None}})

    return p._replace(h=tuple(
        b._replace(attn=b.attn._replace({layer}=load(b.attn.{layer}))) for b in p.h
    ))""",
    )


def norms(wrong: str) -> tuple[str, str, str]:
    """Return the edit by which a block `b` has other parameters of its LayerNorms."""
    return TIE, "return p", f"return p._replace(h=tuple(b._replace({wrong}) for b in p.h))"


LOADED = {
    f"qkv-order-{''.join(order)}": attention(
        "c_attn",
        "np.concatenate(["
        + ", ".join(f"{SPLIT}[{order.index(one)}]" for one in "qkv")
        + "], -1)",
    )
    for order in permutations("qkv")
    if order != ("q", "k", "v")
} | {
    "qkv-per-head": attention("c_attn", f"{PER_HEAD}.swapaxes(-2, -3).reshape(w.shape)"),
    "qkv-interleaved": attention(
        "c_attn", "w.reshape(*w.shape[:-1], -1, 3).swapaxes(-1, -2).reshape(w.shape)"
    ),
    "heads-interleaved": attention(
        "c_attn",
        "w.reshape(*w.shape[:-1], 3, -1, n_head).swapaxes(-1, -2).reshape(w.shape)",
    ),
    "square-weights-transposed": attention("c_proj", "w.T.copy()"),
    "qkv-weights-transposed": attention("c_attn", f"{BLOCKS} if w.ndim == 2 else w"),
    "qkv-weights-reshaped": attention(
        "c_attn",
        "np.concatenate([*w.reshape(3, *[len(w)] * 2)], 1) if w.ndim == 2 else w",
    ),
    "ln-1-and-ln-2-exchanged": norms("ln_1=b.ln_2, ln_2=b.ln_1"),
}  # fmt: skip
