"""Weights that were loaded wrongly, with the name of the mistake that has the same forward pass.

The port's parameters are wrong, and it computes rightly with them: its gradients are in the order
in which it has read the columns.
"""

from itertools import permutations

TIE = "npgpt.parity.steps:tie"

LOADING = ", where the weights are loaded (the model computes rightly with them)"
WEIGHTS = ", where the weights are loaded; biases are right"
BIASES = ", where the biases are loaded; weights are right"
ZERO = ": it is not loaded, and is 0"
DEFAULT = ": they are not loaded, and are 1 and 0"

SPLIT = "np.split(w, 3, -1)"
PER_HEAD = "w.reshape(*w.shape[:-1], n_head, 3, -1)"
TRANSPOSED = f"np.concatenate([m.T for m in {SPLIT}], -1)"
THIRDS = "np.concatenate([*w.reshape(3, *[len(w)] * 2)], 1)"
C_ATTN, MATRIX, VECTOR = '"c_attn" in name', "w.ndim == 2", "w.ndim == 1"
NORM, ONE = '"ln_" in name', '0 * w + ("weight" in name)'
LINEAR_BIAS = 'name.endswith(".bias") and "ln_" not in name'
OTHER_NORM = 'name.replace("ln_1", "ln_x").replace("ln_2", "ln_1").replace("ln_x", "ln_2")'
OTHER_LEAF = 'name.replace("weight", "x").replace("bias", "weight").replace("x", "bias")'
REVERSED = "'.'.join([*(part := name.split('.'))[:1], str(len(p.h) - 1 - int(part[1])), *part[2:]])"


def loaded(wrong: str, condition: str) -> tuple[str, str, str]:
    """Return the edit by which some parameters `w`, of `every` by `name`, have other numbers."""
    return (
        TIE,
        "return p",
        f"""every = dict(params.named(p))
    names = iter(every)

    def load(w):
        name = next(names)
        return np.ascontiguousarray({wrong}) if {condition} else w

    return params.map_leaves(p, load)""",
    )


ORDERS = {
    f"qkv-order-{''.join(order)}": "np.concatenate(["
    + ", ".join(f"{SPLIT}[{order.index(one)}]" for one in "qkv")
    + "], -1)"
    for order in permutations("qkv")
    if order != ("q", "k", "v")
}
COLUMNS = ORDERS | {  # of c_attn
    "qkv-per-head": f"{PER_HEAD}.swapaxes(-2, -3).reshape(w.shape)",
    "qkv-interleaved": "w.reshape(*w.shape[:-1], -1, 3).swapaxes(-1, -2).reshape(w.shape)",
    "heads-interleaved": "w.reshape(*w.shape[:-1], 3, -1, n_head).swapaxes(-1, -2)"
    ".reshape(w.shape)",
}

LAST = '".".join([*(part := name.split("."))[:1], str(len(p.h) - 1), *part[2:]])'
PARTS = {  # of a block, and the names of their parameters
    "ln-1": '".ln_1." in name', "ln-2": '".ln_2." in name', "attn": '".attn." in name',
    "mlp": '".mlp." in name',
}  # fmt: skip
UNLOADED = {"weight": (": it is not loaded, and is 1", "0 * w + 1"), "bias": (ZERO, "0 * w")}
THIRD = "np.arange(w.size) // (w.size // 3)"

# name of the entry, the end of its line, and the edit
LOADED = (
    *(
        (f"{layer.replace('_', '-')}-without-{leaf}", end,
         loaded(wrong, f'"{layer}.{leaf}" in name'))
        for layer in ("ln_1", "ln_2", "ln_f")
        for leaf, (end, wrong) in UNLOADED.items()
    ),
    *(
        (f"{layer.replace('_', '-')}-without-weight-or-bias", DEFAULT,
         loaded(ONE, f'"{layer}." in name'))
        for layer in ("ln_1", "ln_2")
    ),
    *(
        (f"{part}-without-bias", ZERO,
         loaded(f"w * ({THIRD} != {index})", f"{C_ATTN} and {VECTOR}"))
        for index, part in enumerate(("queries", "keys", "values"))
    ),
    ("positions-missing", ": they are not loaded, and are 0", loaded("0 * w", 'name[:3] == "wpe"')),
    *(
        (f"{end}-{part}-in-all-blocks", LOADING, loaded(f"every[{other}]", condition))
        for part, condition in PARTS.items()
        for end, other in (("first", '"h.0." + name.split(".", 2)[2]'), ("last", LAST))
    ),
    ("last-block-in-all-places", LOADING, loaded(f"every[{LAST}]", 'name[:2] == "h."')),
    *(
        ("weights-reshaped-not-transposed", f"{LOADING}; of {layer} alone",
         loaded("w.reshape(w.shape[::-1]).T", f'"{layer}.weight" in name'))
        for layer in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")
    ),
    *((name, LOADING, loaded(wrong, C_ATTN)) for name, wrong in COLUMNS.items()),
    *((name, WEIGHTS, loaded(wrong, f"{C_ATTN} and {MATRIX}")) for name, wrong in COLUMNS.items()),
    *((name, BIASES, loaded(wrong, f"{C_ATTN} and {VECTOR}")) for name, wrong in COLUMNS.items()),
    *(
        (name, LOADING, loaded(wrong, f"{condition} and {MATRIX}"))
        for name, wrong, condition in (
            ("square-weights-transposed", "w.T", '"attn.c_proj" in name'),
            ("qkv-weights-transposed", TRANSPOSED, C_ATTN),
            ("qkv-weights-reshaped", THIRDS, C_ATTN),
            ("weights-reshaped-not-transposed", "w.reshape(w.shape[::-1]).T", 'name[:2] == "h."'),
        )
    ),
    *(
        (f"{layer.replace('.', '-').replace('_', '-')}-without-bias", ZERO,
         loaded("0 * w", f'"{layer}.bias" in name'))
        for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ),
    *(
        (name, end, loaded(wrong, condition))
        for name, end, wrong, condition in (
            ("linear-without-bias", ZERO, "0 * w", LINEAR_BIAS),
            ("layernorm-without-bias", ZERO, "0 * w", '"ln_" in name and "bias" in name'),
            ("layernorm-without-weight", ": it is not loaded, and is 1", "0 * w + 1",
             '"ln_" in name and "weight" in name'),
            ("layernorm-without-parameters", DEFAULT, ONE, NORM),
            ("ln-f-without-parameters", DEFAULT, ONE, '"ln_f" in name'),
            ("layernorm-parameters-exchanged", LOADING, f"every[{OTHER_LEAF}]", NORM),
            ("ln-1-and-ln-2-exchanged", LOADING, f"every[{OTHER_NORM}]", "True"),
            ("blocks-in-reverse-order", LOADING, f"every[{REVERSED}]", 'name[:2] == "h."'),
            ("first-block-in-all-places", LOADING, 'every["h.0." + name.split(".", 2)[2]]',
             'name[:2] == "h."'),
        )
    ),
)  # fmt: skip
