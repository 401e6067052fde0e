"""What npgpt is compared with: the book's PyTorch model, and the program of its chapter 5 that
trains it, in words of our own; and the same model out of PyTorch's best parts."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader


class LayerNorm(nn.Module):
    """The book's: spelled out."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        var = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.weight * ((x - mean) / torch.sqrt(var + 1e-5)) + self.bias


class GELU(nn.Module):
    """The book's: spelled out."""

    def forward(self, x):
        # the book leaves out the dtype: the constant would be a float32 in a float64 model too
        scale = torch.sqrt(torch.tensor(2.0 / torch.pi, dtype=x.dtype))
        inner = scale * (x + 0.044715 * torch.pow(x, 3))
        return 0.5 * x * (1 + torch.tanh(inner))


class BookAttention(nn.Module):
    """Three layers for query, key and value; scores, mask, softmax and dropout spelled out."""

    def __init__(self, width: int, heads: int, context: int, *, qkv_bias: bool, rate: float):
        super().__init__()
        self.heads = heads
        self.W_query, self.W_key, self.W_value = (
            nn.Linear(width, width, bias=qkv_bias) for _ in range(3)
        )
        self.out_proj, self.drop = nn.Linear(width, width), nn.Dropout(rate)
        self.register_buffer("mask", torch.triu(torch.ones(context, context), diagonal=1))

    def forward(self, x):
        B, T, C = x.shape
        q, k, v = (
            layer(x).view(B, T, self.heads, -1).transpose(1, 2)
            for layer in (self.W_query, self.W_key, self.W_value)
        )
        scores = q @ k.transpose(2, 3)
        scores.masked_fill_(self.mask.bool()[:T, :T], -torch.inf)
        probs = self.drop(torch.softmax(scores / k.shape[-1] ** 0.5, dim=-1))
        return self.out_proj((probs @ v).transpose(1, 2).contiguous().view(B, T, C))


class BestAttention(nn.Module):
    """One packed layer and PyTorch's fused attention."""

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
    def __init__(self, width, heads, context, *, rate, attention, norm, gelu):
        super().__init__()
        self.norm1, self.norm2, self.drop = norm(width), norm(width), nn.Dropout(rate)
        self.att = attention(width, heads, context)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), gelu, nn.Linear(4 * width, width))

    def forward(self, x):
        x = x + self.drop(self.att(self.norm1(x)))
        return x + self.drop(self.ff(self.norm2(x)))


class Model(nn.Module):
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


def chapter5(vocabulary, context, width, heads, layers, rate) -> Model:
    """The book's model as its chapter 5 trains it: no biases for query, key and value, dropout, a
    head of its own. Drawn from PyTorch's stream as it stands."""
    attention = partial(BookAttention, qkv_bias=False, rate=rate)
    parts = dict(attention=attention, norm=LayerNorm, gelu=GELU())
    return Model(vocabulary, context, width, heads, layers, tied=False, rate=rate, **parts)


def best(vocabulary, context, width, heads, layers, named) -> Model:
    """The same maths out of PyTorch's own layers."""
    parts = dict(attention=BestAttention, norm=nn.LayerNorm, gelu=nn.GELU(approximate="tanh"))
    model = Model(vocabulary, context, width, heads, layers, **parts)
    load(model, named)
    return model


@torch.no_grad()
def load(model: Model, named: dict[str, torch.Tensor]) -> None:
    """Fills the best model with GPT-2's tensors: (in, out) matrices become (out, in) ones."""

    def dense(layer, name):
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
        dense(block.ff[0], f"h.{i}.mlp.c_fc")
        dense(block.ff[2], f"h.{i}.mlp.c_proj")
        dense(block.att.out_proj, f"h.{i}.attn.c_proj")
        dense(block.att.c_attn, f"h.{i}.attn.c_attn")
    norm(model.final_norm, "ln_f")


# The program of chapter 5


def loader(tokens: torch.Tensor, context: int, batch_size: int, *, train: bool) -> DataLoader:
    """Windows of (N,) ids and their targets; `train` shuffles, and leaves out a short batch."""
    windows = [
        (tokens[i : i + context], tokens[i + 1 : i + context + 1])
        for i in range(0, len(tokens) - context, context)
    ]
    return DataLoader(windows, batch_size=batch_size, shuffle=train, drop_last=train)


def training(
    model: Model,
    train: DataLoader,
    val: DataLoader,
    *,
    epochs: int,
    lr: float,
    weight_decay: float,
    eval_every: int,
    eval_batches: int,
) -> Iterator[tuple[int, float, float]]:
    """Trains, and yields (step, training loss, validation loss) where the book prints a line.

    The book's samples after every epoch are left out: they are greedy and draw nothing.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    step = 0
    for _ in range(epochs):
        for tokens, targets in train:
            model.train()
            optimizer.zero_grad()
            cross_entropy(model, tokens, targets).backward()
            optimizer.step()
            if step % eval_every == 0:
                model.eval()
                yield step, *(mean_loss(model, data, eval_batches) for data in (train, val))
            step += 1


@torch.no_grad()
def mean_loss(model: Model, data: DataLoader, batches: int) -> float:
    """Over the first so many batches of a pass, which draws from PyTorch's stream as it begins."""
    losses = [
        cross_entropy(model, tokens, targets).item()
        for _, (tokens, targets) in zip(range(batches), data, strict=False)
    ]
    return sum(losses) / len(losses)


def cross_entropy(model: Model, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(B, T), (B, T) -> the mean over all tokens"""
    return F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
