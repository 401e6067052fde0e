"""npgpt estimate."""

import json
import math
from dataclasses import asdict, dataclass

from npgpt.cli.common import announce_compilation, track_progress
from npgpt.cli.model_flags import ModelFlags
from npgpt.errors import InputError


@dataclass(kw_only=True)
class Estimate(ModelFlags):
    """How fast would this model train here, and how long would it take? Measures for a minute."""

    tokens: float | None = None
    """How many tokens to train on: 10e9 for ten billion."""
    json: bool = False
    """Print one JSON object, for programs."""

    @announce_compilation()
    def run(self) -> int:
        """The exit code."""
        if self.tokens is not None and not 1 <= self.tokens < math.inf:
            raise InputError(f"tokens is {self.tokens}, but has to be a number, at least 1")
        about = self.estimated(self.settings())
        if self.json:
            print(json.dumps(about, indent=2))
        else:
            show(about)
        return 0

    def estimated(self, settings) -> dict:
        """What there is to say."""
        from npgpt.model import params
        from npgpt.performance import estimate
        from npgpt.system.machine import memory

        stages = estimate.measure(settings)
        *_, measured = track_progress(stages, estimate.STAGES, description="compiling, measuring")
        found = estimate.estimate(settings.config, measured)
        size = params.size(settings.config)
        return {
            "preset": settings.preset,
            "config": asdict(settings.config),
            "dtype": settings.dtype,
            "ops": settings.ops,
            "batch_size": settings.training.batch_size,
            "parameters": size,
            "bytes": 4 * size * (8 if settings.dtype == "float64" else 4),
            "memory": memory()[0],
            "measured": measured._asdict() | {"points": [p._asdict() for p in measured.points]},
            **found._asdict(),
            "tokens": self.tokens,
            "total_seconds": self.tokens and self.tokens / found.tokens_per_s,
        }


def show(about: dict) -> None:
    """Prints it in words."""
    measured, config = about["measured"], about["config"]
    batch, T, L = measured["batch"], config["context_length"], config["n_layer"]
    print(
        f"{about['parameters']:,} parameters in {L} layers, {about['dtype']}, "
        f"steps of {batch} x {T} tokens"
    )
    if batch < about["batch_size"]:
        print(f"{about['batch_size']} x {T} take too long to measure; a token takes no longer then")
    timed = ", ".join(f"{p['layers']} in {p['seconds']:.3f} s" for p in measured["points"])
    print(f"layers timed: {timed}")
    if about["way"] == "line":
        print(f"{L} layers, on the line through the first two: {about['seconds']:.3f} s")
    if about["way"] == "operations":
        print(f"{L} layers, by their operations: {about['seconds']:.3f} s")
    if about["miss"] is not None:
        print(f"at the third that line is off by {about['miss']:+.1%}")
    print(
        f"\n{about['tokens_per_s']:,.1f} tokens/s; matrix products at "
        f"{about['operations'] / about['seconds'] / 1e9:,.1f} GFLOP/s, {about['share']:.0%} of the "
        f"{measured['rate'] / 1e9:,.1f} that NumPy's BLAS reaches here"
    )
    if about["tokens"]:
        whole = duration(about["total_seconds"])
        print(f"{about['tokens']:,.0f} tokens take {whole}, evaluations not counted")
    if about["memory"] and about["bytes"] > about["memory"]:
        print(
            f"warning: parameters, gradients and both moments take {about['bytes'] / 1e9:,.1f} GB, "
            f"and this machine has {about['memory'] / 1e9:,.1f}"
        )


UNITS = {"seconds": 1, "minutes": 60, "hours": 3600, "days": 86400, "years": 365.25 * 86400}


def duration(seconds: float) -> str:
    """In the largest unit of which it is at least two."""
    name = next((n for n, size in reversed(UNITS.items()) if seconds >= 2 * size), "seconds")
    return f"{seconds / UNITS[name]:,.1f} {name}"
