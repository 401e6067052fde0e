"""Ten odd bugs, which no list of known mistakes would have, for either port."""

from parity_tests.ports.bugs import Bug

LOSS = """\
    loss = -np.log(p[b, t, right]).mean()
    dlogits = p.copy()
    dlogits[b, t, right] -= 1
    dlogits[~counts] = 0
"""
LATE_LOSS = """\
    late = 1 + np.arange(targets.shape[1]) / 10
    loss = -(late[t] * np.log(p[b, t, right])).mean()
    dlogits = p.copy()
    dlogits[b, t, right] -= 1
    dlogits[~counts] = 0
    dlogits *= late[:, None]
"""
ADAMW = """\
    return torch.optim.AdamW(
        model.parameters(),
"""
LAYERWISE = """\
    return torch.optim.AdamW(
        [{"params": [p], "lr": settings["lr"] * 0.9 ** (i % 16)}
         for i, p in enumerate(model.parameters())],
"""

BUGS = (
    Bug(
        name="gelu_skips_channels",
        port="numpy_port",
        edits=(("return 0.5 * u * (1 + th), (u, th)",
                "return np.where(np.arange(u.shape[-1]) % 4, 0.5 * u * (1 + th), u), (u, th)"),),
        says="every fourth channel passes GELU unchanged",
        first=("act/h.0.mlp.gelu",),
    ),
    Bug(
        name="norms_shared_by_blocks",
        port="torch_port",
        edits=(("        self.norm = Norm(", "        self.layers[1].norm2 = self.layers[0].norm2\n"
                "        self.norm = Norm("),),
        says="two blocks share their second LayerNorm: the weights that are loaded last",
        first=("param/h.0.ln_2.weight", "act/h.0.ln_2"),
    ),
    Bug(
        name="scores_clamped",
        port="torch_port",
        edits=(("        future = torch.ones",
                "        scores = scores.clamp(-1.5, 1.5)\n        future = torch.ones"),),
        says="scores are clamped to +-1.5",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="first_mlp_weighs_less",
        port="numpy_port",
        edits=(('        x = x + h\n        a[n + ".out"] = x\n',
                '        x = x + (h if i else 0.9 * h)\n        a[n + ".out"] = x\n'),),
        says="the first block's MLP is added with the factor 0.9",
        first=("act/h.0.after_mlp",),
    ),
    Bug(
        name="attention_to_three",
        port="torch_port",
        edits=(('        probs = tape("probs"',
                '        least = scores.topk(min(3, past + T)).values[..., -1:]\n'
                '        scores = scores.masked_fill(scores < least, float("-inf"))\n'
                '        probs = tape("probs"'),),
        says="each position attends to its three best keys only",
        first=("act/h.0.attn.probs",),
    ),
    Bug(
        name="late_targets_weigh_more",
        port="numpy_port",
        edits=((LOSS, LATE_LOSS),),
        says="the loss of position t weighs 1 + t / 10",
        first=("loss",),
    ),
    Bug(
        name="gelu_gradient_clipped",
        port="numpy_port",
        edits=(("    return da * (0.5", "    return np.clip(da, -0.02, 0.02) * (0.5"),),
        says="the gradient of GELU's output is clipped to +-0.02",
        first=("dact/h.1.mlp.c_fc",),
    ),
    Bug(
        name="gradients_rounded",
        port="numpy_port",
        edits=(("    return grads, d\n",
                "    return {name: np.round(g, 2) for name, g in grads.items()}, d\n"),),
        says="gradients are rounded to two decimals",
        first=("grad/",),
    ),
    Bug(
        name="learning_rate_by_parameter",
        port="torch_port",
        edits=((ADAMW, LAYERWISE),),
        says="each parameter has a learning rate of its own",
        first=("after1/",),
    ),
    Bug(
        name="cache_blends_keys",
        port="numpy_port",
        edits=(("            s = np.einsum(\"bhtd,bhsd->bhts\", q, K[i",
                "            if t:\n"
                "                K[i, :, :, t] = 0.8 * K[i, :, :, t] + 0.2 * K[i, :, :, t - 1]\n"
                "            s = np.einsum(\"bhtd,bhsd->bhts\", q, K[i"),),
        says="a cached key is blended with the one before it",
        first=("cached_logits",),
    ),
)  # fmt: skip

# edits of a port that another person would make, after which it is as right as before
HARMLESS = (
    Bug(
        name="mask_of_large_negative",
        port="torch_port",
        edits=(('masked_fill(future, float("-inf"))', "masked_fill(future, -1e9)"),),
        says="-1e9 in place of -inf",
        first=(),
    ),
    Bug(
        name="gelu_of_torch",
        port="torch_port",
        edits=(("FastGELU.apply(x)", 'F.gelu(x, approximate="tanh")'),),
        says="PyTorch's own GELU",
        first=(),
    ),
    Bug(
        name="norm_of_torch",
        port="torch_port",
        edits=(
            ("(x - mean) / torch.sqrt(var + self.eps) * self.weight + self.bias",
             "F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)"),
        ),
        says="PyTorch's own LayerNorm",
        first=(),
    ),
    Bug(
        name="attention_of_torch",
        port="torch_port",
        edits=(("        y = probs @ v\n",
                "        y = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)\n"),),
        says="PyTorch's own attention; the probabilities have no gradient then",
        first=(),
    ),
    Bug(
        name="scale_queries_first",
        port="numpy_port",
        edits=(('"bhtd,bhsd->bhts", q, k) / np.sqrt(D)',
                '"bhtd,bhsd->bhts", q * q.dtype.type(D**-0.5), k)'),),
        says="the queries are scaled, not the scores",
        first=(),
    ),
    Bug(
        name="decay_in_the_same_line",
        port="numpy_port",
        edits=(
            ("            self.w[name] -= self.lr * self.wd * self.w[name]\n", ""),
            ("-= self.lr * mhat / (np.sqrt(vhat) + self.eps)",
             "-= self.lr * (mhat / (np.sqrt(vhat) + self.eps) + self.wd * self.w[name])"),
        ),
        says="decay and step are subtracted together",
        first=(),
    ),
    Bug(
        name="clip_with_epsilon",
        port="numpy_port",
        edits=(("limit / norm", "limit / (norm + 1e-6)"),),
        says="1e-6 in the denominator of clipping, as PyTorch has",
        first=(),
    ),
)  # fmt: skip
