"""Promises of every op, on both backends."""

import inspect
import pkgutil

import numba
import numpy as np
import pytest

import npgpt.fused
import npgpt.ops
from npgpt.kernels.parallel import WORTH
from parity_tests.support.cases import CASES
from parity_tests.support.harness import backward, draw, forward, leaves

BACKENDS = npgpt.ops, npgpt.fused
LAYER = ("forward", "backward")
FUNCTIONS = {  # the contract: what each op can be asked
    "adam": ("update",),
    "adamw": ("update", "square_sum"),
    "attention": LAYER,
    "decode": ("forward",),  # a composite: test_generate.py
    "dropout": LAYER,
    "embedding": LAYER,
    "gelu": LAYER,
    "layernorm": LAYER,
    "linear": LAYER,
    "linear_cross_entropy": (*LAYER, "evaluate", "log_probs"),
    "lora": LAYER,
    "muon": ("update", "orthogonalize"),
    "random": npgpt.ops.random.__all__,
    "rmsprop": ("update",),
    "sgd": ("update",),
}
OWN_CACHE = {"attention"}  # the fused one keeps a number per row instead of its probabilities
NO_OUT = {"linear_cross_entropy"}  # a scalar
NO_DX = {"embedding"}  # nothing before it

each_op = pytest.mark.parametrize("case", CASES, ids=str)


def module(backend, op):
    return getattr(backend, op)


# What there is


def test_the_backends_hold_the_same_ops():
    assert npgpt.ops.__all__ == npgpt.fused.__all__ == sorted(FUNCTIONS)
    for backend in BACKENDS:
        files = {m.name for m in pkgutil.iter_modules(backend.__path__)}
        assert files == set(backend.__all__)


def test_every_op_has_its_cases():
    assert {case.op for case in CASES} == {
        op for op, names in FUNCTIONS.items() if LAYER[1] in names
    }


@pytest.mark.parametrize(
    "op, function", [(op, f) for op, names in FUNCTIONS.items() for f in names]
)
def test_the_backends_agree_on_signatures(op, function):
    slow, fast = (inspect.signature(getattr(module(s, op), function)) for s in BACKENDS)
    if op in OWN_CACHE and "cache" in slow.parameters:  # by name only: it is another type
        slow, fast = (
            s.replace(parameters=[p.replace(annotation=p.name) for p in s.parameters.values()])
            for s in (slow, fast)
        )
    assert slow == fast


@pytest.mark.parametrize("op", [op for op, names in FUNCTIONS.items() if LAYER[1] in names])
def test_the_backends_share_their_types(op):
    slow, fast = (module(s, op) for s in BACKENDS)
    assert (slow.Cache is fast.Cache) == (op not in OWN_CACHE)
    if hasattr(slow, "Params"):
        assert slow.Params is fast.Params
    assert ("out" in inspect.signature(slow.forward).parameters) == (op not in NO_OUT)
    assert ("dx" in inspect.signature(slow.backward).parameters) == (op not in NO_DX)


# What goes in


@pytest.mark.parametrize(
    "giver, taker", [BACKENDS, BACKENDS[::-1]], ids=["numpy-fused", "fused-numpy"]
)
@pytest.mark.parametrize("case", [c for c in CASES if c.op not in OWN_CACHE], ids=str)
def test_a_cache_from_one_backend_serves_the_other(case, giver, taker, rng):
    drawn = draw(case, rng, np.float64)
    _, cache = forward(case, giver, drawn)
    theirs = backward(case, taker, drawn, cache)
    for name, mine in backward(case, giver, drawn, cache).items():
        # far looser than test_ops, which compares both: here a cache is understood, or it is not
        np.testing.assert_allclose(theirs[name], mine, rtol=1e-9, atol=1e-10, err_msg=name)


@each_op
def test_arguments_and_caches_are_never_written_to(case, backend, rng):
    drawn = draw(case, rng, np.float32)
    given = fingerprint(drawn)
    _, cache = forward(case, backend, drawn)
    kept = fingerprint(cache)
    first, second = (backward(case, backend, drawn, cache) for _ in range(2))
    for name in first:  # read twice, the same answer
        np.testing.assert_array_equal(first[name], second[name], name)
    assert fingerprint(drawn) == given
    assert fingerprint(cache) == kept


