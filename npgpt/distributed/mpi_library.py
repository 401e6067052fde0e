"""The MPI library that a run on several ranks would load, and the launcher that would start it.

A second process loads the library without starting MPI (MPI_Init): this one stays plain, and a
library that crashes ends that process alone.
"""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from npgpt.distributed.launcher import find_launcher
from npgpt.distributed.world import EXTRAS
from npgpt.errors import InputError

LIMIT = 20  # seconds that loading a library, or the version of a launcher, may take
LAUNCHERS = "mpirun", "mpiexec", "srun"
VENDORS = {  # by words that are in the output of `mpirun --version`
    "Open MPI": "Open MPI", "OpenRTE": "Open MPI", "PRTE": "Open MPI", "HYDRA": "MPICH",
    "Intel(R) MPI": "Intel MPI", "slurm": "Slurm",
}  # fmt: skip
PROGRAM = """
import json, os, sys
import mpi4py
mpi4py.rc.initialize = mpi4py.rc.finalize = False
from mpi4py import MPI
vendor, numbers = MPI.get_vendor()
path = ""
if os.path.exists("/proc/self/maps"):
    with open("/proc/self/maps") as file:
        for line in file:
            name = line.split(maxsplit=5)[-1].strip()
            if os.path.basename(name).startswith("libmpi.so"):
                path = name
print(json.dumps([vendor, ".".join(map(str, numbers)), path]))
"""


class Report(NamedTuple):
    """Facts by name, and a sentence for each fault."""

    facts: dict[str, str]
    warnings: list[str]


def gather() -> Report:
    """Return a report on MPI. It does not load MPI in this process."""
    vendor, library = find_library()
    launcher, path = find_program()
    facts = {"MPI": library, "MPI's launcher": path}
    try:
        if here := find_launcher(os.environ):
            facts["started by"] = f"{here.name}, process {here.rank} of {here.size or 'several'}"
    except InputError as error:
        return Report(facts, [str(error)])
    return Report(facts, mixed(vendor, launcher))


def find_library() -> tuple[str | None, str]:
    """Return the vendor of the library, and a text with its version and path."""
    try:
        package = f"mpi4py {version('mpi4py')}"
    except PackageNotFoundError:
        return None, f"mpi4py is not installed: {EXTRAS}"
    try:
        said = subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=LIMIT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{package}, whose library could not be loaded ({type(error).__name__})"
    if said.returncode:
        lines = said.stderr.splitlines() or [f"exit status {said.returncode}"]
        return None, f"{package}, but no library: {lines[-1]}"
    vendor, number, path = json.loads(said.stdout)
    return vendor, f"{vendor} {number}, {path or 'path unknown'} ({package})"


def find_program() -> tuple[str | None, str]:
    """Return the vendor of the launcher in PATH, and a text with its path."""
    beside = str(Path(sys.executable).parent)  # in PATH once the environment is activated
    search = os.pathsep.join([os.environ.get("PATH", ""), beside])
    for name in LAUNCHERS:
        if path := shutil.which(name, path=search):
            vendor = vendor_of(path)
            return vendor, f"{path} ({vendor or 'of an unknown MPI'})"
    return None, f"none: {', '.join(LAUNCHERS)} are not in PATH"


def vendor_of(path: str) -> str | None:
    """Return the vendor of a launcher by what it says about its version."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=LIMIT)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return next((name for word, name in VENDORS.items() if word in said.stdout + said.stderr), None)


def mixed(library: str | None, launcher: str | None) -> list[str]:
    """Warn of a launcher of another MPI. Intel MPI's and MPICH's start each other's programs."""
    kin = {"Intel MPI": "MPICH", "Intel MPI Library": "MPICH"}
    one, other = kin.get(library or "", library), kin.get(launcher or "", launcher)
    if one is None or other in (None, "Slurm", one):
        return []
    return [
        f"mpi4py loads {library}, but the launcher belongs to {launcher}: each process would be "
        "alone. Use the launcher of that MPI, or name the launcher's library in MPI4PY_LIBMPI"
    ]
