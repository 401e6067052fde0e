"""The one place Numba's options are chosen.

fastmath is a list of permissions, not a switch: sums may be reassociated (SIMD
needs that) and a*b+c contracted, but NaN and inf keep their meaning, because the
causal mask is -inf and a NaN must reach the test that looks for it.
"""

import contextlib
from functools import partial

import numba
from numba import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

FREEDOM = {"reassoc", "contract", "arcp", "nsz"}
BLOCKS = 16  # partial sums per reduction: fixed, so results do not depend on the core count

__all__ = ["BLOCKS", "exact_inner", "exact_njit", "inner", "njit"]


def njit(function=None, *, fastmath=FREEDOM, parallel=False):
    """numba.njit for kernels. `parallel` is for the one loop of parallel.py."""
    if function is None:
        return partial(njit, fastmath=fastmath, parallel=parallel)
    kernel = kernel_of(function, fastmath, parallel=parallel)
    with contextlib.suppress(RuntimeError):  # nowhere to write: compiled anew in every process
        kernel.enable_caching()
    return kernel


def inner(function=None, *, fastmath=FREEDOM):
    """numba.njit for what only kernels call. LLVM makes no machine code of it but as part of those,
    nor anything by which Python could call it."""
    if function is None:
        return partial(inner, fastmath=fastmath)
    kernel = kernel_of(function, fastmath, no_cpython_wrapper=True, pipeline_class=InnerCompiler)
    kernel.add_overload = partial(remember, kernel)
    kernel._compile_for_args = partial(refuse, kernel)
    return kernel


# For kernels whose bits are promised (the random stream): no freedom at all.
exact_njit, exact_inner = partial(njit, fastmath=False), partial(inner, fastmath=False)


def kernel_of(function, fastmath, **options):
    """This function, to be compiled when types of arguments are known."""
    # without what lets C call them, which nobody does and takes time to compile
    options |= {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
    kernel = numba.njit(fastmath=fastmath, **options)(function)
    kernel.get_call_template = partial(called_with, kernel.get_call_template)
    return kernel


def called_with(find, kinds, named_kinds):
    """What `find` finds for a call with arguments of these types, constants taken as numbers.

    By itself, Numba compiles a kernel anew for every constant that another one calls it with.
    """
    plain = {name: types.unliteral(kind) for name, kind in named_kinds.items()}
    return find(tuple(types.unliteral(kind) for kind in kinds), plain)


class InnerCompiler(Compiler):
    """Numba's, for an inner kernel."""

    def __init__(self, typing_context, context, _, *given):
        super().__init__(typing_context, context, InnerCode(context.codegen(), "inner"), *given)
        self.state.flags.no_compile = True  # there is no address for Python


class InnerCode(JITCodeLibrary):
    """Code that is there to be linked into other code, and optimised with that."""

    def finalize(self):
        """Links what it calls, and leaves out all that would be done again where it is linked."""
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalize_dynamic_globals()
        self._finalized = True


def remember(kernel, compiled):
    """Lets other kernels find what has been compiled, under a name in place of its address."""
    name = object()
    kernel.targetctx.insert_user_function(name, compiled.fndesc, [compiled.library])
    kernel.overloads[tuple(compiled.signature.args)] = compiled._replace(entry_point=name)


def refuse(kernel, *_):
    """What a call from Python gets."""
    name = f"{kernel.py_func.__module__}.{kernel.py_func.__qualname__}"
    raise TypeError(f"only kernels call {name}; if Python is to, make it @njit instead of @inner")
