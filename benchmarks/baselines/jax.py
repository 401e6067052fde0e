"""A training step in JAX: one compiled function, parameters and moments updated in place."""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from npgpt.config import Config

BETAS, EPS = (0.9, 0.999), 1e-8  # AdamW's, as everywhere


def training_step(
    config: Config, named: dict[str, np.ndarray], tokens, targets, *, threads: int, lr, weight_decay
) -> Callable[[], float]:
    """Return a function that takes one step and returns the loss before it.

    named: parameters by checkpoint name. tokens, targets: (B, T) NumPy arrays.
    """
    limit_threads(threads)
    params = {name: jnp.array(array) for name, array in named.items()}
    state = params, zeros_like(params), zeros_like(params), jnp.zeros(())
    tokens, targets = jnp.asarray(tokens), jnp.asarray(targets)

    def update(p, g, m, v, t):
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        m_hat, v_hat = m / (1 - BETAS[0] ** t), v / (1 - BETAS[1] ** t)
        return p * (1 - lr * weight_decay) - lr * m_hat / (jnp.sqrt(v_hat) + EPS), m, v

    def step(state, tokens, targets):
        params, means, squares, t = state
        value, gradients = jax.value_and_grad(loss)(params, tokens, targets, config)
        new = {name: update(params[name], gradients[name], means[name], squares[name], t + 1)
               for name in params}  # fmt: skip
        trees = ({name: parts[i] for name, parts in new.items()} for i in range(3))
        return (*trees, t + 1), value

    compiled = jax.jit(step, donate_argnums=0)

    def run():
        nonlocal state
        state, value = compiled(state, tokens, targets)
        return float(jax.block_until_ready((state, value))[1])

    return run


def limit_threads(count: int) -> None:
    """Keep the process to `count` cores: JAX takes a thread for each core that it may use."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def zeros_like(params: dict) -> dict:
    return {name: jnp.zeros_like(array) for name, array in params.items()}


def loss(params: dict, tokens, targets, config: Config):
    """(B, T), (B, T) -> the mean cross-entropy"""
    B, T = tokens.shape
    H, C = config.n_head, config.n_embd

    def linear(x, name):
        return x @ params[f"{name}.weight"] + params[f"{name}.bias"]

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        return x * params[f"{name}.weight"] + params[f"{name}.bias"]

    x = params["wte.weight"][tokens] + params["wpe.weight"][:T]
    for i in range(config.n_layer):
        qkv = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").reshape(B, T, 3, H, C // H)
        q, k, v = (qkv[:, :, part] for part in range(3))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(B, T, C)
        x = x + linear(y, f"h.{i}.attn.c_proj")
        wide = jax.nn.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate=True)
        x = x + linear(wide, f"h.{i}.mlp.c_proj")
    logits = norm(x, "ln_f") @ params["wte.weight"].T
    right = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - right).mean()
