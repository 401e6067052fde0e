"""npgpt info."""

from dataclasses import dataclass

from npgpt.cli.common import announce_compilation


@dataclass(kw_only=True)
class Info:
    """Show versions, BLAS, threads, CPU and memory, and warn of anything slow."""

    @announce_compilation()
    def run(self) -> int:
        """Print facts and warnings; return the exit status."""
        from npgpt.performance import system_info

        report = system_info.gather()
        width = max(map(len, report.facts))
        for name, value in report.facts.items():
            print(f"{name:<{width}}  {value}")
        for warning in report.warnings:
            print(f"warning: {warning}")
        return 0
