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
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
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
    in_decoding : bool, default False
        True if the wrong lines run only where tokens are fed through a key/value cache.
    """

    where: str
    right: str
    wrong: str
    in_decoding: bool = False

    @property
    def module(self) -> str:
        """The name of the module."""
        return self.where.partition(":")[0]

    @property
    def definition(self) -> str:
        """The name of the function, or of the class of the method."""
        return self.where.partition(":")[2].partition(".")[0]

    def apply(self, text: str) -> str:
        """Return the text of the definition with the piece replaced. Raises EditError."""
        if text.count(self.right) != 1:
            raise EditError(f"{self.where} has {text.count(self.right)} times {self.right!r}")
        return text.replace(self.right, self.wrong)

    def line(self) -> int:
        """Return the number of the line where the right text begins."""
        first, text = definitions(self.module)[self.definition]
        return first + text.count("\n", 0, text.index(self.right))


@dataclass(frozen=True)
class Port:
    """A GPT-2: this project's NumPy backend and model, with edits.

    Parameters
    ----------
    edits : tuple of Edit, default ()
        Applied in this order. None: the right port.
    replaced : tuple of (str, object), default ()
        Ops with the functions of another author, by name.
    overwritten : tuple of str, default ()
        Activations of which an array is dumped that was changed later, not a copy: "after_attn".
    """

    edits: tuple[Edit, ...] = ()
    replaced: tuple[tuple[str, Any], ...] = ()
    overwritten: tuple[str, ...] = ()

    def edit(self, where: str, right: str, wrong: str) -> "Port":
        """Return this port with one more edit."""
        return replace(self, edits=(*self.edits, Edit(where, right, wrong)))

    @property
    def decoding(self) -> "Port":
        """The port of tokens that are fed through a key/value cache: all of its edits apply."""
        return replace(self, edits=tuple(replace(e, in_decoding=False) for e in self.edits))

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
            texts: dict[str, str] = {}
            for edit in self.edits:
                if edit.module == name and not edit.in_decoding:
                    text = texts.get(edit.definition, definitions(name)[edit.definition][1])
                    texts[edit.definition] = edit.apply(text)
            refers = [key for key, value in vars(module).items() if id(value) in new]
            kept = KEPT.get(name, ()) if keep else ()
            if texts or refers or kept:
                fresh = copy_module(module)
                vars(fresh).update({key: new[id(getattr(module, key))] for key in refers})
                vars(fresh)["keep"] = keep
                for key in ("forward", "backward") if kept else ():
                    texts.setdefault(key, definitions(name)[key][1])
                for text in texts.values():
                    exec(compiled(name, text, kept), vars(fresh))
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
    for ops.layer, (p, layer) in enumerate(zip(blocks, past, strict=True)):
        x, _ = modules["npgpt.model.block"].forward(x, p, n_head=n_head, past=layer, ops=ops)
    return into(out, x)


def copy_module(module: ModuleType) -> ModuleType:
    """Return a module with the same names, whose own functions refer to it, not to the original."""
    fresh = ModuleType(module.__name__)
    vars(fresh).update(vars(module))
    for key, value in vars(module).items():
        if isinstance(value, FunctionType) and value.__globals__ is vars(module):
            own = FunctionType(value.__code__, vars(fresh), key, value.__defaults__)
            own.__kwdefaults__ = value.__kwdefaults__
            setattr(fresh, key, own)
    return fresh


@functools.cache
def definitions(name: str) -> dict[str, tuple[int, str]]:
    """Return the first line and the source text of each function and class of a module."""
    source = inspect.getsource(import_module(name))
    lines = source.splitlines(keepends=True)
    return {
        node.name: (node.lineno, "".join(lines[node.lineno - 1 : node.end_lineno]))
        for node in ast.parse(source).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }


@functools.lru_cache(maxsize=4096)
def compiled(name: str, text: str, kept: tuple[str, ...]) -> CodeType:
    """Return the code of a definition. The values of the variables `kept` are kept."""
    tree = ast.parse(text)
    if kept:
        keep_variables(tree, kept)
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


RIGHT = Port()
