"""A mistake: one known way in which a port of GPT-2 is wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from npgpt.parity.port import Edit, Port

Stage = Literal["forward", "loss", "backward", "step", "cache"]


@dataclass(frozen=True)
class Mistake:
    """One known way in which a port of GPT-2 is wrong.

    Parameters
    ----------
    name : str
        "scores-not-scaled", the anchor on its page.
    stage : {"forward", "loss", "backward", "step", "cache"}
        Where its first wrong number appears. A mistake of the forward pass or the loss has the
        gradients of its own forward pass, as automatic differentiation computes them.
    says : str
        The mistake in one line.
    page : str
        Of the documentation, "docs/backprop/attention.md".
    edits : tuple of Edit
        The wrong lines beside the right ones.
    twins : tuple of str, default ()
        Names of mistakes that compute the same numbers.
    seen : tuple of str, default ()
        Public threads that report it, "owner/repository#number".
    smooth : bool, default True
        False if the wrong forward pass rounds, so that finite differences say nothing.
    overwrites : tuple of str, default ()
        Activations that are overwritten before they are dumped: "embedding", "after_attn".
    """

    name: str
    stage: Stage
    says: str
    page: str
    edits: tuple[Edit, ...]
    twins: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()
    smooth: bool = True
    overwrites: tuple[str, ...] = ()

    @property
    def right(self) -> Edit:
        """The first edit: its `where`, `right` and `line()` name the right code."""
        return self.edits[0]

    @property
    def change(self) -> Callable[[Port], Port]:
        """A function that returns a port with this mistake in addition to those that it has."""
        return lambda port: Port(
            (*port.edits, *self.edits), port.replaced, (*port.overwritten, *self.overwrites)
        )


class Page:
    """The mistakes of one page of the documentation, in order.

    Each is added by a call with its name, its line, and its edits: function, right text, wrong
    text.
    """

    def __init__(self, page: str):
        self.page, self.mistakes = page, list[Mistake]()

    def add(
        self, stage: Stage, name: str, says: str, *edits: tuple[str, str, str],
        twins: tuple[str, ...] = (), seen: tuple[str, ...] = (), smooth: bool = True,
    ) -> None:  # fmt: skip
        """Append a mistake."""
        changes = tuple(Edit(*edit) for edit in edits)
        self.mistakes.append(Mistake(name, stage, says, self.page, changes, twins, seen, smooth))
