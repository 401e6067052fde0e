"""SGD, RMSprop, Adam and Muon against PyTorch's, and what all optimizers have in common."""

import copy
import io
import pickle
from functools import cache

import numba
import numpy as np
import pytest
import torch
from torch.optim import _muon

import npgpt
from npgpt import Config, ops
from npgpt.errors import InputError
from npgpt.model import params
from npgpt.training import optim
from parity_tests.support.harness import SLACK, assert_parity, farthest

CONFIG = Config(vocab_size=11, context_length=6, n_layer=1, n_head=2, n_embd=8, tied=False)
C, STEPS, DECAY = CONFIG.n_embd, 100, 0.1
RULES = {  # our class, PyTorch's, the options of both, the learning rate, decayed parameters
    "sgd": (npgpt.SGD, torch.optim.SGD, {}, 0.1, "all"),
    "momentum": (npgpt.SGD, torch.optim.SGD, dict(momentum=0.9), 0.02, "matrices"),
    "nesterov": (npgpt.SGD, torch.optim.SGD, dict(momentum=0.9, nesterov=True), 0.02, "all"),
    "rmsprop": (npgpt.RMSprop, torch.optim.RMSprop, dict(alpha=0.95), 1e-2, "matrices"),
    "adam": (npgpt.Adam, torch.optim.Adam, dict(betas=(0.9, 0.99)), 1e-2, "all"),
}
OURS = RULES | {"adamw": (npgpt.AdamW, None, {}, 1e-2, "all"),
                "muon": (npgpt.Muon, None, {}, 1e-2, "matrices")}  # fmt: skip
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f32", "f64"])
each_optimizer = pytest.mark.parametrize("name", OURS)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Compute in one thread: with matrices this small, a second one only waits.

    That several threads change no bit of a step is tested with the ops.
    """
    before = [library.get_num_threads() for library in (numba, torch)]
    for library in (numba, torch):
        library.set_num_threads(1)
    yield
    for library, threads in zip((numba, torch), before, strict=True):
        library.set_num_threads(threads)


@cache
def drawn(dtype, steps=STEPS):
    """Parameters, and a gradient for each step: of different sizes, with zeros in every third."""
    rng = np.random.default_rng(7)
    shapes = dict(npgpt.named(params.shapes(CONFIG)))
    start = {name: rng.normal(size=s).astype(dtype) for name, s in shapes.items()}
    gradients = []
    for i in range(steps):
        size = 10.0 ** (i % 5 - 3)
        grads = {name: rng.normal(scale=size, size=s).astype(dtype) for name, s in shapes.items()}
        if i % 3 == 0:
            grads["wpe.weight"][3:] = 0
        gradients.append(grads)
    return start, gradients


def rates(peak, steps=STEPS):
    return [peak * (1 - i / steps) for i in range(steps)]


def tree_of(arrays):
    tree = params.zeros(CONFIG, arrays["wte.weight"].dtype)
    for name, array in npgpt.named(tree):
        array[...] = arrays[name]
    return tree


def optimizer_of(name, tree, backend=ops, **changes):
    kind, _, options, lr, decays = OURS[name]
    options = options | dict(lr=lr, weight_decay=DECAY, decays=optim.DECAYS[decays]) | changes
    return kind(tree, **options, ops=backend)


@cache  # two tests compare the same steps of Muon
def our_steps(name, dtype, backend, **changes):
    start, gradients = drawn(dtype)
    tree = tree_of(start)
    optimizer = optimizer_of(name, tree, backend, **changes)
    for lr, grads in zip(rates(optimizer.lr), gradients, strict=True):
        optimizer.step(tree_of(grads), lr=lr, scale=0.5)
    return dict(npgpt.named(tree))


def decayed(name, array, decays):
    return DECAY if optim.DECAYS[decays](name, array) else 0.0


@cache
def torch_steps(rule, drawn_as, dtype):
    """Return the parameters after PyTorch's steps in `dtype`, from numbers drawn in `drawn_as`."""
    _, make, options, peak, decays = RULES[rule]
    start, gradients = drawn(drawn_as)
    tensors = {n: torch.tensor(a.astype(dtype), requires_grad=True) for n, a in start.items()}
    groups = [{"params": [t], "weight_decay": decayed(n, t, decays)} for n, t in tensors.items()]
    optimizer = make(groups, lr=peak, foreach=False, **options)
    for lr, grads in zip(rates(peak), gradients, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name].astype(dtype)) * 0.5
        optimizer.step()
    return {name: tensor.detach().numpy() for name, tensor in tensors.items()}


