"""A graph as SVG: forward edges solid and upward, gradients dashed and downward.

The picture brings its own background and follows `prefers-color-scheme`, so that it can be read on
a light page and on a dark one. Coordinates are rounded: the same graph gives the same bytes.
"""

from html import escape
from typing import NamedTuple

from docs.graphs.graph import Graph
from docs.graphs.layout import GAP, NAME, SMALL, Box, boxes, curve_height, head_width, width

APART = 6  # pixels from the middle of an edge to its solid line, and to its dashed one
ABOVE = 0.6  # of a curve's height: from a box up to the plus sign where its gradients add
MARGIN = 18

FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
LIGHT = {
    "card": "fill:#fbfbfd;stroke:#d5d9e0",
    "box.value": "fill:#ffffff;stroke:#8a94a6",
    "box.input": "fill:#e3eefc;stroke:#4f83c4",
    "box.parameter": "fill:#e2f3e6;stroke:#4c9a63",
    "box.constant": "fill:#eeeeee;stroke:#999999",
    "name": "fill:#1b2230",
    "small": "fill:#525c6e",
    "forward": "stroke:#2b6cb0",
    "forward-head": "fill:#2b6cb0",
    "gradient": "stroke:#b4541a",
    "gradient-head": "fill:#b4541a",
    "label": "fill:#9c4210",
    "sum": "fill:#fbfbfd;stroke:#b4541a",
}
DARK = {
    "card": "fill:#1c2029;stroke:#3a4150",
    "box.value": "fill:#272d39;stroke:#8290a8",
    "box.input": "fill:#1f3a5c;stroke:#6ea4e8",
    "box.parameter": "fill:#1f4630;stroke:#6cc088",
    "box.constant": "fill:#33363d;stroke:#8b8f98",
    "name": "fill:#eef1f6",
    "small": "fill:#b6c0d0",
    "forward": "stroke:#7db4f0",
    "forward-head": "fill:#7db4f0",
    "gradient": "stroke:#ff9d66",
    "gradient-head": "fill:#ff9d66",
    "label": "fill:#ffb184",
    "sum": "fill:#1c2029;stroke:#ff9d66",
}
SHAPES = f"""text{{font-family:{FONT};font-size:{SMALL}px}}
.name{{font-size:{NAME}px;font-weight:600}}
.card,.box,.sum{{stroke-width:1.2}}
.forward,.gradient{{fill:none;stroke-width:1.6}}
.gradient{{stroke-dasharray:5 3.5}}"""

Point = tuple[float, float]


