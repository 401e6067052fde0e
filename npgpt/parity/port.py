"""The parts of GPT-2 as a port may have written them: the lines of this project, some changed.

A mistake is a list of edits. An edit names a function and replaces a piece of its source text, so
that the wrong lines stand beside the right ones and run in their place. Nothing else is written
twice. The texts are this package's own: no edit comes from a file of the user.
"""

import ast
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

from npgpt.arrays import Array, into
from npgpt.model.backend import OPS, Backend

# Modules that an edit may change. A module stands below those that it refers to.
EDITABLE = (
    "npgpt.ops.dropout",
    "npgpt.ops.adam",
    "npgpt.ops.adamw",
    "npgpt.ops.attention",
    "npgpt.ops.embedding",
    "npgpt.ops.gelu",
    "npgpt.ops.layernorm",
    "npgpt.ops.linear",
    "npgpt.ops.linear_cross_entropy",
    "npgpt.ops.muon",
    "npgpt.ops.rmsprop",
    "npgpt.ops.sgd",
    "npgpt.model.block",
    "npgpt.model.kv_cache",
    "npgpt.model.transformer",
    "npgpt.training.schedule",
    "npgpt.parity.steps",
)

# Variables whose values a recorder keeps, because no op returns them. Edits keep these names.
KEPT = {
    "npgpt.ops.attention": ("probs", "dprobs"),
    "npgpt.model.block": ("x", "dx"),  # assigned once after attention and once after the MLP
}

Keep = Callable[[str, Any], None]


class EditError(ValueError):
    """An edit does not fit: another one has changed the same lines."""


@dataclass(frozen=True)
class Edit:
    """A piece of the source text of a function, and the wrong text in its place.

    Parameters
    ----------
    where : str
        "npgpt.ops.attention:backward", a function or method of one of `EDITABLE`.
    right : str
        The piece as it stands there, once.
    wrong : str
    """

    where: str
    right: str
    wrong: str

    @property
    def module(self) -> str:
        """The name of the module."""
        return self.where.partition(":")[0]

    def apply(self, source: str) -> str:
        """Return a module's source text with the piece replaced. Raises EditError."""
        start, end = span(source, self.where.partition(":")[2])
        text = source[start:end]
        if text.count(self.right) != 1:
            raise EditError(f"{self.where} has {text.count(self.right)} times {self.right!r}")
        return source[:start] + text.replace(self.right, self.wrong) + source[end:]

    def line(self) -> int:
        """Return the number of the line where the right text begins."""
        source = inspect.getsource(import_module(self.module))
        start, _ = span(source, self.where.partition(":")[2])
        return source.count("\n", 0, source.index(self.right, start)) + 1


@dataclass(frozen=True)
class Port:
    """A GPT-2: this project's NumPy backend and model, with edits.

    Parameters
    ----------
    edits : tuple of Edit, default ()
        Applied in this order. None: the right port.
    replaced : tuple of (str, object), default ()
        Ops with the functions of another author, by name.
    """

    edits: tuple[Edit, ...] = ()
    replaced: tuple[tuple[str, Any], ...] = ()

    def edit(self, where: str, right: str, wrong: str) -> "Port":
        """Return this port with one more edit."""
        return replace(self, edits=(*self.edits, Edit(where, right, wrong)))

    def replace_op(self, op: str, **functions: Any) -> "Port":
        """Return this port with some functions of an op replaced: forward, backward, update."""
        changed = SimpleNamespace(**{**vars(getattr(self.ops, op)), **functions})
        return replace(self, replaced=(*self.replaced, (op, changed)))

    def modules(self, keep: Keep | None = None) -> dict[str, ModuleType]:
        """Return the modules of `EDITABLE` by name: edited ones, and those that refer to them, new.

        `keep(name, value)` is called after every assignment to a variable of `KEPT`. Raises
        EditError.
        """
        modules: dict[str, ModuleType] = {}
        new: dict[int, ModuleType] = {}  # by the id of the module in whose place it stands
        for name in EDITABLE:
            module = modules[name] = import_module(name)
            own = tuple(edit for edit in self.edits if edit.module == name)
            refers = [key for key, value in vars(module).items() if id(value) in new]
            if own or refers or (keep and name in KEPT):
                fresh = ModuleType(name)
                exec(compiled(name, own, keep is not None), vars(fresh))
                vars(fresh).update({key: new[id(getattr(module, key))] for key in refers})
                vars(fresh)["keep"] = keep
                modules[name] = new[id(module)] = fresh
        return modules

    @property
    def ops(self) -> Backend:
        """The backend of this port."""
        return backend(self.modules(), self.replaced)


def backend(modules: dict[str, ModuleType], replaced: Sequence[tuple[str, Any]] = ()) -> Any:
    """Return the ops of these modules as a backend."""
    found = {op: import_module(f"npgpt.ops.{op}") for op in OPS}
    found |= {op: modules[f"npgpt.ops.{op}"] for op in OPS if f"npgpt.ops.{op}" in modules}
    ops = SimpleNamespace(**found)
    for op, functions in replaced:
        setattr(ops, op, functions)
    ops.decode = SimpleNamespace(forward=functools.partial(decode, modules, ops))
    return ops


def decode(
    modules: dict[str, ModuleType], ops: Any, x: Array, blocks: Any, *, n_head: int, past: Any,
    out: Array | None = None,
) -> Array:  # fmt: skip
    """(B, 1, C) -> (B, 1, C): npgpt.ops.decode, by way of the port's own block."""
    for p, layer in zip(blocks, past, strict=True):
        x, _ = modules["npgpt.model.block"].forward(x, p, n_head=n_head, past=layer, ops=ops)
    return into(out, x)


@functools.lru_cache(maxsize=512)
def compiled(name: str, edits: tuple[Edit, ...], kept: bool) -> CodeType:
    """Return the code of a module, edited."""
    source = inspect.getsource(import_module(name))
    for edit in edits:
        source = edit.apply(source)
    tree = ast.parse(source)
    if kept and name in KEPT:
        keep_variables(tree, KEPT[name])
    return compile(tree, f"<{name}, edited>", "exec")


def keep_variables(tree: ast.Module, names: Sequence[str]) -> None:
    """Insert `keep("x", x)` after every assignment to one of the names, in every function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.body = [one for line in node.body for one in (line, *calls(line, names))]
    ast.fix_missing_locations(tree)


def calls(line: ast.stmt, names: Sequence[str]) -> list[ast.stmt]:
    """Return the calls of `keep` that follow an assignment."""
    targets = line.targets if isinstance(line, ast.Assign) else []
    found = [node.id for target in targets for node in ast.walk(target)
             if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]  # fmt: skip
    return [ast.parse(f"keep({name!r}, {name})").body[0] for name in found if name in names]


def span(source: str, function: str) -> tuple[int, int]:
    """Return where the text of a function begins and ends; a method is "Class.method"."""
    node: Any = ast.parse(source)
    for name in function.split("."):
        node = next(child for child in node.body if getattr(child, "name", None) == name)
    lines = source.splitlines(keepends=True)
    return sum(map(len, lines[: node.lineno - 1])), sum(map(len, lines[: node.end_lineno]))


RIGHT = Port()
