"""The lines of npgpt info about MPI."""

import sys

import pytest

from npgpt.distributed import mpi_library
from parity_tests.support import ranks


def test_the_library_is_named_but_not_loaded():
    if ranks.why_not():
        pytest.skip(ranks.why_not())
    before = "mpi4py.MPI" in sys.modules
    vendor, said = mpi_library.find_library()
    assert vendor in ("Open MPI", "MPICH", "Intel MPI") and said.startswith(f"{vendor} ")
    assert "libmpi" in said and "mpi4py 4" in said
    assert ("mpi4py.MPI" in sys.modules) == before


def test_a_library_that_cannot_be_loaded_is_said(monkeypatch):
    if ranks.why_not():
        pytest.skip(ranks.why_not())
    monkeypatch.setenv("MPI4PY_LIBMPI", "/nowhere/libmpi.so")
    vendor, said = mpi_library.find_library()
    assert vendor is None and "but no library: " in said and "/nowhere/libmpi.so" in said


def test_without_mpi4py_the_extra_is_named(monkeypatch):
    def missing(name):
        raise mpi_library.PackageNotFoundError

    monkeypatch.setattr(mpi_library, "version", missing)
    assert mpi_library.find_library() == (
        None, f"mpi4py is not installed: {mpi_library.EXTRAS}"
    )  # fmt: skip


@pytest.mark.parametrize("says, vendor", [
    ("mpirun (Open MPI) 5.0.11", "Open MPI"), ("HYDRA build details:", "MPICH"),
    ("slurm 24.05.1", "Slurm"), ("Intel(R) MPI Library for Linux", "Intel MPI"), ("?", None),
])  # fmt: skip
def test_the_launcher_in_path_is_found(says, vendor, monkeypatch, tmp_path):
    program = tmp_path / "mpirun"
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert mpi_library.find_program() == (vendor, f"{program} ({vendor or 'of an unknown MPI'})")


def test_no_launcher(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert mpi_library.find_program() == (None, "none: mpirun, mpiexec, srun are not in PATH")


@pytest.mark.parametrize("library, launcher, wrong", [
    ("MPICH", "Open MPI", True), ("Open MPI", "MPICH", True), ("MPICH", "MPICH", False),
    ("MPICH", "Intel MPI", False), ("Open MPI", "Slurm", False), ("Open MPI", None, False),
    (None, "Open MPI", False),
])  # fmt: skip
def test_mixed_libraries_are_a_warning(library, launcher, wrong):
    assert bool(mpi_library.mixed(library, launcher)) == wrong
