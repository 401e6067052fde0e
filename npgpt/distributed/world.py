"""The world: all ranks of one run. A process that no launcher started is a world of one.

An exception on one rank ends all of them. The rank prints one line with its number and its host,
and mpi4py calls MPI_Abort when the process ends, which makes the launcher end the others.
"""

import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from npgpt.distributed.launcher import Launcher, find_launcher
from npgpt.errors import InputError, RunError
from npgpt.system import machine
from npgpt.system.terminal import MAX_ERROR, printable_line

EXTRAS = (
    "pip install 'npgpt[mpi]' (with the MPI of the cluster) or 'npgpt[mpi-local]' (with Open MPI)"
)
TURN = 1.0  # seconds between the messages of two ranks that fail together; MPI_Abort takes less
TURNS = 8
POLL = 0.02  # seconds between two looks at whether the others have arrived

T = TypeVar("T")


class WorldWarning(UserWarning):
    """Issued when ranks are placed on the cores of a machine so that they are slow."""


class World(NamedTuple):
    """All ranks of one run. `comm` is mpi4py's COMM_WORLD, or None in a world of one."""

    comm: Any = None
    rank: int = 0
    size: int = 1
    host: str = ""
    local_size: int = 1  # ranks on this machine
    has_threads: bool = False  # MPI allows calls of any thread, one at a time

    @property
    def is_first(self) -> bool:
        """True on the rank that prints and writes files."""
        return self.rank == 0


def open_world(launcher: Launcher | None = None) -> World:
    """Return the world of this process. MPI is imported only if there may be another rank.

    Raises InputError if a launcher started several processes that MPI does not connect.
    """
    if launcher is None or launcher.size == 1:
        return World()
    started = f"{launcher.name} started {launcher.size or 'several'} processes"
    MPI = import_mpi(started)
    if not MPI.Is_initialized():
        check_vendor(launcher, MPI.get_vendor()[0], os.environ)
        MPI.Init_thread()
    comm = MPI.COMM_WORLD
    world = World(comm, comm.Get_rank(), comm.Get_size(), MPI.Get_processor_name())
    if world.size != (launcher.size or max(world.size, launcher.rank + 1)):
        vendor, version = MPI.get_vendor()
        library = f"{vendor} {'.'.join(map(str, version))}"
        advice = "start them with srun --mpi=pmix, " if launcher.name == "srun" else ""
        raise InputError(
            f"{started}, but {library} connects {world.size} of them: {advice}use the launcher of "
            "that MPI, or name the launcher's library in MPI4PY_LIBMPI"
        )
    local = comm.Split_type(MPI.COMM_TYPE_SHARED)
    has_threads = MPI.Query_thread() >= MPI.THREAD_SERIALIZED
    world = world._replace(local_size=local.Get_size(), has_threads=has_threads)
    if local.Get_rank() == 0:
        for line in placement_faults(
            cores=machine.cores(), all_cores=os.cpu_count() or 1, ranks=world.local_size,
            threads=threads(),
        ):  # fmt: skip
            warnings.warn(f"{world.host}: {line}", WorldWarning, stacklevel=2)
    local.Free()
    return world


def import_mpi(started: str) -> Any:
    """Return mpi4py.MPI without starting MPI. `started`: the beginning of the error message."""
    try:
        import mpi4py

        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except ModuleNotFoundError:
        raise InputError(f"{started}, but mpi4py is not installed: {EXTRAS}") from None
    except (ImportError, RuntimeError) as error:  # no libmpi, or one that cannot be loaded
        cause = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{started}, but MPI cannot be loaded ({cause}): {EXTRAS}") from None
    return MPI


def check_vendor(launcher: Launcher, library: str, environ: Mapping[str, str]) -> None:
    """Raise InputError for the library of another MPI than the launcher's.

    Such a library ends the process, with messages of its own, when MPI is started.
    """
    open_mpi = library == "Open MPI"
    if launcher.name == "mpirun" and not open_mpi and "MPIR_CVAR_PMI_VERSION" not in environ:
        owner = "Open MPI"
    elif launcher.name == "mpiexec" and open_mpi and "SLURM_STEP_ID" not in environ:
        owner = "MPICH or Intel MPI"
    else:
        return
    raise InputError(
        f"{launcher.name} of {owner} started {launcher.size} processes, but mpi4py has loaded "
        f"{library}: use the launcher of {library}, or name the launcher's library in "
        "MPI4PY_LIBMPI (npgpt info shows both)"
    )


