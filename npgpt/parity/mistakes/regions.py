"""Parts of the model that are computed in 16 bits, the rest in float32.

A port may round at other points of a part than these lines do: they are no entries of the
catalogue, whose numbers a port must have. npgpt.parity.coarser compares the errors instead.
"""

from npgpt.parity.mistakes.block import ATTN_ADD, DATTN_ADD, DMLP_ADD, FORWARD, MLP_ADD
from npgpt.parity.mistakes.block import BACKWARD as DBLOCK
from npgpt.parity.mistakes.mistake import Mistake, Page
from npgpt.parity.mistakes.precision import (
    ATTENTION,
    BFLOAT16,
    DATTENTION,
    DLINEAR,
    DSCORES,
    FLOAT16,
    GELU,
    HEAD,
    IMPORT,
    LINEAR,
    LOSSES,
    NORM,
    PROBS,
    QKV,
)

DGELU, DNORM = "npgpt.ops.gelu:backward", "npgpt.ops.layernorm:backward"
CROSS_ENTROPY = "npgpt.ops.linear_cross_entropy:forward"
EMBEDDING = "npgpt.ops.embedding:forward"

page = Page("docs/backprop/precision.md")
LOW = {"bfloat16": IMPORT + BFLOAT16, "float16": FLOAT16}
SQUARE = "p.weight.shape[0] == p.weight.shape[1]"
OF_QKV = "p.weight.shape[1] == 3 * p.weight.shape[0]"
OF_MLP = "max(p.weight.shape) == 4 * min(p.weight.shape) and p.bias is not None"
MERGED = "merge_heads(dropped @ v)"
DQKV = "np.concatenate([merge_heads(a) for a in (dq, dk, dv)], axis=-1)"
OUTPUT = "return into(out, {})"
NORMALIZED, ACTIVATED = "norm * p.weight + p.bias", "0.5 * x * (1 + t)"
DX = "rstd * (dnorm - via_mean - via_rstd)"
LOGITS, DLOGITS = "logits = x @ weight.T", "dlogits /= N"
VALUE = "return x.dtype.type(total / N)"
LOG_PROBS = "np.log(norm[:, 0]) - logits[np.arange(len(x)), targets], probs"

Edits = tuple[tuple[str, str, str], ...]


def attention(low: str, *, inside: bool) -> Edits:
    """Return the edits by which attention is in 16 bits, `inside`: and so is each step of it."""
    steps = (
        (ATTENTION, PROBS, "probs = low(softmax(low(scores)))"),
        (
            DATTENTION,
            DSCORES,
            DSCORES.replace("dscores = ", "dprobs = low(dprobs)\n    dscores = "),
        ),
    )
    return (
        (ATTENTION, QKV, f"{low}{QKV}\n    q, k, v = low(q), low(k), low(v)"),
        (ATTENTION, MERGED, f"low({MERGED})"),
        (DATTENTION, "dy = split_heads(dout, H)", f"{low}dy = split_heads(low(dout), H)"),
        (DATTENTION, DQKV, f"low({DQKV})"),
        *(steps if inside else ()),
    )


def linear(low: str, condition: str) -> Edits:
    """Return the edits by which the linear layers of a shape are in 16 bits."""
    half = f"{low}half = low if {condition} else np.asarray\n    "
    product = "out = np.matmul(x, p.weight, out=out)"
    return (
        (LINEAR, product, half + product.replace("(x, p.weight", "(half(x), half(p.weight)")),
        (LINEAR, "return out, Cache(x, p)", "out[...] = half(out)\n    return out, Cache(x, p)"),
        (DLINEAR, "x, p = cache\n", f"x, p = cache\n    {half}x, dout = half(x), half(dout)\n"),
        (DLINEAR, "return np.matmul(dout, p.weight.T, out=dx)",
         "dx = np.matmul(dout, half(p.weight).T, out=dx)\n    dx[...] = half(dx)\n    return dx"),
    )  # fmt: skip


def gelu(low: str) -> Edits:
    """Return the edits by which GELU is in 16 bits."""
    return (
        (GELU, "t = np.tanh", f"{low}x = low(x)\n    t = np.tanh"),
        (GELU, OUTPUT.format(ACTIVATED), OUTPUT.format(f"low({ACTIVATED})")),
        (DGELU, "(x,) = cache\n", f"(x,) = cache\n    {low}dout = low(dout)\n"),
        (DGELU, "dout * slope)", "low(dout * slope))"),
    )


