"""Mistakes in splitting q, k, v and the heads. Each has the backward of its own forward."""

from itertools import permutations

from npgpt.parity.mistakes.attention import BACKWARD, FORWARD
from npgpt.parity.mistakes.mistake import Page

SPLIT, MERGE = "npgpt.ops.attention:split_heads", "npgpt.ops.attention:merge_heads"
CACHE = "npgpt.model.kv_cache:LayerCache.__init__"

page = Page("docs/backprop/attention.md")
wrong = page.add

QKV = "q, k, v = (split_heads(a, n_head) for a in np.split(qkv, 3, axis=-1))"
PARTS = "(dq, dk, dv)"
DQKV = f"np.concatenate([merge_heads(a) for a in {PARTS}], axis=-1)"
MERGED = "merge_heads(dropped @ v)"
DY = "dy = split_heads(dout, H)"
HEADS = "x.reshape(B, T, n_head, C // n_head).transpose(0, 2, 1, 3)"

for order in permutations("qkv"):
    if order != ("q", "k", "v"):
        q, k, v = order
        wrong(
            "forward",
            f"qkv-order-{q}{k}{v}",
            f"c_attn's columns are read as {q}, {k}, {v}, not as q, k, v",
            (FORWARD, QKV, QKV.replace("q, k, v =", f"{q}, {k}, {v} =")),
            (BACKWARD, PARTS, f"(d{q}, d{k}, d{v})"),
            twins=("scores-transposed",) if order == ("k", "q", "v") else (),
        )
wrong(
    "forward",
    "qkv-per-head",
    "c_attn's columns are read head by head, q, k and v of each, as in GPT-NeoX",
    (
        FORWARD,
        QKV,
        "B, T, C = qkv.shape\n"
        "    q, k, v = qkv.reshape(B, T, n_head, 3, -1).transpose(3, 0, 2, 1, 4)",
    ),
    (
        BACKWARD,
        DQKV,
        "np.stack([dq, dk, dv]).transpose(1, 3, 2, 0, 4).reshape(*dout.shape[:2], -1)",
    ),
    seen=(
        "awslabs/slapo#46",
        "lablup/mlxcel#928",
    ),
)
wrong(
    "forward",
    "qkv-interleaved",
    "c_attn's columns are read as q, k, v of the first channel, then of the second",
    (
        FORWARD,
        "np.split(qkv, 3, axis=-1)",
        "np.moveaxis(qkv.reshape(*qkv.shape[:2], -1, 3), -1, 0)",
    ),
    (
        BACKWARD,
        DQKV,
        f"np.stack([merge_heads(a) for a in {PARTS}], -1).reshape(*dout.shape[:2], -1)",
    ),
)
wrong(
    "forward",
    "heads-split-without-transpose",
    "heads are split by a reshape to (B, H, T, D) without a transpose",
    (FORWARD, "split_heads(a, n_head)", "a.reshape(len(a), n_head, a.shape[1], -1)"),
    (BACKWARD, "merge_heads(a)", "a.reshape(dout.shape)"),
)
wrong(
    "forward",
    "heads-merged-without-transpose",
    "heads are merged by a reshape to (B, T, C) without a transpose",
    (FORWARD, MERGED, "(dropped @ v).reshape(len(qkv), T, -1)"),
    (BACKWARD, DY, "dy = dout.reshape(q.shape)"),
)
wrong(
    "forward",
    "heads-without-transpose",
    "heads are split and merged by a reshape without a transpose",
    (SPLIT, HEADS, "x.reshape(B, n_head, T, C // n_head)"),
    (MERGE, "x.transpose(0, 2, 1, 3)", "x"),
)
wrong(
    "forward",
    "heads-interleaved",
    "neighbouring channels belong to different heads: (D, H) in the place of (H, D)",
    (SPLIT, HEADS, "x.reshape(B, T, C // n_head, n_head).transpose(0, 3, 1, 2)"),
    (MERGE, "x.transpose(0, 2, 1, 3)", "x.transpose(0, 2, 3, 1)"),
)
wrong(
    "forward",
    "heads-merged-interleaved",
    "heads are merged as (D, H), channel by channel, in the place of (H, D)",
    (FORWARD, MERGED, "(dropped @ v).transpose(0, 2, 3, 1).reshape(len(qkv), T, -1)"),
    (
        BACKWARD,
        DY,
        "B, T, C = dout.shape\n    dy = dout.reshape(B, T, D, H).transpose(0, 3, 1, 2)",
    ),
)
wrong(
    "forward",
    "one-head",
    "attention has one head of C channels",
    (FORWARD, "split_heads(a, n_head)", "split_heads(a, 1)"),
    (CACHE, "config.n_embd // config.n_head", "config.n_embd"),
    (CACHE, "(batch, config.n_head,", "(batch, 1,"),
)
wrong(
    "forward",
    "heads-and-head-size-exchanged",
    "the number of heads and their size are exchanged",
    (FORWARD, "split_heads(a, n_head)", "split_heads(a, a.shape[-1] // n_head)"),
    (CACHE, "head_size = config.n_embd // config.n_head", "head_size = config.n_head"),
    (CACHE, "(batch, config.n_head,", "(batch, config.n_embd // config.n_head,"),
)
wrong(
    "forward",
    "attention-over-heads",
    "heads are not transposed: (B, T, H, D) enters attention, which mixes heads, not positions",
    (SPLIT, f"{HEADS}", "x.reshape(B, T, n_head, C // n_head)"),
    (MERGE, "x = np.ascontiguousarray(x.transpose(0, 2, 1, 3))", "T, H = H, T"),
    (FORWARD, "k, v = past.append(k, v)", "past.reserve(qkv.shape[1])"),
    (BACKWARD, "q.shape[1]", "q.shape[2]"),
)
wrong(
    "forward",
    "attention-over-the-batch",
    "attention mixes the sequences of the batch, not positions (batch_first=False)",
    (FORWARD, QKV, f"qkv = qkv.swapaxes(0, 1)\n    {QKV}"),
    (FORWARD, "k, v = past.append(k, v)", "past.reserve(len(qkv))"),
    (FORWARD, MERGED, f"np.ascontiguousarray({MERGED}.swapaxes(0, 1))"),
    (BACKWARD, DY, "dy = split_heads(dout.swapaxes(0, 1), H)"),
    (BACKWARD, DQKV, f"np.ascontiguousarray({DQKV}.swapaxes(0, 1))"),
)
