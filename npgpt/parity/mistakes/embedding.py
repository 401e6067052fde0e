"""Mistakes in the token and position embedding."""

from npgpt.parity.mistakes.mistake import Page

FORWARD, BACKWARD = "npgpt.ops.embedding:forward", "npgpt.ops.embedding:backward"

page = Page("docs/backprop/embedding.md")
wrong = page.add

ROWS = "p.wpe[start : start + T]"  # of the positions, in forward
ADD = "np.add.at(g.wte, tokens, dout)"
DWPE, REST = "g.wpe[:T] = dout.sum(0)", "g.wpe[T:] = 0"

wrong(
    "forward",
    "positions-missing",
    "position embeddings are not added",
    (FORWARD, f" + {ROWS}", ""),
    (BACKWARD, DWPE, "g.wpe[:T] = 0"),
)
wrong(
    "forward",
    "positions-from-1",
    "positions count from 1",
    (FORWARD, ROWS, "p.wpe[start + 1 : start + 1 + T]"),
    (BACKWARD, f"{DWPE}\n        {REST}", "g.wpe[:] = 0\n        g.wpe[1 : T + 1] = dout.sum(0)"),
)
wrong(
    "forward",
    "positions-reversed",
    "positions are in reversed order",
    (FORWARD, ROWS, f"{ROWS}[::-1]"),
    (BACKWARD, DWPE, f"{DWPE}[::-1]"),
)
wrong(
    "forward",
    "positions-all-0",
    "every token has position 0",
    (FORWARD, ROWS, "p.wpe[start]"),
    (BACKWARD, f"{DWPE}\n        {REST}", "g.wpe[:] = 0\n        g.wpe[0] = dout.sum((0, 1))"),
)
wrong(
    "forward",
    "positions-from-the-end",
    "the last T position embeddings are added instead of the first T",
    (FORWARD, ROWS, "p.wpe[-T:]"),
    (BACKWARD, f"{DWPE}\n        {REST}", "g.wpe[:] = 0\n        g.wpe[-T:] = dout.sum(0)"),
)
wrong(
    "forward",
    "positions-by-row",
    "the position is the row of the batch, not that of the token",
    (FORWARD, ROWS, "p.wpe[: len(tokens), None]"),
    (
        BACKWARD,
        f"{DWPE}\n        {REST}",
        "g.wpe[:] = 0\n        g.wpe[: len(tokens)] = dout.sum(1)",
    ),
)
wrong(
    "forward",
    "positions-sinusoidal",
    "positions are sines and cosines instead of the learned table",
    (
        FORWARD,
        f"return into(out, p.wte[tokens] + {ROWS}), Cache(tokens)",
        """C = p.wte.shape[1]
    angle = np.arange(start, start + T)[:, None] / 10000 ** (np.arange(0, C, 2) / C)
    table = np.stack([np.sin(angle), np.cos(angle)], -1).reshape(T, C).astype(p.wte.dtype)
    return into(out, p.wte[tokens] + table), Cache(tokens)""",
    ),
    (BACKWARD, DWPE, "g.wpe[:T] = 0"),
)
wrong(
    "forward",
    "tokens-scaled-by-sqrt-c",
    "token embeddings are multiplied by sqrt(C), as in the first Transformer",
    (FORWARD, "p.wte[tokens]", "p.wte[tokens] * p.wte.shape[1] ** 0.5"),
    (BACKWARD, "tokens, dout)", "tokens, dout * dout.shape[-1] ** 0.5)"),
)
wrong(
    "forward",
    "positions-added-twice",
    "position embeddings are added twice",
    (FORWARD, ROWS, f"2 * {ROWS}"),
    (BACKWARD, DWPE, f"{DWPE} * 2"),
)
wrong(
    "forward",
    "tokens-counted-from-1",
    "token embeddings are read one row too early: ids count from 1",
    (FORWARD, "p.wte[tokens]", "p.wte[tokens - 1]"),
    (BACKWARD, ADD, "np.add.at(g.wte, tokens - 1, dout)"),
)
ALL_ROWS = f"{DWPE}\n        {REST}"
for name, says, numbers, more in (
    ("positions-by-token", "wpe is read by tokens, not by positions (wpe(idx % context))",
     "tokens % len(p.wpe)", "tokens % len(g.wpe)"),
    ("positions-by-token-modulo-t", "wpe is read by tokens modulo T, not by positions",
     "tokens % T", "tokens % T"),
    ("positions-by-clipped-token", "wpe is read by tokens, the largest of them clipped",
     "np.minimum(tokens, len(p.wpe) - 1)", "np.minimum(tokens, len(g.wpe) - 1)"),
):  # fmt: skip
    wrong(
        "forward",
        name,
        says,
        (FORWARD, ROWS, f"p.wpe[{numbers}]"),
        (BACKWARD, ALL_ROWS, f"g.wpe[:] = 0\n        np.add.at(g.wpe, {more}, dout)"),
    )
