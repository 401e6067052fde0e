"""Mistakes in the backward of the projections to queries, keys and values, written one by one."""

from itertools import combinations, permutations

from npgpt.parity.mistakes.mistake import Page

BLOCK = "npgpt.model.block:backward"

page = Page("docs/backprop/attention.md")
wrong = page.add

NAMES = {"q": "queries", "k": "keys", "v": "values"}
CALL = "ops.linear.backward(dh, c.c_attn, g.attn.c_attn)"
DX = f"dh = {CALL}"
APART = f"""(Wq, Wk, Wv), (dq, dk, dv) = (np.split(a, 3, -1) for a in (c.c_attn.p.weight, dh))
    {CALL}
    dh = """


def gradients(change: str, leaves: tuple[str, ...] = ("weight", "bias")) -> tuple[str, str, str]:
    """Return the edit that changes the gradients of the three projections: gq, gk, gv."""
    every = ", ".join(f"g.attn.c_attn.{leaf}" for leaf in leaves)
    return (
        BLOCK,
        DX,
        f"""{DX}
    for grad in ({every},):
        gq, gk, gv = np.split(grad, 3, -1)
        {change}""",
    )


for parts in (*combinations("qkv", 1), *combinations("qkv", 2)):
    wrong(
        "backward",
        f"attention-dx-of-{''.join(parts)}",
        f"the gradient of attention's input is that of {' and '.join(NAMES[a] for a in parts)} "
        "alone (dx = for dx +=)",
        (BLOCK, DX, APART + " + ".join(f"d{a} @ W{a}.T" for a in parts)),
    )
for one, other in permutations("qkv", 2):
    products = {a: f"d{a} @ W{a}.T" for a in "qkv"}
    for name, says, term in (
        (
            f"attention-dx-w{other}-for-w{one}",
            f"the gradient of attention's input has d{one} @ W{other}.T for d{one} @ W{one}.T",
            f"d{one} @ W{other}.T",
        ),
        (
            f"attention-dx-d{other}-for-d{one}",
            f"the gradient of attention's input has d{other} @ W{one}.T for d{one} @ W{one}.T",
            f"d{other} @ W{one}.T",
        ),
        (
            f"attention-dx-{other}-for-{one}",
            f"the gradient of attention's input has d{other} @ W{other}.T twice, "
            f"and d{one} @ W{one}.T never",
            products[other],
        ),
    ):
        wrong(
            "backward",
            name,
            says,
            (BLOCK, DX, APART + " + ".join({**products, one: term}.values())),
        )
    wrong(
        "backward",
        f"w{one}-gradient-of-d{other}",
        f"the projection to {NAMES[one]} has the gradient of that to {NAMES[other]}",
        gradients(f"g{one}[:] = g{other}"),
    )
    wrong(
        "backward",
        f"w{one}-gradient-added-to-w{other}",
        f"the gradient of the projection to {NAMES[one]} is added to that to {NAMES[other]}",
        gradients(f"g{other} += g{one}\n        g{one}[:] = 0"),
    )
for one in "qkv":
    wrong(
        "backward",
        f"w{one}-gradient-missing",
        f"the projection to {NAMES[one]} has no gradient, and its input has one",
        gradients(f"g{one}[:] = 0"),
    )
