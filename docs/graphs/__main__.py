"""Draw every graph: `python -m docs.graphs` writes docs/images/graphs/*.svg."""

from pathlib import Path

from docs.graphs import network, ops
from docs.graphs.draw import draw

IMAGES = Path(__file__).parents[1] / "images" / "graphs"
GRAPHS = [*ops.GRAPHS, network.block(n_head=1), network.model(n_head=1)]


def main() -> None:
    """Write the pictures."""
    IMAGES.mkdir(exist_ok=True)
    for graph in GRAPHS:
        (IMAGES / f"{graph.name}.svg").write_text(draw(graph), encoding="utf-8")


if __name__ == "__main__":
    main()
