"""PyTorch's own kernel of each op, gradients by autograd."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F


def functions(arrays: dict[str, np.ndarray], n_head: int) -> dict[str, Callable]:
    """Return, by op, a function that runs it forward and backward and returns its results.

    arrays: those of benchmarks.ops, by name.
    """
    B, T, C = arrays["x"].shape
    a = {name: torch.tensor(array) for name, array in arrays.items()}
    for name in ("x", "wide", "qkv", "wte", "wpe", "norm", "weight", "bias"):
        a[name].requires_grad_()
    shift = a["norm"].detach().clone().requires_grad_()
    p = torch.nn.Parameter(torch.tensor(arrays["wte"]))
    p.grad = a["dwte"]
    optimizer = torch.optim.AdamW([p], lr=1e-4, weight_decay=0.1, fused=True)

    def run(out, dout, *leaves):
        for leaf in leaves:
            leaf.grad = None
        out.backward(dout)
        return out.detach(), leaves[0].grad

    def embedding():
        out = F.embedding(a["tokens"], a["wte"]) + a["wpe"]
        out, grad = run(out, a["dx"], a["wte"], a["wpe"])
        return out, grad[a["tokens"]]

    def layernorm():
        out = F.layer_norm(a["x"], (C,), a["norm"], shift)
        return run(out, a["dx"], a["x"], a["norm"], shift)

    def linear():
        return run(a["x"] @ a["weight"] + a["bias"], a["dwide"], a["x"], a["weight"], a["bias"])

    def attention():
        q, k, v = (t.view(B, T, n_head, C // n_head).transpose(1, 2) for t in a["qkv"].split(C, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return run(y.transpose(1, 2).reshape(B, T, C), a["dx"], a["qkv"])

    def gelu():
        return run(F.gelu(a["wide"], approximate="tanh"), a["dwide"], a["wide"])

    def linear_cross_entropy():
        logits = (a["x"] @ a["wte"].T).flatten(0, 1)
        out = F.cross_entropy(logits, a["targets"].flatten())
        return run(out, torch.ones(()), a["x"], a["wte"])

    def adamw():
        optimizer.step()
        return p.detach(), optimizer.state[p]["exp_avg"]

    return locals()
