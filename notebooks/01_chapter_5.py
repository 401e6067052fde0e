# %% [markdown]
# # Chapter 5 without PyTorch
#
# Chapter 5 of Sebastian Raschka's *Build a Large Language Model (from Scratch)* trains a GPT on a short story. Here is the
# same way in NumPy alone: measure a text, train on it, watch both losses, draw text, save the model.
#
# The story is *The Lighthouse*, which is part of npgpt, so that nothing is downloaded. One byte is one token.

# %%
from importlib.resources import files

import matplotlib.pyplot as plt
import numpy as np

import npgpt

# %% [markdown]
# ## The same random numbers
#
# `torch.manual_seed(123)` followed by `torch.rand(3)` gives 0.2961, 0.5166 and 0.2517. npgpt draws the same bits. A seed
# therefore gives the same model, the same shuffles and the same samples as in PyTorch.

# %%
draws = npgpt.Generator(123).uniform(3)
assert draws.round(4).tolist() == np.float32([0.2961, 0.5166, 0.2517]).tolist()
draws

# %% [markdown]
# ## Text to tokens
#
# The first 90 % of the story are for training, the rest for validation.

# %%
text = files("npgpt.data").joinpath("lighthouse.txt").read_text(encoding="utf-8")
tokenizer = npgpt.tokenizer("byte")
tokens = np.array(tokenizer.encode(text))
train, val = np.split(tokens, [int(0.9 * len(tokens))])
assert tokenizer.decode(tokens[:14].tolist()) == text[:14]
print(len(tokens), "tokens:", repr(text[:60]))

# %% [markdown]
# ## A model that knows nothing
#
# An untrained model finds all $V = 257$ tokens about equally likely. The cross-entropy of a token with the probability $p$ is
#
# $$L = -\log p \approx \log V = \log 257 = 5.55 \text{ nats}$$
#
# and its *perplexity* $e^L$ is the number of tokens among which the model hesitates.

# %%
config = npgpt.Config(vocab_size=257, context_length=32, n_layer=2, n_head=2, n_embd=48)
rng = npgpt.Generator(123)
model = npgpt.GPT(config, seed=rng, ops="numpy", tokenizer="byte")


def cut(tokens, T=32):
    """Cut tokens into windows, and give each position the next token as its target."""
    n = (len(tokens) - 1) // T
    return tokens[: n * T].reshape(n, T), tokens[1 : n * T + 1].reshape(n, T)


x, y = cut(val)
before = model.evaluate(x, y)
assert abs(before - np.log(257)) < 0.1
print(f"loss {before:.3f}, perplexity {np.exp(before):.0f}")

# %% [markdown]
# ## What it writes before training
#
# The most likely next byte, again and again: noise.

# %%
prompt = tokenizer.encode("The lighthouse")
untrained = tokenizer.decode(npgpt.generate(model, prompt, 40))
print(repr(untrained))

# %% [markdown]
# ## Train
#
# Two lines are a training step: the gradients of a batch, and a step of AdamW along them. There is no `zero_grad`, because
# gradients are values that a call returns.

# %%
optimizer = npgpt.AdamW(model.params, lr=5e-3, ops="numpy")
loader = npgpt.Loader(*cut(train), batch_size=12, shuffle=True, drop_last=True)
steps, losses, checks = 0, [], []
for epoch in range(3):
    for inputs, targets in loader.batches(loader.order(rng)):
        loss, gradients = model.loss_and_gradients(inputs, targets)
        npgpt.clip_gradients(gradients, 1.0)
        optimizer.step(gradients)
        losses.append(loss)
    checks.append((len(losses), model.evaluate(x, y)))
    print(f"epoch {epoch + 1}: train loss {loss:.3f}, val loss {checks[-1][1]:.3f}")

# %% [markdown]
# The loss falls fast at first: how often each letter occurs is learned in a few steps.

# %%
fig, axes = plt.subplots(figsize=(8, 3.5), layout="constrained")
axes.plot(losses, color="#1f6fb2", label="training, one batch")
axes.plot(*zip((0, before), *checks), "o-", color="#c8620a", label="validation")
axes.axhline(np.log(257), color="grey", linestyle=":", label="log 257: knows nothing")
axes.set(xlabel="step", ylabel="loss (nats per token)")
axes.grid(alpha=0.25)
axes.legend(frameon=False)
plt.show()

# %%
after = checks[-1][1]
assert abs(losses[0] - 5.55) < 0.1 and after < 3.0
assert all(b < a for (_, a), (_, b) in zip(checks, checks[1:]))
print(f"perplexity {np.exp(before):.0f} before, {np.exp(after):.0f} after")

# %% [markdown]
# ## Which bytes surprise it?
#
# The surprise of a token is $-\log p$. The model expected the dark bytes, and did not expect the bright ones.

# %%
npgpt.show.surprise(model, "The lighthouse stood on")

# %% [markdown]
# ## Temperature and top-k
#
# The book's example has nine words. `torch.manual_seed(123)` and 1,000 draws give 582 times *forward* and 343 times *toward*;
# with a temperature of 0.1 it is 985 times *forward*. The numbers here are equal, one for one.

# %%
from npgpt.explain import next_token

for temperature, forward, toward in ((1.0, 582, 343), (0.1, 985, 15)):
    probs = next_token.filters(next_token.BOOK_LOGITS, temperature=temperature).top_p
    drawn = next_token.draws(probs, 1000, npgpt.Generator(123))
    counts = dict(zip(next_token.BOOK_WORDS, np.bincount(drawn, minlength=9).tolist()))
    assert (counts["forward"], counts["toward"]) == (forward, toward)
    print(temperature, counts)

# %% [markdown]
# ## Save, load, write
#
# The file holds the parameters, the shape and the name of the tokenizer. A model that is read from it computes the same bits.

# %%
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "model.h5")
    again = npgpt.load(Path(folder) / "model.h5", ops="numpy")
assert np.array_equal(again.logits(x[:1]), model.logits(x[:1]))

# %%
new = npgpt.generate(again, prompt, 60, temperature=0.7, top_k=10, rng=npgpt.Generator(1))
print("The lighthouse" + tokenizer.decode(new))

# %% [markdown]
# A minute of training with `npgpt train` makes it write words. With 7 epochs and four layers, its validation loss is near 1.5.
#
# **Try it:** replace `npgpt.AdamW` by `npgpt.Muon`. Train for 10 epochs. At which epoch does the validation loss rise again?