def assert_as_torch(ours, theirs, dtype):
    """Compare with `theirs(drawn_as, dtype)`, PyTorch's result.

    The tolerance is the distance between PyTorch's own float32 and float64.
    """
    truth = theirs(dtype, np.float64)
    single, double = (theirs(np.float32, t) for t in (np.float32, np.float64))
    for name, array in ours.items():
        stray = farthest(single[name], double[name])
        assert_parity(name, array, truth[name], stray, dtype=dtype)


@each_dtype
@pytest.mark.parametrize("rule", RULES)
def test_a_hundred_steps_are_pytorchs(rule, dtype, backend):
    ours = our_steps(rule, dtype, backend)
    assert_as_torch(ours, lambda *types: torch_steps(rule, *types), dtype)


# Muon. PyTorch has (out, in) matrices, all of them apart, and casts to bfloat16 inside.


def torch_parts(name, array):
    """Return the matrices of a parameter that Muon updates, as PyTorch stores them; else []."""
    if not name.startswith("h.") or array.ndim < 2:
        return []
    return [part.T for part in np.split(array, 3 if "c_attn" in name else 1, axis=1)]


@cache
def torch_muon(match, cast, drawn_as, dtype):
    start, gradients = drawn(drawn_as)
    tensors, adam, muon = {}, [], []
    for name, array in start.items():
        parts = torch_parts(name, array)
        tensors[name] = [
            torch.tensor(part.astype(dtype), requires_grad=True) for part in parts or [array]
        ]
        group = {"params": tensors[name], "weight_decay": decayed(name, array, "matrices")}
        (muon if parts else adam).append(group)
    adjust = "match_rms_adamw" if match else "original"
    with pytest.MonkeyPatch.context() as patch:
        if not cast:
            patch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor)
        both = (torch.optim.Muon(muon, adjust_lr_fn=adjust), torch.optim.AdamW(adam, foreach=False))
        for lr, grads in zip(rates(1e-2), gradients, strict=True):
            for name, group in tensors.items():
                parts = torch_parts(name, grads[name]) or [grads[name]]
                for tensor, part in zip(group, parts, strict=True):
                    tensor.grad = torch.tensor(part.astype(dtype)) * 0.5
            for optimizer in both:
                for group in optimizer.param_groups:
                    group["lr"] = lr
                optimizer.step()
    found = {}
    for name, group in tensors.items():
        parts = [tensor.detach().numpy() for tensor in group]
        muon_s = torch_parts(name, start[name])
        found[name] = np.concatenate([p.T for p in parts], axis=1) if muon_s else parts[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "match, dtype", [(True, np.float32), (False, np.float64)], ids=["adamw-f32", "original-f64"]
)
def test_a_hundred_steps_of_muon_are_pytorchs_without_its_cast(match, dtype, backend):
    ours = our_steps("muon", dtype, backend, match_rms_adamw=match)
    assert_as_torch(ours, lambda *types: torch_muon(match, False, *types), dtype)


@pytest.mark.slow
def test_a_hundred_steps_of_muon_are_within_two_percent_of_pytorchs_with_its_cast(backend):
    start = drawn(np.float32)[0]
    ours = our_steps("muon", np.float32, backend, match_rms_adamw=True)
    theirs = torch_muon(True, True, np.float32, np.float32)
    for name, array in ours.items():
        way = np.linalg.norm(theirs[name] - start[name])
        assert np.linalg.norm(array - theirs[name]) <= 0.02 * way, name


