"""Draw the pictures of README and docs/kernels.md.

    python docs/images/draw.py

The colours follow the theme of the page. Sizes are those of CPUs with AVX-512.
"""

from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent
MR, LANES, VECTORS, RIGHT_PANELS = 14, 16, 2, 6  # npgpt/kernels/gemm_microkernel.py, gemm.py
TILE_ROWS, TILE_VECTORS = 8, 3  # npgpt/kernels/gemv_tile.py

STYLE = """
  text { font: 14px system-ui, "Segoe UI", Roboto, sans-serif; fill: #1f2933 }
  .mono { font: 13px ui-monospace, Menlo, Consolas, monospace }
  .small { font-size: 12px } .dim { fill: #5b6875 } .bold { font-weight: 600 }
  .box { fill: #fff; stroke: #8793a0 } .line { fill: none; stroke: #1f2933 }
  .blue { fill: #d5e6f9; stroke: #2b6cb0 } .blue2 { fill: #78b0ea; stroke: #2b6cb0 }
  .orange { fill: #fde3cd; stroke: #b4541a } .orange2 { fill: #f0a35e; stroke: #b4541a }
  .green { fill: #d9f0dc; stroke: #2f7d3b } .green2 { fill: #7cc788; stroke: #2f7d3b }
  .forward { fill: none; stroke: #2b6cb0; stroke-width: 1.8 } .tip1 { fill: #2b6cb0 }
  .backward { fill: none; stroke: #b4541a; stroke-width: 1.8; stroke-dasharray: 6 4 }
  .tip2 { fill: #b4541a } .fw { fill: #2b6cb0 } .bw { fill: #b4541a } .gr { fill: #2f7d3b }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .dim { fill: #9aa7b4 } .box { fill: #1b232d; stroke: #6b7785 }
    .line { stroke: #e6edf3 }
    .blue { fill: #17304d; stroke: #7db4f0 } .blue2 { fill: #2f6fb3; stroke: #7db4f0 }
    .orange { fill: #4a2c14; stroke: #f0a35e } .orange2 { fill: #a85f22; stroke: #f0a35e }
    .green { fill: #173a20; stroke: #7cc788 } .green2 { fill: #2f7d3b; stroke: #7cc788 }
    .forward { stroke: #7db4f0 } .tip1, .fw { fill: #7db4f0 }
    .backward { stroke: #f0a35e } .tip2, .bw { fill: #f0a35e } .gr { fill: #7cc788 }
  }
"""
TIPS = "".join(
    f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    f'orient="auto"><path class="{name}" d="M0 0L8 4L0 8z"/></marker>'
    for name in ("tip1", "tip2")
)


def picture(width, height, title, *parts) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">\n<title>{escape(title)}</title>\n<style>{STYLE}</style>\n'
        f"<defs>{TIPS}</defs>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def box(x, y, width, height, kind="box", radius=0) -> str:
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" '
        f'rx="{radius}"/>'
    )


def text(x, y, said, kind="", anchor="middle") -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(said)}</text>'


def arrow(path, backward=False) -> str:
    kind, tip = ("backward", "tip2") if backward else ("forward", "tip1")
    return f'<path class="{kind}" d="{path}" marker-end="url(#{tip})"/>'


def op(x, y, name, backward=False, width=86) -> str:
    """A labelled box, centred on x."""
    kind = "orange" if backward else "blue"
    return box(x - width / 2, y, width, 34, kind, 5) + text(x, y + 22, name, "mono")


def circle(x, y, said, kind) -> tuple[str, str]:
    return f'<circle class="{kind}" cx="{x:g}" cy="{y:g}" r="14"/>', text(x, y + 6, said, "bold")


