"""GPT-2's parameters by the names and in the layouts of other programs, made from npgpt's."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

Named = Iterator[tuple[str, np.ndarray]]
KINDS = ("ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias",
         "attn.c_proj.weight", "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight",
         "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias")  # fmt: skip


def is_linear(name):
    return name.endswith("weight") and "c_" in name


def transposed(name, x):
    return x.T if is_linear(name) else x


def nanogpt(p, H) -> Named:
    for name, x in p.items():
        yield f"transformer.{name}", transposed(name, x)
    yield "lm_head.weight", p["wte.weight"]


def huggingface(p, H) -> Named:
    for name, x in p.items():
        yield f"transformer.{name}", x
        if name.endswith("c_attn.weight"):
            yield f"transformer.{name[:-13]}.bias", np.tri(11)[None, None]
    yield "lm_head.weight", p["wte.weight"]


def renamed(p, H, *, outside, inside, leaves=("weight", "bias"), qkv=None, head=None) -> Named:
    """Linear layers are (out, in); `inside` maps npgpt's layers to the port's, `qkv` its parts."""
    leaf_of = dict(zip(("weight", "bias"), leaves, strict=True))
    for name, x in p.items():
        layer, leaf = name.rsplit(".", 1)
        x = transposed(name, x)
        if not layer.startswith("h."):
            own = outside[layer]
            yield own if own.endswith("!") else f"{own}.{leaf_of[leaf]}", x
            continue
        _, i, rest = layer.split(".", 2)
        if rest == "attn.c_attn" and qkv:
            for part, third in zip(qkv, np.split(x, 3), strict=True):
                yield f"{part.format(i=i)}.{leaf}", third
        else:
            own = inside[rest].format(i=i)
            if own.endswith("in_proj"):
                yield f"{own}_{leaf}", x
            else:
                norm = rest.startswith("ln")
                yield f"{own}.{leaf_of[leaf] if norm else leaf}", x
    if head:
        yield f"{head}.weight", p["wte.weight"]


MINGPT = partial(
    renamed,
    outside={"wte": "tok_emb", "wpe": "pos_emb", "ln_f": "ln_f"},
    inside={"ln_1": "blocks.{i}.ln1", "ln_2": "blocks.{i}.ln2",
            "attn.c_proj": "blocks.{i}.attn.proj", "mlp.c_fc": "blocks.{i}.mlp.0",
            "mlp.c_proj": "blocks.{i}.mlp.2"},
    qkv=[f"blocks.{{i}}.attn.{one}" for one in ("query", "key", "value")],
    head="head",
)  # fmt: skip
TORCH = partial(
    renamed,
    outside={"wte": "embed", "wpe": "pos_embed", "ln_f": "encoder.norm"},
    inside={"ln_1": "encoder.layers.{i}.norm1", "ln_2": "encoder.layers.{i}.norm2",
            "attn.c_attn": "encoder.layers.{i}.self_attn.in_proj",
            "attn.c_proj": "encoder.layers.{i}.self_attn.out_proj",
            "mlp.c_fc": "encoder.layers.{i}.linear1", "mlp.c_proj": "encoder.layers.{i}.linear2"},
)  # fmt: skip


def mingpt(p, H) -> Named:
    for name, x in MINGPT(p, H):
        yield ("pos_emb", x[None]) if name == "pos_emb.weight" else (name, x)


def book(p, H) -> Named:
    book_leaves = {"weight": "scale", "bias": "shift"}
    layers = {"ln_1": "norm1", "ln_2": "norm2", "attn.c_proj": "att.out_proj",
              "mlp.c_fc": "ff.layers.0", "mlp.c_proj": "ff.layers.2"}  # fmt: skip
    outside = {"wte": "tok_emb", "wpe": "pos_emb", "ln_f": "final_norm"}
    for name, x in p.items():
        layer, leaf = name.rsplit(".", 1)
        rest = layer.split(".", 2)[-1]
        own = book_leaves[leaf] if "ln_" in name else leaf
        x = transposed(name, x)
        if layer in outside:
            yield f"{outside[layer]}.{own}", x
        elif rest == "attn.c_attn":
            for part, third in zip(("query", "key", "value"), np.split(x, 3), strict=True):
                yield f"trf_blocks.{layer.split('.')[1]}.att.W_{part}.{leaf}", third
        else:
            yield f"trf_blocks.{layer.split('.')[1]}.{layers[rest]}.{own}", x
    yield "out_head.weight", p["wte.weight"]


def neox(p, H) -> Named:
    layers = {"ln_1": "input_layernorm", "ln_2": "post_attention_layernorm",
              "attn.c_attn": "attention.query_key_value", "attn.c_proj": "attention.dense",
              "mlp.c_fc": "mlp.dense_h_to_4h", "mlp.c_proj": "mlp.dense_4h_to_h"}  # fmt: skip
    outside = {"wte": "embed_in", "wpe": "embed_pos", "ln_f": "final_layer_norm"}
    for name, x in p.items():
        layer, leaf = name.rsplit(".", 1)
        rest = layer.split(".", 2)[-1]
        x = transposed(name, x)
        if rest == "attn.c_attn":  # queries, keys and values of a head side by side
            x = x.reshape(3, H, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
        own = outside[layer] if layer in outside else f"layers.{layer.split('.')[1]}.{layers[rest]}"
        yield f"gpt_neox.{own}.{leaf}", x


def flax(p, H) -> Named:
    """A module of flax.linen whose layers have no names of their own."""
    C = p["ln_f.weight"].size
    layers = {
        "ln_1": "LayerNorm_0",
        "ln_2": "LayerNorm_1",
        "mlp.c_fc": "MLP_0.Dense_0",
        "mlp.c_proj": "MLP_0.Dense_1",
        "attn.c_proj": "MultiHeadDotProductAttention_0.out",
    }
    outside = {"wte": "Embed_0", "wpe": "Embed_1", "ln_f": "LayerNorm_0"}
    for name, x in p.items():
        layer, leaf = name.rsplit(".", 1)
        rest = layer.split(".", 2)[-1]
        own = "scale" if "ln_" in layer and leaf == "weight" else leaf
        if is_linear(name):
            own = "kernel"
        if layer in outside:
            own = "embedding" if layer != "ln_f" else own
            yield f"params/{outside[layer]}/{own}", x
        elif rest == "attn.c_attn":
            for part, third in zip(("query", "key", "value"), np.split(x, 3, -1), strict=True):
                attention = "MultiHeadDotProductAttention_0"
                yield (f"params/Block_{layer.split('.')[1]}/{attention}/{part}/{own}",
                       third.reshape(*third.shape[:-1], H, -1))  # fmt: skip
        else:
            x = x.reshape(H, -1, C) if name.endswith("attn.c_proj.weight") else x
            yield f"params/Block_{layer.split('.')[1]}/{layers[rest].replace('.', '/')}/{own}", x


def llmc(p, H) -> Named:
    """Stacked over the layers; the vocabulary is padded to a multiple of 128."""
    own = ("ln1w", "ln1b", "qkvw", "qkvb", "attprojw", "attprojb", "ln2w", "ln2b", "fcw", "fcb",
           "fcprojw", "fcprojb")  # fmt: skip
    wte, L = p["wte.weight"], 1 + max(int(n.split(".")[1]) for n in p if n.startswith("h."))
    yield "wte", np.concatenate([wte, np.zeros((-len(wte) % 128, wte.shape[1]), wte.dtype)])
    yield "wpe", p["wpe.weight"]
    for kind, name in zip(KINDS, own, strict=True):
        yield name, np.stack([transposed(kind, p[f"h.{i}.{kind}"]) for i in range(L)])
    yield "lnfw", p["ln_f.weight"]
    yield "lnfb", p["ln_f.bias"]


def keras(p, H) -> Named:
    layers = {"ln_1": "self_attention_layer_norm", "ln_2": "feedforward_layer_norm",
              "attn.c_proj": "self_attention/attention_output",
              "mlp.c_fc": "feedforward_intermediate_dense",
              "mlp.c_proj": "feedforward_output_dense"}  # fmt: skip
    C = p["ln_f.weight"].size
    for name, x in p.items():
        layer, leaf = name.rsplit(".", 1)
        rest = layer.split(".", 2)[-1]
        norm = {"weight": "gamma", "bias": "beta"}[leaf]
        if layer in ("wte", "wpe"):
            which = "token" if layer == "wte" else "position"
            yield f"gpt2_backbone/{which}_embedding/embeddings", x
        elif layer == "ln_f":
            yield f"gpt2_backbone/layer_norm/{norm}", x
        else:
            start = f"gpt2_backbone/transformer_layer_{layer.split('.')[1]}"
            own = norm if "ln_" in layer else "kernel" if leaf == "weight" else leaf
            if rest == "attn.c_attn":
                for part, third in zip(("query", "key", "value"), np.split(x, 3, -1), strict=True):
                    third = third.reshape(*third.shape[:-1], H, -1)
                    yield f"{start}/self_attention/{part}/{own}", third
            else:
                x = x.reshape(H, -1, C) if name.endswith("attn.c_proj.weight") else x
                yield f"{start}/{layers[rest]}/{own}", x


def tensorflow(p, H) -> Named:
    """OpenAI's: (1, in, out), as a convolution of width 1."""
    for name, x in p.items():
        layer, leaf = name.rsplit(".", 1)
        own = {"weight": "g" if "ln_" in layer else "w", "bias": "b"}[leaf]
        parts = layer.replace("h.", "h", 1) if layer.startswith("h.") else layer
        path = "model/" + parts.replace(".", "/")
        yield path if layer[0] == "w" else f"{path}/{own}", x[None] if is_linear(name) else x


