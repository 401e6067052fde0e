"""npgpt info."""

from dataclasses import dataclass

from npgpt.commands.shared import compiling


@dataclass(kw_only=True)
class Info:
    """What npgpt runs on: versions, BLAS, threads, CPU, memory; and what will make it slow."""

    @compiling()
    def run(self) -> int:
        """The exit code."""
        from npgpt import info

        found = info.gather()
        width = max(map(len, found.facts))
        for name, value in found.facts.items():
            print(f"{name:<{width}}  {value}")
        for warning in found.warnings:
            print(f"warning: {warning}")
        return 0
