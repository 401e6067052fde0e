"""README.txt of a probe's directory: what a port is asked to compute, and how it dumps that."""

PYTORCH = """\
import numpy as np, torch
import my_port  # yours: load() returns your nn.Module with the weights in this directory
batch = np.load("probe/batch.npz")
tokens, targets = torch.from_numpy(batch["tokens"]), torch.from_numpy(batch["targets"])
model = my_port.load("probe")
logits, loss = model(tokens, targets)
loss.backward()
found = {"tokens": tokens, "targets": targets, "logits": logits, "loss": loss}
for name, p in model.named_parameters(): found |= {f"param/{name}": p, f"grad/{name}": p.grad}
np.savez("dump.npz", **{n: x.detach().numpy() for n, x in found.items() if x is not None})
"""

NUMPY = """\
import numpy as np
import my_port  # yours: load() returns a dict with the weights in this directory

batch = np.load("probe/batch.npz")
tokens, targets = batch["tokens"], batch["targets"]
weights = my_port.load("probe")

logits, loss, gradients = my_port.forward_and_backward(weights, tokens, targets)

found = {"tokens": tokens, "targets": targets, "logits": logits, "loss": loss}
for name in weights:
    found[f"param/{name}"] = weights[name]
    found[f"grad/{name}"] = gradients[name]
np.savez("dump.npz", **found)
"""

TEXT = f"""\
A probe: a GPT-2 and a batch for your own port to compute with.

    npgpt diagnose THIS_DIRECTORY dump.npz

compares what your port computed with npgpt, and looks for the mistake.

Files
-----
model.safetensors  the weights, by GPT-2's names, matrices (in, out); with config.json, for
                   transformers too
weights.npz        the same weights for NumPy
model.bin          the same for llm.c, if the output head is tied
batch.npz          tokens and targets (B, T); a target of -100 is ignored
debug_state.bin    what llm.c's test_gpt2 expects, if no target is ignored
settings.json      the sizes, the batch again, and the training step

GELU is the tanh approximation, LayerNorm's eps is 1e-5, and there is no dropout.

What to dump
------------
An .npz, a safetensors file, a folder of .npy files, or llm.c's debug state, with these names:

tokens, targets    the batch
loss               the mean cross-entropy over the targets that are not ignored
grad/NAME          the gradients of the parameters, by your own names, in your own layout

These are enough for most mistakes. The loss or the gradients must be present. Optional, and each
helps to say more:

param/NAME         your parameters, before any step: finds out which one is which
logits             (B, T, V)
act/NAME           activations, dact/NAME their gradients: says which layer is the first wrong one
after1/NAME, ...   the parameters after 1, 2, 3 optimizer steps, all on this batch
logits_again       the logits of the same forward pass a second time
cached_logits      the logits of tokens that are given one by one to a key/value cache
mask/NAME          dropout masks, with which npgpt then multiplies
meta               a text in JSON: what differs from settings.json, such as {{"grad_clip": null}}

PyTorch
-------
{PYTORCH}
The activations too, without naming one of them:

    from npgpt.testing import capture
    with capture(model) as dump: ...     # the forward and the backward pass
    npgpt.parity.dump.write("dump.npz", dump)

NumPy
-----
{NUMPY}"""
