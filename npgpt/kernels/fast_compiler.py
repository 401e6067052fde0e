"""Numba's compiler without the work that is done again elsewhere.

It uses names that are private to Numba, so that another version may not have them: probe.py tries
every one of them, and jit.py then compiles without this file.
"""

from functools import partial

import numba
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


def njit(function, options):
    """numba.njit without the wrapper through which C would call the kernel."""
    kernel = numba.njit(no_cfunc_wrapper=True, **options)(function)
    kernel.get_call_template = partial(without_literals, kernel.get_call_template)
    kernel._compilation_chain_init_hook = load_no_extensions
    return kernel


def load_no_extensions() -> None:
    """Load no extensions of Numba from other packages: kernels have no types of theirs.

    Numba would look for them among all packages that are installed.
    """


def inner(function, options):
    """numba.njit for a function that only kernels call."""
    kernel = njit(function, {"no_cpython_wrapper": True, "pipeline_class": InnerCompiler} | options)
    kernel.add_overload = partial(add_overload, kernel)
    kernel._compile_for_args = partial(refuse, kernel)
    return kernel


def without_literals(find, kinds, named_kinds):
    """Resolve a call with literal argument types replaced by their base types.

    Otherwise Numba would compile a new specialization for every constant.
    """
    named = {name: types.unliteral(kind) for name, kind in named_kinds.items()}
    return find(tuple(types.unliteral(kind) for kind in kinds), named)


class InnerCompiler(Compiler):
    """Compile to code that is only linked into other code."""

    def __init__(self, typing_context, context, _library, *rest):
        super().__init__(typing_context, context, InnerCode(context.codegen(), "inner"), *rest)
        self.state.flags.no_compile = True  # it has no address for Python


class InnerCode(JITCodeLibrary):
    """A library that is linked into others, and optimised with them."""

    def finalize(self):
        """Link the functions it calls. Optimisation is left to the library it is linked into."""
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()
        self._finalized = True


class NoAddress:
    """Stands where Numba keeps the address of a compiled function; each is another key."""


def add_overload(kernel, compiled):
    """Let other kernels find a compiled function that has no address."""
    key = NoAddress()
    kernel.targetctx.insert_user_function(key, compiled.fndesc, [compiled.library])
    kernel.overloads[tuple(compiled.signature.args)] = compiled._replace(entry_point=key)


def refuse(kernel, *_):
    """Raise TypeError: Python cannot call an inner kernel."""
    name = f"{kernel.py_func.__module__}.{kernel.py_func.__qualname__}"
    raise TypeError(f"only kernels call {name}; if Python is to, make it @njit instead of @inner")
