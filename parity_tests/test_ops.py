"""Each op against PyTorch: its output, and the gradient of every argument."""

import numpy as np
import pytest
import torch
from cases import CASES
from harness import assert_parity, backward, draw, forward, leaves, run_torch, strays


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_torch(case, shelf, dtype, rng):
    drawn = draw(case, rng, dtype)
    truth, stray = run_torch(case, drawn, torch.float64), strays(case, drawn)
    out, cache = forward(case, shelf, drawn)
    ours = {"out": out} | backward(case, shelf, drawn, cache)

    assert ours.keys() == truth.keys()
    for name in truth:
        assert_parity(name, ours[name], truth[name], stray[name], dtype=dtype, unit=case.unit)
    for leaf in leaves(cache):  # nothing is kept wider or narrower than it came
        assert isinstance(leaf, (np.ndarray, np.generic)), f"{leaf!r} in {cache}"
        assert leaf.dtype.kind in "ib" or leaf.dtype == dtype, f"{leaf.dtype} in a {dtype} cache"
