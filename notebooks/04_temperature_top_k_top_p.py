# %% [markdown]
# # Temperature, top-k, top-p
#
# A model gives each token of its vocabulary a number, the *logit*. What it writes depends on how one token is drawn from them.
# The filters have an order: top-k, temperature, top-p, then one draw.

# %%
import matplotlib.pyplot as plt
import numpy as np

import npgpt
from npgpt.explain import next_token

# %% [markdown]
# ## Nine words
#
# The example is the book's (chapter 5): the next word after *every effort moves you*.
#
# $$p_i = \frac{e^{z_i}}{\sum_j e^{z_j}}$$

# %%
words, z = next_token.BOOK_WORDS, next_token.BOOK_LOGITS
p = next_token.filters(z).plain
assert np.isclose(p.sum(), 1) and words[p.argmax()] == "forward"
for word, logit, prob in zip(words, z, p):
    print(f"{word:8}{logit:6.2f}{prob:8.4f}")

# %% [markdown]
# ## Temperature
#
# The logits are divided by $\tau$ before the softmax: $p_i \propto e^{z_i / \tau}$. A temperature below 1 sharpens the distribution,
# one above 1 flattens it. The order of the words never changes. In the limits, $\tau \to 0$ is the most likely word, $\tau \to \infty$
# is a die.

# %%
fig, axes = plt.subplots(figsize=(9, 3.5), layout="constrained")
for i, (tau, color) in enumerate([(0.3, "#0b4a85"), (1.0, "#1f6fb2"), (5.0, "#c8620a")]):
    probs = next_token.filters(z, temperature=tau).temperature
    axes.bar(
        np.arange(9) + 0.27 * (i - 1), probs, width=0.27, color=color, label=f"temperature {tau:g}"
    )
axes.set_xticks(range(9), words)
axes.set(xlabel="next word", ylabel="probability")
axes.legend(frameon=False)
plt.show()


# %%
def at(tau):
    return next_token.filters(z, temperature=tau).temperature


assert all((np.argsort(at(tau)) == np.argsort(z)).all() for tau in (0.3, 1, 5))
assert at(0)[3] == 1 and at(0.3)[3] > 0.8 and at(5)[3] < 0.3
assert np.allclose(at(1e4), 1 / 9, atol=1e-3)

# %% [markdown]
# ### Entropy
#
# $H = -\sum p_i \log p_i$ measures how undecided the draw is, and $e^H$ is about the number of words it chooses among: from one to
# nine, as the temperature rises.

# %%
taus = np.geomspace(0.1, 100, 60)
choices = []
for tau in taus:
    q = at(tau)[at(tau) > 0]
    choices.append(np.exp(-(q * np.log(q)).sum()))
assert np.all(np.diff(choices) > -1e-5) and choices[0] < 1.1 and choices[-1] > 8.9

fig, axes = plt.subplots(figsize=(7, 3), layout="constrained")
axes.plot(taus, choices, color="#1f6fb2")
axes.set(xscale="log", xlabel="temperature", ylabel="words to choose among")
axes.grid(alpha=0.25)
plt.show()

# %% [markdown]
# ## Top-k
#
# Only the $k$ largest logits stay. The rest get the probability 0, and what stays is divided by its sum. The book prints
# 0.0615, 0.5775 and 0.3610 for $k = 3$.

# %%
kept = next_token.filters(z, top_k=3).top_k
assert np.allclose(kept[[0, 3, 7]], [0.0615, 0.5775, 0.3610], atol=5e-5) and (kept > 0).sum() == 3

# %% [markdown]
# ## Top-p
#
# The smallest set of words whose probabilities sum to at least $p$ stays. It adapts: few words where the model is certain,
# many where it is not. Because the temperature comes first, a hot distribution keeps more words.

# %%
for tau in (0.5, 1.0, 2.0, 5.0):
    count = (next_token.filters(z, temperature=tau, top_p=0.9).top_p > 0).sum()
    print(f"temperature {tau}: top-p 0.9 keeps {count} words")

sizes = [
    (next_token.filters(z, temperature=tau, top_p=0.9).top_p > 0).sum() for tau in (0.5, 1, 2, 5)
]
assert sizes == sorted(sizes) and sizes[0] == 2 and sizes[-1] == 7

# %% [markdown]
# ## Draws
#
# A thousand draws come close to the probabilities, and never equal them: the error of a share is about $\sqrt{p (1 - p) / n}$.
# These are the counts that the book prints, because the random numbers are PyTorch's.

# %%
n = 1000
drawn = np.bincount(next_token.draws(p, n, npgpt.Generator(123)), minlength=9)
assert drawn.tolist() == [73, 0, 0, 582, 2, 0, 0, 343, 0]
error = np.sqrt(p * (1 - p) / n)
assert (abs(drawn / n - p) < 3 * error + 1e-3).all()
print(dict(zip(words, drawn.tolist())))

# %% [markdown]
# ## A model
#
# The same filters on a small model that has learned one sentence. The panels are the distribution after each filter, and the
# dots are draws.

# %%
sentence = "to be, or not to be, that is the question"
tokenizer = npgpt.tokenizer("byte")
tokens = tokenizer.encode(sentence)
config = npgpt.Config(vocab_size=257, context_length=48, n_layer=1, n_head=2, n_embd=32)
model = npgpt.GPT(config, seed=123, ops="numpy", tokenizer="byte")
optimizer = npgpt.AdamW(model.params, lr=5e-3, ops="numpy")
for _ in range(40):
    loss, gradients = model.loss_and_gradients([tokens[:-1]], [tokens[1:]])
    optimizer.step(gradients)
print(f"loss {loss:.2f}")

# %%
npgpt.show.next_token(model, "to be, or ", temperature=1.5, top_k=8, top_p=0.9, draws=500)

# %% [markdown]
# At temperature 0 it recites. The hotter, the more it strays from the sentence.

# %%
prompt = tokens[:6]
for tau in (0, 0.7, 1.2, 2):
    new = npgpt.generate(model, prompt, 35, temperature=tau, rng=npgpt.Generator(1))
    print(f"{tau:4} {tokenizer.decode(prompt + list(new))!r}")

greedy = [list(npgpt.generate(model, prompt, 35)) for _ in range(2)]
assert (
    greedy[0]
    == greedy[1]
    == list(npgpt.generate(model, prompt, 35, temperature=1, top_k=1, rng=npgpt.Generator(7)))
)

# %% [markdown]
# **Try it:** `npgpt.generate` also takes `min_p` and `repetition_penalty`. Which of the four texts does `min_p=0.2` change?
