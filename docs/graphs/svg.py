"""A picture as SVG: texts, boxes and arrows, in colours for a light and a dark theme.

The picture brings its own background and follows `prefers-color-scheme`, so that it can be read on
a light page and on a dark one. Coordinates are rounded: the same elements give the same bytes.
"""

from html import escape

NAME, SMALL = 13, 11.5  # font sizes
CHAR = 0.6  # the width of a character of a monospaced font, in font sizes
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


def width(text: str, size: float) -> float:
    """Return the width of a text in pixels."""
    return CHAR * size * len(text)


def number(value: float) -> str:
    """Return a coordinate with at most one decimal."""
    return f"{round(value, 1) + 0:g}"  # + 0, so that -0 is 0


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

    def svg(self, title: str, description: str) -> str:
        """Return the picture as the text of a file."""
        x, y = self.left - MARGIN, self.top - MARGIN
        w, h = self.right - self.left + 2 * MARGIN, self.bottom - self.top + 2 * MARGIN
        frame = f'x="{number(x)}" y="{number(y)}" width="{number(w)}" height="{number(h)}"'
        light, dark = (
            "\n".join(f".{name}{{{style}}}" for name, style in colours.items())
            for colours in (LIGHT, DARK)
        )
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{number(w)}" '
                f'height="{number(h)}" viewBox="{number(x)} {number(y)} {number(w)} {number(h)}" '
                'role="img" aria-labelledby="title desc">',
                f'<title id="title">{escape(title, quote=False)}</title>',
                f'<desc id="desc">{escape(description, quote=False)}</desc>',
                f"<style>\n{SHAPES}\n{light}",
                f"@media (prefers-color-scheme:dark){{\n{dark}\n}}\n</style>",
                f'<rect class="card" {frame} rx="10"/>',
                *self.elements,
                "</svg>\n",
            ]
        )
