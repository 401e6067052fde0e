# %% [markdown]
# # From one machine to many
#
# Data parallelism in one sentence: each machine computes the gradients of a part of the batch, and the sum of the parts is the
# gradient of the whole. Here every step of it runs in one process, so that you can look inside. No MPI is needed.

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np

import npgpt
from npgpt.distributed import diloco, scaling, sums

config = npgpt.Config(vocab_size=257, context_length=32, n_layer=1, n_head=2, n_embd=32)
model = npgpt.GPT(config, seed=123, ops="numpy", tokenizer="byte")
rng = np.random.default_rng(0)
x, y = rng.integers(0, 257, (2, 8, 16))
y[0, :12] = -100  # ignored


def flat(tree):
    return np.concatenate([array.ravel() for _, array in npgpt.named(tree)])


# %% [markdown]
# ## The parts sum to the whole
#
# The loss is a mean over targets. A part therefore counts by its share of the targets:
#
# $$g = \sum_r \frac{n_r}{n}\, g_r$$
#
# The mean of the $g_r$ is right only if all $n_r$ are equal. With ignored targets they are not.

# %%
whole = flat(model.loss_and_gradients(x, y)[1])
ranks = [slice(2 * r, 2 * r + 2) for r in range(4)]  # four machines, two texts each
counts = np.array([(y[rank] != -100).sum() for rank in ranks])
parts = np.stack([flat(model.loss_and_gradients(x[rank], y[rank])[1]) for rank in ranks])

weighted = (counts / counts.sum()) @ parts
assert counts.tolist() == [20, 32, 32, 32]
assert np.allclose(weighted, whole, atol=1e-6)
error = np.linalg.norm(parts.mean(0) - whole) / np.linalg.norm(whole)
assert error > 0.01
print(f"the plain mean is off by {error:.1%}")

# %% [markdown]
# ## The order of a sum matters
#
# Floating-point addition is not associative. Twenty orders of the same 64 gradients give different bits, and after
# many steps other weights.

# %%
a, b, c = np.float32(1e8), np.float32(-1e8), np.float32(1)
assert (a + b) + c == 1 and a + (b + c) == 0

many = rng.normal(size=(64, 1000)).astype(np.float32)
exact = many.astype(np.float64).sum(0)
in_orders = [sum(many[i] for i in rng.permutation(64)) for _ in range(20)]
different = len({one.tobytes() for one in in_orders})
assert different == 20 and all(np.allclose(one, exact, atol=1e-4) for one in in_orders)
print(different, "different results of 20")

# %% [markdown]
# ## One order for any number of machines
#
# Give the parts a fixed tree: leaf $v$ is added to leaf $v \oplus d$ for $d = V/2, \dots, 2, 1$. With $N$ machines, some levels of the
# tree lie within a machine and the others between machines. The order of the additions is the same. This is
# `npgpt train --deterministic`.

# %%
V = 8
leaves = many[:V]


def tree(ranks):
    """Sum within each rank, then between ranks, at halving distances."""
    total = sums.LeafSum(lambda: np.empty(1000, np.float32))
    held = []
    for rank in range(ranks):
        order = sums.order_of_leaves(rank, ranks, V)
        last, chain = total.prepare([[v] for v in order], lambda i, out: np.copyto(out, leaves[i]))
        chain[-1][:] = leaves[last]
        sums.add_up(chain)
        held.append(chain[0].copy())
    while len(held) > 1:
        half = len(held) // 2
        held = [held[i] + held[i + half] for i in range(half)]
    return held[0]


bits = {ranks: tree(ranks).tobytes() for ranks in (1, 2, 4, 8)}
assert len(set(bits.values())) == 1
print("1, 2, 4 and 8 machines: the same bits")

# %% [markdown]
# ## A ring
#
# If all gradients went to one machine, its cable would carry $N$ times as much. In a ring, each machine cuts its array into
# $N$ slices. In each of $N - 1$ rounds it sends one slice to the next machine, which adds it. Then each has the sum of one
# slice. A second trip around the ring hands out the sums. Each machine sends
#
# $$2\, \frac{N - 1}{N} \cdot \text{size}$$
#
# which is less than twice the size, for any number of machines.


