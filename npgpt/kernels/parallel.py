"""`for task in prange(tasks): body(task, *args)`, compiled once for all bodies.

Numba turns a prange loop into a function, wraps that three times, and compiles all four with
everything in them that the loop calls: attention took 21 seconds so, and takes 13. Here the loop is
a small function of its own, that calls whatever it is given the address of.
"""

import numba
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.kernels.jit import inner, njit

WORTH = 1 << 14  # numbers: fewer are done before another thread has begun


@intrinsic
def in_parallel(context, tasks, body, args):
    """body(task, *args) for every task < tasks, shared out among the threads; a single task does
    not start any. `body` is a kernel that returns nothing, `args` a tuple. RuntimeError: a body has
    raised something."""
    launch = context.resolve_value_type(_launch)
    addresses = (types.intp, types.intp, types.intp)
    launches = launch.get_call_type(context, addresses, {})
    calls = body.get_call_type(context, (types.intp, *args.types), {})

    def generate(context, builder, signature, values):
        tasks, _, args = values
        room = cgutils.alloca_once_value(builder, args)
        failed = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(32), 0))
        both = cgutils.alloca_once_value(
            builder, cgutils.make_anonymous_struct(builder, (room, failed))
        )
        function = trampoline(context, builder.module, body, calls, both.type)
        whole = context.get_value_type(types.intp)
        places = [builder.ptrtoint(place, whole) for place in (function, both)]
        # Numba forgets this where it found _launch itself in its cache
        context.active_code_library._reload_init.add(start_threads)
        context.add_linking_libs([launch.dispatcher.get_compile_result(launches).library])
        single = builder.icmp_signed("==", tasks, ir.Constant(whole, 1))
        with builder.if_else(single) as (alone, shared):
            with alone:
                builder.call(function, [ir.Constant(whole, 0), places[1]])
            with shared:
                context.get_function(launch, launches)(builder, [*places, tasks])
        wrong = builder.icmp_unsigned("!=", builder.load(failed), ir.Constant(ir.IntType(32), 0))
        with cgutils.if_unlikely(builder, wrong):
            says = "a task of a parallel loop has failed: is there memory left?"
            context.call_conv.return_user_exc(builder, RuntimeError, (says,))
        return context.get_dummy_value()

    return types.void(types.intp, body, args), generate


def tasks_for(numbers: int) -> int:
    """Into how many tasks to part work that is the same for every one of so many numbers."""
    return max(1, min(numba.get_num_threads(), numbers // WORTH))


@inner
def part(x, task, tasks):
    """A task's part of the numbers x (N,)."""
    return x[task * x.size // tasks : (task + 1) * x.size // tasks]


def start_threads() -> None:
    """What has to happen before a kernel that comes from Numba's cache may run a parallel loop."""
    numba.get_num_threads()


def trampoline(context, module, body, signature, kind):
    """A function of a task and an address, where the arguments' address and that of a flag lie."""
    whole = context.get_value_type(types.intp)
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [whole, whole]), module.get_unique_name("task")
    )
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    task, address = function.args
    both = builder.load(builder.inttoptr(address, kind))
    args, failed = cgutils.unpack_tuple(builder, both)
    args = cgutils.unpack_tuple(builder, builder.load(args))
    overload = body.dispatcher.get_compile_result(signature)
    context.add_linking_libs([overload.library])
    callee = context.declare_function(module, overload.fndesc)
    status, _ = context.call_conv.call_function(
        builder, callee, signature.return_type, signature.args, [task, *args]
    )
    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(ir.Constant(ir.IntType(32), 1), failed)
    builder.ret_void()
    return function


@njit(parallel=True)
def _launch(function, args, tasks):
    for task in prange(tasks):
        _call(function, task, args)


@intrinsic
def _call(context, function, task, args):
    """Calls what lies at the address `function`."""

    def generate(context, builder, signature, values):
        function, task, args = values
        kind = ir.FunctionType(ir.VoidType(), [task.type, args.type])
        builder.call(builder.inttoptr(function, kind.as_pointer()), [task, args])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate
