"""A line that a port may have wrong, and the mistakes that are made from it."""

from dataclasses import dataclass, field

from npgpt.parity.mistakes.mistake import Mistake, Stage
from npgpt.parity.mistakes.one_change import Others, changes
from npgpt.parity.port import Edit

Edits = tuple[tuple[str, str, str], ...]  # function, right text, wrong text


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line that a port may have wrong.

    subject : its words, "dx of LayerNorm"
    page : of the documentation
    stage : of its first wrong number
    where, right : the function, and a piece of its text
    expression : the part of the piece that is changed
    form : the piece with {} in the place of the expression
    others : what may stand for a part of the expression
    whole : what may stand for the expression, with {} in its place
    parts : False if the expression is only changed as a whole
    more : edits that belong to each of the mistakes, with {} in the place of the wrong expression
    """

    subject: str
    page: str
    stage: Stage = "backward"
    where: str
    right: str
    expression: str
    form: str = "{}"
    others: Others = field(default_factory=dict)
    whole: tuple[str, ...] = ()
    parts: bool = True
    more: Edits = ()

    def mistakes(self) -> list[Mistake]:
        """Return a mistake for each change."""
        wrongs = changes(self.expression, self.others, self.whole, parts=self.parts)
        return [
            Mistake(
                name="one-change",
                stage=self.stage,
                says=f"{self.subject}: {wrong} in the place of {self.expression}",
                page=self.page,
                edits=(
                    Edit(self.where, self.right, self.form.replace("{}", wrong)),
                    *(Edit(where, right, text.replace("{}", wrong))
                      for where, right, text in self.more),
                ),
            )
            for wrong in wrongs
        ]  # fmt: skip


def assigned(
    subject: str, page: str, where: str, right: str, others: Others | None = None,
    whole: tuple[str, ...] = (),
) -> Line:  # fmt: skip
    """Return a line that assigns: "dq = dscores @ k"."""
    name, _, expression = right.partition(" = ")
    return Line(
        subject=subject, page=page, where=where, right=right, expression=expression,
        form=f"{name} = {{}}", others=others or {}, whole=whole,
    )  # fmt: skip
