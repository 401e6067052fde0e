"""npgpt info."""

from dataclasses import dataclass

from npgpt.cli.common import announce_compilation
from npgpt.system.terminal import printable_line


@dataclass(kw_only=True)
class Info:
    """Show versions, BLAS, threads, CPU, memory and MPI, and warn of anything slow."""

    @announce_compilation()
    def run(self) -> int:
        """Print facts and warnings; return the exit status."""
        from npgpt.distributed import mpi_library
        from npgpt.performance import system_info

        machine, mpi = system_info.gather(), mpi_library.gather()
        facts = machine.facts | mpi.facts
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")
        for warning in machine.warnings + mpi.warnings:
            print(printable_line(f"warning: {warning}"))
        return 0
