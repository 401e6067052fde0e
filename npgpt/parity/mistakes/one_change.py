"""Expressions that differ from the right one in one place: a sign, a term, a factor, a variable."""

import ast
from collections.abc import Iterator, Mapping, Sequence
from copy import copy

Others = Mapping[str, Sequence[str]]  # by a part of an expression: those that may stand for it
WHOLE = ("-({})", "2 * ({})", "({}) / 2")
AXES = ("-2", "0", "(-2, -1)", "(0, 1)", "None")  # in the place of the last axis
REDUCTIONS = {"sum": ("mean", "max"), "mean": ("sum",)}


def changes(
    right: str, others: Others, whole: Sequence[str] = (), *, parts: bool = True
) -> list[str]:
    """Return the expressions with one change each.

    others : what may stand in the place of a part, as it is written
    whole : what may stand in the place of the whole, with {} in the place of the right one
    parts : False if only the whole is changed
    """
    if not parts:
        return [form.replace("{}", right) for form in whole]
    found = [ast.unparse(one) for one in of_part(parse(right), others)]
    found += [form.replace("{}", right) for form in (*WHOLE, *whole)]
    return [one for one in dict.fromkeys(found) if one != ast.unparse(parse(right))]


def parse(text: str) -> ast.expr:
    """Return an expression as a tree."""
    return ast.parse(text, mode="eval").body


def of_part(node: ast.expr, others: Others) -> Iterator[ast.expr]:
    """Yield the trees with one change in the node or below it."""
    yield from of_node(node, others)
    if reduction(node):  # its axis is no expression of its own
        children = [("func", node.func)]  # type: ignore[attr-defined]
    else:
        children = list(ast.iter_fields(node))
    for field, value in children:
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.expr) and not isinstance(child, ast.Slice | ast.Tuple):
                for changed in of_part(child, others):
                    twin = copy(node)
                    every = [*value[:index], changed, *value[index + 1 :]] if isinstance(
                        value, list) else changed  # fmt: skip
                    setattr(twin, field, every)
                    yield twin


def of_node(node: ast.expr, others: Others) -> Iterator[ast.expr]:
    """Yield the trees with a change of the node itself."""
    yield from (parse(one) for one in others.get(ast.unparse(node), ()))
    if isinstance(node, ast.BinOp):
        left, right = node.left, node.right
        if not isinstance(node.op, ast.MatMult | ast.Pow):
            yield left
            if not isinstance(node.op, ast.Div):
                yield right
        for kind in OPERATORS.get(type(node.op), ()):
            yield ast.BinOp(left, kind(), right)
        if isinstance(node.op, ast.MatMult):
            yield ast.BinOp(transpose(left), node.op, right)
            yield ast.BinOp(left, node.op, transpose(right))
    elif isinstance(node, ast.Constant) and isinstance(node.value, float | int):
        yield from (ast.Constant(node.value * factor) for factor in (2, 0.5))
    elif name := reduction(node):
        assert isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        for other in REDUCTIONS[name]:
            yield ast.Call(ast.Attribute(node.func.value, other), node.args, node.keywords)
        for axis in AXES:
            yield ast.Call(node.func, [parse(axis)], node.keywords)


OPERATORS: dict[type[ast.operator], tuple[type[ast.operator], ...]] = {
    ast.Add: (ast.Sub, ast.Mult),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Div, ast.Add),
    ast.Div: (ast.Mult,),
}


def reduction(node: ast.expr) -> str:
    """Return the name of the method that a call reduces the last axis by, "" if it is no such."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        return node.func.attr if node.func.attr in REDUCTIONS else ""
    return ""


def transpose(node: ast.expr) -> ast.expr:
    """Return a matrix transposed, or no longer so."""
    if isinstance(node, ast.Attribute) and node.attr == "mT":
        return node.value
    return ast.Attribute(node, "mT")