def test_muon_on_the_bfloat16_backend_strays_as_pytorchs_does(rng):
    """Both round the operands of their products to bfloat16, at other places."""
    wide, *factors = rng.normal(size=(3, 32, 64)).astype(np.float32)
    for u in (wide, wide.T.copy(), factors[0] @ factors[1].T):
        exact, ours = ops.muon.orthogonalize(u), npgpt.mixed.muon.orthogonalize(u)
        theirs = _muon._zeropower_via_newtonschulz(
            torch.tensor(u), (ops.muon.a, ops.muon.b, ops.muon.c), ops.muon.ITERATIONS, 1e-7
        )
        stray = np.linalg.norm(theirs.float().numpy() - exact)
        assert 0 < np.linalg.norm(ours - exact) <= SLACK * stray


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (1, 8), (16, 16)])
def test_muon_keeps_singular_vectors_and_levels_singular_values(shape, backend, rng):
    u = rng.normal(size=shape) * 1e3
    before = u.copy()
    out = backend.muon.orthogonalize(u)
    np.testing.assert_array_equal(u, before)
    U, _, Vt = np.linalg.svd(u, full_matrices=False)
    inside = U.T @ out @ Vt.T
    values = np.diag(inside)
    assert 0.4 < values.min() and values.max() < 1.3
    # five iterations, each of which may magnify a rounding 3.4 times
    np.testing.assert_allclose(inside, np.diag(values), rtol=0, atol=1e-12)


def test_muon_treats_queries_keys_and_values_apart(rng, backend):
    """A hundred times the gradient of the values alone changes their step alone, by nothing."""
    start, grad = rng.normal(size=(2, C, 3 * C))
    options = dict(lr=0.1, momentum=0.9, weight_decay=0.0, parts=3)
    steps = []
    for factor in (1, 100):
        p, m, scaled = start.copy(), np.zeros_like(start), grad.copy()
        scaled[:, 2 * C :] *= factor
        backend.muon.update(p, scaled, m, **options)
        steps.append(p)
    np.testing.assert_allclose(*steps, rtol=0, atol=1e-12)


# All of them


@each_optimizer
def test_a_learning_rate_of_zero_changes_moments_alone(name, backend):
    start, (grads, *_) = drawn(np.float32, 1)
    tree = tree_of(start)
    optimizer = optimizer_of(name, tree, backend)
    optimizer.step(tree_of(grads), lr=0)
    for key, array in npgpt.named(tree):
        np.testing.assert_array_equal(array, start[key], err_msg=key)
    assert optimizer.steps == 1
    for moment in optimizer.moments.values():
        assert all(array.any() for _, array in npgpt.named(moment) if array.size)


@each_optimizer
def test_gradients_of_zero_change_nothing_but_by_decay(name, backend):
    start = drawn(np.float32, 0)[0]
    tree, zeros = tree_of(start), params.zeros(CONFIG)
    optimizer = optimizer_of(name, tree, backend, weight_decay=0.0)
    optimizer.step(zeros)
    for key, array in npgpt.named(tree):
        np.testing.assert_array_equal(array, start[key], err_msg=key)
    optimizer = optimizer_of(name, tree, backend)
    optimizer.step(zeros)
    for key, array in npgpt.named(tree):
        towards_zero = (array - start[key]) * start[key] < 0  # nan is not
        assert towards_zero.all() == optim.DECAYS[OURS[name][4]](key, array), key
        assert towards_zero.all() == towards_zero.any(), key


@each_optimizer
def test_scale_is_the_scaled_gradient_which_is_only_read(name, backend):
    """By a power of two: the same bits as if the gradient had been a quarter."""
    start, (grads, *_) = drawn(np.float32, 1)
    trees = tree_of(start), tree_of(start)
    whole, quarter = tree_of(grads), tree_of({key: a / 4 for key, a in grads.items()})
    optimizer_of(name, trees[0], backend).step(whole, scale=0.25)
    optimizer_of(name, trees[1], backend).step(quarter)
    for (key, a), (_, b) in zip(*map(npgpt.named, trees), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=key)
        assert not np.array_equal(a, start[key])
    for key, array in npgpt.named(whole):
        np.testing.assert_array_equal(array, grads[key], err_msg=key)


def bits(optimizer):
    trees = optimizer.parameters, *optimizer.moments.values()
    return [array.tobytes() for tree in trees for _, array in npgpt.named(tree)]


def by_npz(state):
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    return np.load(file)


