"""The op that computes each tensor, and the tensors that it reads, by canonical names."""

from collections.abc import Container

from npgpt.config import Config
from npgpt.parity.order import kind_of, step_of

OPS = {  # by the layer whose output they compute
    "embedding": "embedding", "ln_1": "layernorm", "attn.c_attn": "linear",
    "attn.probs": "attention", "attn.heads": "attention", "attn.c_proj": "linear",
    "after_attn": "residual", "ln_2": "layernorm", "mlp.c_fc": "linear", "mlp.gelu": "gelu",
    "mlp.c_proj": "linear", "after_mlp": "residual", "ln_f": "layernorm", "logits": "output head",
}  # fmt: skip
INPUTS = {  # of the layers of a block; "before" is the residual stream that enters it
    "ln_1": ("before",), "attn.c_attn": ("ln_1",), "attn.probs": ("attn.c_attn",),
    "attn.heads": ("attn.c_attn",), "attn.c_proj": ("attn.heads",),
    "after_attn": ("before", "attn.c_proj"), "ln_2": ("after_attn",), "mlp.c_fc": ("ln_2",),
    "mlp.gelu": ("mlp.c_fc",), "mlp.c_proj": ("mlp.gelu",),
    "after_mlp": ("after_attn", "mlp.c_proj"),
}  # fmt: skip
READERS = {  # the layers of the block that read a layer's output
    name: [reader for reader, inputs in INPUTS.items() if name in inputs] for name in INPUTS
} | {"attn.probs": ["attn.heads"], "after_mlp": ["ln_1", "after_attn"]}
NONLINEAR = ("ln_1", "ln_2", "ln_f", "attn.heads", "mlp.gelu")  # whose backward reads their input


def split(name: str) -> tuple[str, int | None, str]:
    """Return kind, block and layer: ("dact", 0, "attn.heads") for "dact/h.0.attn.heads"."""
    kind, _, rest = name.partition("/")
    if rest.startswith("h."):
        _, block, layer = rest.split(".", 2)
        return kind, int(block), layer
    return kind, None, rest or kind


def op_of(name: str) -> str:
    """Return the op that computes a tensor: "attention backward" for "dact/h.0.attn.c_attn"."""
    kind, _, layer = split(name)
    if kind == "loss":
        return "cross-entropy"
    if kind == "grad":
        owner = layer.rpartition(".")[0]
        op = {"wte": "embedding", "wpe": "embedding", "lm_head": "output head"}.get(owner)
        return f"{op or OPS[owner]} backward"
    if kind == "dact":
        return f"{reader_of(layer)} backward"
    return "optimizer" if step_of(name) else OPS.get(layer, layer)


def ops_of(name: str) -> set[str]:
    """Return the modules of npgpt.ops that compute a tensor from the tensors that it needs."""
    op = op_of(name).removesuffix(" backward")
    head = {"linear", "linear_cross_entropy"}
    if name in ("grad/wte.weight", "grad/lm_head.weight"):
        return {"embedding", *head}
    return {"output head": head, "cross-entropy": head, "residual": set()}.get(op, {op})


def reader_of(layer: str) -> str:
    """Return the op that reads the output of a layer."""
    fixed = {"logits": "cross-entropy", "ln_f": "output head", "embedding": "layernorm"}
    return fixed.get(layer) or OPS[READERS[layer][0]]


def inputs_of(name: str, config: Config) -> list[str]:
    """Return the tensors that the op of a tensor reads, without parameters and tokens."""
    kind, block, layer = split(name)
    last = f"h.{config.n_layer - 1}.after_mlp"
    match kind:
        case "act":
            if block is None:
                return {"ln_f": [f"act/{last}"]}.get(layer, [])
            return [f"act/{full(one, block)}" for one in INPUTS[layer]]
        case "logits" | "loss":
            return ["act/ln_f"] if kind == "logits" else ["logits"]
        case "dact":
            return gradient_inputs(block, layer, config)
        case "grad":
            if layer in ("wpe.weight", "wte.weight", "lm_head.weight"):
                head = ["dact/logits", "act/ln_f"]
                return {
                    "wpe.weight": ["dact/embedding"],
                    "wte.weight": ["dact/embedding", *(head if config.tied else [])],
                }.get(layer, head)
            owner = layer.rpartition(".")[0]
            if layer == f"{owner}.bias":
                return [f"dact/{full(owner, block)}"]
            read = [last] if owner == "ln_f" else [full(INPUTS[owner][0], block)]
            return [f"dact/{full(owner, block)}", f"act/{read[0]}"]
    return []


def gradient_inputs(block: int | None, layer: str, config: Config) -> list[str]:
    """Return the tensors from which the gradient of an activation is computed."""
    if layer == "logits":
        return ["logits"]
    if layer == "ln_f":
        return ["dact/logits"]
    own = full(layer, block)
    if layer in ("embedding", "after_mlp"):  # the residual stream that enters the next block
        block = 0 if block is None else block + 1
        if block == config.n_layer:
            return ["dact/ln_f", f"act/{own}"]
    readers = READERS["after_mlp" if layer == "embedding" else layer]
    more = [f"act/{own}"] if any(one in NONLINEAR for one in readers) else []
    if layer == "attn.probs":
        more = [f"act/{full('attn.c_attn', block)}"]
    found = [f"dact/{full(one, block)}" for one in readers if one != "attn.probs"]
    return found + more


def full(layer: str, block: int | None) -> str:
    """Return the name of a layer of a block; "before" is the block before it."""
    if layer == "before":
        return f"h.{block - 1}.after_mlp" if block else "embedding"
    return layer if block is None else f"h.{block}.{layer}"


def has_inputs(name: str, present: Container[str], config: Config) -> bool:
    """Return True if the op of a tensor has all of its inputs among `present`.

    The sums of the residual stream, and the gradients that pass through them, may be missing.
    """
    return all(
        one in present or (is_trivial(one) and has_inputs(one, present, config))
        for one in inputs_of(name, config)
    )


def ancestors(name: str, config: Config) -> set[str]:
    """Return all tensors that a tensor is computed from, directly or not."""
    found, rest = set[str](), [name]
    while rest:
        new = set(inputs_of(rest.pop(), config)) - found
        found |= new
        rest += new
    return found


def is_trivial(name: str) -> bool:
    """Return True for a sum of the residual stream, a gradient that passes one, and dlogits."""
    kind, _, layer = split(name)
    if name == "dact/logits":
        return True
    sums = "after_attn", "after_mlp"
    copies = "attn.c_proj", "mlp.c_proj"
    return layer in (sums if kind == "act" else copies if kind_of(name) == "dact" else ())
