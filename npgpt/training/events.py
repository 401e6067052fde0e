"""The events of a training run, and the position of a run."""

from dataclasses import dataclass, field
from typing import Any, TypeGuard

from npgpt.arrays import Array
from npgpt.errors import InputError, show


@dataclass
class Evaluation:
    """The losses of both splits after a step: one line of metrics.jsonl.

    Parameters
    ----------
    step : int
        The step that was just made, counted from 0.
    epoch : int
        The epoch it belongs to, counted from 1.
    tokens_seen : int
        Number of tokens trained on since the start of the run.
    train_loss, val_loss : float
        Mean cross-entropy without dropout, in nats per token. Its exponential is the perplexity.
    lr : float
        Learning rate of the step.
    tokens_per_s : float
        Training speed since the previous evaluation, in tokens per second. The time of evaluations
        is not counted.
    """

    step: int
    epoch: int
    tokens_seen: int
    train_loss: float
    val_loss: float
    lr: float
    tokens_per_s: float


@dataclass
class Sample:
    """The text that the model generates greedily after an epoch.

    Parameters
    ----------
    step : int
        The last step of the epoch, counted from 0.
    epoch : int
        The epoch, counted from 1.
    tokens : list of int
        Token ids: the prompt and its continuation.
    """

    step: int
    epoch: int
    tokens: list[int]


@dataclass
class Step:
    """The end of one step. Only now may the run be saved, or the iteration be abandoned.

    Parameters
    ----------
    step : int
        Index of the step, counted from 0.
    epoch : int
        The epoch it belongs to, counted from 1.
    tokens_seen : int
        Number of tokens trained on since the start of the run.
    loss : float
        Mean cross-entropy of the step's batches before the update, in nats per token.
    lr : float
        Learning rate.
    norm : float or None
        Global norm of the gradient before clipping. None if gradients are not clipped.
    seconds : float
        Time of the step, without its evaluation and sample.
    tokens_per_s : float
        Training speed since the previous evaluation, in tokens per second.
    ends_epoch : bool
        True for the last step of an epoch.
    communication : float or None, default None
        On many ranks: seconds of the step in which this rank exchanged gradients and parameters.
        The time in which it waited for slower ranks is not counted.
    slowest_rank : int or None, default None
        On many ranks: the one whose gradients took longest.
    """

    step: int
    epoch: int
    tokens_seen: int
    loss: float
    lr: float
    norm: float | None
    seconds: float
    tokens_per_s: float
    ends_epoch: bool
    communication: float | None = None
    slowest_rank: int | None = None


Event = Evaluation | Sample | Step
Order = Array | range


@dataclass
class Progress:
    """The position of a run.

    Together with the parameters, the optimizer's moments and the random state, it is all that a run
    needs to resume.

    Parameters
    ----------
    step : int, default 0
        Number of steps made.
    epoch : int, default 0
        Number of epochs finished.
    position : int, default 0
        Number of batches of the current epoch that are done.
    tokens_seen : int, default 0
        Number of tokens trained on.
    order : (n,) int64 array, range or None, default None
        Order of the windows in the current epoch. None between two epochs. That of mapped windows
        is the range of their numbers, and no part of a checkpoint: it follows from the epoch.
    history : list of dict
        The fields of every Evaluation.
    samples : list of dict
        The fields of every Sample.

    Raises
    ------
    InputError
        If a count is negative or not an integer, or too large.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    tokens_seen: int = 0
    order: Order | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("step", "epoch", "position", "tokens_seen"):
            if not is_count(getattr(self, name)):
                raise InputError(
                    f"{name} is {show(getattr(self, name))}, but must be an integer of at least 0"
                )


def is_count(value: Any) -> TypeGuard[int]:
    """Return True if this is an integer from 0 to 2**63 - 1."""
    return type(value) is int and 0 <= value < 1 << 63


def is_number(value: Any) -> TypeGuard[float]:
    """Return True if this is a number of at most 1e100: differences of larger ones may overflow."""
    return type(value) in (int, float) and abs(value) <= 1e100
