"""Training on 1, 2, 3, 4 and 8 ranks: equal bits, measured bounds, and one rank that ends all."""

import itertools
import shutil

import numpy as np
import pytest

from npgpt.distributed import mpi_library, partition, sums, world
from parity_tests.support import ranks
from parity_tests.support.runs import final

pytestmark = pytest.mark.slow

EQUAL = {"adamw": ("adamw", 4, "float32", "auto"), "muon": ("muon", 4, "float32", "on")}
LONG = {"long": ("adamw", 8, "float32", "on")}
OTHER = {
    "plain": ("adamw", 0, "float32", "off"), "plain-on": ("adamw", 0, "float32", "on"),
    "bfloat16": ("adamw", 0, "bfloat16", "off"), "bfloat16-on": ("adamw", 0, "bfloat16", "on"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folder of all runs' files: NAME-SIZE.npz and the checkpoint NAME-SIZE.h5."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def runs(folders):
    """`runs(n)`: what the runs on n ranks have left, by name. Each n is started once."""
    folder, found = folders, {}

    def run(size):
        if size not in found:
            jobs = {2: EQUAL | LONG | OTHER, 3: OTHER, 4: EQUAL | LONG, 8: LONG}[size]
            paths = {name: folder / f"{name}-{size}.npz" for name in jobs}
            said = ranks.start(size, "train", *(x for n in jobs for x in (paths[n], *jobs[n])))
            assert (said.returncode, said.stdout) == (0, ""), said.stderr
            found[size] = {name: dict(np.load(path)) for name, path in paths.items()}
        return found[size]

    return run


def train_alone(path, *job):
    """Run in a world of one, without MPI."""
    block, bucket = partition.BLOCK, sums.BUCKET
    partition.BLOCK, sums.BUCKET = 16, 512
    try:
        ranks.train(world.World(), path, *job)
    finally:
        partition.BLOCK, sums.BUCKET = block, bucket


@pytest.fixture(scope="module")
def alone(folders):
    """The runs of a world of one."""
    for name, job in (EQUAL | LONG).items():
        train_alone(folders / f"{name}-1.npz", *job)
    return {name: dict(np.load(folders / f"{name}-1.npz")) for name in EQUAL | LONG}


@pytest.mark.parametrize("name, size", [*itertools.product(EQUAL | LONG, [2, 4]), ("long", 8)])
def test_every_number_of_ranks_gives_the_same_bits(name, size, runs, alone):
    """Parameters, moments, losses, norms and the random state, with dropout and clipping."""
    one, many = alone[name], runs(size)[name]
    assert one.keys() == many.keys()
    for key in one.keys() - {"moment_bytes"}:
        assert one[key].tobytes() == many[key].tobytes(), key
    assert (one["norms"] > ranks.TRAINING.grad_clip).all()  # clipping is at work
    assert one["losses"].shape == (ranks.LONG_RUN if name == "long" else ranks.STEPS,)


def test_a_checkpoint_does_not_depend_on_the_ranks(runs, alone, folders, tmp_path):
    """Saved by 4 ranks, by 2, or by one alone, it is one state; 1 and 2 ranks resume from it."""
    runs(2), runs(4)
    for name, job in EQUAL.items():
        files = [*folders.glob(f"{name}-*.h5")]
        assert len(files) == 3
        assert final(files[0]) == final(files[1]) == final(files[2])
        shutil.copy(folders / f"{name}-4.h5", tmp_path / f"{name}.h5")
        shutil.copy(folders / f"{name}-4.h5", tmp_path / f"{name}-2.h5")
        train_alone(tmp_path / f"{name}.npz", *job)
    jobs = (x for name, job in EQUAL.items() for x in (tmp_path / f"{name}-2.npz", *job))
    said = ranks.start(2, "train", *jobs)
    assert (said.returncode, said.stdout) == (0, ""), said.stderr
    for name in EQUAL:
        for end in ("", "-2"):
            resumed = dict(np.load(tmp_path / f"{name}{end}.npz"))
            assert len(resumed["losses"]) == ranks.STEPS // 2
            for key in resumed.keys() - {"moment_bytes"}:
                expected = alone[name][key]
                if key in ("losses", "norms", "validation"):
                    expected = expected[-len(resumed[key]) :]
                assert resumed[key].tobytes() == expected.tobytes(), key


def test_moments_exist_once_in_the_world(runs, alone):
    """Rank 0 has its share, and not more than a block too many."""
    assert abs(runs(4)["adamw"]["moment_bytes"] / alone["adamw"]["moment_bytes"] - 1 / 4) < 0.01


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name, bound", [("plain", 2.4e-7), ("bfloat16", 1.1e-4)])
def test_other_sums_are_equal_within_rounding(name, bound, size, runs, alone):
    """The bounds are three times the largest difference in 20 losses of about 5.6."""
    apart = np.abs(runs(size)[name]["losses"] - alone["adamw"]["losses"])
    assert apart[0] == 0  # losses are added in the order of micro-batches everywhere
    assert 0 < apart.max() < bound


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["plain", "bfloat16"])
def test_overlap_changes_no_bits(name, size, runs):
    """The exchange during backward, of runs whose bits depend on the number of ranks."""
    off, on = runs(size)[name], runs(size)[f"{name}-on"]
    for key in off:
        assert off[key].tobytes() == on[key].tobytes(), key


@pytest.mark.parametrize("command, says", [
    ("raise", ["npgpt: rank 1 of 2 on", "the loss became nan at step 3"]),
    ("kill", ["rank 1", "RUNNING AT"]),  # of Open MPI's launcher, and of MPICH's
])  # fmt: skip
def test_one_rank_ends_all(command, says):
    said = ranks.start(2, command)
    assert said.returncode not in (0, None)
    found = [text in said.stderr + said.stdout for text in says]
    assert (all if command == "raise" else any)(found), said.stderr
    assert said.stderr.count("npgpt: ") == (command == "raise")
    assert "Traceback" not in said.stderr


def test_ranks_that_differ_are_refused_by_name():
    said = ranks.start(3, "compare")
    assert said.returncode == 2
    (line,) = (line for line in said.stderr.splitlines() if line.startswith("npgpt: "))
    assert line.endswith(
        "the setting lr must be equal on all ranks, but ranks 0 and 1 on machine-0 have 0 and "
        "rank 2 on machine-1 has 1"
    )
    assert line.startswith("npgpt: rank 0 of 3 on ")


@pytest.mark.parametrize("variables, launcher", [
    (dict(PMI_SIZE="4", PMI_RANK="0", MPI_LOCALRANKID="0"), "mpiexec"),
    (dict.fromkeys(("SLURM_STEP_ID", "SLURM_PROCID", "SLURM_LOCALID"), "0")
     | dict(SLURM_STEP_NUM_TASKS="4"), "srun"),
])  # fmt: skip
def test_mixed_mpi_libraries_are_found(variables, launcher):
    """Another launcher says four; the library of this environment is a world of one."""
    if ranks.why_not():
        pytest.skip(ranks.why_not())
    program = "import sys\nfrom npgpt.distributed import world\nsys.exit(world.run(lambda w: 0))"
    said = ranks.alone(program, **variables)
    assert said.returncode == 2
    vendor, _ = mpi_library.find_library()
    says = f"npgpt: {launcher} started 4 processes, but {vendor} "
    if (launcher, vendor) == ("mpiexec", "Open MPI"):  # known before it is started
        says = (
            "npgpt: mpiexec of MPICH or Intel MPI started 4 processes, but mpi4py has loaded Open"
        )
    assert said.stderr.startswith(says) and said.stderr.count("\n") == 1
