"""The book's PyTorch model, and the program of its chapter 5 that trains it, rewritten."""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn as nn
from torch.utils.data import DataLoader

from benchmarks.baselines.pytorch import Model, cross_entropy


class LayerNorm(nn.Module):
    """The book's, written out."""

    def __init__(self, width: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        mean = x.mean(dim=-1, keepdim=True)
        var = x.var(dim=-1, keepdim=True, unbiased=False)
        return self.weight * ((x - mean) / torch.sqrt(var + 1e-5)) + self.bias


class GELU(nn.Module):
    """The book's, written out."""

    def forward(self, x):
        # the book leaves out the dtype: the constant would be a float32 in a float64 model too
        scale = torch.sqrt(torch.tensor(2.0 / torch.pi, dtype=x.dtype))
        inner = scale * (x + 0.044715 * torch.pow(x, 3))
        return 0.5 * x * (1 + torch.tanh(inner))


class Attention(nn.Module):
    """The book's: three layers for query, key and value; scores, mask and softmax written out."""

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


def chapter5(vocabulary, context, width, heads, layers, rate) -> Model:
    """Return the book's model as its chapter 5 trains it, drawn from PyTorch's random stream.

    It has dropout, an output head of its own, and no biases for query, key and value.
    """
    attention = partial(Attention, qkv_bias=False, rate=rate)
    parts = dict(attention=attention, norm=LayerNorm, gelu=GELU())
    return Model(vocabulary, context, width, heads, layers, tied=False, rate=rate, **parts)


def draw_layers(vocabulary: int, context: int, width: int, layers: int, *, seed: int):
    """Draw the layers of the book's model in its order: embeddings, blocks, output head."""
    torch.manual_seed(seed)
    embeddings = [nn.Embedding(vocabulary, width), nn.Embedding(context, width)]
    blocks = []
    for _ in range(layers):
        attention = [nn.Linear(width, width, bias=False) for _ in range(3)]
        attention.append(nn.Linear(width, width))
        blocks.append((attention, nn.Linear(width, 4 * width), nn.Linear(4 * width, width)))
    return embeddings, blocks, nn.Linear(width, vocabulary, bias=False)


# The program of chapter 5


def loader(tokens: torch.Tensor, context: int, batch_size: int, *, train: bool) -> DataLoader:
    """Return the windows of (N,) ids and their targets; `train` shuffles, drops a short batch."""
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
    """Train; yield (step, training loss, validation loss) where the book prints a line.

    The book's samples after every epoch are omitted: they are greedy and draw no random numbers.
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
    """Return the mean loss of the first batches. Each pass draws from PyTorch's random stream."""
    losses = [
        cross_entropy(model, tokens, targets).item()
        for _, (tokens, targets) in zip(range(batches), data, strict=False)
    ]
    return sum(losses) / len(losses)
