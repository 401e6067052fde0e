# %% [markdown]
# # What attention sees
#
# Attention lets a position read from earlier positions. Its weights are a picture: a row for each reader, a column for each
# position that is read. Here you compute the weights by hand, and then train a model whose picture you can predict.

# %%
import matplotlib.pyplot as plt
import numpy as np

import npgpt
from npgpt.explain import attention

config = npgpt.Config(vocab_size=257, context_length=32, n_layer=2, n_head=2, n_embd=32)
model = npgpt.GPT(config, seed=123, ops="numpy", tokenizer="byte")
text = "The lighthouse"
tokens = np.array(npgpt.tokenizer("byte").encode(text))
T, H, D = len(tokens), 2, 16

# %% [markdown]
# ## By hand
#
# Each position has a query $q_t$ (what it looks for), a key $k_s$ (what it offers) and a value $v_s$ (what it gives).
#
# $$w_{ts} = \mathrm{softmax}_s\!\left( \frac{q_t \cdot k_s}{\sqrt D} \right) \text{ for } s \le t, \qquad
# \mathrm{out}_t = \sum_{s \le t} w_{ts}\, v_s$$
#
# `model.trace` returns every number of a forward pass by its name.

# %%
seen = model.trace([tokens])
qkv = seen["h.0.attn.c_attn"][0]
q, k, v = (a.reshape(T, H, D).swapaxes(0, 1) for a in np.split(qkv, 3, axis=-1))

scores = q @ k.swapaxes(1, 2) / np.sqrt(D)
scores[:, np.triu(np.ones((T, T), bool), 1)] = -np.inf  # the future
w = np.exp(scores - scores.max(-1, keepdims=True))
w /= w.sum(-1, keepdims=True)

assert np.allclose(w, seen["h.0.attn.probs"][0], atol=1e-6)
assert np.allclose(w, attention.weights(model, tokens, 0), atol=1e-6)

# %% [markdown]
# ## An untrained model looks everywhere
#
# Its scores are near 0, so that position $t$ gives each of its $t + 1$ positions about the weight $1 / (t + 1)$. The upper triangle is
# the future, and has the weight 0.

# %%
even = np.tril(np.ones((T, T))) / np.arange(1, T + 1)[:, None]
assert np.allclose(w, even, atol=0.05) and np.allclose(w.sum(-1), 1, atol=1e-6)
assert (w[:, ~np.tri(T, dtype=bool)] == 0).all()
npgpt.show.attention(model, text, layer=0, head=0)

# %% [markdown]
# ## The past does not change
#
# Because of the mask, another last token changes nothing before it. Therefore a model can be trained on all positions of a
# text at once, and keys and values can be cached while it writes.

# %%
other = tokens.copy()
other[-1] = ord("X")
a, b = model.logits([tokens])[0], model.logits([other])[0]
assert np.allclose(a[:-1], b[:-1], atol=1e-5) and not np.allclose(a[-1], b[-1], atol=1e-3)

# %% [markdown]
# ## Without positions, order is lost
#
# A dot product does not know where a key stands. Set the position embeddings to 0, and shuffle the earlier tokens: the last
# position of the first layer reads the same sum.


# %%
def last_sum(model, tokens):
    return model.trace([tokens])["h.0.attn.heads"][0, -1]


blind = npgpt.GPT(config, seed=123, ops="numpy", tokenizer="byte")
blind.params.wpe.weight[:] = 0
shuffled = np.append(np.random.default_rng(0).permutation(tokens[:-1]), tokens[-1])
assert np.allclose(last_sum(blind, tokens), last_sum(blind, shuffled), atol=1e-6)
assert not np.allclose(last_sum(model, tokens), last_sum(model, shuffled), atol=1e-4)

# %% [markdown]
# ## A task with one right place to look
#
# Each text has 8 random letters, and then the same 8 again. To predict the token after position $t$ in the second half, the
# model must read the letter at position $t - 7$. Nothing else helps.

# %%
P = 8
small = npgpt.Config(vocab_size=26, context_length=2 * P, n_layer=1, n_head=1, n_embd=32)
copier = npgpt.GPT(small, seed=123, ops="numpy")
optimizer = npgpt.AdamW(copier.params, lr=1e-2, weight_decay=0, ops="numpy")
rng = np.random.default_rng(0)


def batch(n):
    once = rng.integers(0, 26, (n, P))
    twice = np.concatenate([once, once], axis=1)
    targets = twice[:, 1:].copy()
    targets[:, : P - 1] = -100  # the first half cannot be known
    return twice[:, :-1], targets


losses = []
for _ in range(100):
    loss, gradients = copier.loss_and_gradients(*batch(32))
    npgpt.clip_gradients(gradients, 1.0)
    optimizer.step(gradients)
    losses.append(loss)
print(f"loss {losses[0]:.2f}, then {losses[-1]:.3f}; log 26 = {np.log(26):.2f}")

# %%
x, y = batch(64)
guess = copier.logits(x).argmax(-1)
right = (guess == y)[:, P - 1 :].mean()
print(f"{right:.0%} of the letters are right")
assert abs(losses[0] - np.log(26)) < 0.2 and right > 0.9

# %% [markdown]
# ## The picture that you expect
#
# In the lower half there is a diagonal: row $t$ is bright in column $t - 7$. The model found where to look by gradients
# alone.

# %%
learned = attention.weights(copier, x[0], 0)[0]
rows = np.arange(P - 1, 2 * P - 1)
print("weight at t - 7:", learned[rows, rows - (P - 1)].round(2))
assert (learned[rows].argmax(-1) == rows - (P - 1)).mean() > 0.8

letters = [chr(ord("a") + i) for i in x[0]]
fig, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
image = axes.imshow(learned, vmin=0, vmax=1)
axes.set_xticks(range(len(letters)), letters)
axes.set_yticks(range(len(letters)), letters)
axes.set(xlabel="position read from", ylabel="position that reads")
fig.colorbar(image, label="weight")
plt.show()

# %% [markdown]
# ## Weights are not influence
#
# A weight says how much of a value is read, not whether the output depends on it. Test it: change the letter that the last
# position reads, and the prediction follows. Change another one, and it stays.

# %%
last = 2 * P - 2
read, unread = x[:1].copy(), x[:1].copy()
read[0, P - 1] = (x[0, P - 1] + 1) % 26
unread[0, 3] = (x[0, 3] + 1) % 26
before, follows, stays = (
    copier.logits(tokens)[0, last].argmax() for tokens in (x[:1], read, unread)
)
assert (before, follows, stays) == (x[0, P - 1], read[0, P - 1], x[0, P - 1])

# %% [markdown]
# **Try it:** draw the length of the block at random for each text. One layer no longer suffices: two layers can first mark each
# letter with the one before it, and then look for the mark. This is an *induction head* (Olsson et al. 2022).