def number(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0").replace("-0", "0" if abs(value) < 0.05 else "-0")


class Canvas:
    """Elements of a picture, and the rectangle they lie in."""

    def __init__(self):
        self.elements: list[str] = []
        self.left = self.top = float("inf")
        self.right = self.bottom = float("-inf")

    def include(self, *points: Point) -> None:
        """Extend the rectangle."""
        for x, y in points:
            self.left, self.right = min(self.left, x), max(self.right, x)
            self.top, self.bottom = min(self.top, y), max(self.bottom, y)

    def text(self, x: float, y: float, text: str, kind: str, anchor: str = "start") -> None:
        """Add a line of text whose baseline is at y; none if it is empty."""
        if not text:
            return
        w = width(text, NAME if kind == "name" else SMALL)
        left = {"start": x, "middle": x - w / 2, "end": x - w}[anchor]
        self.include((left, y - SMALL), (left + w, y + 4))
        self.elements.append(
            f'<text class="{kind}" x="{number(x)}" y="{number(y)}" text-anchor="{anchor}">'
            f"{escape(text, quote=False)}</text>"
        )

    def arrow(self, kind: str, *points: Point) -> None:
        """Add a path with a head at its end: one line, or a curve with straight ends.

        A curve is six points: its ends, where it begins and ceases to be straight, and between
        these the two controls of a Bezier curve.
        """
        self.include(*points)
        end, before = points[-1], next(p for p in reversed(points) if p != points[-1])
        dx, dy = end[0] - before[0], end[1] - before[1]
        length = (dx * dx + dy * dy) ** 0.5
        dx, dy = dx / length, dy / length
        neck = end[0] - 7 * dx, end[1] - 7 * dy
        head = [end, (neck[0] - 4 * dy, neck[1] + 4 * dx), (neck[0] + 4 * dy, neck[1] - 4 * dx)]
        corners = " ".join(f"{number(x)},{number(y)}" for x, y in head)
        path = [f"{number(x)} {number(y)}" for x, y in (*points[:-1], neck)]
        way = f"M{path[0]}L{path[-1]}"
        if len(path) == 6:
            way = f"M{path[0]}L{path[1]}C{' '.join(path[2:5])}L{path[5]}"
        self.elements.append(f'<path class="{kind}" d="{way}"/>')
        self.elements.append(f'<polygon class="{kind}-head" points="{corners}"/>')

    def box(self, x: float, y: float, w: float, h: float, kind: str) -> None:
        """Add a rounded rectangle around (x, y)."""
        self.include((x - w / 2, y - h / 2), (x + w / 2, y + h / 2))
        self.elements.append(
            f'<rect class="box {kind}" x="{number(x - w / 2)}" y="{number(y - h / 2)}" '
            f'width="{number(w)}" height="{number(h)}" rx="6"/>'
        )

    def plus(self, x: float, y: float) -> None:
        """Add the sign that gradients are added here."""
        self.elements.append(
            f'<circle class="sum" cx="{number(x)}" cy="{number(y)}" r="8"/>'
            f'<path class="gradient" style="stroke-dasharray:none" d="M{number(x - 4)} {number(y)}'
            f'h8M{number(x)} {number(y - 4)}v8"/>'
        )


class Edge(NamedTuple):
    source: Box
    target: Box
    label: str  # the VJP; "" where no gradient flows
    gradient: bool


def edges(graph: Graph, found: dict[str, Box]) -> list[Edge]:
    """Return the edges of a graph, with the formulas that their gradients carry."""
    shown = not graph.picture.get("compact")
    result = []
    for source, target in graph.edges():
        formula = target.vjps.get(source.name, "")
        label = formula if shown else ""
        if not shown and formula == f"d{target.name}" and source.column == target.column:
            label = f"{formula}, unchanged"
        result.append(Edge(found[source.name], found[target.name], label, bool(formula)))
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
    apart = APART if edge.gradient else 0
    canvas.arrow("forward", (start, a.y - apart), (end, a.y - apart))
    if edge.gradient:
        canvas.arrow("gradient", (end, a.y + apart), (start, a.y + apart))
        canvas.text((start + end) / 2, a.y + apart + SMALL + 4, edge.label, "label", "middle")


def draw_upward(
    canvas: Canvas, edge: Edge, starts: int, ends: int, spine: float, curve: float, plus: float
) -> None:
    """Draw an edge to a higher row; its label stands at the end that is further from the spine.

    `curve`: the height of a curve. `plus`: how far above the source its gradients add; 0 if not.
    """
    a, b = edge.source, edge.target
    side = (b.x > a.x) - (b.x < a.x)  # to the right, to the left, straight
    at_source = abs(a.x - spine) > abs(b.x - spine)  # the end that is further from the spine
    is_long = at_source and b.row - a.row > 1  # first straight up
    x1, x2, y1, y2 = a.x if is_long else port(a, b, starts), port(b, a, ends), a.top, b.bottom
    solid = APART * (side or -1) if edge.gradient else 0
    y = y2 + curve if at_source else y1 - curve  # the curve fills one gap between two rows
    low, high = (y, y2) if at_source else (y1, y)

    def way(apart: float) -> list[Point]:
        left, right = x1 + apart, x2 + apart
        if not side:
            return [(left, y1), (right, y2)]
        # the gradient runs above the forward edge: nearer to its target, or to the plus sign
        level = 0.18 if plus and not is_long else 0.35 if apart == solid else 0.65
        y = low - level * (low - high)
        bent = [(left, low), (left, y), (right, y), (right, high)]
        return [(left, y1), *bent, (right, y2)]

    canvas.arrow("forward", *way(solid))
    if not edge.gradient:
        return
    back = way(-solid)[::-1]
    if plus and side and not is_long:
        x, y = a.x + APART + 8 * side, a.top - plus
        back[2:] = [(back[1][0], y), (x + 0.6 * (x2 - x), y), (x + 8 * side, y), (x, y)]
    canvas.arrow("gradient", *back)
    if not side:
        left = a.x <= spine
        x, y = a.x, (y1 + y2 - (plus + 4 if plus else 0)) / 2 + 4
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
    all_edges = edges(graph, found)
    upward = [edge for edge in all_edges if not is_beside(edge)]
    spine, curve = found[graph.output.name].x, curve_height(graph)
    above = round(ABOVE * curve)
    sent = [edge.source for edge in all_edges if edge.gradient]
    adding = [box for box in found.values() if sent.count(box) > 1]
    for edge in all_edges:
        if is_beside(edge):
            draw_beside(canvas, edge)
            continue
        starts = sum(other.source is edge.source for other in upward)
        ends = sum(other.target is edge.target for other in upward)
        plus = above if edge.source in adding else 0
        draw_upward(canvas, edge, starts, ends, spine, curve, plus)
    for box in found.values():
        draw_box(canvas, graph, box)
    for box in adding:
        canvas.plus(box.x + APART, box.top - above)
    if graph.output.vjps:
        out = found[graph.output.name]
        canvas.arrow("gradient", (out.x, out.top - 34), (out.x, out.top))
        canvas.text(
            out.x + 9, out.top - 20, f"d{graph.output.name}, the upstream gradient", "label"
        )
    for box in found.values():
        if graph.picture.get("compact") and box.node.kind == "input":
            canvas.arrow("gradient", (box.x + APART, box.bottom), (box.x + APART, box.bottom + 34))
            canvas.text(box.x + APART + 9, box.bottom + 22, f"d{box.node.name}", "label")
    legend(canvas, graph, bool(adding))
    return page(graph, canvas)


def page(graph: Graph, canvas: Canvas) -> str:
    """Return the elements of a canvas as an SVG file."""
    x, y = canvas.left - MARGIN, canvas.top - MARGIN
    w, h = canvas.right - canvas.left + 2 * MARGIN, canvas.bottom - canvas.top + 2 * MARGIN
    frame = f'x="{number(x)}" y="{number(y)}" width="{number(w)}" height="{number(h)}"'
    rules = "\n".join(f".{name}{{{style}}}" for name, style in LIGHT.items())
    dark = "\n".join(f".{name}{{{style}}}" for name, style in DARK.items())
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{number(w)}" height="{number(h)}" '
            f'viewBox="{number(x)} {number(y)} {number(w)} {number(h)}" role="img" '
            'aria-labelledby="title desc">',
            f'<title id="title">Computation graph: {graph.name}</title>',
            f'<desc id="desc">{escape(description(graph), quote=False)}</desc>',
            f"<style>\n{SHAPES}\n{rules}",
            f"@media (prefers-color-scheme:dark){{\n{dark}\n}}\n</style>",
            f'<rect class="card" {frame} rx="10"/>',
            *canvas.elements,
            "</svg>\n",
        ]
    )
