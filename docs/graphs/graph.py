"""A computation graph whose formulas are Python: they are run, and draw.py draws them.

    node    z = formula(a, b, ...)         the names in a formula are nodes, constants or functions
    vjp     da gets f(dz, a, b, ..., z)    one formula per edge: the vector-Jacobian product

`dz` is the upstream gradient of `z`: the sum of what all edges out of `z` send back.
"""

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np


class Node(NamedTuple):
    name: str
    shape: str  # as the picture shows it
    formula: str = ""  # an input has none
    vjps: Mapping[str, str] = {}  # input -> the formula of the gradient that this edge sends back
    column: float = 0.0  # in the picture; rows follow from the edges
    row: int | None = None  # only where the default does not fit
    kind: str = "value"  # or "input", "parameter", "constant"
    title: str = ""  # shown instead of the name


def leaf(name: str, shape: str, kind: str = "input", **drawn) -> Node:
    """Return a node without a formula: its value is given to `Graph.forward`."""
    return Node(name, shape, kind=kind, **drawn)


def parameter(name: str, shape: str, **drawn) -> Node:
    """Return a leaf that is learned."""
    return leaf(name, shape, "parameter", **drawn)


def constant(name: str, shape: str, **drawn) -> Node:
    """Return a leaf that no gradient flows to."""
    return leaf(name, shape, "constant", **drawn)


def names(formula: str) -> list[str]:
    """Return the names that a formula uses, in order of appearance, each once."""
    found = [n for n in ast.walk(ast.parse(formula, mode="eval")) if isinstance(n, ast.Name)]
    return list(dict.fromkeys(n.id for n in sorted(found, key=lambda n: n.col_offset)))


class Graph:
    """The nodes of a graph in forward order; the last one is the output."""

    def __init__(self, name: str, nodes: list[Node], functions: Mapping[str, Any], **picture):
        self.name, self.nodes, self.functions, self.picture = name, nodes, functions, picture
        self.by_name = {node.name: node for node in nodes}
        self.output = nodes[-1]
        self.check()

    def inputs(self, node: Node) -> list[Node]:
        """Return the nodes that a node is computed from."""
        used = names(node.formula) if node.formula else []
        return [self.by_name[name] for name in used if name in self.by_name]

    def edges(self) -> list[tuple[Node, Node]]:
        """Return every forward edge as (input, node)."""
        return [(source, node) for node in self.nodes for source in self.inputs(node)]

    def consumers(self, node: Node) -> list[Node]:
        """Return the nodes that are computed from a node."""
        return [target for source, target in self.edges() if source is node]

    def has_gradient(self, node: Node) -> bool:
        """Return True if a gradient flows back to the node."""
        return any(node.name in consumer.vjps for consumer in self.consumers(node))

    def check(self) -> None:
        """Raise ValueError for nodes out of order, or an edge without the gradient it must have."""
        seen: set[str] = set()
        backward = any(node.vjps for node in self.nodes)
        for node in self.nodes:
            inputs = [source.name for source in self.inputs(node)]
            if not seen.issuperset(inputs) or node.name in seen:
                raise ValueError(f"{self.name}: {node.name} must follow its inputs {inputs}, once")
            seen.add(node.name)
            learn = {name for name in inputs if self.by_name[name].kind != "constant"}
            if backward and set(node.vjps) != learn:
                raise ValueError(
                    f"{self.name}: {node.name} must have a VJP for each of {sorted(learn)}, "
                    f"not for {sorted(node.vjps)}"
                )

    def forward(self, **given) -> dict[str, Any]:
        """Return the value of every node, from those of the leaves and of constants."""
        values = dict(given)
        for node in self.nodes:
            if node.formula:
                values[node.name] = self.evaluate(node.formula, values)
        return values

    def backward(self, values: Mapping[str, Any], upstream) -> dict[str, Any]:
        """Return the gradient of every node that has one. `upstream` is that of the output."""
        gradients = {self.output.name: upstream}
        for node in reversed(self.nodes):
            for name, formula in node.vjps.items():
                upstream = {f"d{node.name}": gradients[node.name]}
                sent = self.evaluate(formula, {**values, **upstream})
                gradients[name] = add(gradients.get(name), sent, like=values[name])
        return gradients

    def evaluate(self, formula: str, values: Mapping[str, Any]):
        """Return the value of a formula."""
        return eval(formula, {**self.functions, **values})


def add(total, sent, *, like):
    """Return the sum of the gradients received so far and one more, in the shape of the value."""
    if isinstance(like, tuple):  # the parameters of a layer, one after the other
        parts = total or [None] * len(like)
        return [add(*each[:2], like=each[2]) for each in zip(parts, sent, like, strict=True)]
    sent = np.broadcast_to(sent, np.shape(like))
    return sent if total is None else total + sent
