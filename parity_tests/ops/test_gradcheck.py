"""Each backward against its own forward, by finite differences. PyTorch is not asked.

One random direction v and one random cotangent u test a whole Jacobian J at once:
<u, J v> = <J.T u, v>. The left side costs two forwards, the right side one backward. Dropout's
masks are handed over, so that both forwards drop the same.
"""

import numpy as np
import pytest

from parity_tests.support.cases import CASES
from parity_tests.support.harness import backward, draw, forward

STEP = np.finfo(np.float64).eps ** (1 / 3)  # where the two errors of a central difference meet


def is_smooth(case):
    """Whether a step of 6e-6 is small for it. `far` and `sharp` cases are for test_ops."""
    return not (case.values or case.scale)


SMOOTH = [case for case in CASES if is_smooth(case)]


@pytest.mark.parametrize("case", SMOOTH, ids=str)
def test_backward_is_the_derivative_of_forward(case, backend, rng):
    x, p, ids, u = drawn = draw(case, rng, np.float64)
    moving = {k: a for k, a in (x | p).items() if a is not None}
    v = {k: rng.normal(size=a.shape) for k, a in moving.items()}

    def out(step):
        moved = ({k: a if a is None else a + step * v[k] for k, a in d.items()} for d in (x, p))
        return np.asarray(forward(case, backend, (*moved, ids, u))[0])

    ahead, behind = out(STEP), out(-STEP)
    terms = u * (ahead - behind) / (2 * STEP)
    _, cache = forward(case, backend, drawn)
    grads = backward(case, backend, drawn, cache)
    analytic = sum((grads[f"d{k}"] * v[k]).sum() for k in v)

    # A difference loses what is rounded off `out` over the step, and the third derivative's share,
    # STEP^2 = 4e-11 of what it is; LayerNorm's and attention's are up to some hundred times the
    # first.
    rounding = 8 * np.finfo(np.float64).eps / STEP * np.abs(u * ahead).sum()
    truncation = 1e-8 * np.abs(terms).sum()
    assert abs(analytic - terms.sum()) <= rounding + truncation


def test_every_op_is_checked():
    assert {case.op for case in SMOOTH} == {case.op for case in CASES}
    dropped = {case.op for case in SMOOTH if case.keep}
    assert dropped == {"attention", "dropout"}
