"""Low-rank adapters on the layers of reference/gpt2.py, with gradients by autograd.

Written from Hu et al. 2021, arXiv:2106.09685, equation 3. The names are npgpt's.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from reference.gpt2 import GPT2, Conv1D


class Adapted(nn.Module):
    """W0 x + b + (alpha / r) B A x, with W0 and b frozen. Matrices are (in, out), as in Conv1D."""

    def __init__(self, layer: Conv1D, rank: int, alpha: float):
        super().__init__()
        inputs, outputs = layer.weight.shape
        self.weight, self.bias = layer.weight.requires_grad_(False), layer.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)
        a = torch.empty(rank, inputs, dtype=torch.float32)
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))  # as in the paper's code
        dtype = layer.weight.dtype
        self.lora_a = nn.Parameter(a.T.to(dtype).contiguous())
        self.lora_b = nn.Parameter(torch.zeros(rank, outputs, dtype=dtype))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        out = x @ self.weight + self.scale * (x @ self.lora_a @ self.lora_b)
        return out if self.bias is None else out + self.bias

    def merged(self) -> Tensor:
        """Return the matrix that computes the same without an adapter."""
        return self.weight + self.scale * self.lora_a @ self.lora_b


def adapt(model: GPT2, rank: int, alpha: float, layers: Sequence[str]) -> None:
    """Freeze a model and add adapters to these layers of every block, such as "attn.c_attn"."""
    model.requires_grad_(False)
    for block in model.h:
        for name in layers:
            part, layer = name.split(".")
            half = getattr(block, part)
            setattr(half, layer, Adapted(getattr(half, layer), rank, alpha))
