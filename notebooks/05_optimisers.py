# %% [markdown]
# # Optimisers
#
# A gradient says in which direction the loss falls, not how far to go. That is the optimizer's choice. Here five of them race
# on a ravine, one step is taken apart, and then they train the same model.

# %%
import matplotlib.pyplot as plt
import numpy as np

import npgpt
from npgpt.explain import muon_steps, ravine, step

# %% [markdown]
# ## A ravine
#
# The loss has two parameters. Its bottom is nearly flat, its sides are steep: the curvatures are 0.1 and 4.
#
# $$f(p) = \tfrac12\, p^\top A\, p, \qquad \text{condition number } \kappa = \frac{4}{0.1} = 40$$

# %%
A = ravine.hessian(ravine.RAVINE)
curvatures = np.linalg.eigvalsh(A)
assert np.allclose(curvatures, [0.1, 4])
npgpt.show.ravine()

# %% [markdown]
# ## How large may a step be?
#
# Gradient descent multiplies the distance along each axis by $1 - \eta \lambda$ per step. It converges if $|1 - \eta \lambda| < 1$ on all
# axes: $\eta < 2 / \lambda_{\max} = 0.5$. The steep side limits the step, and the flat bottom then needs many.


# %%
def sgd(lr, momentum=0.0, steps=60):
    training = npgpt.TrainingConfig(optimizer="sgd", lr=lr, momentum=momentum, weight_decay=0)
    return ravine.race(training, steps).losses


assert sgd(0.49)[-1] < sgd(0.49)[0] and sgd(0.51)[-1] > sgd(0.51)[0]
for lr in (0.1, 0.3, 0.49, 0.51):
    print(f"lr {lr}: loss {sgd(lr)[0]:.1f} to {sgd(lr)[-1]:.3g}")

# %% [markdown]
# ## Momentum
#
# The step is a sum of earlier gradients, $m \leftarrow \mu m + g$. Across the ravine they cancel, along it they add up, to $1 / (1 - \mu)$
# times a gradient.

# %%
plain, heavy = sgd(0.05), sgd(0.05, momentum=0.8)
assert heavy[-1] < plain[-1] / 10
print(f"after 60 steps: {plain[-1]:.3g} without momentum, {heavy[-1]:.3g} with it")

# %% [markdown]
# ## Adam: the size of the gradient does not matter
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1) g \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \qquad
# p \leftarrow p - \eta\, \frac{\hat m}{\sqrt{\hat v} + \epsilon}$$
#
# In the first step $\hat m = g$ and $\hat v = g^2$, so that every parameter moves by $\eta$, up or down.

# %%
config = npgpt.Config(vocab_size=257, context_length=48, n_layer=1, n_head=2, n_embd=32)
text = "to be, or not to be, that is the question"
tokens = np.array(npgpt.tokenizer("byte").encode(text))


def fresh():
    return npgpt.GPT(config, seed=123, ops="numpy", tokenizer="byte")


adam = npgpt.TrainingConfig(optimizer="adam", lr=1e-3, weight_decay=0)
one = step.take(fresh(), tokens, adam)
change = {c.name: c for c in one.changes}["h.0.mlp.c_fc.weight"]
assert np.isclose(change.update, 1e-3, rtol=0.01)
print(f"gradient {change.gradient:.2g}, update {change.update:.4g} (root mean squares)")

# %% [markdown]
# ## One step on a model
#
# To first order, the loss changes by $\langle g, \Delta p \rangle$. The dashed line is this prediction. The error is of second order: half of
# the step has a quarter of it.

# %%
small = npgpt.TrainingConfig(optimizer="adam", lr=2e-5, weight_decay=0)
precise = npgpt.GPT(config, seed=123, ops="numpy", dtype="float64", tokenizer="byte")
errors = step.errors(step.take(precise, tokens, small))
half, whole = errors[2], errors[4]  # at 1/2 and 1 of the update
assert 3 < whole / half < 5
print(f"error at half of the step {half:.2g}, at the whole step {whole:.2g}")
npgpt.show.step(fresh(), text, adam)

# %% [markdown]
# ## Muon: all directions of a matrix alike
#
# Muon replaces the momentum of a matrix by a matrix whose singular values are all near 1. Five steps of
# $s \leftarrow a s + b s^3 + c s^5$ do it, without a singular value decomposition.

# %%
model = fresh()
_, gradients = model.loss_and_gradients([tokens[:-1]], [tokens[1:]])
matrix = gradients.h[0].mlp.c_fc.weight.copy()
singular = muon_steps.steps(matrix).singular
spread = singular[:, 0] / np.median(singular, axis=1)
assert spread[0] > 3 and spread[-1] < 2
print(f"largest / median singular value: {spread[0]:.1f} before, {spread[-1]:.2f} after five steps")
npgpt.show.muon(matrix)

# %% [markdown]
# ## The race
#
# The same model, the same text, 40 steps each. Each has a learning rate that suits it.

# %%
racers = {
    "SGD": (npgpt.SGD, dict(lr=0.1)),
    "momentum": (npgpt.SGD, dict(lr=0.1, momentum=0.9)),
    "RMSprop": (npgpt.RMSprop, dict(lr=2e-3)),
    "AdamW": (npgpt.AdamW, dict(lr=5e-3)),
    "Muon": (npgpt.Muon, dict(lr=5e-3)),
}
losses = {}
for name, (optimizer, options) in racers.items():
    model = fresh()
    opt = optimizer(model.params, ops="numpy", **options)
    losses[name] = []
    for _ in range(40):
        loss, gradients = model.loss_and_gradients([tokens[:-1]], [tokens[1:]])
        losses[name].append(loss)
        opt.step(gradients)

# %%
fig, axes = plt.subplots(figsize=(8, 3.8), layout="constrained")
for (name, values), color in zip(
    losses.items(), ("#1f6fb2", "#c8620a", "#3d9a76", "#8e5aa8", "#9a8412")
):
    axes.plot(values, label=name, color=color)
axes.set(xlabel="step", ylabel="loss (nats per token)")
axes.grid(alpha=0.25)
axes.legend(frameon=False)
plt.show()

assert all(np.isclose(values[0], losses["SGD"][0]) for values in losses.values())
assert min(losses, key=lambda name: losses[name][-1]) == "momentum"
assert max(losses, key=lambda name: losses[name][-1]) == "SGD"
print({name: round(values[-1], 2) for name, values in losses.items()})

# %% [markdown]
# Momentum wins here: with one text, the gradient has no noise, and the learning rates were chosen for 40 steps. On a real text
# and a deep model, gradients of layers differ in size, and Adam and Muon win.
#
# **Try it:** multiply each learning rate by 10. Which optimizer breaks first?
