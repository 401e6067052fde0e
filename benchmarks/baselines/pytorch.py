"""PyTorch at its best: GPT-2 from PyTorch's own layers, fused attention and fused AdamW, and its
training step, eager or compiled."""

import warnings
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F


class Attention(nn.Module):
    """One packed layer for query, key and value, and PyTorch's fused attention."""

    def __init__(self, width: int, heads: int, context: int):
        super().__init__()
        self.heads = heads
        self.c_attn, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.heads, -1).transpose(1, 2) for part in self.c_attn(x).split(C, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out_proj(y.transpose(1, 2).reshape(B, T, C))


class Block(nn.Module):
    """A transformer block of the given attention, LayerNorm and GELU."""

    def __init__(self, width, heads, context, *, rate, attention, norm, gelu):
        super().__init__()
        self.norm1, self.norm2, self.drop = norm(width), norm(width), nn.Dropout(rate)
        self.att = attention(width, heads, context)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), gelu, nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.drop(self.att(self.norm1(x)))
        return x + self.drop(self.ff(self.norm2(x)))


class Model(nn.Module):
    """GPT-2. parts: `attention`, `norm` and `gelu` of its blocks."""

    def __init__(self, vocabulary, context, width, heads, layers, *, tied=True, rate=0.0, **parts):
        super().__init__()
        self.tok_emb, self.pos_emb = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.drop = nn.Dropout(rate)
        self.blocks = nn.Sequential(
            *(Block(width, heads, context, rate=rate, **parts) for _ in range(layers))
        )
        self.final_norm = parts["norm"](width)
        self.out_head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.out_head.weight = self.tok_emb.weight

    def forward(self, tokens):
        x = self.drop(self.tok_emb(tokens) + self.pos_emb(torch.arange(tokens.shape[1])))
        return self.out_head(self.final_norm(self.blocks(x)))


def best(vocabulary, context, width, heads, layers, named: dict[str, torch.Tensor]) -> Model:
    """Return the model of PyTorch's fastest parts, with GPT-2's tensors by checkpoint name."""
    parts = dict(attention=Attention, norm=nn.LayerNorm, gelu=nn.GELU(approximate="tanh"))
    model = Model(vocabulary, context, width, heads, layers, **parts)
    load(model, named)
    return model


@torch.no_grad()
def load(model: Model, named: dict[str, torch.Tensor]) -> None:
    """Copy GPT-2's tensors into the model: (in, out) matrices become (out, in)."""

    def linear(layer, name):
        layer.weight.copy_(named[f"{name}.weight"].T)
        layer.bias.copy_(named[f"{name}.bias"])

    def norm(layer, name):
        layer.weight.copy_(named[f"{name}.weight"])
        layer.bias.copy_(named[f"{name}.bias"])

    model.tok_emb.weight.copy_(named["wte.weight"])
    model.pos_emb.weight.copy_(named["wpe.weight"])
    for i, block in enumerate(model.blocks):
        norm(block.norm1, f"h.{i}.ln_1")
        norm(block.norm2, f"h.{i}.ln_2")
        linear(block.ff[0], f"h.{i}.mlp.c_fc")
        linear(block.ff[2], f"h.{i}.mlp.c_proj")
        linear(block.att.out_proj, f"h.{i}.attn.c_proj")
        linear(block.att.c_attn, f"h.{i}.attn.c_attn")
    norm(model.final_norm, "ln_f")


def cross_entropy(model: Model, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B, T), (B, T) -> mean cross-entropy over all tokens"""
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


def training_step(
    model: Model, tokens, targets, *, compiled=False, bfloat16=False, **adamw
) -> Callable[[], float]:
    """Return a function that takes one step and returns the loss before it.

    tokens, targets: (B, T) NumPy arrays. adamw: arguments of torch.optim.AdamW.
    """
    optimizer = torch.optim.AdamW(model.parameters(), **adamw)
    tokens, targets = torch.tensor(tokens), torch.tensor(targets)
    loss_of = cross_entropy
    if compiled:
        warnings.simplefilter("ignore")  # the compiler warns of its own parts
        loss_of = torch.compile(cross_entropy)

    def step():
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = loss_of(model, tokens, targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step
