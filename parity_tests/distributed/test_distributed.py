"""Parts that need no MPI: launchers, cuts, comparisons, masks."""

import io
import itertools
import os
import random
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import npgpt
import npgpt.ops
from npgpt.cli import train_ranks
from npgpt.cli.main import main
from npgpt.config import Config, TrainingConfig
from npgpt.data.mapped_tokens import MappedTokens, MixedTokens, Shard
from npgpt.distributed import agreement, kernel_probe, partition, world
from npgpt.distributed.diloco_trainer import DiLoCoTrainer
from npgpt.distributed.launcher import Launcher, find_launcher
from npgpt.distributed.micro_batch_rng import micro_batch_rng
from npgpt.distributed.partition import Partition, flat_of, matrices_of_blocks, nothing
from npgpt.distributed.trainer import DataParallelTrainer
from npgpt.errors import InputError, RunError
from npgpt.gpt import GPT
from npgpt.model import params
from npgpt.rng import Generator
from npgpt.system import console, streams
from npgpt.training import optim
from npgpt.training.events import Step
from npgpt.training.trainer import Trainer
from parity_tests.support import thread_ranks

CONFIG = Config(vocab_size=31, context_length=8, n_layer=2, n_head=2, n_embd=8)

# The launcher and the world

OPEN_MPI = {f"OMPI_COMM_WORLD_{name}": x for name, x in
            {"SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}.items()}  # fmt: skip
STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize("environ, found", [
    ({}, None),
    ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),  # within sbatch, but no step
    (OPEN_MPI, Launcher("mpirun", 4, 3, 1)),
    ({"PMI_SIZE": "2", "PMI_RANK": "1"}, Launcher("mpiexec", 2, 1, 1)),
    (STEP, Launcher("srun", 8, 5, 1)),
    (STEP | OPEN_MPI, Launcher("mpirun", 4, 3, 1)),  # mpirun in an allocation
    ({"PMIX_RANK": "2", "PMIX_NAMESPACE": "x"}, Launcher("a PMIx launcher", None, 2, 2)),
])  # fmt: skip
def test_launchers(environ, found):
    assert find_launcher(environ) == found


@pytest.mark.parametrize("text", ["", "many", "-1"])
def test_a_launcher_that_is_wrong(text):
    with pytest.raises(InputError, match=r"OMPI_COMM_WORLD_SIZE is .* at least 0"):
        find_launcher(OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": text})


def test_a_run_alone_does_not_import_mpi(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert world.open_world(None) == world.open_world(Launcher("srun", 1, 0, 0)) == world.World()


def test_without_mpi_one_line_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(world, "TURN", 0)
    assert world.run(lambda _: 0) == 2
    assert capsys.readouterr().err == "", "another process of this machine has said it"
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", "0")
    assert world.run(lambda _: 0) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "npgpt[mpi]" in said and "npgpt[mpi-local]" in said
    assert said.startswith("npgpt: mpirun started 4 processes, but mpi4py is not installed")


@pytest.mark.parametrize("line, says", [
    ("train", "mpirun started 4 processes, but mpi4py is not installed"),
    ("train --lr -1", "lr is -1.0, but must be at least 0"),
    ("train --no-such-flag", "unknown flag '--no-such-flag'"),
    ("train --lr x", "--lr"),
])  # fmt: skip
def test_an_error_of_all_ranks_is_one_line(line, says, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setattr(world, "TURN", 0)
    for name, value in OPEN_MPI.items():
        monkeypatch.setenv(name, value)
    found = {}
    for rank in "10":
        monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", rank)
        try:
            assert main(line.split()) == 2
        except SystemExit as error:  # of tyro
            assert error.code == 2
        found[rank] = capsys.readouterr()
    assert found["1"] == ("", "")
    assert says in found["0"].err and not [*tmp_path.iterdir()]


@pytest.mark.parametrize("error, code, says", [
    (RunError("full"), 1, "npgpt: full\n"), (InputError("no"), 2, "npgpt: no\n"),
    (SystemExit(3), 3, ""), (SystemExit("x"), 1, ""), (SystemExit(), 0, ""),
])  # fmt: skip
def test_exit_statuses(error, code, says, monkeypatch, capsys):
    for name in OPEN_MPI:
        monkeypatch.delenv(name, raising=False)

    def main(_):
        raise error

    assert world.run(main) == code
    assert capsys.readouterr().err == says


@pytest.mark.parametrize("cores, all_cores, ranks, threads, said", [
    (64, 64, 1, 64, []), (1, 2, 2, 1, []), (32, 64, 2, 32, []),
    (1, 64, 2, 1, ["each rank may use 1 core of 64: .*--bind-to none"]),
    (2, 2, 2, 2, ["2 ranks with 2 threads each share 2 cores: set NUMBA_NUM_THREADS=1"]),
    (2, 2, 4, 1, ["4 ranks with 1 thread each share 2 cores: start fewer ranks"]),
])  # fmt: skip
def test_placement(cores, all_cores, ranks, threads, said):
    sizes = dict(cores=cores, all_cores=all_cores, ranks=ranks, threads=threads)
    found = world.placement_faults(**sizes)
    assert len(found) == len(said)
    for line, pattern in zip(found, said, strict=True):
        assert re.match(pattern, line)


@pytest.mark.parametrize("name, library, environ, wrong", [
    ("mpirun", "Open MPI", {}, False), ("mpirun", "MPICH", {}, True),
    ("mpirun", "MPICH", {"MPIR_CVAR_PMI_VERSION": "x"}, False),
    ("mpiexec", "MPICH", {}, False), ("mpiexec", "Intel MPI", {}, False),
    ("mpiexec", "Open MPI", {}, True), ("mpiexec", "Open MPI", {"SLURM_STEP_ID": "0"}, False),
    ("srun", "Open MPI", {}, False), ("srun", "MPICH", {}, False),
])  # fmt: skip
def test_libraries_of_another_mpi(name, library, environ, wrong):
    try:
        world.check_vendor(Launcher(name, 4, 0, 0), library, environ)
    except InputError as error:
        assert wrong and "MPI4PY_LIBMPI" in str(error)
    else:
        assert not wrong


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("names, are_terminals", [
    (("/dev/pts/3", "/tmp/log"), (True, False)), (("pipe:[7]", "/dev/tty1"), (False, True)),
    (OSError(), (False, False)),
])  # fmt: skip
def test_a_terminal_of_a_rank_is_one_if_the_launcher_has_one(names, are_terminals, monkeypatch):
    """mpirun gives its ranks terminals, and may write to a file. Nothing is left of it later."""

    def readlink(path):
        assert path.startswith(f"/proc/{os.getppid()}/fd/")
        if isinstance(names, OSError):
            raise names
        return names[int(path[-1]) - 1]

    monkeypatch.setattr(os, "readlink", readlink)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with streams.checked_output():
        train_ranks.follow_launcher()
        assert (console.is_live(sys.stdout), console.is_live(sys.stderr)) == are_terminals
    assert console.is_live(sys.stdout) and console.is_live(sys.stderr)


# Cuts


@pytest.mark.parametrize("whole", [nothing, matrices_of_blocks])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 200])
def test_slices_of_all_ranks_make_up_the_tree(size, whole, monkeypatch):
    monkeypatch.setattr(partition, "BLOCK", 16)
    tree = params.zeros(CONFIG)
    flat = flat_of(tree)
    flat[:] = np.arange(len(flat))
    cut = Partition(tree, size, whole)
    assert cut.blocks == sorted(cut.blocks) and cut.blocks[-1][1] == len(flat) == cut.bounds[-1]
    assert [start for start, _ in cut.blocks][1:] == [end for _, end in cut.blocks][:-1]
    parts = [cut.views(flat, rank) for rank in range(size)]
    for (name, leaf), *own in zip(*map(params.named, [tree, *parts]), strict=True):
        pieces = [piece for _, piece in own if piece.size]
        assert np.concatenate([piece.ravel() for piece in pieces]).tolist() == leaf.ravel().tolist()
        assert all(np.shares_memory(piece, flat) for piece in pieces)
        if whole(name, leaf.shape) or len(pieces) == 1:
            assert [piece.shape for piece in pieces] == [leaf.shape]
    sizes = [params.total(part) for part in parts]
    assert sizes == np.diff(cut.bounds).tolist()
    if whole is nothing and size < 10:
        assert max(sizes) - min(sizes) <= 2 * 16


@pytest.mark.parametrize("size, whole, most", [(8, nothing, 1.01), (128, nothing, 1.02),
                                               (8, matrices_of_blocks, 1.07)])  # fmt: skip
def test_slices_of_the_124m_model_are_about_equal(size, whole, most):
    bounds = Partition(params.shapes(Config()), size, whole).bounds
    assert 1 <= np.diff(bounds).max() * size / bounds[-1] < most


def test_a_tree_of_separate_arrays_is_not_flat():
    tree = params.map_leaves(params.zeros(CONFIG), np.copy)
    with pytest.raises(InputError, match=r"not one flat array: copy it with .*params\.copy"):
        flat_of(tree)
    assert len(flat_of(params.copy(tree))) == params.size(CONFIG)


def test_an_optimizer_of_a_slice_updates_that_slice_alone(rng, monkeypatch):
    monkeypatch.setattr(partition, "BLOCK", 16)
    trees = [params.zeros(CONFIG), params.zeros(CONFIG)]
    grads = params.zeros(CONFIG)
    flat_of(grads)[:] = rng.standard_normal(params.size(CONFIG))
    training = TrainingConfig(optimizer="muon")
    whole = optim.make(trees[0], training, ops=npgpt.ops)
    whole.step(grads)
    cut = Partition(grads, 3, matrices_of_blocks)
    for rank in range(3):
        flat = flat_of(trees[1])
        one = optim.make(cut.views(flat, rank), training, ops=npgpt.ops)
        before = flat.copy()
        one.step(cut.views(flat_of(grads), rank))
        low, high = cut.bounds[rank : rank + 2]
        assert (flat[:low] == before[:low]).all() and (flat[high:] == before[high:]).all()
    assert flat_of(trees[1]).tobytes() == flat_of(trees[0]).tobytes()


# Training


def test_a_world_of_one_trains_like_a_trainer():
    """Without dropout only the order of sums differs, and the weights of targets."""
    training = TrainingConfig(
        steps=5, batch_size=2, grad_accumulation=4, grad_clip=0.5, warmup_steps=1, lr=1e-2,
        eval_batches=1, sample_tokens=1,
    )  # fmt: skip
    tokens = np.random.default_rng(0).integers(0, 31, 300)
    found = []
    parallel = partial(DataParallelTrainer, world=world.World())
    tree = replace(training, deterministic=True, leaves=4)
    for kind, settings in ((Trainer, training), (parallel, tree), (parallel, training)):
        rng = Generator(5, ops=npgpt.ops)
        model = GPT(CONFIG, seed=rng, ops=npgpt.ops, dtype=np.float64)
        trainer = kind(model, tokens, tokens, settings, rng)
        steps = [(e.loss, e.norm) for e in trainer.events() if isinstance(e, Step)]
        found.append([*np.ravel(steps), *flat_of(model.params)])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found[2], found[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("kind", [DataParallelTrainer, DiLoCoTrainer])
def test_the_memory_of_a_checkpoint_is_known_before_moments_are_gathered(kind, optimizer):
    """Names, shapes and dtype; the numbers take no memory themselves."""
    training = TrainingConfig(batch_size=2, optimizer=optimizer, momentum=None, sync_every=2)
    tokens, model = np.arange(60) % 31, GPT(CONFIG, ops=npgpt.ops, dtype=np.float64)
    trainer = kind(model, tokens, tokens, training, Generator(1), world=world.World())

    def described(trees):
        return {name: [(k, x.shape, x.dtype) for k, x in params.named(tree)]
                for name, tree in trees.items()}  # fmt: skip

    zeros = trainer.moments_to_copy()
    assert list(described(zeros).items()) == list(described(trainer.gather_moments()).items())
    assert not any(any(x.strides) for tree in zeros.values() for x in params.leaves(tree) if x.size)


def test_float64_is_not_sent_as_bfloat16():
    model, tokens = GPT(CONFIG, ops=npgpt.ops, dtype=np.float64), np.arange(30)
    small = TrainingConfig(batch_size=1, comm_dtype="bfloat16")
    with pytest.raises(InputError, match=r"comm_dtype is 'bfloat16', but .* dtype is float64"):
        DataParallelTrainer(
            model, tokens, tokens, small, Generator(1, ops=npgpt.ops), world=world.World()
        )


# The comparison of all ranks


def test_values_are_compared_by_their_numbers_or_their_text(rng):
    def same(a, b):
        return agreement.digest(a).tobytes() == agreement.digest(b).tobytes()

    numbers = rng.standard_normal((3, 4))
    assert same(numbers, np.asfortranarray(numbers)) and not same(numbers, numbers + 1e-15)
    assert same(CONFIG, replace(CONFIG)) and not same(CONFIG, replace(CONFIG, dropout=0.2))

    def tokens(*parts):
        return MappedTokens([Shard(Path("x"), np.array(part, np.uint16)) for part in parts], 99)

    one = agreement.sample(tokens([1, 2, 3], [4, 5]))
    assert one == agreement.sample(tokens([1, 2], [3, 4, 5])) != agreement.sample(tokens([1, 2]))
    assert one != agreement.sample(tokens([1, 2, 3, 4, 6]))
    assert agreement.sample([1, 2]).tolist() == [1, 2]
    mixed = [MixedTokens([tokens([1, 2]), tokens([3, last])], weights)
             for last, weights in ((4, (1, 2)), (5, (1, 2)), (4, (2, 1)))]  # fmt: skip
    assert len({repr(agreement.sample(one)) for one in mixed}) == 3


@pytest.mark.parametrize("value, says", [
    (lambda r: {"lr": 0.1 * (r > 3)}, "lr must be equal on all ranks, but ranks 0, 1, 2 and 3 on a "
     r"and b have 0\.0 and ranks 4, 5, 6, 7 and 4 more on c, d, e and f have 0\.1$"),
    (lambda r: {"x": 1, "y": np.full(3, r == 5), "z": r, "w": r}, "y must be equal on all ranks, "
     "but ranks 0, 1, 2, 3 and 7 more on a, b, c, d and 2 more have SHA-256 709e80c8 and rank 5 "
     r"on c has SHA-256 \w{8} \(and z and w differ\)$"),
])  # fmt: skip
def test_values_that_differ_are_named(value, says):
    def program(here):
        here = here._replace(host="abcdef"[here.rank // 2])
        with pytest.raises(InputError, match=f"^{says}"):
            agreement.require_equal(here, value(here.rank))
        agreement.require_equal(here, {"the same": 3})
        return True

    assert all(thread_ranks.run(12, program))


def test_the_version_is_compared_first(monkeypatch):
    """Another version may compare other values."""

    class Version:
        def __repr__(self):
            return f"'1.{here().rank}'"

    here = thread_ranks.here
    monkeypatch.setattr(npgpt, "__version__", Version())

    def program(world):
        with pytest.raises(
            InputError, match=r"^the version of npgpt must .*rank 0 on \S+ has '1.0'"
        ):
            agreement.require_equal(world, dict.fromkeys(range(world.rank)))
        return True

    assert all(thread_ranks.run(2, program))


@pytest.mark.parametrize("ops", ["numpy", "fused"])
def test_the_probe_sees_every_gradient(ops, monkeypatch):
    """The bits repeat, and change with any of the gradients."""
    training = TrainingConfig()
    bits = kernel_probe.probe(ops, "float32", training)
    assert bits.tobytes() == kernel_probe.probe(ops, "float32", training).tobytes()
    gradients = bits[: len(bits) // 2]
    assert len(gradients) == params.size(kernel_probe.CONFIG) and np.isfinite(bits).all()
    assert np.count_nonzero(gradients) > 0.95 * len(gradients)


# Masks


def test_masks_depend_on_seed_step_and_micro_batch_alone():
    keys = [*itertools.product((0, 7, 2**40 + 7), (0, 1, 2**33), (0, 1, 5))]
    drawn = {
        key: micro_batch_rng(*key, ops=npgpt.ops).bernoulli(0.8, 400).tobytes() for key in keys
    }
    assert len(set(drawn.values())) == len(keys)
    again = micro_batch_rng(*keys[5], ops=npgpt.ops).bernoulli(0.8, 400)
    assert again.tobytes() == drawn[keys[5]] and 290 < again.sum() < 350
    with pytest.raises(InputError, match="step is -1, but must be at least 0"):
        micro_batch_rng(1, -1, 0)


def test_the_state_is_that_of_init_by_array():
    """Python's random has the same twister with the same initialization."""
    number = 7 + (3 << 64) + (5 << 128)  # words 7, 0, 3, 0, 5
    words = random.Random(number)
    drawn = micro_batch_rng(7, 3, 5, ops=npgpt.ops)
    expected = (words.getrandbits(32) << 32 | words.getrandbits(32)) & 2**63 - 1
    assert drawn.random64() == expected