def block() -> str:
    """One transformer block: forward from left to right, backward from right to left."""
    layers = (["ln_1", "c_attn", "attention", "c_proj"], ["ln_2", "c_fc", "gelu", "c_proj"])
    names = [name for layer in layers for name in ("fork", *layer, "+")]
    half = {"fork": 14, "+": 14}
    top, low, x, middle = 80, 196, 62, []
    for name in names:
        middle.append(x + half.get(name, 43))
        x = middle[-1] + half.get(name, 43) + 16
    end = x + 8
    parts = [
        text(20, 24, "forward", "fw bold", "start"),
        text(92, 24, "each op keeps in a Cache what its backward needs", "dim", "start"),
        text(20, 330, "backward", "bw bold", "start"),
        text(104, 330, "the same ops in reverse order: a sum copies its gradient, a fork adds the "
             "two that come back, a layer leaves dweight and dbias", "dim", "start"),
        text(20, top + 22, "x", "mono bold"), text(end + 18, top + 22, "out", "mono bold"),
        text(20, low + 22, "dx", "mono bold"), text(end + 20, low + 22, "dout", "mono bold"),
    ]  # fmt: skip
    for y, dot, back in ((top, "fork", False), (low, "+", True)):  # a dot has no width
        size = [0 if name == dot else half.get(name, 43) for name in names]
        right = [34, *(x + width for x, width in zip(middle, size, strict=True))]
        left = [*(x - width for x, width in zip(middle, size, strict=True)), end]
        for a, b in zip(right, left, strict=True):
            if back:
                parts.append(arrow(f"M{b:g} {y + 17}H{a + 1:g}", True))
            else:
                parts.append(arrow(f"M{a:g} {y + 17}H{b - 1:g}"))
    for fork, join in ((middle[0], middle[5]), (middle[6], middle[11])):
        # the residual connection: x goes around the layer, and so does its gradient
        parts.append(arrow(f"M{fork:g} {top + 17}V{top - 26}H{join:g}V{top + 2}"))
        parts.append(arrow(f"M{join:g} {low + 17}V{low + 88}H{fork:g}V{low + 33}", True))
    for name, x in zip(names, middle, strict=True):
        if name == "fork":
            parts.append(f'<circle class="tip1" cx="{x:g}" cy="{top + 17}" r="4"/>')
            parts += circle(x, low + 17, "+", "orange")
        elif name == "+":
            parts += circle(x, top + 17, "+", "blue")
            parts.append(f'<circle class="tip2" cx="{x:g}" cy="{low + 17}" r="4"/>')
        else:
            parts += op(x, top, name), op(x, low, name, True)
            parts.append(f'<path class="line" stroke-dasharray="2 3" d="M{x:g} {top + 35}'
                         f'V{low - 2}" opacity=".4"/>')  # fmt: skip
            parts.append(text(x + 5, (top + low) / 2 + 21, "Cache", "small dim", "start"))
            if name not in ("attention", "gelu"):
                parts.append(text(x, low + 53, "dweight", "small gr"))
                parts.append(text(x, low + 68, "dbias", "small gr"))
    return picture(int(end) + 44, 346, "One transformer block, forward and backward", *parts)


def blocking() -> str:
    """Which part of each matrix is where, while a product is made."""
    left, top, panel, tile, K = 210, 196, 14, 22, 150
    parts = [
        text(left + 175, 24, "b  (K, N)", "mono bold"),
        text(105, top + 196, "a  (M, K)", "mono bold"),
        text(left + 175, top + 196, "out  (M, N)", "mono bold"),
        box(left, 36, 350, K), box(30, top, K, 168), box(left, top, 350, 168),
    ]  # fmt: skip
    first = left + RIGHT_PANELS * tile  # the second task
    parts += [box(first + i * tile, 36, tile, K * 0.66, "orange") for i in range(RIGHT_PANELS)]
    parts.append(box(first + 2 * tile, 36, tile, K * 0.66, "orange2"))
    parts += [box(30, top + i * panel, K * 0.66, panel, "blue") for i in range(12)]
    parts.append(box(30, top + 5 * panel, K * 0.66, panel, "blue2"))
    parts.append(box(first, top, RIGHT_PANELS * tile, 168, "green"))
    parts.append(box(first + 2 * tile, top + 5 * panel, tile, panel, "green2"))
    legend = [
        ("orange", "right panels of a task, packed: 768 x (6 x 32)", "second-level cache"),
        ("orange2", "right panel of the microkernel: 768 x 32", "first and second-level cache"),
        ("blue", "left panels, packed by all threads: 14 rows each", "last-level cache, memory"),
        ("blue2", "left panel of the microkernel: 14 x 768", "first-level cache"),
        ("green", "what the task computes", "written once, past the caches if large"),
        ("green2", "tile of the microkernel: 14 x 32", "registers"),
    ]
    for i, (kind, what, where) in enumerate(legend):
        y = 44 + i * 54
        parts += [box(590, y, 18, 18, kind), text(618, y + 14, what, "", "start"),
                  text(618, y + 32, where, "small dim", "start")]  # fmt: skip
    return picture(1020, 412, "Blocking of a matrix product", *parts)