def norms(low: str) -> Edits:
    """Return the edits by which LayerNorm is in 16 bits."""
    return (
        (NORM, "mean = x.mean", f"{low}x = low(x)\n    mean = x.mean"),
        (NORM, OUTPUT.format(NORMALIZED), OUTPUT.format(f"low({NORMALIZED})")),
        (DNORM, "x, p, mean, rstd = cache\n",
         f"x, p, mean, rstd = cache\n    {low}dout = low(dout)\n"),
        (DNORM, f"into(dx, {DX})", f"into(dx, low({DX}))"),
    )  # fmt: skip


def head(low: str) -> Edits:
    """Return the edits by which the product of the output head is in 16 bits."""
    return (
        (LOSSES, LOGITS, f"{low}table = low(weight) if isinstance(weight, np.ndarray) else weight\n"
         "    logits = low(low(x) @ table.T)"),
        (HEAD, "return out", f"{low}return low(out)"),
        (CROSS_ENTROPY, DLOGITS, f"{low.replace(chr(10), chr(10) + '    ')}{DLOGITS}\n"
         "        dlogits = low(dlogits)"),
    )  # fmt: skip


def loss(low: str) -> Edits:
    """Return the edits by which the cross-entropy is in 16 bits."""
    return (
        (LOSSES, LOGITS, f"{low}logits = low(x @ weight.T)"),
        (LOSSES, LOG_PROBS, LOG_PROBS.replace("np.log(norm[:, 0])", "low(np.log(norm[:, 0]))")),
        (CROSS_ENTROPY, VALUE, f"{low}return x.dtype.type(low(np.asarray(total / N)))"),
        (CROSS_ENTROPY, DLOGITS, f"{low.replace(chr(10), chr(10) + '    ')}{DLOGITS}\n"
         "        dlogits = low(dlogits)"),
    )  # fmt: skip


def stream(low: str) -> Edits:
    """Return the edits by which the residual stream is in 16 bits."""
    return (
        (FORWARD, ATTN_ADD, f"{low}x = low(x + h)"),
        (FORWARD, MLP_ADD, "x = low(x + h)\n    return x"),
        (DBLOCK, DMLP_ADD, f"{low}dx = low(dx + dh)"),
        (DBLOCK, DATTN_ADD, "return low(dx + dh)"),
    )


def embedding(low: str) -> Edits:
    """Return the edits by which the sum of the embeddings is in 16 bits."""
    tables = "p.wte[tokens] + p.wpe[start : start + T]"
    return ((EMBEDDING, OUTPUT.format(tables), low + OUTPUT.format(f"low({tables})")),)


for kind, low in LOW.items():
    for name, says, edits in (
        ("attention", "attention is", attention(low, inside=True)),
        ("attention-outside", "attention is", attention(low, inside=False)),
        ("mlp", "the MLP is", (*linear(low, OF_MLP), *gelu(low))),
        ("mlp-linear", "the linear layers of the MLP are", linear(low, OF_MLP)),
        ("c-attn", "queries, keys and values are", linear(low, OF_QKV)),
        ("attn-c-proj", "attention's output projection is", linear(low, SQUARE)),
        ("attention-layers", "attention and its linear layers are",
         (*linear(low, f"not ({OF_MLP})"), *attention(low, inside=True))),
        ("linear", "the linear layers of the blocks are", linear(low, "p.bias is not None")),
        ("gelu", "GELU is", gelu(low)),
        ("norms", "LayerNorm is", norms(low)),
        ("head", "the output head is", head(low)),
        ("loss", "the cross-entropy is", loss(low)),
        ("residual-stream", "the residual stream is", stream(low)),
        ("embedding", "the sum of the embeddings is", embedding(low)),
    ):  # fmt: skip
        page.add("forward", f"{name}-computed-in-{kind}", f"{says} computed in {kind}", *edits,
                 smooth=False)  # fmt: skip

REGIONS: tuple[Mistake, ...] = tuple(page.mistakes)
