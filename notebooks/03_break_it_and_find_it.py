# %% [markdown]
# # Break it and find it
#
# A GPT with a wrong line still trains. Its loss falls, only less far, and no error message says why. Here you write GPT-2's
# forward pass in 20 lines, break it in three ways, and let npgpt name the mistake.

# %%
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np

import npgpt
from npgpt.testing import assert_parity, probe

# %% [markdown]
# ## A probe
#
# The *probe* is a tiny GPT-2 and a batch. Its weights are chosen so that mistakes show: attention is peaked, no bias is zero,
# and $B$, $T$, $H$ and $D$ differ, so that swapped axes do not fit by chance.

# %%
given = probe()
weights = dict(npgpt.named(given.params))
H = given.config.n_head
print(given.config)
print(sum(w.size for w in weights.values()), "parameters, tokens", given.tokens.shape)
assert given.tokens.shape == (3, 9)

# %% [markdown]
# ## Your GPT-2
#
# $$x \leftarrow x + \mathrm{attn}(\mathrm{LN}_1(x)) \qquad x \leftarrow x + \mathrm{mlp}(\mathrm{LN}_2(x)) \qquad
# \mathrm{attn} = \mathrm{softmax}\!\left(\frac{q k^\top}{\sqrt D} + \text{mask}\right) v$$
#
# The argument `bug` breaks one line, and changes nothing if it is empty.


# %%
def linear(x, name):
    return x @ weights[name + ".weight"] + weights[name + ".bias"]


def layernorm(x, name, bug):
    sigma = np.sqrt(x.var(-1, keepdims=True, ddof=1 if bug == "ddof" else 0) + 1e-5)
    return (x - x.mean(-1, keepdims=True)) / sigma * weights[name + ".weight"] + weights[
        name + ".bias"
    ]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(x, name, bug):
    (B, T, C), D = x.shape, x.shape[-1] // H
    q, k, v = np.split(linear(x, name + ".c_attn"), 3, axis=-1)
    q, k, v = (a.reshape(B, T, H, D).swapaxes(1, 2) for a in (q, k, v))
    scores = q @ k.swapaxes(2, 3)
    if bug != "scale":
        scores /= np.sqrt(D)
    scores[..., np.triu(np.ones((T, T), bool), 0 if bug == "mask" else 1)] = -1e9
    return linear((softmax(scores) @ v).swapaxes(1, 2).reshape(B, T, C), name + ".c_proj")


# %%
def port(bug=""):
    tokens, targets = given.tokens, given.targets
    x = weights["wte.weight"][tokens] + weights["wpe.weight"][: tokens.shape[1]]
    for i in range(given.config.n_layer):
        h = f"h.{i}"
        x = x + attention(layernorm(x, h + ".ln_1", bug), h + ".attn", bug)
        x = x + linear(
            gelu(linear(layernorm(x, h + ".ln_2", bug), h + ".mlp.c_fc")), h + ".mlp.c_proj"
        )
    logits = layernorm(x, "ln_f", bug) @ weights["wte.weight"].T
    known = targets >= 0  # -100 is ignored
    p = softmax(logits[known])
    loss = -np.log(p[np.arange(len(p)), targets[known]]).mean()
    return {"tokens": tokens, "targets": targets, "logits": logits, "loss": loss}


# %% [markdown]
# ## Is it right?
#
# `assert_parity` compares every number with npgpt's. The allowed difference is what rounding explains, not a guess.

# %%
assert_parity(port(), given)
print("no difference beyond rounding, loss", round(float(port()["loss"]), 4))

# %% [markdown]
# ## Break it
#
# Three mistakes that people make: the scores are not divided by $\sqrt D$; a position may not see itself; the variance of
# LayerNorm is divided by $C - 1$. All three losses look plausible.

# %%
right = port()
for bug in ("scale", "mask", "ddof"):
    wrong = port(bug)
    error = abs(wrong["logits"] - right["logits"]).max()
    print(
        f"{bug:6} loss {wrong['loss']:.3f} instead of {right['loss']:.3f}, logits off by {error:.2g}"
    )
    assert abs(wrong["loss"] / right["loss"] - 1) < 0.5 and error > 1e-3

