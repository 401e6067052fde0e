"""A port of GPT-2 to NumPy. One thing in it is wrong.

SYMPTOM

Find it and repair it, in this file. Functions must keep their names and arguments. The check calls
`loss_and_gradients`, `adamw` and `logits` on a tiny model, and says which results differ.

Shapes: tokens, targets (B, T); a target of -100 does not count. `p` is a dict of the parameters by
name; matrices are (in, out). C = n_head * D.
"""

import numpy as np


def linear(x, p, name):
    """(B, T, I) -> (B, T, O)"""
    return x @ p[name + ".weight"] + p[name + ".bias"]


def linear_backward(dout, x, p, g, name):
    """(B, T, O) -> (B, T, I)"""
    I, O = p[name + ".weight"].shape
    g[name + ".weight"] = x.reshape(-1, I).T @ dout.reshape(-1, O)
    g[name + ".bias"] = dout.sum((0, 1))
    return dout @ p[name + ".weight"].T


def layernorm(x, p, name):
    """(B, T, C) -> (B, T, C), and what backward needs"""
    mean = x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    norm = (x - mean) * rstd
    return norm * p[name + ".weight"] + p[name + ".bias"], (norm, rstd)


def layernorm_backward(dout, cache, p, g, name):
    """(B, T, C) -> (B, T, C)"""
    norm, rstd = cache
    g[name + ".weight"] = (dout * norm).sum((0, 1))
    g[name + ".bias"] = dout.sum((0, 1))
    dnorm = dout * p[name + ".weight"]
    via_mean = dnorm.mean(-1, keepdims=True)
    via_rstd = norm * (dnorm * norm).mean(-1, keepdims=True)
    return rstd * (dnorm - via_mean - via_rstd)


def gelu(x):
    """(B, T, F) -> (B, T, F)"""
    return 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))


def gelu_backward(dout, x):
    """(B, T, F) -> (B, T, F)"""
    t = np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))
    inner_slope = (2 / np.pi) ** 0.5 * (1 + 3 * 0.044715 * x**2)
    return dout * (0.5 * (1 + t) + 0.5 * x * (1 - t**2) * inner_slope)


def split(x, n_head):
    """(B, T, C) -> (B, H, T, D)"""
    B, T, C = x.shape
    return x.reshape(B, T, n_head, C // n_head).transpose(0, 2, 1, 3)


def merge(x):
    """(B, H, T, D) -> (B, T, C)"""
    B, H, T, D = x.shape
    return x.transpose(0, 2, 1, 3).reshape(B, T, H * D)


def attention(qkv, n_head):
    """(B, T, 3C) -> (B, T, C), and what backward needs"""
    q, k, v = (split(a, n_head) for a in np.split(qkv, 3, axis=-1))
    T, D = q.shape[-2:]
    scores = q @ k.mT / D**0.5
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    probs = e / e.sum(-1, keepdims=True)
    return merge(probs @ v), (q, k, v, probs)


def attention_backward(dout, cache):
    """(B, T, C) -> (B, T, 3C)"""
    q, k, v, probs = cache
    H, D = q.shape[1], q.shape[-1]
    dheads = split(dout, H)
    dv = probs.mT @ dheads
    dprobs = dheads @ v.mT
    dscores = probs * (dprobs - (dprobs * probs).sum(-1, keepdims=True)) / D**0.5
    dq = dscores @ k
    dk = dscores.mT @ q
    return np.concatenate([merge(dq), merge(dk), merge(dv)], axis=-1)


def block(x, p, name, n_head):
    """(B, T, C) -> (B, T, C), and what backward needs"""
    a, ln_1 = layernorm(x, p, name + ".ln_1")
    b, attn = attention(linear(a, p, name + ".attn.c_attn"), n_head)
    x1 = x + linear(b, p, name + ".attn.c_proj")
    c, ln_2 = layernorm(x1, p, name + ".ln_2")
    h = linear(c, p, name + ".mlp.c_fc")
    d = gelu(h)
    return x1 + linear(d, p, name + ".mlp.c_proj"), (a, ln_1, attn, b, c, ln_2, h, d)


def block_backward(dx, cache, p, g, name):
    """(B, T, C) -> (B, T, C)"""
    a, ln_1, attn, b, c, ln_2, h, d = cache
    dh = linear_backward(dx, d, p, g, name + ".mlp.c_proj")
    dh = linear_backward(gelu_backward(dh, h), c, p, g, name + ".mlp.c_fc")
    dx = dx + layernorm_backward(dh, ln_2, p, g, name + ".ln_2")
    dh = linear_backward(dx, b, p, g, name + ".attn.c_proj")
    dh = linear_backward(attention_backward(dh, attn), a, p, g, name + ".attn.c_attn")
    return dx + layernorm_backward(dh, ln_1, p, g, name + ".ln_1")


def hidden(p, tokens, n_head, n_layer):
    """(B, T) -> (B, T, C), and what backward needs"""
    x = p["wte.weight"][tokens] + p["wpe.weight"][: tokens.shape[1]]
    caches = []
    for i in range(n_layer):
        x, cache = block(x, p, f"h.{i}", n_head)
        caches.append(cache)
    x, ln_f = layernorm(x, p, "ln_f")
    return x, (caches, ln_f)


def logits(p, tokens, n_head, n_layer):
    """(B, T) -> (B, T, V)"""
    x, _ = hidden(p, tokens, n_head, n_layer)
    return x @ p["wte.weight"].T


def loss_and_gradients(p, tokens, targets, n_head, n_layer):
    """(B, T), (B, T) -> loss, a dict of gradients by the names of p"""
    x, (caches, ln_f) = hidden(p, tokens, n_head, n_layer)
    wte = p["wte.weight"]
    counts = targets != -100
    scores = (x @ wte.T)[counts]
    right = targets[counts]
    e = np.exp(scores - scores.max(-1, keepdims=True))
    probs = e / e.sum(-1, keepdims=True)
    N = len(right)
    loss = -np.log(probs[np.arange(N), right]).mean()

    g = {}
    probs[np.arange(N), right] -= 1
    dlogits = np.zeros((*targets.shape, len(wte)))
    dlogits[counts] = probs / N
    dwte = dlogits.reshape(-1, len(wte)).T @ x.reshape(-1, x.shape[-1])
    dx = layernorm_backward(dlogits @ wte, ln_f, p, g, "ln_f")
    for i in reversed(range(n_layer)):
        dx = block_backward(dx, caches[i], p, g, f"h.{i}")
    np.add.at(dwte, tokens, dx)
    dwpe = np.zeros_like(p["wpe.weight"])
    dwpe[: tokens.shape[1]] = dx.sum(0)
    g["wte.weight"], g["wpe.weight"] = dwte, dwpe
    return loss, g


def adamw(p, g, m, v, step, lr, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1):
    """Update p, m and v, dicts of arrays, in place. `step` counts from 1. Matrices decay alone."""
    for name, grad in g.items():
        if p[name].ndim == 2:
            p[name] *= 1 - lr * weight_decay
        m[name][:] = beta1 * m[name] + (1 - beta1) * grad
        v[name][:] = beta2 * v[name] + (1 - beta2) * grad**2
        mhat = m[name] / (1 - beta1**step)
        vhat = v[name] / (1 - beta2**step)
        p[name] -= lr * mhat / (np.sqrt(vhat) + eps)