wrong(
    "forward",
    "tokens-by-position",
    "wte is read by positions, not by tokens",
    (FORWARD, "p.wte[tokens]", "p.wte[np.arange(start, start + T) + 0 * tokens]"),
    (BACKWARD, ADD, "g.wte[:T] += dout.sum(0)"),
)
wrong(
    "forward",
    "tokens-divided-by-sqrt-c",
    "token embeddings are divided by sqrt(C)",
    (FORWARD, "p.wte[tokens]", "p.wte[tokens] * p.wte.shape[1] ** -0.5"),
    (BACKWARD, "tokens, dout)", "tokens, dout * dout.shape[-1] ** -0.5)"),
)
for name, says, factor in (
    ("embeddings-scaled-by-sqrt-c", "token and position embeddings are multiplied by sqrt(C)", 0.5),
    ("embeddings-divided-by-sqrt-c", "token and position embeddings are divided by sqrt(C)", -0.5),
):
    wrong(
        "forward",
        name,
        says,
        (
            FORWARD,
            f"p.wte[tokens] + {ROWS}",
            f"(p.wte[tokens] + {ROWS}) * p.wte.shape[1] ** {factor}",
        ),
        (
            BACKWARD,
            "T = tokens.shape[-1]",
            f"T = tokens.shape[-1]\n    dout = dout * dout.shape[-1] ** {factor}",
        ),
    )
wrong(
    "forward",
    "positions-scaled-by-sqrt-c",
    "position embeddings are multiplied by sqrt(C)",
    (FORWARD, ROWS, f"{ROWS} * p.wpe.shape[1] ** 0.5"),
    (BACKWARD, DWPE, f"{DWPE} * dout.shape[-1] ** 0.5"),
)
wrong(
    "backward",
    "repeated-tokens-overwrite",
    "the gradient of wte keeps only one position of a repeated token (+= with repeated ids)",
    (BACKWARD, ADD, "g.wte[tokens] += dout"),
)
wrong(
    "backward",
    "token-gradient-assigned",
    "the embedding's gradient replaces the head's in the tied wte, instead of being added",
    (
        BACKWARD,
        ADD,
        "g.wte[tokens] = 0\n    np.add.at(g.wte, tokens, dout)",
    ),
)
wrong(
    "backward",
    "token-gradient-missing",
    "wte has no gradient from the embedding, only that of the head",
    (BACKWARD, ADD, "pass"),
)
wrong(
    "backward",
    "token-gradient-by-frequency",
    "the gradient of a repeated token is averaged (scale_grad_by_freq)",
    (
        BACKWARD,
        ADD,
        "counts = np.bincount(tokens.ravel())\n"
        "    np.add.at(g.wte, tokens, dout / counts[tokens][..., None].astype(dout.dtype))",
    ),
)
wrong(
    "backward",
    "token-0-is-padding",
    "token 0 has no gradient from the embedding (padding_idx=0)",
    (BACKWARD, "tokens, dout)", "tokens, dout * (tokens != 0)[..., None])"),
)
wrong(
    "backward",
    "position-gradient-averaged",
    "the gradient of wpe is the mean over the batch, not the sum",
    (BACKWARD, DWPE, "g.wpe[:T] = dout.mean(0)"),
)
wrong(
    "backward",
    "position-gradient-of-last-row",
    "the gradient of wpe is that of the last sequence alone (= in the loop over the batch)",
    (BACKWARD, DWPE, "g.wpe[:T] = dout[-1]"),
)
wrong(
    "backward",
    "position-gradient-missing",
    "wpe has no gradient",
    (BACKWARD, DWPE, "g.wpe[:T] = 0"),
)
for name, says, right, text in (
    ("token-gradient-set", "the embedding's gradient replaces rows of the tied wte (.at[].set)",
     ADD, "g.wte[tokens] = dout"),
    ("token-gradient-of-last-row", "the embedding's gradient of wte is that of the last sequence",
     ADD, "np.add.at(g.wte, tokens[-1], dout[-1])"),
    ("token-gradient-of-first-row", "the embedding's gradient of wte is that of the first sequence",
     ADD, "np.add.at(g.wte, tokens[0], dout[0])"),
    ("token-gradient-averaged", "the embedding's gradient of wte is divided by the batch size",
     ADD, "np.add.at(g.wte, tokens, dout / len(dout))"),
    ("token-gradient-averaged-over-rows", "the embedding's gradient of wte is divided by B T",
     ADD, "np.add.at(g.wte, tokens, dout / tokens.size)"),
    ("wte-gradient-missing", "wte has no gradient, neither of the embedding nor of the head",
     ADD, "g.wte[:] = 0"),
    ("position-gradient-of-first-row", "the gradient of wpe is that of the first sequence alone",
     DWPE, "g.wpe[:T] = dout[0]"),
    ("position-gradient-averaged-over-rows", "the gradient of wpe is divided by B T",
     DWPE, "g.wpe[:T] = dout.sum(0) / tokens.size"),
    ("position-gradient-of-all-positions", "each position of wpe has the gradient of all positions",
     DWPE, "g.wpe[:T] = dout.sum((0, 1))"),
    ("position-gradient-from-1", "the gradient of wpe is one row too late: positions from 1",
     f"{DWPE}\n        {REST}", "g.wpe[:] = 0\n        g.wpe[1 : T + 1] = dout.sum(0)"),
):  # fmt: skip
    wrong("backward", name, says, (BACKWARD, right, text))
