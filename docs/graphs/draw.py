"""The picture of a graph: forward edges solid and upward, gradients dashed and downward."""

from typing import NamedTuple

from docs.graphs.graph import Graph
from docs.graphs.layout import GAP, Box, boxes, curve_height, head_width
from docs.graphs.svg import NAME, SMALL, Canvas, Point, width

APART = 6  # pixels from the middle of an edge to its solid line, and to its dashed one
ABOVE = 0.6  # of a curve's height: from a box up to the plus sign where its gradients add


class Edge(NamedTuple):
    source: Box
    target: Box
    has_gradient: bool
    label: str  # the VJP, where it is shown
    starts: int  # edges that leave the source upward
    ends: int  # edges that reach the target from below
    plus: int  # pixels from the source up to the sign that its gradients add; 0 if it has one


def edges(graph: Graph, found: dict[str, Box]) -> list[Edge]:
    """Return the edges of a graph, with the formulas that their gradients carry."""
    pairs = [(found[source.name], found[target.name]) for source, target in graph.edges()]
    upward = [(source, target) for source, target in pairs if source.row != target.row]
    result = []
    for source, target in pairs:
        formula = target.node.vjps.get(source.node.name, "")
        label = formula
        if graph.picture.get("compact"):
            is_plain = formula == f"d{target.node.name}" and source.x == target.x
            label = f"{formula}, unchanged" if is_plain else ""
        starts = sum(other is source for other, _ in upward)
        ends = sum(other is target for _, other in upward)
        adds = sum(source.node.name in user.vjps for user in graph.consumers(source.node)) > 1
        plus = round(ABOVE * curve_height(graph)) if adds else 0
        result.append(Edge(source, target, bool(formula), label, starts, ends, plus))
    return result


def is_beside(edge: Edge) -> bool:
    """Return True if an edge is horizontal."""
    return edge.source.row == edge.target.row


def port(box: Box, other: Box, ends: int) -> float:
    """Return where an edge to `other` meets a box, one of `ends` on that side of it."""
    if ends == 1 or box.x == other.x:
        return box.x
    return box.x + (0.3 if other.x > box.x else -0.3) * box.w


def draw_beside(canvas: Canvas, edge: Edge) -> None:
    """Draw a horizontal edge: a parameter or a constant into its operation."""
    a, b = edge.source, edge.target
    side = 1 if a.x > b.x else -1
    start, end = a.x - side * a.w / 2, b.x + side * b.w / 2
    apart = APART if edge.has_gradient else 0
    canvas.arrow("forward", (start, a.y - apart), (end, a.y - apart))
    if edge.has_gradient:
        canvas.arrow("gradient", (end, a.y + apart), (start, a.y + apart))
        canvas.text((start + end) / 2, a.y + apart + SMALL + 4, edge.label, "label", "middle")


def draw_upward(canvas: Canvas, edge: Edge, spine: float, curve: float) -> None:
    """Draw an edge to a higher row; its label stands at the end that is further from the spine.

    `spine`: the x of the output. `curve`: the height of a curve.
    """
    a, b = edge.source, edge.target
    side = (b.x > a.x) - (b.x < a.x)  # to the right, to the left, straight
    at_source = abs(a.x - spine) > abs(b.x - spine)  # the end that is further from the spine
    is_long = at_source and b.row - a.row > 1  # first straight up
    x1, x2, y1, y2 = (
        a.x if is_long else port(a, b, edge.starts),
        port(b, a, edge.ends),
        a.top,
        b.bottom,
    )
    solid = APART * (side or -1) if edge.has_gradient else 0
    y = y2 + curve if at_source else y1 - curve  # the curve fills one gap between two rows
    low, high = (y, y2) if at_source else (y1, y)

    def way(apart: float) -> list[Point]:
        left, right = x1 + apart, x2 + apart
        if not side:
            return [(left, y1), (right, y2)]
        # the gradient runs above the forward edge: nearer to its target, or to the plus sign
        level = 0.18 if edge.plus and not is_long else 0.35 if apart == solid else 0.65
        y = low - level * (low - high)
        bent = [(left, low), (left, y), (right, y), (right, high)]
        return [(left, y1), *bent, (right, y2)]

    canvas.arrow("forward", *way(solid))
    if not edge.has_gradient:
        return
    back = way(-solid)[::-1]
    if edge.plus and side and not is_long:
        x, y = a.x + APART + 8 * side, a.top - edge.plus
        back[2:] = [(back[1][0], y), (x + 0.6 * (x2 - x), y), (x + 8 * side, y), (x, y)]
    canvas.arrow("gradient", *back)
    if not side:
        left = a.x <= spine
        x, y = a.x, (y1 + y2 - (edge.plus + 4 if edge.plus else 0)) / 2 + 4
    elif at_source:
        left, x, y = a.x < spine, x1, y1 - 10
    else:
        left, x, y = b.x < spine, x2, y2 + 18
    if left:
        canvas.text(x - APART - 7, y, edge.label, "label", "end")
    else:
        canvas.text(x + APART + 7, y, edge.label, "label")