@each_op
def test_read_only_arguments_will_do(case, rng):
    """On the NumPy backend: to Numba, a read-only array is a type of its own to compile for."""
    drawn = draw(case, rng, np.float32)
    for array in leaves([drawn[3], *(list(d.values()) for d in drawn[:3])]):
        if isinstance(array, np.ndarray):
            array.flags.writeable = False
    _, cache = forward(case, npgpt.ops, drawn)
    grads = backward(case, npgpt.ops, drawn, cache)
    assert all(np.isfinite(g).all() for g in grads.values() if g is not None)


def fingerprint(tree):
    """Every byte of every array in it."""
    if isinstance(tree, dict):
        return {name: fingerprint(child) for name, child in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [fingerprint(child) for child in tree]
    return None if tree is None else np.asarray(tree).tobytes()


@pytest.mark.parametrize("wrong", [-1, 5])
def test_ids_outside_the_vocabulary_are_an_error(wrong, backend):
    """Neither the last row nor the memory behind it is read."""
    wte, x = np.ones((5, 3), np.float32), np.ones((1, 2, 3), np.float32)
    ids = np.array([[0, wrong]])
    with pytest.raises(IndexError, match=str(wrong)):
        backend.embedding.forward(ids, backend.embedding.Params(wte, wte))
    head = backend.linear_cross_entropy
    for function in (head.forward, head.evaluate, head.log_probs):
        with pytest.raises(IndexError, match=str(wrong)):
            function(x, wte, ids)


# What comes out


@each_op
def test_a_nan_is_never_lost(case, backend, rng):
    """Forward or backward: it must reach the output. Dropping it does not make it 0."""
    drawn = draw(case, rng, np.float32)
    _, cache = forward(case, backend, drawn)
    if case.x:
        poisoned = next(iter(drawn[0].values()))
        poisoned.flat[0] = np.nan
    else:
        poisoned = drawn[1]["wte"]
        poisoned[drawn[2]["tokens"].flat[0]] = np.nan
    out, _ = forward(case, backend, drawn)
    assert np.isnan(out).any()

    poisoned[np.isnan(poisoned)] = 1
    dout = np.array(drawn[3])
    dout.flat[0] = np.nan
    for name, grad in backward(case, backend, drawn, cache, dout=dout).items():
        assert grad is None or np.isnan(grad).any(), name


@pytest.mark.parametrize("case", [c for c in CASES if c.op not in NO_OUT], ids=str)
def test_out_goes_where_it_is_told(case, backend, rng):
    drawn = draw(case, rng, np.float32)
    expected, _ = forward(case, backend, drawn)
    home = np.full_like(expected, np.nan)
    told, _ = forward(case, backend, drawn, out=home)
    assert np.shares_memory(told, home)
    np.testing.assert_array_equal(home, expected)


@pytest.mark.parametrize("case", [c for c in CASES if c.op not in NO_DX], ids=str)
def test_dx_goes_where_it_is_told(case, backend, rng):
    drawn = draw(case, rng, np.float32)
    _, cache = forward(case, backend, drawn)
    name, expected = next(iter(backward(case, backend, drawn, cache).items()))
    home = np.full_like(expected, np.nan)
    told = backward(case, backend, drawn, cache, dx=home)[name]
    assert np.shares_memory(told, home)
    np.testing.assert_array_equal(home, expected)


def promises_dx_in_place(op):
    return "`dx` may be `dout` itself" in inspect.getdoc(module(npgpt.ops, op).backward)


IN_PLACE = {"dropout", "gelu", "layernorm"}  # what block.py and attention rely on


def test_who_may_write_dx_over_dout():
    assert IN_PLACE == {c.op for c in CASES if c.op not in NO_DX and promises_dx_in_place(c.op)}


@pytest.mark.parametrize("case", [c for c in CASES if c.op in IN_PLACE], ids=str)
def test_dx_may_be_dout_itself(case, backend, rng):
    drawn = draw(case, rng, np.float32)
    _, cache = forward(case, backend, drawn)
    expected = backward(case, backend, drawn, cache)
    dout = drawn[3].copy()
    told = backward(case, backend, drawn, cache, dout=dout, dx=dout)
    assert np.shares_memory(told["dx"], dout)
    for name in expected:
        np.testing.assert_array_equal(told[name], expected[name], name)


@each_op
def test_gradients_are_added_only_where_promised(case, backend, rng):
    """Fill gradients that an op adds to with 1; `backward` of the harness fills others with NaN."""
    drawn = draw(case, rng, np.float32)
    _, cache = forward(case, backend, drawn)
    expected = backward(case, backend, drawn, cache)
    again = backward(case, backend, drawn, cache, begin=1)
    for name in expected:
        initial = name[1:] in case.adds
        # 1 + g rounds to a place of 1, g to one of its own, once per repeated token
        np.testing.assert_allclose(
            again[name], expected[name] + initial, rtol=0, atol=2e-6 if initial else 0, err_msg=name
        )


# Who computes


needs_threads = pytest.mark.skipif(
    numba.config.NUMBA_NUM_THREADS < 2, reason="one core: there is one number of threads"
)


@pytest.fixture
def threads():
    before = numba.get_num_threads()
    yield numba.set_num_threads
    numba.set_num_threads(before)


@needs_threads
@each_op
def test_threads_change_no_bit(case, threads, rng):
    drawn, found = draw(case, rng, np.float32), []
    for n in (1, 2):
        threads(n)
        out, cache = forward(case, npgpt.fused, drawn)
        kept = dict(enumerate(leaves(cache)))
        found.append({"out": out} | backward(case, npgpt.fused, drawn, cache) | kept)
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name], str(name))


