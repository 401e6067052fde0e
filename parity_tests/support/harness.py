"""Running one case three ways, and how close is close enough.

Tolerances are not guessed. The truth is PyTorch in float64. The yardstick is how far PyTorch in
float32 strays from that truth on the same numbers; npgpt may stray SLACK times as far, because
its sums are done in another order. For float64 the same yardstick is scaled down by the ratio of
the two epsilons: rounding errors are proportional to it, and float64 has no better truth.

The second term, some units in the last place of the largest number, is for where the yardstick
says nothing: a result of a few numbers, or of one rounding, may be right by luck. Where a result
is what a cancellation leaves behind, the largest number is the one that cancelled: `unit`.
"""

import numpy as np
import torch

from npgpt.model import params

SLACK = 3.0
ROUNDINGS = 8
NORMS = ("ln_1.weight", "ln_2.weight", "ln_f.weight")


def assert_parity(name, ours, truth, stray, *, dtype, unit=0.0):
    """`stray`: how far PyTorch in float32 is from the truth. `ours` must be of `dtype`."""
    ours, truth = np.asarray(ours), np.asarray(truth)
    assert ours.dtype == dtype, f"{name}: {ours.dtype}, expected {np.dtype(dtype)}"
    assert ours.shape == truth.shape, f"{name}: shape {ours.shape}, expected {truth.shape}"
    if truth.size == 0:
        return
    eps = np.finfo(dtype).eps
    budget = SLACK * stray * (eps / np.finfo(np.float32).eps)
    budget += ROUNDINGS * eps * max(unit, farthest(truth, 0))
    error = np.abs(ours - truth)
    assert error.max() <= budget, (  # so written, NaN fails
        f"{name}: off by {error.max():.2e} at {np.unravel_index(error.argmax(), error.shape)}, "
        f"budget {budget:.2e} (PyTorch's float32 strays by {stray:.2e})"
    )


def farthest(a, b):
    """The largest distance between two arrays, in float64."""
    return float(np.max(np.abs(np.asarray(a, np.float64) - b), initial=0))


class Masks:
    """Stands in for a Generator and hands over masks made before, in order."""

    def __init__(self, masks):
        self.masks, self.asked = list(masks), []

    def bernoulli(self, p, shape, *, out):
        keep = self.masks.pop(0)
        assert keep.shape == tuple(shape), f"a mask of {keep.shape} for an array of {shape}"
        self.asked.append(p)
        out[:] = keep
        return out


def parameters(config, rng, dtype):
    """A model by checkpoint name, its numbers large enough that nothing in it is nearly linear."""
    return {
        name: rng.normal(loc=1.0 if name.endswith(NORMS) else 0.0, scale=0.2, size=s).astype(dtype)
        for name, s in params.named(params.shapes(config))
    }


# One case: its arguments, then the same function three times.


def draw(case, rng, dtype):
    """Random arguments by name: floats, parameters, integers or masks, and one cotangent."""
    drawn = {
        k: None if shape is None else floats(rng, shape, case.scale.get(k, 1), dtype)
        for k, shape in (case.x | case.p).items()
    }
    x, p = ({k: drawn[k] for k in part} for part in (case.x, case.p))
    x |= {k: np.array(v, dtype) for k, v in case.values.items()}
    ids = {k: rng.integers(bound, size=shape) for k, (shape, bound) in case.ids.items()}
    if case.ignored:
        ids["targets"].flat[list(case.ignored)] = -100
    if case.keep is not None:
        ids["keep"] = rng.random(case.keep) >= case.options["rate"]
    out = call_torch(case, (x, p, ids), torch.float64)[0]
    return x, p, ids, floats(rng, out.shape, 1, dtype)


def floats(rng, shape, scale, dtype):
    return np.asarray(rng.normal(scale=scale, size=shape)).astype(dtype)[()]


def call_torch(case, drawn, dtype):
    x, p, ids = drawn[:3]
    leaves = {
        k: None if v is None else torch.tensor(v, dtype=dtype, requires_grad=True)
        for k, v in (x | p).items()
    }
    options = {k: v for k, v in case.options.items() if k != "chunk"}
    out = case.torch(**leaves, **{k: torch.tensor(v) for k, v in ids.items()}, **options)
    return out, {k: v for k, v in leaves.items() if v is not None}


def run_torch(case, drawn, dtype):
    """The output and the gradient of every float argument, by name."""
    out, leaves = call_torch(case, drawn, dtype)
    out.backward(torch.tensor(drawn[3], dtype=dtype))
    return {"out": out.detach().numpy()} | {f"d{k}": v.grad.numpy() for k, v in leaves.items()}


def strays(case, drawn):
    """Return the distances of PyTorch in float32 from PyTorch in float64, on one set of float32."""
    narrow = [
        {k: v if v is None or v.dtype.kind != "f" else v.astype(np.float32) for k, v in d.items()}
        for d in drawn[:3]
    ]
    narrow.append(drawn[3].astype(np.float32))
    single, double = (run_torch(case, narrow, t) for t in (torch.float32, torch.float64))
    return {k: farthest(single[k], double[k]) for k in double}


def forward(case, backend, drawn, **homes):
    x, p, ids, _ = drawn
    op, ids = getattr(backend, case.op), dict(ids)
    rng = {"rng": Masks([ids.pop("keep")])} if "keep" in ids else {}
    return op.forward(**x, **as_params(op, p), **ids, **rng, **case.options, **homes)


def backward(case, backend, drawn, cache, *, dout=None, begin=0, **homes):
    """Gradients by name.

    Those of parameters start as NaN, because every entry must be written; only what an op
    promises to add to starts as `begin`.
    """
    x, p, _, cotangent = drawn
    op = getattr(backend, case.op)
    g = {
        k: None if v is None else np.full_like(v, begin if k in case.adds else np.nan)
        for k, v in p.items()
    }
    dout = cotangent if dout is None else dout
    dx = op.backward(dout, cache, *as_params(op, g).values(), **homes)
    grads = {f"d{k}": v for k, v in g.items() if v is not None}
    return {f"d{next(iter(x))}": dx} | grads if x else grads


def as_params(op, arrays):
    """The parameters as the op takes them: its own Params, or the one bare array, or nothing."""
    return {"p": op.Params(**arrays)} if hasattr(op, "Params") else arrays


def leaves(tree):
    """Everything in a cache that is no tuple, and no constant: the scale of LoRA."""
    if isinstance(tree, (tuple, list)):
        for child in tree:
            yield from leaves(child)
    elif tree is not None and type(tree) is not float:
        yield tree
