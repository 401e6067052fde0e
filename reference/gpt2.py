"""GPT-2 as a plain torch.nn.Module with gradients by autograd: npgpt's reference implementation.

Written to be read beside npgpt/model/transformer.py and npgpt/model/block.py. Nothing is fused,
chunked, cached or imported from npgpt. Both use the parameter names of the released checkpoint, so
`state_dict()` has the keys of a checkpoint file.

Dropout draws no random numbers. Its masks are passed as an iterator of boolean tensors (True:
keep) in the order of the forward pass: after the embedding; then in each block on the attention
probabilities (B, H, T, T), after attention, after the MLP. Without masks there is no dropout.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reference import files

Masks = Iterator[Tensor] | None


@dataclass(frozen=True, kw_only=True)
class Config:
    vocab_size: int  # V
    context_length: int  # T_max
    n_layer: int  # L
    n_head: int  # H
    n_embd: int  # C = H * D
    dropout: float = 0.0
    qkv_bias: bool = True
    tied: bool = True  # the output head is the token embedding

    def __post_init__(self):
        for name in ("vocab_size", "context_length", "n_layer", "n_head", "n_embd"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1, not {value!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd must be a multiple of n_head: {self.n_embd}, {self.n_head}")


class GPT2(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.context_length, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        if not config.tied:
            self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def forward(self, tokens: Tensor, masks: Masks = None) -> Tensor:
        """(B, T) -> logits (B, T, V)"""
        head = self.wte if self.config.tied else self.lm_head
        return self.hidden(tokens, masks) @ head.weight.T

    def hidden(self, tokens: Tensor, masks: Masks = None) -> Tensor:
        """(B, T) -> (B, T, C), the input of the output head"""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        x = dropout(x, self.config.dropout, masks)
        for block in self.h:
            x = block(x, masks)
        return self.ln_f(x)

    def loss(self, tokens: Tensor, targets: Tensor, masks: Masks = None) -> Tensor:
        """(B, T), (B, T) -> mean cross-entropy, in nats per token"""
        return F.cross_entropy(self(tokens, masks).flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def generate(self, tokens: Tensor, max_new_tokens: int) -> Tensor:
        """(B, T) -> (B, T + max_new_tokens), greedily, without a key/value cache."""
        for _ in range(max_new_tokens):
            logits = self(tokens[:, -self.config.context_length :])[:, -1]
            tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], dim=1)
        return tokens

    @classmethod
    def load(cls, path) -> "GPT2":
        """Load OpenAI's, Hugging Face's or npgpt's model from a file or folder (files.py)."""
        try:
            settings, tensors = files.read(path)
            return from_tensors(Config(**settings), tensors)
        except Exception as error:
            error.add_note(f"while loading {path}")
            raise


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.rate = config.dropout
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        x = x + dropout(self.attn(self.ln_1(x), masks), self.rate, masks)
        return x + dropout(self.mlp(self.ln_2(x)), self.rate, masks)


class Attention(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.n_head, self.rate = config.n_head, config.dropout
        self.c_attn = Conv1D(config.n_embd, 3 * config.n_embd, bias=config.qkv_bias)
        self.c_proj = Conv1D(config.n_embd, config.n_embd)

    def forward(self, x: Tensor, masks: Masks) -> Tensor:
        """(B, T, C) -> (B, T, C)"""
        B, T, C = x.shape
        D = C // self.n_head
        q, k, v = (
            part.view(B, T, self.n_head, D).transpose(1, 2)  # (B, H, T, D)
            for part in self.c_attn(x).split(C, dim=-1)
        )
        scores = q @ k.transpose(-2, -1) / D**0.5
        later = torch.ones(T, T, dtype=torch.bool).triu(1)
        probs = scores.masked_fill(later, -torch.inf).softmax(-1)
        y = dropout(probs, self.rate, masks) @ v
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.c_fc = Conv1D(config.n_embd, 4 * config.n_embd)
        self.c_proj = Conv1D(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Conv1D(nn.Module):
    """x @ weight + bias with the weight as (in, out): GPT-2's released layout, and its name."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) * 0.02)
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight if self.bias is None else x @ self.weight + self.bias


def dropout(x: Tensor, rate: float, masks: Masks) -> Tensor:
    return x if masks is None else x * next(masks) / (1 - rate)


def from_arrays(config: Config, arrays: dict) -> GPT2:
    """Return a model with a copy of these parameters, {checkpoint name: NumPy array}."""
    return from_tensors(config, {name: torch.tensor(array) for name, array in arrays.items()})


def from_tensors(config: Config, tensors: dict[str, Tensor]) -> GPT2:
    """Return a model that holds these tensors, {checkpoint name: tensor}, all of one dtype."""
    if len(tensors) < 11 * config.n_layer:  # before that many layers are built
        raise ValueError(f"{len(tensors)} tensors are too few for n_layer = {config.n_layer}")
    with torch.device("meta"):  # shapes only: the numbers are `tensors`
        model = GPT2(config)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    for name, shape in expected.items():
        if name not in tensors:
            raise ValueError(f"{name} is missing; its shape must be {shape}")
        if tensors[name].shape != shape:
            raise ValueError(f"{name} must be of shape {shape}, not {tuple(tensors[name].shape)}")
    if surplus := sorted(tensors.keys() - expected.keys()):
        raise ValueError(f"{surplus[0]} must not be there: the config has no such parameter")
    if len(dtypes := {tensor.dtype for tensor in tensors.values()}) > 1:
        raise ValueError(f"all parameters must be of one dtype, not {sorted(map(str, dtypes))}")
    model.load_state_dict(tensors, assign=True)
    return model
