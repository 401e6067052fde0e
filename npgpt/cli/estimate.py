"""npgpt estimate."""

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from npgpt.cli.common import announce_compilation, default
from npgpt.cli.model_flags import ModelFlags
from npgpt.config import RunConfig
from npgpt.errors import InputError
from npgpt.system.console import track_progress
from npgpt.system.units import duration, in_words

if TYPE_CHECKING:
    from npgpt.distributed.scaling import Cluster


@dataclass(kw_only=True)
class Estimate(ModelFlags):
    """Estimate a model's training speed on this machine; it measures for one minute.

    Parameters
    ----------
    tokens
        Also estimate the time to train on this number of tokens, such as 10e9.
    ranks
        Also estimate the speed on this number of machines of this kind. Needs --bandwidth.
    bandwidth
        Bandwidth of each machine's network, in GB/s: about 0.11 for 1 Gbit/s, 1.1 for 10, 2.2
        for 25, and 5 for 100.
    latency
        Time that a message takes however short it is, in seconds.
    step_tokens
        Tokens of a step on all machines: batch size times accumulation times context length.
    sync_every
        Steps between two exchanges of DiLoCo.
    json
        Print one JSON object.
    """

    tokens: Annotated[float | None, default("the speed only", "FLOAT")] = None
    ranks: Annotated[int | None, default("one machine", "INT")] = None
    bandwidth: Annotated[float | None, default("none", "FLOAT")] = None
    latency: float = 50e-6
    step_tokens: int = 524_288
    sync_every: int = 500
    json: tyro.conf.FlagCreatePairsOff[bool] = False

    @announce_compilation()
    def run(self) -> int:
        """Print the estimate; return the exit status."""
        if self.tokens is not None and not 1 <= self.tokens < math.inf:
            raise InputError(f"tokens is {self.tokens}, but must be a number, at least 1")
        cluster = self.cluster()
        report = self.measure(self.settings())
        if cluster is not None:
            report["cluster"] = self.scale(report, cluster)
        if self.json:
            print(json.dumps(report, indent=2))
        else:
            print_report(report)
        return 0

    def cluster(self) -> "Cluster | None":
        """Return the machines of --ranks. Raise InputError for values out of range."""
        if self.ranks is None:
            if self.bandwidth is not None:
                raise InputError("--bandwidth is of several machines: give their number in --ranks")
            return None
        from npgpt.distributed.scaling import Cluster
        from npgpt.performance import roofline

        if self.bandwidth is None:
            raise InputError(
                f"--ranks is {self.ranks}, but the network is unknown: give its --bandwidth in GB/s"
            )
        for name, most in (("ranks", 1 << 16), ("step_tokens", 1 << 40), ("sync_every", 1 << 30)):
            if not 1 <= (value := getattr(self, name)) <= most:
                raise InputError(f"{name} is {value}, but must be in [1, {most}]")
        if not 0 < self.bandwidth < math.inf:
            raise InputError(f"bandwidth is {self.bandwidth}, but must be a number above 0")
        if not 0 <= self.latency < math.inf:
            raise InputError(f"latency is {self.latency}, but must be a number, at least 0")
        return Cluster(self.ranks, self.bandwidth * 1e9, self.latency, roofline.sum_rate())

    def scale(self, report: dict[str, Any], cluster: "Cluster") -> dict[str, Any]:
        """Return the estimate for all machines as JSON values."""
        from npgpt.distributed import scaling

        ways = scaling.ways(
            report["tokens_per_s"], self.step_tokens, report["parameters"], cluster, self.sync_every
        )
        return asdict(cluster) | {
            "step_tokens": self.step_tokens,
            "total_tokens": self.tokens or 10e9,
            "ways": [
                asdict(way) | {"efficiency": way.efficiency, "tokens_per_s": way.tokens_per_s}
                for way in ways
            ],
        }

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
    if "cluster" in report:
        print_cluster(report["cluster"])
    if report["memory"] and report["bytes"] > report["memory"]:
        print(
            "warning: parameters, gradients and moments take "
            f"{report['bytes'] / 1e9:,.1f} GB, and this machine has {report['memory'] / 1e9:,.1f}"
        )


def print_cluster(cluster: dict[str, Any]) -> None:
    """Print the speed on several machines as a table."""
    print(
        f"\n{cluster['ranks']} machines of this kind, {cluster['bandwidth'] / 1e9:g} GB/s, "
        f"{cluster['latency'] * 1e6:g} us, {cluster['step_tokens']:,} tokens per step"
    )
    total = cluster["total_tokens"]
    head = "", "computing", "exchange", "efficiency", "tokens/s", f"{in_words(total)} tokens"
    rows = [
        (
            way["name"],
            f"{way['computing']:,.2f} s",
            f"{way['exchange']:,.3f} s" if way["exchange"] else "none",
            f"{way['efficiency']:.0%}",
            f"{way['tokens_per_s']:,.0f}",
            duration(total / way["tokens_per_s"]),
        )
        for way in cluster["ways"]
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for first, *others in (head, *rows):
        cells = [text.rjust(width) for text, width in zip(others, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))