@each_optimizer
def test_copies_pickles_and_states_continue_bit_for_bit(name):
    start, gradients = drawn(np.float64, 4)
    first, second = gradients[:2], gradients[2:]
    optimizer = optimizer_of(name, tree_of(start))
    for grads in first:
        optimizer.step(tree_of(grads))
    copied, pickled = copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))
    state = by_npz(optimizer.state)
    kind, _, options, *_ = OURS[name]
    twin = copy.deepcopy(optimizer.parameters)
    restored = kind(twin, **options, decays=optimizer.decays, ops=ops)
    restored.load_state(state)
    assert repr(optimizer) == repr(copied) == repr(pickled) == repr(restored)
    for one in (optimizer, copied, pickled, restored):
        for grads in second:
            one.step(tree_of(grads))
        assert bits(one) == bits(optimizer)
        assert one.steps == 4
    assert copied.decays is optimizer.decays


def test_what_optimizers_say_of_themselves():
    tree = params.zeros(CONFIG)
    assert repr(npgpt.SGD(tree, momentum=0.9, ops=ops)) == (
        "SGD(lr=0.001, momentum=0.9, nesterov=False, weight_decay=0, steps=0, npgpt.ops)"
    )
    assert repr(npgpt.Muon(tree, ops=ops)) == (
        "Muon(lr=0.001, momentum=0.95, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.1, "
        "match_rms_adamw=True, steps=0, npgpt.ops)"
    )


def test_a_state_of_another_optimizer_is_refused():
    tree = params.zeros(CONFIG)
    for other in (npgpt.SGD(tree, ops=ops), npgpt.RMSprop(tree, ops=ops), npgpt.Muon(tree, ops=ops),
                  npgpt.SGD(tree, momentum=0.9, ops=ops)):  # fmt: skip
        optimizer = npgpt.AdamW(tree, ops=ops)
        with pytest.raises(InputError, match=r"it must be of AdamW\.state"):
            optimizer.load_state(other.state)
    assert optimizer.steps == 0
    nesterov = npgpt.SGD(tree, momentum=0.9, ops=ops)
    with pytest.raises(InputError, match=r"nesterov is 0.5, but must be True or False"):
        nesterov.load_state(nesterov.state | {"nesterov": 0.5})


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (npgpt.SGD, dict(momentum=1), r"momentum is 1, but must be in \[0, 1\)"),
        (npgpt.SGD, dict(momentum="x"), "momentum is 'x', but must be a finite number"),
        (npgpt.SGD, dict(nesterov=True), "nesterov is True, but momentum is 0.0: it must be above"),
        (npgpt.SGD, dict(momentum=0.9, nesterov=1), "nesterov is 1, but must be True or False"),
        (npgpt.RMSprop, dict(alpha=1.0), r"alpha is 1.0, but must be in \[0, 1\)"),
        (npgpt.RMSprop, dict(eps=-1), "eps is -1, but must be at least 0"),
        (npgpt.Adam, dict(betas=(0.9, 1)), "both must be in"),
        (npgpt.Muon, dict(momentum=-0.5), "momentum is -0.5, but must be at least 0"),
        (npgpt.Muon, dict(match_rms_adamw=None), "match_rms_adamw is None, but must be True or"),
    ],
)
def test_hyperparameters_out_of_range(kind, options, says):
    with pytest.raises(InputError, match=says):
        kind(params.zeros(CONFIG), ops=ops, **options)


def test_moments_take_no_memory_that_an_optimizer_does_not_need():
    tree = params.zeros(CONFIG)
    size = params.total(tree)
    matrices = sum(a.size for name, a in npgpt.named(tree) if name.startswith("h.") and a.ndim == 2)
    expected = {"sgd": 0, "momentum": size, "nesterov": size, "rmsprop": size, "adam": 2 * size,
                "adamw": 2 * size, "muon": 2 * size - matrices}  # fmt: skip
    for name, numbers in expected.items():
        moments = optimizer_of(name, tree).moments
        assert sum(map(params.total, moments.values())) == numbers, name
        for moment in moments.values():
            bases = {id(array.base) for _, array in npgpt.named(moment)}
            assert len(bases) == 1, "one flat array each"