def packing() -> str:
    """A left panel: from rows of a matrix to the order in which the microkernel reads it."""
    cell, parts = 17, []
    shades = ("blue2", "green2", "orange2")
    parts.append(text(24, 26, "14 rows of a, as they lie in memory", "bold", "start"))
    for row in range(MR):
        for k in range(10):
            parts.append(box(24 + k * 30, 40 + row * cell, 30, cell, shades[k] if k < 3 else "box"))
    parts.append(text(24 + 45, 40 + MR * cell + 20, "k = 0, 1, 2", "small dim"))
    parts.append(text(24 + 195, 40 + MR * cell + 20, "one row after the other", "small dim"))
    parts.append(text(420, 26, "the left panel, as it is packed", "bold", "start"))
    for k in range(3):
        for lane in range(LANES):
            parts.append(
                box(420 + lane * 30, 56 + k * 62, 30, 30, shades[k] if lane < 14 else "box")
            )
        parts.append(text(420, 56 + k * 62 + 48, f"k = {k}: 14 numbers, padded to one vector of 16",
                          "small dim", "start"))  # fmt: skip
    parts.append(text(420, 262, "... the microkernel reads it from front to back", "dim", "start"))
    parts.append(arrow(f"M336 {40 + 7 * cell}H408"))
    return picture(924, 318, "Packing a left panel", *parts)


def microkernel() -> str:
    """One step of k: two vectors, fourteen numbers, 28 multiply-adds."""
    cell, height, x0, y0 = 15, 17, 190, 84
    parts = [text(x0 + 240, 26, "right[k]: two vectors of 16 numbers", "bw bold")]
    for vector in range(VECTORS):
        x = x0 + vector * (LANES * cell + 12)
        parts += [box(x + lane * cell, 40, cell, 24, "orange") for lane in range(LANES)]
        for row in range(MR):
            parts.append(box(x, y0 + row * height, LANES * cell, height, "green"))
            parts.append(text(x + LANES * cell / 2, y0 + row * height + 13,
                              f"sum {2 * row + vector}", "small dim"))  # fmt: skip
    for row in range(MR):
        parts.append(box(140, y0 + row * height, 34, height, "blue"))
    parts += [
        text(126, y0 + 104, "left[k]:", "fw bold", "end"),
        text(126, y0 + 124, "14 numbers,", "fw", "end"),
        text(126, y0 + 142, "each broadcast", "fw", "end"),
        text(x0 + 240, y0 + MR * height + 26,
             "28 sums stay in vector registers until the last k, then they are written", "dim"),
    ]  # fmt: skip
    return picture(700, 362, "The microkernel: one step of k", *parts)


def tile() -> str:
    """The register block of a batch: b where it is stored, eight rows of a, 8 x 3 sums."""
    cell, height, x0, y0 = 156, 20, 210, 236
    width = cell * TILE_VECTORS
    parts = [
        text(x0 - 20, 26, "b, as it is stored: one part of k, the columns of a task", "bw bold",
             "start"),
        box(x0 - 90, 40, width + 180, 118, "box"),
        text(x0 - 58, 106, "other tasks", "small dim"),
        text(x0 + width + 56, 106, "other tasks", "small dim"),
    ]  # fmt: skip
    for k in range(4):
        kind = "orange2" if k == 1 else "orange"
        parts += [box(x0 + v * cell, 46 + 28 * k, cell, 22, kind) for v in range(TILE_VECTORS)]
    parts.append(text(x0 + width / 2, 90, "row k: three vectors, read once per panel", "small"))
    parts.append(text(x0 + width / 2, 182, "the rows of the next part are prefetched meanwhile",
                      "small dim"))  # fmt: skip
    for row in range(TILE_ROWS):
        y = y0 + row * height
        parts.append(box(150, y, 44, height, "blue"))
        for v in range(TILE_VECTORS):
            parts.append(box(x0 + v * cell, y, cell, height, "green"))
            parts.append(text(x0 + v * cell + cell / 2, y + 15, f"sum {TILE_VECTORS * row + v}",
                              "small dim"))  # fmt: skip
    for panel in range(1, 3):
        parts.append(box(150, y0 + 152 + panel * 24, 44, 16, "blue"))
        parts.append(text(x0, y0 + 165 + panel * 24,
                          f"panel {panel + 1}: the next eight rows meet the same part of b",
                          "small dim", "start"))  # fmt: skip
    parts += [
        text(140, y0 + 38, "a[:, k]:", "fw bold", "end"),
        text(140, y0 + 58, "eight numbers,", "fw", "end"),
        text(140, y0 + 76, "each broadcast", "fw", "end"),
        text(x0 + width / 2, y0 - 14, "24 sums in vector registers, for one part of k", "gr bold"),
    ]
    return picture(830, 466, "The register block of a batch: one step of k", *parts)


def int8() -> str:
    """One step of an int8 product: four rows of weights become quads, which meet a quad of x."""
    parts = [text(20, 30, "four rows of b, as they are stored", "bold", "start")]
    for k in range(4):
        parts.append(text(36, 66 + 26 * k, f"k{k}", "mono dim"))
        for n in range(8):
            parts.append(box(60 + 26 * n, 48 + 26 * k, 26, 26, "blue2" if n == 2 else "blue"))
    parts += [
        arrow("M268 100H330"),
        text(304, 88, "interleave", "small dim"),
        text(304, 122, "+ 128", "small dim"),
        text(340, 30, "a vector of quads: four k in a lane", "bold", "start"),
    ]
    for n in range(8):
        for k in range(4):
            kind = "blue2" if n == 2 else "blue"
            parts.append(box(340 + 48 * n + 12 * k, 87, 12, 26, kind))
        parts.append(box(340 + 48 * n, 87, 48, 26, "line"))
    parts += [
        text(20, 192, "a row of x, in groups: float32", "bold", "start"),
        box(60, 204, 208, 26, "orange"),
        arrow("M268 217H330"),
        text(299, 206, "round", "small dim"),
        text(340, 192, "a quad of x, in every lane", "bold", "start"),
    ]
    for n in range(8):
        for k in range(4):
            parts.append(box(340 + 48 * n + 12 * k, 204, 12, 26, "orange2"))
        parts.append(box(340 + 48 * n, 204, 48, 26, "line"))
    parts += [
        arrow("M652 113V200"), arrow("M652 230V286"),
        text(340, 280, "int32 sums, in registers", "bold", "start"),
        text(340, 158, "vpdpbusd: 4 products per lane", "mono", "start"),
    ]  # fmt: skip
    for n in range(8):
        parts.append(box(340 + 48 * n, 290, 48, 26, "green"))
    parts += [
        text(20, 310, "at the end of a group:", "bold", "start"),
        text(20, 334, "float32 sum += scale of the group * int32 sum", "mono", "start"),
    ]
    return picture(744, 350, "One step of an int8 product", *parts)


