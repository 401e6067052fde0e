"""npgpt profile."""

import json
from dataclasses import asdict, dataclass

from npgpt.cli.common import announce_compilation, track_progress
from npgpt.cli.model_flags import ModelFlags
from npgpt.errors import InputError


@dataclass(kw_only=True)
class Profile(ModelFlags):
    """Where does the time of a training step go, or of a new token? Op by op."""

    generate: bool = False
    """One new token instead of a training step; --batch-size is 1 unless it is given."""
    position: int | None = None
    """With --generate: where in the context it stands [default: in the middle]."""
    rounds: int = 5
    """Steps, or tokens, of which the median one is shown."""
    json: bool = False
    """Print one JSON object, for programs."""

    @announce_compilation()
    def run(self) -> int:
        """The exit code."""
        if self.rounds < 1:
            raise InputError(f"rounds is {self.rounds}, but has to be at least 1")
        if self.position is not None and not self.generate:
            raise InputError(f"position is {self.position}, which is for --generate")
        if self.generate and self.batch_size is None:
            self.batch_size = 1
        about = self.measured(self.settings())
        if self.json:
            print(json.dumps(about, indent=2))
        else:
            show(about)
        return 0

    def measured(self, settings) -> dict:
        """What there is to say."""
        from npgpt import backends
        from npgpt.performance import profile

        B, T = settings.training.batch_size, settings.config.context_length
        warm = 2 if self.generate else 1  # reading the prompt is no token
        count, timed = (
            warm + self.rounds,
            profile.Timed(backends.get(settings.ops, dtype=settings.dtype)),
        )
        if self.generate:
            run = profile.new_token(settings, timed, position=self.position, count=count)
            what, tokens, rows = f"one new token, batch size {B}", B, profile.MOST_ROWS
        else:
            run = profile.training_step(settings, timed)
            what, tokens, rows = f"one training step of {B} x {T} tokens", B * T, B * T
        training = not self.generate
        best = profile.measure_peaks(settings.config, rows, backward=training,
                                     dtype=settings.parameter_dtype)  # fmt: skip
        rounds = profile.rounds(run, timed, count)
        found = list(track_progress(rounds, count, description="compiling, then measuring"))
        middle = profile.middle(found[warm:])
        return {
            "what": what,
            "config": asdict(settings.config),
            "dtype": settings.dtype,
            "ops": settings.ops,
            "seconds": middle.seconds,
            "tokens_per_s": tokens / middle.seconds,
            "peaks": best._asdict(),
            "rows": [row._asdict() for row in profile.table(middle, best)],
        }


def show(about: dict) -> None:
    """Prints it as a table."""
    rows, seconds, best = about["rows"], about["seconds"], about["peaks"]
    wide = max(len(row["op"]) for row in rows)
    print(f"{about['what']}: {1e3 * seconds:,.2f} ms, {about['tokens_per_s']:,.0f} tokens/s\n")
    print(f"{'op':<{wide}}  {'calls':>5}  {'ms':>9}  {'share':>6}  {'GFLOP/s':>7}  {'GB/s':>6}  "
          "of its floor")  # fmt: skip
    whole = {name: sum(row[name] for row in rows) for name in ("operations", "bytes", "floor")}
    for row in [*rows, {"op": "all", "calls": 0, "seconds": seconds, **whole}]:
        time = row["seconds"]
        print(
            f"{row['op']:<{wide}}  {row['calls'] or '':>5}  {1e3 * time:>9.3f}  "
            f"{time / seconds:>6.1%}  {rate(row['operations'], time):>7}  "
            f"{rate(row['bytes'], time):>6}  {rate(time, row['floor'], 1):>12}".rstrip()
        )
    print(
        f"\nThe floor of an op: its products at {best['operations'] / 1e9:,.0f} GFLOP/s, the rate "
        f"of NumPy's BLAS here,\nor its arrays read and written once at "
        f"{best['bytes'] / 1e9:,.1f} GB/s, whichever takes longer. Below 1, arrays were in caches."
    )


def rate(amount: float, seconds: float, unit: float = 1e9) -> str:
    """So many billions a second, or nothing where there is nothing."""
    if not amount or not seconds:
        return ""
    found = amount / seconds / unit
    return f"{found:.2f}" if found < 10 else f"{found:.0f}"