def draw_box(canvas: Canvas, graph: Graph, box: Box) -> None:
    """Draw a node: its name and shape, and its formula or its gradient."""
    node = box.node
    canvas.box(box.x, box.y, box.w, box.h, node.kind)
    name, shape = node.title or node.name, node.shape
    left = box.x - head_width(node) / 2
    y = box.y - 5 if box.lines else box.y + 4.5
    canvas.text(left, y, name, "name")
    if shape:
        canvas.text(left + width(name, NAME) + GAP, y, shape, "small")
    for line in box.lines:
        canvas.text(box.x, y + 17, line, "small" if node.formula else "label", "middle")


def description(graph: Graph) -> str:
    """Return the graph in words, for those who do not see the picture."""
    forward = [f"{node.name} = {node.formula}" for node in graph.nodes if node.formula]
    sent: dict[str, list[str]] = {}
    for node in reversed(graph.nodes):
        for name, formula in node.vjps.items():
            sent.setdefault(name, []).append(formula)
    backward = [f"d{name} = {' + '.join(formulas)}" for name, formulas in sent.items()]
    text = "Forward: " + "; ".join(forward) + "."
    return text + (" Backward: " + "; ".join(backward) + "." if backward else "")


def legend(canvas: Canvas, graph: Graph, adds: bool) -> None:
    """Say at the bottom what the lines mean."""
    y = canvas.bottom + 30
    x = canvas.left
    canvas.arrow("forward", (x, y), (x + 34, y))
    canvas.text(x + 42, y + 4, "forward", "small")
    if any(node.vjps for node in graph.nodes):
        canvas.arrow("gradient", (x + 112, y), (x + 146, y))
        canvas.text(x + 154, y + 4, "gradient", "small")
    if adds:
        canvas.plus(x + 238, y)
        canvas.text(x + 252, y + 4, "gradients add", "small")


def draw(graph: Graph) -> str:
    """Return the SVG of a graph."""
    canvas, found = Canvas(), boxes(graph)
    found_edges, out = edges(graph, found), found[graph.output.name]
    for edge in found_edges:
        if is_beside(edge):
            draw_beside(canvas, edge)
        else:
            draw_upward(canvas, edge, out.x, curve_height(graph))
    for box in found.values():
        draw_box(canvas, graph, box)
    adding = {edge.source.node.name: edge for edge in found_edges if edge.plus}
    for edge in adding.values():
        canvas.plus(edge.source.x + APART, edge.source.top - edge.plus)
    draw_ends(canvas, graph, found)
    legend(canvas, graph, bool(adding))
    return canvas.svg(f"Computation graph: {graph.name}", description(graph))


def draw_ends(canvas: Canvas, graph: Graph, found: dict[str, Box]) -> None:
    """Draw the upstream gradient, and that of the input if its box does not show it."""
    if graph.output.vjps:
        out, name = found[graph.output.name], f"d{graph.output.name}"
        canvas.arrow("gradient", (out.x, out.top - 34), (out.x, out.top))
        canvas.text(out.x + 9, out.top - 20, f"{name}, the upstream gradient", "label")
    for box in found.values():
        if graph.picture.get("compact") and box.node.kind == "input":
            x, y = box.x + APART, box.bottom
            canvas.arrow("gradient", (x, y), (x, y + 34))
            canvas.text(x + 9, y + 22, f"d{box.node.name}", "label")
