"""npgpt info."""

from dataclasses import dataclass

from npgpt.cli.common import announce_compilation


@dataclass(kw_only=True)
class Info:
    """What npgpt runs on: versions, BLAS, threads, CPU, memory; and what will make it slow."""

    @announce_compilation()
    def run(self) -> int:
        """The exit code."""
        from npgpt.performance import system_info

        found = system_info.gather()
        width = max(map(len, found.facts))
        for name, value in found.facts.items():
            print(f"{name:<{width}}  {value}")
        for warning in found.warnings:
            print(f"warning: {warning}")
        return 0
