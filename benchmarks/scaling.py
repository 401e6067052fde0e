"""Draw the efficiency of training on up to 1,024 machines, by the model of npgpt estimate.

    python -m benchmarks.scaling

Nothing is measured here: the speed of one machine is that of `npgpt profile`'s estimate in
benchmarks/results/profile.json. Figures are written to benchmarks/results/scaling.json, curves to
docs/images/.
"""

import json
from pathlib import Path

from benchmarks import harness
from npgpt.config import Config
from npgpt.distributed import scaling
from npgpt.model import params
from npgpt.system.units import duration

IMAGES = Path(__file__).parent.parent / "docs" / "images"
NETWORKS = {"1 Gbit/s": 0.11, "10 Gbit/s": 1.1, "25 Gbit/s": 2.2, "100 Gbit/s": 5.0}  # GB/s
LATENCY = 50e-6
SUM_RATE = 1.9e9  # gradients/s that a machine adds, as one thread of this one
FASTER = 30  # a server with 64 cores over this machine: an assumption
PICTURES = {
    "machines with 2 cores, as measured": "scaling-2-cores",
    f"machines {FASTER} times as fast, as with 64 cores": "scaling-64-cores",
}
RANKS = [2**k for k in range(11)]
STEPS = {"0.5 million": 524_288, "4 million": 1 << 22}  # tokens of a step
H = 500
RUN, MACHINES = 10e9, (8, 64, 256)  # tokens of one run of the 124M model, and the machines for it
ENOUGH = 0.9  # efficiency at which a way of exchanging ends


def rate() -> float:
    """Return the measured tokens per second of one machine."""
    found = json.loads((harness.RESULTS / "profile.json").read_text("utf-8"))
    return found["estimate"]["tokens_per_s"]


def ways(speed: float, tokens: int, ranks: int, bandwidth: float) -> list[scaling.Way]:
    """Return the ways of training the 124M model on this number of machines."""
    cluster = scaling.Cluster(ranks, bandwidth * 1e9, LATENCY, SUM_RATE)
    return scaling.ways(speed, tokens, params.size(Config()), cluster, H)[1:]


def curves(speed: float) -> list[dict]:
    """Return the efficiency on each number of machines, for each network, step and way."""
    return [
        {"network": network, "step": step, "ways": {
            way: [round(ways(speed, tokens, n, bandwidth)[i].efficiency, 4)
                  for n in RANKS if n <= tokens // Config().context_length]
            for i, way in enumerate(("data parallel", "bfloat16", "DiLoCo"))
        }}
        for network, bandwidth in NETWORKS.items() for step, tokens in STEPS.items()
    ]  # fmt: skip


def last(efficiencies: list[float]) -> int:
    """Return the largest number of machines whose efficiency is enough."""
    return max(n for n, share in zip(RANKS, efficiencies, strict=False) if share >= ENOUGH)


def runs(speed: float) -> list[dict]:
    """Return how long one run takes on each number of machines and each network."""
    return [
        {"network": network, "ranks": n, "days": [
            {"way": way.name, "seconds": RUN / way.tokens_per_s, "efficiency": way.efficiency}
            for way in ways(speed, STEPS["0.5 million"], n, bandwidth)
        ]}
        for network, bandwidth in NETWORKS.items() for n in MACHINES
    ]  # fmt: skip


def draw(found: list[dict], path: Path) -> None:
    """Draw one panel per size of a step: lines for networks, styles for ways."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    styles = {"data parallel": "-", "bfloat16": "--", "DiLoCo": ":"}
    figure = Figure(figsize=(8.4, 3.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for i, step in enumerate(STEPS, 1):
        axes = figure.add_subplot(1, len(STEPS), i)
        for k, network in enumerate(NETWORKS):
            (one,) = (c for c in found if (c["network"], c["step"]) == (network, step))
            for way, style in styles.items():
                percent = [100 * share for share in one["ways"][way]]
                axes.plot(RANKS[: len(percent)], percent, style, color=f"C{k}", linewidth=1.4)
        axes.set_xscale("log", base=2)
        axes.set_xticks(RANKS[::2], [str(n) for n in RANKS[::2]])
        axes.set_ylim(0, 103)
        axes.set_title(f"{step} tokens a step", fontsize=10)
        axes.set_xlabel("machines")
        axes.set_ylabel("efficiency, %")
        axes.grid(alpha=0.25)
        if i == 1:
            lines = [Line2D([], [], color=f"C{k}", label=n) for k, n in enumerate(NETWORKS)]
            lines += [Line2D([], [], color="0.3", linestyle=s, label=w) for w, s in styles.items()]
            axes.legend(handles=lines, frameon=False, fontsize=8, loc="lower left")
    figure.savefig(path, format="png", metadata={"Software": None})


def at_most(number: int, step: str) -> str:
    """Return a number of machines as text: with a plus if a step has no windows for more."""
    return f"{number:,}" + "+" * (number == min(RANKS[-1], STEPS[step] // Config().context_length))


def end_rows(curves: list[dict]) -> list[list[str]]:
    """Return a table of the numbers of machines at which the ways end."""
    rows = [["network", "tokens a step", "data parallel", "bfloat16", f"DiLoCo, H = {H}"]]
    for one in curves:
        rows.append([one["network"], one["step"], *(
            at_most(last(shares), one["step"]) for shares in one["ways"].values()
        )])  # fmt: skip
    return rows


def run_rows(found: list[dict]) -> list[list[str]]:
    """Return a table of how long one run takes."""
    rows = [["network", *(f"{n} machines" for n in MACHINES)]]
    for network in NETWORKS:
        cells = []
        for one in found:
            if one["network"] == network:
                wide, _, diloco = one["days"]
                cells.append(
                    f"{duration(wide['seconds'])} ({wide['efficiency']:.0%}); "
                    f"{duration(diloco['seconds'])} ({diloco['efficiency']:.0%})"
                )
        rows.append([network, *cells])
    return rows


def main() -> None:
    speeds = dict(zip(PICTURES, (rate(), FASTER * rate()), strict=True))
    figures = {
        name: {"tokens_per_s": speed, "curves": curves(speed), "runs": runs(speed)}
        for name, speed in speeds.items()
    }
    harness.write("scaling", figures)
    for name, file in PICTURES.items():
        draw(figures[name]["curves"], IMAGES / f"{file}.png")


if __name__ == "__main__":
    main()
