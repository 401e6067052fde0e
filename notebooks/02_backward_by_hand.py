# %% [markdown]
# # One backward by hand
#
# A backward pass is the chain rule, one op at a time, from the loss to the embeddings. Here you write two links of the chain
# yourself, compare them with npgpt's, and then look at the whole of it.

# %%
import numpy as np

import npgpt
from npgpt.explain import backward, gradients, nudge

config = npgpt.Config(vocab_size=257, context_length=32, n_layer=2, n_head=2, n_embd=16)
model = npgpt.GPT(config, seed=123, ops="numpy", tokenizer="byte")
text = "The lighthouse keeper"
tokens = np.array(npgpt.tokenizer("byte").encode(text))

# %% [markdown]
# ## Forward
#
# Each token but the last predicts the one after it. `run` computes the loss and its gradient, and keeps every number between.

# %%
found = backward.run(model, tokens)
T = len(found.tokens)
assert T == len(text) - 1 == 20
print(f"{T} predictions, loss {found.loss:.4f}")

# %% [markdown]
# ## The first link: the loss
#
# Let $z_t$ be the logits at position $t$, $p_t = \mathrm{softmax}(z_t)$ the probabilities, and $y_t$ the token that comes next.
#
# $$L = -\frac{1}{T} \sum_t \log p_{t, y_t} \qquad\Rightarrow\qquad
# \frac{\partial L}{\partial z_t} = \frac{1}{T} \left(p_t - \mathrm{onehot}(y_t)\right)$$
#
# In words: too much probability is pushed down, and the right token is pulled up.

# %%
logits = model.logits([found.tokens])[0].astype(np.float64)
p = np.exp(logits - logits.max(-1, keepdims=True))
p /= p.sum(-1, keepdims=True)

right = np.arange(T), found.targets
assert np.isclose(-np.log(p[right]).mean(), found.loss)

dlogits = p.copy()
dlogits[right] -= 1
dlogits /= T
assert np.allclose(dlogits.sum(-1), 0)  # as much is pulled up as is pushed down
print(f"target: {dlogits[right].mean():.4f}, any other token: at most {dlogits.max():.4f}")

# %% [markdown]
# ## The second link: a matrix
#
# The output head is a product $z = h W^\top$ with the tied embedding $W$, `wte.weight`. Its two gradients are products too:
#
# $$dh = dz\, W \qquad dW = dz^\top h$$
#
# $dh$ goes on to the layer below. Here it meets the last LayerNorm.

# %%
W = model.params.wte.weight
h = found.activations["ln_f"][0]
dh, dW = dlogits @ W, dlogits.T @ h
assert np.allclose(dh, found.dactivations["ln_f"][0], atol=1e-7)

# %% [markdown]
# ## The third link: LayerNorm
#
# With $\hat x = (x - \mu) / \sigma$ the layer returns $h = \gamma \hat x + \beta$. Mean and deviation depend on $x$ as well, so that
# two terms are subtracted:
#
# $$d\hat x = dh\, \gamma \qquad
# dx = \frac{1}{\sigma} \left( d\hat x - \mathrm{mean}(d\hat x) - \hat x\, \mathrm{mean}(d\hat x\, \hat x) \right)$$
#
# To forget one of the two terms is a favourite mistake: the model still learns, only worse.

# %%
x = found.activations["h.1.after_mlp"][0].astype(np.float64)
sigma = np.sqrt(x.var(-1, keepdims=True) + 1e-5)
xhat = (x - x.mean(-1, keepdims=True)) / sigma

dxhat = dh * model.params.ln_f.weight
via_mean = dxhat.mean(-1, keepdims=True)
via_sigma = xhat * (dxhat * xhat).mean(-1, keepdims=True)
dx = (dxhat - via_mean - via_sigma) / sigma

norms = np.linalg.norm(dx, axis=-1)
assert np.allclose(norms, found.stream.norms[-1], rtol=1e-4)
assert not np.allclose(dxhat / sigma, dx, rtol=0.01)  # both terms forgotten

# %% [markdown]
# ## All links
#
# The rest of the chain has the same two forms: an op returns the gradient of its input, and writes those of its parameters.
# npgpt computes them in this order:

# %%
for step in found.steps[:12]:
    print(f"{step.op:22}{step.name:16}{', '.join(step.parameters)}")
print(f"... {len(found.steps)} steps")
assert found.steps[0].op == "linear_cross_entropy" and found.steps[-1].op == "embedding"

# %% [markdown]
# The picture shows the length of the gradient on its way, from the last layer to the embedding. A residual connection
# hands it down unchanged, and a block adds to it. Hence it neither vanishes nor explodes, and deep models can be trained.

# %%
top, bottom = found.stream.norms[-1], found.stream.norms[0]
assert 0.5 < np.linalg.norm(bottom) / np.linalg.norm(top) < 2
npgpt.show.backward(model, text)

# %% [markdown]
# ## A gradient is a sum over tokens
#
# For every matrix $y_t = x_t W$ the gradient is a sum of outer products, one for each token:
#
# $$dW = \sum_t x_t \otimes dy_t$$

# %%
name = "h.0.mlp.c_fc.weight"
one = gradients.outer(found, name)
total = sum(np.outer(one.x[t], one.dy[t]) for t in range(T))
assert np.allclose(total, one.gradient, atol=1e-7) and np.isclose(one.shares.sum(), 1)
npgpt.show.outer(model, text, name)

# %% [markdown]
# ## Is it right?
#
# The definition decides. Move one number by $\pm\varepsilon$, measure the loss in float64, and compare the slope with the gradient:
#
# $$\frac{\partial L}{\partial w} \approx \frac{L(w + \varepsilon) - L(w - \varepsilon)}{2 \varepsilon}$$

# %%
measured = nudge.measure(model, tokens, name, (3, 5), points=5)
assert abs(measured.slope - measured.gradient) < 1e-6 * abs(measured.gradient)
print(f"slope {measured.slope:.12g}\ngradient {measured.gradient:.12g}")

# %%
npgpt.show.nudge(model, text, name, (3, 5))

# %% [markdown]
# ## Which parameters move?
#
# The gradient of the key bias is 0: a number that is added to all scores of a row changes no softmax. In the picture it has no
# dot of its own, because it shares `c_attn.bias` with query and value.

# %%
C = config.n_embd
q, k, v = np.split(found.gradients.h[0].attn.c_attn.bias, [C, 2 * C])
assert abs(k).max() < 1e-6 * abs(v).max()
npgpt.show.gradients(model, text)

# %% [markdown]
# **Try it:** write the backward of GELU, and compare it with `found.dactivations["h.1.mlp.c_fc"]`. The page
# *Backpropagation, one op at a time* has all formulas, and `npgpt learn` checks your code.