# %% [markdown]
# ## Find it
#
# The report names the first wrong tensor and a cause. A cause is named only if GPT-2 *with this mistake* computes all your
# numbers.


# %%
def diagnose(dump):
    try:
        assert_parity(dump, given)
    except AssertionError as report:
        return str(report)
    return "right"


report = diagnose(port("scale"))
assert "scores are not divided by sqrt(D)" in report
print(report)

# %%
for bug in ("mask", "ddof"):
    report = diagnose(port(bug))
    cause = next(line for line in report.splitlines() if line.startswith("cause"))
    print(f"{bug:6}{cause}")
    assert {"mask": "a position does not attend to itself", "ddof": "C - 1"}[bug] in cause

# %% [markdown]
# ## A mistake in backward
#
# Now the forward pass is right, and so is the loss. LayerNorm's backward lacks its last term,
#
# $$dx = \frac{1}{\sigma} \left( d\hat x - \mathrm{mean}(d\hat x) - \hat x\, \mathrm{mean}(d\hat x\, \hat x) \right),$$
#
# as if $\sigma$ did not depend on $x$. npgpt accepts a backend of your own: here it is NumPy's, with one op replaced.


# %%
def broken(dout, cache, g, *, dx=None):
    x, p, mean, rstd = cache
    xhat, dxhat = (x - mean) * rstd, dout * p.weight
    right = npgpt.ops.layernorm.backward(dout, cache, g)
    wrong = right + rstd * xhat * (dxhat * xhat).mean(-1, keepdims=True)
    return wrong if dx is None else np.copyto(dx, wrong) or dx


layernorm_op = SimpleNamespace(forward=npgpt.ops.layernorm.forward, backward=broken)
ops = SimpleNamespace(**{**vars(npgpt.ops), "layernorm": layernorm_op})


# %%
def gradients_of(ops):
    model = npgpt.GPT.from_params(given.config, given.params, ops=ops)
    loss, gradients = model.loss_and_gradients(given.tokens, given.targets)
    dump = {"tokens": given.tokens, "targets": given.targets, "loss": loss}
    return dump | {f"grad/{name}": g.copy() for name, g in npgpt.named(gradients)}


good, bad = gradients_of("numpy"), gradients_of(ops)
assert good["loss"] == bad["loss"]
assert diagnose(good) == "right"
report = diagnose(bad)
assert "docs/backprop/layernorm.md" in report
print(report)

# %% [markdown]
# ## How far does the error spread?
#
# Gradients above the broken op are right, all below it are wrong. The first wrong gradient, counted from the loss, tells
# where to look. Here the break is in every LayerNorm, hence only the last one's own parameters are right.

# %%
names = [name for name in good if name.startswith("grad/")]
errors = [np.linalg.norm(bad[n] - good[n]) / np.linalg.norm(good[n]) for n in names]
fig, axes = plt.subplots(figsize=(8, 5), layout="constrained")
axes.barh([n.removeprefix("grad/") for n in names], errors, color="#c8620a")
axes.invert_yaxis()
axes.tick_params(axis="y", labelsize=7)
axes.set(xlabel="relative error of the gradient", ylabel="parameter, the loss is below")
axes.grid(alpha=0.25, axis="x")
plt.show()

found = dict(zip(names, errors))
assert found["grad/ln_f.weight"] == found["grad/ln_f.bias"] == 0
assert min(e for n, e in found.items() if n.startswith("grad/h.")) > 1e-3

# %% [markdown]
# Your own port, in any language: `npgpt probe --out probe`, compute with it, `npgpt diagnose probe dump.npz`. In PyTorch,
# `npgpt.testing.capture(model)` records every module.
#
# **Try it:** return `0.5 * x * (1 + erf(x / sqrt(2)))` in `gelu`, or swap `ln_1` and `ln_2`. What does the report say?
