"""npgpt profile."""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from npgpt.cli.common import announce_compilation, default
from npgpt.cli.model_flags import ModelFlags
from npgpt.config import RunConfig
from npgpt.errors import ConfigError, InputError
from npgpt.system.console import track_progress

if TYPE_CHECKING:
    from npgpt.performance.profile import Row


@dataclass(kw_only=True)
class Profile(ModelFlags):
    """Measure the time of each op in a training step, or in generating a token.

    Parameters
    ----------
    generate
        Profile one generated token in place of a training step. --batch-size then defaults to 1.
    position
        With --generate: position of the token in the context.
    rounds
        Number of steps or tokens to measure. The one with the median time is shown.
    json
        Print one JSON object.
    """

    generate: tyro.conf.FlagCreatePairsOff[bool] = False
    position: Annotated[int | None, default("the middle of the context", "INT")] = None
    rounds: int = 5
    json: tyro.conf.FlagCreatePairsOff[bool] = False

    @announce_compilation()
    def run(self) -> int:
        """Print the profile; return the exit status."""
        if self.rounds < 1:
            raise InputError(f"rounds is {self.rounds}, but must be at least 1")
        if self.position is not None and not self.generate:
            raise ConfigError(f"position is {self.position}, but needs --generate")
        if self.generate and self.batch_size is None:
            self.batch_size = 1
        report = self.measure(self.settings())
        if self.json:
            print(json.dumps(report, indent=2))
        else:
            print_report(report)
        return 0

    def measure(self, settings: RunConfig) -> dict[str, Any]:
        """Return the profile as JSON values."""
        from npgpt import backends
        from npgpt.performance import profile

        B, T = settings.training.batch_size, settings.config.context_length
        warmup = 2 if self.generate else 1  # the first token of a generation reads the prompt
        count, backend = (
            warmup + self.rounds,
            profile.TimedBackend(backends.get(settings.ops, dtype=settings.dtype)),
        )
        if self.generate:
            run = profile.prepare_generation(settings, backend, position=self.position, count=count)
            title, tokens, rows = f"one new token, batch size {B}", B, profile.PEAK_ROWS
        else:
            run = profile.prepare_training_step(settings, backend)
            title, tokens, rows = f"one training step of {B} x {T} tokens", B * T, B * T
        peaks = profile.measure_peaks(
            settings.config, rows, backward=not self.generate, dtype=settings.parameter_dtype
        )
        rounds = profile.run_rounds(run, backend, count)
        measured = list(track_progress(rounds, count, description="compiling, then measuring"))
        median = profile.median_round(measured[warmup:])
        return {
            "what": title,
            "config": asdict(settings.config),
            "dtype": settings.dtype,
            "ops": settings.ops,
            "seconds": median.seconds,
            "tokens_per_s": tokens / median.seconds,
            "peaks": asdict(peaks),
            "rows": [row_values(row) for row in profile.summarize(median, peaks)],
        }


def row_values(row: "Row") -> dict[str, Any]:
    """Return a row as JSON values. The lower bound is called "floor" there."""
    values = asdict(row)
    values["floor"] = values.pop("lower_bound")
    return values


def print_report(report: dict[str, Any]) -> None:
    """Print the profile as a table."""
    rows, seconds, peaks = report["rows"], report["seconds"], report["peaks"]
    width = max(len(row["op"]) for row in rows)
    print(f"{report['what']}: {1e3 * seconds:,.2f} ms, {report['tokens_per_s']:,.0f} tokens/s\n")
    print(f"{'op':<{width}}  {'calls':>5}  {'ms':>9}  {'share':>6}  {'GFLOP/s':>7}  {'GB/s':>6}  "
          "time/bound")  # fmt: skip
    total = {name: sum(row[name] for row in rows) for name in ("operations", "bytes", "floor")}
    for row in [*rows, {"op": "all", "calls": 0, "seconds": seconds, **total}]:
        time = row["seconds"]
        print(
            f"{row['op']:<{width}}  {row['calls'] or '':>5}  {1e3 * time:>9.3f}  "
            f"{time / seconds:>6.1%}  {quotient(row['operations'], 1e9 * time):>7}  "
            f"{quotient(row['bytes'], 1e9 * time):>6}  {quotient(time, row['floor']):>10}".rstrip()
        )
    print(
        f"\nbound: the lower bound of the roofline model, the longer of matrix products at "
        f"{peaks['operations'] / 1e9:,.0f} GFLOP/s\n(NumPy's BLAS here) and arrays read and "
        f"written once at {peaks['bytes'] / 1e9:,.1f} GB/s. Below 1: faster than BLAS, "
        "or in caches."
    )


def quotient(amount: float, divisor: float) -> str:
    """Return a quotient in three digits, or nothing if one of the numbers is 0."""
    if not amount or not divisor:
        return ""
    value = amount / divisor
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"
