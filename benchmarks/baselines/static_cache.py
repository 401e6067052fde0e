"""PyTorch at its best for generating: a compiled step for one token, with a cache of fixed size."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.baselines import pytorch
from npgpt.weights.huggingface import read_huggingface


class StaticCache:
    """The model of pytorch.py. Prompts are read eagerly; a token's step is compiled."""

    def __init__(self, path: Path, threads: int, weights: str):
        warnings.simplefilter("ignore")  # the compiler warns of its own parts
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        source = read_huggingface(path / "model")
        c = source.config
        named = {name: torch.tensor(source.array(name)) for name in source.parameters}
        sizes = c.vocab_size, c.context_length, c.n_embd, c.n_head, c.n_layer
        self.dtype, self.config = getattr(torch, weights), c
        self.model = pytorch.best(*sizes, named).to(self.dtype).eval()
        self.compiled = torch.compile(self.forward, dynamic=False)
        self.settings, self.version = f"cache {weights}, compiled", torch.__version__

    def start(self, length: int) -> None:
        """Prepare a cache for one text of `length` tokens."""
        c = self.config
        shape = 1, c.n_head, length, c.n_embd // c.n_head
        self.keys = [torch.zeros(shape, dtype=self.dtype) for _ in range(c.n_layer)]
        self.values = [torch.zeros(shape, dtype=self.dtype) for _ in range(c.n_layer)]
        self.mask = torch.ones(length, length, dtype=torch.bool).tril()

    def forward(self, tokens, positions, keys, values, mask):
        """(1, T), (T,), the cache, (S, S) -> the logits (V,) of the next token"""
        model = self.model
        x = model.tok_emb(tokens) + model.pos_emb(positions)
        for block, past_k, past_v in zip(model.blocks, keys, values, strict=True):
            qkv = block.att.c_attn(block.norm1(x)).split(x.shape[-1], -1)
            q, k, v = (part.view(*x.shape[:2], block.att.heads, -1).transpose(1, 2) for part in qkv)
            k = past_k.index_copy_(2, positions, k)
            v = past_v.index_copy_(2, positions, v)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[positions])
            x = x + block.att.out_proj(y.transpose(1, 2).reshape(x.shape))
            x = x + block.ff(block.norm2(x))
        return model.out_head(model.final_norm(x[0, -1]))

    def next_logits(self, tokens: np.ndarray, read: int) -> torch.Tensor:
        """(1, T), the number of tokens before it -> (V,)"""
        run = self.compiled if tokens.shape[1] == 1 else self.forward
        positions = torch.arange(read, read + tokens.shape[1])
        return run(torch.as_tensor(tokens), positions, self.keys, self.values, self.mask)

    def logits(self, prompt: np.ndarray, forced: np.ndarray) -> np.ndarray:
        """(T,), (N,) -> (1 + N, V), after the prompt and after each forced token

        The cache is that of the last `generate`: another size would be compiled again.
        """
        found, read = [], 0
        for tokens in (prompt[None], *forced[:, None, None]):
            found.append(self.next_logits(tokens, read).float().numpy())
            read += tokens.size
        return np.stack(found)

    def generate(self, tokens: np.ndarray, count: int, after: Callable[[], None]) -> np.ndarray:
        """(1, T) -> `count` new tokens (1, count), greedily"""
        self.start(tokens.shape[1] + count)
        made, read = [], 0
        for _ in range(count):
            chosen = self.next_logits(tokens, read).argmax().item()
            read += tokens.shape[1]
            tokens = np.array([[chosen]])
            made.append(chosen)
            after()
        return np.array([made])
