"""One line about how long a run will take, once its first steps have shown it."""

import time
from typing import TYPE_CHECKING

from npgpt.system.units import duration

if TYPE_CHECKING:
    from npgpt.training.events import Event
    from npgpt.training.trainer import Trainer

STEPS, SECONDS, MOST_STEPS = 3, 1.0, 10  # the line comes after 3 steps and 1 s, or after 10 steps


class TimeLeft:
    """The clock of a run's first steps. `make_line` is called with every event."""

    def __init__(self, trainer: "Trainer"):
        self.trainer, self.first_step = trainer, trainer.progress.step
        self.started = self.last_event = time.perf_counter()
        self.evaluation = 0.0  # seconds of one
        self.is_said = False

    def make_line(self, event: "Event") -> str | None:
        """Return the line after the first steps, and None before and afterwards."""
        from npgpt.training.events import Evaluation, Step

        if self.is_said:
            return None
        now = time.perf_counter()
        elapsed, self.last_event = now - self.last_event, now
        if isinstance(event, Evaluation):  # the time since the last event is that of the step, too
            self.evaluation = max(0.0, elapsed - self.trainer.tokens_per_step / event.tokens_per_s)
        if not isinstance(event, Step):
            return None
        steps = event.step + 1 - self.first_step
        if steps < STEPS or (steps < MOST_STEPS and now - self.started < SECONDS):
            return None
        self.is_said = True
        return self.describe(event.step + 1, self.trainer.tokens_per_step / event.tokens_per_s)

    def describe(self, done: int, step: float) -> str | None:
        """Return the line. `done`: steps made. `step`: seconds of one. None after the last one."""
        total, every = self.trainer.total_steps, self.trainer.training.eval_every
        evaluations = -(-total // every) - -(-done // every)
        if not (left := total - done):
            return None
        seconds = left * step + evaluations * self.evaluation
        each = (
            f", {self.evaluation:.2g} s per evaluation" if self.evaluation and evaluations else ""
        )
        return f"About {duration(seconds)} for {left:,} more steps: {step:.2g} s per step{each}"
