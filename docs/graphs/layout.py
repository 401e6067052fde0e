"""Where the boxes of a graph lie: forward goes up, one row per step; columns are given by hand."""

from typing import NamedTuple

from docs.graphs.graph import Graph, Node
from docs.graphs.svg import NAME, SMALL, width

BOX, COMPACT = 42, 26  # heights of boxes of two lines and of one
GAP = 9  # pixels between the name and the shape


def head_width(node: Node) -> float:
    """Return the width of the first line of a box, name and shape."""
    shape = GAP + width(node.shape, SMALL) if node.shape else 0
    return width(node.title or node.name, NAME) + shape


class Box(NamedTuple):
    node: Node
    row: int
    x: float  # of its middle
    y: float  # of its middle
    w: float
    h: float
    lines: tuple[str, ...]  # below the name

    @property
    def top(self) -> float:
        return self.y - self.h / 2

    @property
    def bottom(self) -> float:
        return self.y + self.h / 2


def rows(graph: Graph) -> dict[str, int]:
    """Return the row of each node: a value above its inputs, a parameter beside its first user."""
    found: dict[str, int] = {}
    for node in graph.nodes:
        if node.row is not None:
            found[node.name] = node.row
        elif node.kind == "input":
            found[node.name] = 0
        elif node.formula:
            below = [found[source.name] for source in graph.inputs(node) if source.name in found]
            found[node.name] = 1 + max(below, default=-1)
    for node in graph.nodes:
        if node.name not in found:
            found[node.name] = min(found[user.name] for user in graph.consumers(node))
    return found


def lines(graph: Graph, node: Node) -> tuple[str, ...]:
    """Return what a box says below the name of its node."""
    if graph.picture.get("compact"):
        return ()
    if node.formula:
        return (f"= {node.formula}",)
    return (f"d{node.name}",) if graph.has_gradient(node) else ()


def curve_height(graph: Graph) -> int:
    """Return the pixels between two rows, where a curve or a label lies between them."""
    return 40 if graph.picture.get("compact") else 50


def middles(graph: Graph, row_of: dict[str, int]) -> list[float]:
    """Return the y of the middle of every row, from the lowest row up."""
    compact = graph.picture.get("compact")
    height = COMPACT if compact else BOX
    found = [0.0]
    for row in range(1, max(row_of.values()) + 1):
        between = [
            source.column != target.column
            for source, target in graph.edges()
            if row_of[source.name] < row_of[target.name]
            if row in (row_of[source.name] + 1, row_of[target.name])
        ]
        gap = curve_height(graph) if any(between) or not compact else 20
        found.append(found[-1] - height - gap)
    return found


def boxes(graph: Graph) -> dict[str, Box]:
    """Return the box of each node."""
    row_of = rows(graph)
    y_of = middles(graph, row_of)
    column = graph.picture.get("column", 250)
    found = {}
    for node in graph.nodes:
        below = lines(graph, node)
        w = max([head_width(node), *(width(line, SMALL) for line in below)]) + 22
        h = BOX if below else COMPACT
        x, row = node.column * column, row_of[node.name]
        found[node.name] = Box(node, row, x, y_of[row], round(w), h, below)
    return found
