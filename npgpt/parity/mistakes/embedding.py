"""Mistakes in the token and position embedding."""

from npgpt.parity.mistakes.mistake import Page

FORWARD, BACKWARD = "npgpt.ops.embedding:forward", "npgpt.ops.embedding:backward"

page = Page("docs/backprop/embedding.md")
wrong = page.add

ROWS = "p.wpe[start : start + T]"  # of the positions, in forward
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
    (BACKWARD, f"{DWPE}\n    {REST}", "g.wpe[:] = 0\n    g.wpe[1 : T + 1] = dout.sum(0)"),
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
    (BACKWARD, f"{DWPE}\n    {REST}", "g.wpe[:] = 0\n    g.wpe[0] = dout.sum((0, 1))"),
)
wrong(
    "forward",
    "positions-from-the-end",
    "the last T position embeddings are added instead of the first T",
    (FORWARD, ROWS, "p.wpe[-T:]"),
    (BACKWARD, f"{DWPE}\n    {REST}", "g.wpe[:] = 0\n    g.wpe[-T:] = dout.sum(0)"),
)
wrong(
    "forward",
    "positions-by-row",
    "the position is the row of the batch, not that of the token",
    (FORWARD, ROWS, "p.wpe[: len(tokens), None]"),
    (
        BACKWARD,
        f"{DWPE}\n    {REST}",
        "g.wpe[:] = 0\n    g.wpe[: len(tokens)] = dout.sum(1)",
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
    (BACKWARD, "np.add.at(g.wte, tokens, dout)", "np.add.at(g.wte, tokens - 1, dout)"),
)
wrong(
    "backward",
    "repeated-tokens-overwrite",
    "the gradient of wte keeps only one position of a repeated token (+= with repeated ids)",
    (BACKWARD, "np.add.at(g.wte, tokens, dout)", "g.wte[tokens] += dout"),
)
wrong(
    "backward",
    "token-gradient-assigned",
    "the embedding's gradient replaces the head's in the tied wte, instead of being added",
    (
        BACKWARD,
        "np.add.at(g.wte, tokens, dout)",
        "g.wte[tokens] = 0\n    np.add.at(g.wte, tokens, dout)",
    ),
)
wrong(
    "backward",
    "token-gradient-missing",
    "wte has no gradient from the embedding, only that of the head",
    (BACKWARD, "np.add.at(g.wte, tokens, dout)", "pass"),
)
wrong(
    "backward",
    "token-gradient-by-frequency",
    "the gradient of a repeated token is averaged (scale_grad_by_freq)",
    (
        BACKWARD,
        "np.add.at(g.wte, tokens, dout)",
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