def once_per_machine(world: World, work: Callable[[], T]) -> T:
    """Return `work()`. One rank of each machine is first, and the others find what it has cached.

    For what is compiled: all ranks of a machine would compile the same kernels at the same time.
    """
    if world.comm is None:
        return work()
    from mpi4py import MPI

    local = world.comm.Split_type(MPI.COMM_TYPE_SHARED)
    first = local.Get_rank() == 0
    found = work() if first else None
    wait(local)
    local.Free()
    return found if first else work()  # type: ignore[return-value]


def wait(comm: Any) -> None:
    """Return when all ranks of a communicator have called this. A blocking call would use a core.

    `comm`: None in a world of one.
    """
    request = comm and comm.Ibarrier()
    while request and not request.Test():
        time.sleep(POLL)


def threads() -> int:
    """Return the number of threads that kernels will use, without importing Numba."""
    text = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(text) if text.isdecimal() and int(text) else machine.cores()


def placement_faults(*, cores: int, all_cores: int, ranks: int, threads: int) -> list[str]:
    """Return a sentence for each fault in the placement of the ranks of one machine.

    `cores`: of one rank; `all_cores`: of the machine; `ranks`: on it; `threads`: of one rank.
    """
    faults = []
    if cores == 1 and all_cores >= 2 * ranks:
        faults.append(
            f"each rank may use 1 core of {all_cores}: start them with mpirun --bind-to none, "
            "or srun --cpus-per-task"
        )
    if ranks * threads > all_cores:
        fair = max(1, all_cores // ranks)
        advice = f"set NUMBA_NUM_THREADS={fair}" if threads > fair else "start fewer ranks"
        faults.append(
            f"{ranks} ranks with {threads} thread{'s' if threads > 1 else ''} each share "
            f"{all_cores} cores: {advice}"
        )
    return faults


def run(main: Callable[[World], int]) -> int:
    """Open the world, call `main(world)` and return the exit status of the process.

    If `main` raises or returns another status than 0, all ranks end.
    """
    launcher = None
    try:
        launcher = find_launcher(os.environ)
        world = open_world(launcher)
    except InputError as error:
        return refuse(launcher, str(error))
    try:
        status = main(world)
    except KeyboardInterrupt:
        status = 130  # the launcher has told every rank
    except BaseException as error:
        status = fail(world, error)
    if status and world.comm is not None:
        from mpi4py.run import set_abort_status

        sys.stdout.flush()
        set_abort_status(status)
    return status


def run_launched(main: Callable[[World], int]) -> int:
    """Return `run(main)` under a launcher of several processes, else `main` in a world of one."""
    launcher = find_launcher(os.environ)
    if launcher is None or launcher.size == 1:
        return main(World())
    return run(main)


def refuse(launcher: Launcher | None, message: str) -> int:
    """Print an error that all ranks have, once per machine, and return the exit status."""
    if launcher is None or launcher.local_rank == 0:
        print(printable_line(f"npgpt: {message}", MAX_ERROR), file=sys.stderr, flush=True)
    else:
        time.sleep(TURN)  # a launcher ends all ranks when one has failed
    return 2


def fail(world: World, error: BaseException) -> int:
    """Print an error with the rank and its host, and return the exit status.

    Ranks take turns: if several fail together, the first one ends the others before they print.
    """
    if isinstance(error, SystemExit):
        code = error.code
        return code if isinstance(code, int) else int(code is not None)
    time.sleep(TURN * min(world.rank, TURNS))
    where = f"rank {world.rank} of {world.size} on {world.host}: " if world.size > 1 else ""
    expected = isinstance(error, (InputError, RunError, MemoryError))
    if not expected:
        traceback.print_exception(error)
    said = str(error) if expected else f"{type(error).__name__}: {error}"
    print(printable_line(f"npgpt: {where}{said}", MAX_ERROR), file=sys.stderr, flush=True)
    return 2 if isinstance(error, InputError) else 1
