"""Figures, colours, and labels of tokens, which all pictures share."""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogFormatter

from npgpt.arrays import Array
from npgpt.data.tokenizer import Tokenizer, tokenizer_of
from npgpt.data.tokenizer_choice import is_known
from npgpt.errors import InputError
from npgpt.explain.stream import check_text
from npgpt.explain.token_text import texts
from npgpt.gpt import GPT
from npgpt.model.inputs import check_integer
from npgpt.system.terminal import escape
from npgpt.training.plot import default_style, known_characters

# Blue is forward, orange is backward. Readers with any colour vision tell both from each other.
BLUE, ORANGE, GREY = "#1f6fb2", "#c8620a", "#6b7280"
COLORS = (BLUE, ORANGE, "#3d9a76", "#8e5aa8", "#9a8412", "#b0455a", "#2aa3b8")
SEQUENTIAL = "viridis"
DIVERGING = LinearSegmentedColormap.from_list(
    "blue_orange", ["#0b4a85", "#6ea6d6", "#f4f4f2", "#eda45f", "#9c4a04"]
)
MOST_LABELS = 64  # of tokens on an axis
DPI = 110


class Picture(Figure):
    """A figure that a notebook shows, with every backend of matplotlib."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        with default_style():
            self.savefig(file, format="png")
        return file.getvalue()


def in_default_style(draw: Callable[..., Picture]) -> Callable[..., Picture]:
    """Return the function, drawing with matplotlib's own defaults: "$" in a token is no formula."""

    @wraps(draw)
    def call(*args: Any, **options: Any) -> Picture:
        with default_style():
            return draw(*args, **options)

    return call


def make(width: float, height: float) -> Picture:
    """Return an empty figure, in inches."""
    figure = Picture(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def read_tokens(model: GPT, tokens: Any, **options: Any) -> Array:
    """Return token ids (T,) of a text, which the model's tokenizer encodes, or of token ids."""
    if isinstance(tokens, str):
        tokens = tokenizer_of(model).encode(tokens)
    return check_text(model, tokens, **options)


def labels(model: GPT, ids: Iterable[int]) -> list[str]:
    """Return the text of tokens. Spaces are visible, characters without a glyph are escaped."""
    found: Tokenizer | None = tokenizer_of(model) if is_known(model.tokenizer) else None
    known = known_characters()
    return [
        "".join("·" if c == " " else c if ord(c) in known else escape(c) for c in text)
        for text in texts(found, ids)
    ]


def label_tokens(axes: Axes, names: Sequence[str], *, axis: str = "x") -> None:
    """Label the columns (or rows) 0, 1, ... of an axis by tokens, if they are few."""
    if len(names) > MOST_LABELS:
        return  # positions are numbered
    size = 9 if len(names) <= 32 else 7
    if axis == "x":
        longest = max(map(len, names))
        turn: Any = {"rotation": 90} if longest > 1 and len(names) * longest > 60 else {}
        axes.set_xticks(range(len(names)), names, fontsize=size, **turn)
    else:
        axes.set_yticks(range(len(names)), names, fontsize=size)


def heat(
    axes: Axes, values: Array, *, cmap: Any = SEQUENTIAL, norm: Normalize | None = None
) -> Any:
    """Draw a matrix as colours, row 0 on top."""
    image = axes.imshow(values, aspect="auto", interpolation="nearest", cmap=cmap, norm=norm)
    axes.grid(False)
    return image


def log_norm(values: Array) -> Normalize:
    """Return a logarithmic scale from the smallest positive to the largest of some values."""
    positive = values[values > 0]
    if not positive.size:
        return Normalize(0, 1)
    low, high = float(positive.min()), float(positive.max())
    return LogNorm(max(low, high * 1e-8), high if high > low else 2 * low)


def label_powers(axis: Any) -> None:
    """Label a logarithmic axis in plain text: matplotlib's own labels are formulas."""
    axis.set_major_formatter(PlainPowers())
    axis.set_minor_formatter(PlainPowers(minor_thresholds=(1, 0.4)))


class PlainPowers(LogFormatter):
    """Labels of a logarithmic axis, with as many digits as the ticks need: 0.0045."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:.3g}" if super().__call__(x, pos) else ""


def symmetric(values: Array) -> Normalize:
    """Return a linear scale around 0 that the largest values do not dominate."""
    reach = float(np.quantile(np.abs(values), 0.995)) or float(np.abs(values).max()) or 1.0
    return Normalize(-reach, reach)


def text_color(fraction: float) -> str:
    """Return the colour of text on a cell of the sequential scale, at a fraction of it."""
    return "white" if fraction < 0.6 else "black"


@contextmanager
def plain_grid(axes: Axes) -> Iterator[Axes]:
    """Draw on axes with a faint grid and no frame above and to the right."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    yield axes


def colormap(name: str) -> Any:
    """Return a colour map of matplotlib."""
    import matplotlib

    return matplotlib.colormaps[name]


def scalar(norm: Normalize, cmap: str) -> ScalarMappable:
    """Return the scale of a colour bar."""
    return ScalarMappable(norm, cmap)


def box(x: float, y: float, width: float, height: float, color: Any) -> Rectangle:
    """Return a filled rectangle."""
    return Rectangle((x, y), width, height, facecolor=color, edgecolor="none")


def check_head(model: GPT, head: Any) -> int:
    """Return the number of a head. Raise InputError if the model has no such head."""
    H = model.config.n_head
    if not 0 <= check_integer("head", head) < H:
        raise InputError(f"head is {head}, but must be from 0 to {H - 1}")
    return int(head)
