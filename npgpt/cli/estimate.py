"""npgpt estimate."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from npgpt.cli.common import announce_compilation, default
from npgpt.cli.model_flags import ModelFlags
from npgpt.config import RunConfig
from npgpt.errors import InputError
from npgpt.system.console import track_progress
from npgpt.system.units import duration


@dataclass(kw_only=True)
class Estimate(ModelFlags):
    """Estimate a model's training speed on this machine; it measures for one minute.

    Parameters
    ----------
    tokens
        Also estimate the time to train on this number of tokens, such as 10e9.
    json
        Print one JSON object.
    """

    tokens: Annotated[float | None, default("the speed only", "FLOAT")] = None
    json: tyro.conf.FlagCreatePairsOff[bool] = False

    @announce_compilation()
    def run(self) -> int:
        """Print the estimate; return the exit status."""
        if self.tokens is not None and not 1 <= self.tokens < math.inf:
            raise InputError(f"tokens is {self.tokens}, but must be a number, at least 1")
        report = self.measure(self.settings())
        if self.json:
            print(json.dumps(report, indent=2))
        else:
            print_report(report)
        return 0

    def measure(self, settings: RunConfig) -> dict[str, Any]:
        """Return the measurements and the estimate as JSON values."""
        from npgpt.model import params
        from npgpt.performance import estimate
        from npgpt.performance.profile import training_bytes
        from npgpt.system.machine import memory

        stages = estimate.measure(settings)
        *_, measured = track_progress(stages, estimate.STAGES, description="compiling, measuring")
        result = estimate.extrapolate(settings.config, measured)
        size = params.size(settings.config)
        return {
            "preset": settings.preset,
            "config": asdict(settings.config),
            "dtype": settings.dtype,
            "ops": settings.ops,
            "batch_size": settings.training.batch_size,
            "parameters": size,
            "bytes": training_bytes(settings),
            "memory": memory()[0],
            "measured": {
                "batch": measured.batch_size,
                "rate": measured.blas_rate,
                "points": [asdict(point) for point in measured.points],
            },
            "seconds": result.seconds,
            "way": result.method,
            "miss": result.line_error,
            "tokens_per_s": result.tokens_per_s,
            "operations": result.operations,
            "share": result.utilization,
            "tokens": self.tokens,
            "total_seconds": self.tokens and self.tokens / result.tokens_per_s,
        }


def print_report(report: dict[str, Any]) -> None:
    """Print the estimate as text."""
    measured, config = report["measured"], report["config"]
    batch, T, L = measured["batch"], config["context_length"], config["n_layer"]
    print(
        f"{report['parameters']:,} parameters in {L} layers, {report['dtype']}, "
        f"steps of {batch} x {T} tokens"
    )
    if batch < report["batch_size"]:
        print(f"{report['batch_size']} x {T} take too long to measure, but as long per token")
    timed = ", ".join(f"{p['layers']} in {p['seconds']:.3f} s" for p in measured["points"])
    print(f"layers timed: {timed}")
    if report["way"] == "line":
        print(f"{L} layers, on the line through the first two: {report['seconds']:.3f} s")
    if report["way"] == "operations":
        print(f"{L} layers, in proportion to their operations: {report['seconds']:.3f} s")
    if report["miss"] is not None:
        print(f"error of that line at the third: {report['miss']:+.1%}")
    print(
        f"\n{report['tokens_per_s']:,.1f} tokens/s; matrix products at "
        f"{report['operations'] / report['seconds'] / 1e9:,.1f} GFLOP/s, {report['share']:.0%} of "
        f"the {measured['rate'] / 1e9:,.1f} that NumPy's BLAS reaches here"
    )
    if report["tokens"]:
        total = duration(report["total_seconds"])
        print(f"{report['tokens']:,.0f} tokens take {total}, without evaluations")
    if report["memory"] and report["bytes"] > report["memory"]:
        print(
            "warning: parameters, gradients and moments take "
            f"{report['bytes'] / 1e9:,.1f} GB, and this machine has {report['memory'] / 1e9:,.1f}"
        )