ADAM = dict(step=3, betas=(0.9, 0.99), eps=1e-8)
STEPS = {  # the number of moments, and hyperparameters
    "adam": (2, ADAM),
    "adamw": (2, ADAM),
    "muon": (1, dict(momentum=0.9, parts=3)),
    "rmsprop": (1, dict(alpha=0.9, eps=1e-8)),
    "sgd": (1, dict(momentum=0.9, nesterov=True)),
}


@needs_threads
@pytest.mark.parametrize("op", STEPS)
def test_threads_change_no_bit_of_a_step(op, threads, rng):
    moments, settings = STEPS[op]
    arrays, found = rng.random((2 + moments, 130, 3 * 87)).astype(np.float32), []
    assert arrays[0].size > 2 * WORTH
    for n in (1, 2):
        threads(n)
        p, grad, *others = arrays.copy()
        getattr(npgpt.fused, op).update(p, grad, *others, lr=0.1, weight_decay=0.1, **settings)
        found.append((p, *others, npgpt.fused.adamw.square_sum(grad)))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one, two)


AT_ONCE = [c for c in CASES if c.op in {"dropout", "gelu", "layernorm", "linear_cross_entropy"}]


@pytest.mark.slow
@pytest.mark.parametrize("case", {c.op: c for c in reversed(AT_ONCE)}.values(), ids=str)
def test_what_was_compiled_just_now_says_the_same(case, monkeypatch, rng):
    """Compiled code and what Numba's cache gives back of it are not always the same: a kernel that
    was handed one array under two names was wrong in the process that compiled it (in a prange loop
    Numba tells LLVM that arrays do not overlap) and right in all later ones. So the ops that work
    in place are compared on kernels that come from no cache."""
    drawn = draw(case, rng, np.float32)
    expected, slow = forward(case, npgpt.ops, drawn)
    theirs = backward(case, npgpt.ops, drawn, slow)

    op, renewed = module(npgpt.fused, case.op), 0
    compiled = type(numba.njit(lambda: 0))
    for name, kernel in [*vars(op).items()]:
        if isinstance(kernel, compiled) and kernel.py_func.__module__ == op.__name__:
            fresh = numba.jit(**kernel.targetoptions)(kernel.py_func)
            monkeypatch.setattr(op, name, fresh)
            renewed += 1
    assert renewed

    out, cache = forward(case, npgpt.fused, drawn)
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    dout = np.array(drawn[3])
    home = {"dx": dout} if case.op in IN_PLACE else {}
    for name, mine in backward(case, npgpt.fused, drawn, cache, dout=dout, **home).items():
        # loose beside test_ops: what is read after it was overwritten is wrong in every digit
        np.testing.assert_allclose(mine, theirs[name], rtol=1e-4, atol=1e-5, err_msg=name)
