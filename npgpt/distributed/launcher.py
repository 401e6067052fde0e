"""The launcher of this process (mpirun, srun), by environment variables alone.

Importing MPI starts it, and under some launchers that fails outside of a parallel program. Only
these variables decide whether mpi4py is imported.

| launcher | size | rank | rank on this machine |
|---|---|---|---|
| Open MPI's mpirun | OMPI_COMM_WORLD_SIZE | OMPI_COMM_WORLD_RANK | OMPI_COMM_WORLD_LOCAL_RANK |
| MPICH's and Intel's mpiexec, srun --mpi=pmi2 | PMI_SIZE | PMI_RANK | MPI_LOCALRANKID |
| srun | SLURM_STEP_NUM_TASKS | SLURM_PROCID | SLURM_LOCALID |
| any other with PMIx | unknown | PMIX_RANK | unknown |
"""

from collections.abc import Mapping
from typing import NamedTuple

from npgpt.errors import InputError


class Launcher(NamedTuple):
    """The place of this process among those that were started together."""

    name: str
    size: int | None  # processes; None if only MPI knows
    rank: int
    local_rank: int  # among the processes on this machine


def find_launcher(environ: Mapping[str, str]) -> Launcher | None:
    """Return the launcher of this process, or None if it was started alone."""
    if "OMPI_COMM_WORLD_SIZE" in environ:
        return _read(environ, "mpirun", *(f"OMPI_COMM_WORLD_{x}" for x in OPEN_MPI))
    if "PMI_SIZE" in environ:
        return _read(environ, "mpiexec", "PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID")
    # sbatch and salloc set SLURM_NTASKS too, for commands that are no step: these run alone
    if "SLURM_STEP_ID" in environ and "SLURM_STEP_NUM_TASKS" in environ:
        return _read(environ, "srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if "PMIX_RANK" in environ and "PMIX_NAMESPACE" in environ:
        rank = _integer(environ, "PMIX_RANK", None)
        return Launcher("a PMIx launcher", None, rank, rank)
    return None


OPEN_MPI = "SIZE", "RANK", "LOCAL_RANK"


def _read(environ: Mapping[str, str], name: str, size: str, rank: str, local: str) -> Launcher:
    """Return the launcher whose variables have these names."""
    number = _integer(environ, rank, 0)
    local_rank = _integer(environ, local, number)
    return Launcher(name, _integer(environ, size, None), number, local_rank)


def _integer(environ: Mapping[str, str], name: str, default: int | None) -> int:
    """Return the integer in an environment variable."""
    text = environ.get(name, default)
    try:
        number = int(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise InputError(f"{name} is {text!r}, but must be an integer of at least 0")
    return number