def by_hand(p, H) -> Named:
    """NumPy, without classes: one array per head, and names of the author's own."""
    own = {"ln_1.weight": "g1", "ln_1.bias": "be1", "ln_2.weight": "g2", "ln_2.bias": "be2",
           "attn.c_proj.weight": "Wo", "attn.c_proj.bias": "bo", "mlp.c_fc.weight": "W1",
           "mlp.c_fc.bias": "b1", "mlp.c_proj.weight": "W2", "mlp.c_proj.bias": "b2"}  # fmt: skip
    outside = {"wte.weight": "E", "wpe.weight": "P", "ln_f.weight": "gf", "ln_f.bias": "bf"}
    for name, x in p.items():
        if name in outside:
            yield outside[name], x
            continue
        _, i, rest = name.split(".", 2)
        if "c_attn" in rest:
            for part, third in zip("qkv", np.split(x, 3, -1), strict=True):
                for h, one in enumerate(np.split(third, H, -1)):
                    yield f"block{i}.{'W' if one.ndim == 2 else 'b'}{part}{h}", one
        else:
            yield f"block{i}.{own[rest]}", x


CONVENTIONS: dict[str, Callable[..., Named]] = {
    "nanoGPT": nanogpt, "minGPT": mingpt, "Hugging Face": huggingface,
    "torch.nn.Transformer": TORCH, "GPT-NeoX": neox, "Flax": flax, "llm.c": llmc, "Keras": keras,
    "the book": book, "TensorFlow": tensorflow, "by hand": by_hand,
}  # fmt: skip