def decode() -> str:
    """A token: one parallel loop, five stages a block."""
    stages = [("c_attn", 150, 138), ("attention", 60, 66), ("c_proj", 52, 58), ("c_fc", 200, 184),
              ("c_proj", 186, 200)]  # fmt: skip
    parts, x = (
        [text(20, 26, "one block of a new token, in one parallel loop", "bold", "start")],
        110,
    )
    for thread, y in ((0, 70), (1, 130)):
        parts.append(text(100, y + 24, f"thread {thread}", "", "end"))
    for name, *times in stages:
        longest = max(times)
        parts.append(text(x + longest / 2, 58, name, "mono"))
        for width, y in zip(times, (70, 130), strict=True):
            kind = "green" if name == "attention" else "blue"
            parts.append(box(x, y, width, 36, kind))
            if longest - width > 1:
                parts.append(box(x + width, y, longest - width, 36, "orange2"))
        x += longest + 4
    for i, (kind, said) in enumerate([
        ("blue", "reads its parts of a weight matrix, each weight once"),
        ("green", "attention of the new position to the key/value cache"),
        ("orange2", "waits for the other thread, and prefetches the weights of the next stage"),
    ]):  # fmt: skip
        parts += [box(110, 192 + 26 * i, 18, 18, kind), text(138, 206 + 26 * i, said, "", "start")]
    parts.append(text(x - 4, 206, "a sketch, not to scale", "small dim", "end"))
    return picture(int(x) + 20, 276, "A new token as one parallel loop", *parts)


def attention() -> str:
    """Rows of scores made a strip at a time."""
    n, side = 12, 20
    parts = [text(20, 26, "scores of one head  (T, T)", "bold", "start")]
    x0, y0, strip = 20, 40, (6, 7)
    for row in range(n):
        for column in range(n):
            if column > row:
                kind = "box"
            else:
                kind = "orange2" if row in strip else "blue"
            if column <= row:
                parts.append(box(x0 + column * side, y0 + row * side, side, side, kind))
    parts.append(box(x0, y0, n * side, n * side, "line"))
    parts += [text(x0 + 178, y0 + 44, "masked", "dim"),
              text(x0 + 290, y0 + 6.9 * side, "the strip that exists now: 56 rows of a backward,",
                   "bw", "start"),
              text(x0 + 290, y0 + 6.9 * side + 20, "up to the diagonal, in the core's cache",
                   "bw", "start"),
              text(x0 + 290, y0 + 30, "kept for backward, of every row two numbers:", "", "start"),
              text(x0 + 290, y0 + 54, "row_max, the largest score", "mono", "start"),
              text(x0 + 290, y0 + 78, "inv_sum, 1 / sum of exp(score - row_max)", "mono", "start"),
              text(x0 + 290, y0 + 206, "backward computes the strip again:", "", "start"),
              text(x0 + 290, y0 + 230, "p = exp(score - row_max) * inv_sum", "mono", "start"),
    ]  # fmt: skip
    return picture(700, 296, "Attention a strip of rows at a time", *parts)


def logo() -> str:
    """Forward above, backward below: the sign of the project."""
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">\n'
        '<rect width="32" height="32" rx="7" fill="#14283f"/>\n'
        '<path d="M6 11H23M18 5.5L24 11L18 16.5" fill="none" stroke="#7db4f0" stroke-width="3"/>\n'
        '<path d="M26 21H9M14 15.5L8 21L14 26.5" fill="none" stroke="#f0a35e" stroke-width="3"/>\n'
        "</svg>\n"
    )


PICTURES = {
    "logo.svg": logo,
    "block.svg": block,
    "gemm-blocking.svg": blocking,
    "gemm-packing.svg": packing,
    "gemm-microkernel.svg": microkernel,
    "gemv-tile.svg": tile,
    "attention-strips.svg": attention,
    "decode-loop.svg": decode,
    "gemm-int8.svg": int8,
}


def main() -> None:
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw(), "utf-8", newline="\n")


if __name__ == "__main__":
    main()