# %%
def ring(arrays):
    N, size = len(arrays), arrays[0].size
    slices = [a.copy().reshape(N, -1) for a in arrays]
    sent = np.zeros(N, int)
    for trip, step in itertools.product(("add", "copy"), range(N - 1)):
        first = 0 if trip == "add" else 1
        messages = [(r, (r + first - step) % N) for r in range(N)]
        payloads = [slices[r][s].copy() for r, s in messages]
        for (r, s), payload in zip(messages, payloads):
            to = slices[(r + 1) % N]
            to[s] = to[s] + payload if trip == "add" else payload
            sent[r] += payload.size
    return [s.reshape(size) for s in slices], sent


arrays = list(many[:4])
results, sent = ring(arrays)
assert all(np.array_equal(one, results[0]) for one in results)
assert np.allclose(results[0], sum(arrays), atol=1e-5)
assert (sent == 2 * 3 / 4 * 1000).all()
print("each of 4 machines sends", sent[0], "numbers of 1000")

# %% [markdown]
# ## Is it worth it?
#
# A step takes the time to compute, divided by $N$, and the time to exchange, which does not shrink. Below, GPT-2 small
# trains with 2,000 tokens per second on one machine and 65,536 tokens per step, on two networks.

# %%
sizes = [2, 4, 8, 16, 32, 64]
networks = {"1 Gbit/s": 125e6, "25 Gbit/s": 3.1e9}
curves = {}
for name, bandwidth in networks.items():
    ways = [
        scaling.ways(2000, 65536, 124_000_000, scaling.Cluster(n, bandwidth, 50e-6, 1e9), 50)
        for n in sizes
    ]
    for i in (1, 3):
        curves[f"{ways[0][i].name}, {name}"] = [way[i].efficiency for way in ways]

fig, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
for (name, values), color in zip(curves.items(), ("#c8620a", "#9a8412", "#1f6fb2", "#3d9a76")):
    axes.plot(sizes, values, "o-", label=name, color=color)
axes.set_xscale("log", base=2)
axes.set_xticks(sizes, sizes)
axes.set(xlabel="machines", ylabel="share of the time that computes", ylim=(0, 1.03))
axes.grid(alpha=0.25)
axes.legend(frameon=False)
plt.show()

slow, diloco_slow, fast, _ = curves.values()
assert slow[-1] < 0.1 and fast[-1] > 0.5 and diloco_slow[-1] > 0.7
print({name: f"{values[-1]:.0%} at 64" for name, values in curves.items()})

# %% [markdown]
# ## Talk less: DiLoCo
#
# On a slow network, let each machine make $H$ steps alone, then exchange once. The mean way back from the workers' parameters
# acts as a gradient, and an outer optimizer with momentum follows it (Douillard et al. 2023):
#
# $$\Delta = \frac1k \sum_i \left( \theta - \theta_i \right), \qquad \theta \leftarrow \theta - \eta\, (\Delta + \mu b)$$
#
# With $H = 1$, SGD inside, $\eta = 1$ and $\mu = 0$, it is data parallelism again:

# %%
theta, lr = flat(model.params).astype(np.float64), 0.1
equal = parts[1:]  # three machines with as many targets each
workers = [theta - lr * g for g in equal]
Delta = diloco.outer_gradient(theta, workers)
new = theta.copy()
diloco.OuterOpt(theta, eta=1, mu=0).step(new, Delta)
assert np.allclose(new, theta - lr * equal.mean(0), atol=1e-7)

# %% [markdown]
# ## For real
#
# ```
# pip install 'npgpt[mpi-local]'
# mpirun -n 2 --bind-to none npgpt train --deterministic
# ```
#
# No flag tells the number of machines. The run continues on another number of them with `--resume`, with the same bits.
#
# **Try it:** in `ring`, let all machines send at the same time without the copies in `payloads`. Why is the sum wrong?
