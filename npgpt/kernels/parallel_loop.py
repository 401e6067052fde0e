"""`for task in prange(tasks): body(task, *args)`, compiled once for all bodies.

Numba turns a prange loop into a function, wraps it three times, and compiles all four with
everything that the loop calls. Here the loop is a small function that calls a function by its
address (docs/kernels.md).

It uses names that are private to Numba, so that another version may not have them: probe.py tries
every one of them, and parallel.py then does without this file.
"""

from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from npgpt.errors import RunError
from npgpt.kernels import launch

WORD = ir.IntType(64)


def loop_of(runner, prepare):
    """Return `in_parallel` for kernels: body(task, *args) for every task < tasks.

    `runner(function, args, tasks)` is a compiled kernel that calls the function at an address for
    every task. `prepare()` is called in every process before the first loop.
    """

    @intrinsic
    def in_parallel(context, tasks, body, args):
        run = context.resolve_value_type(runner)
        addresses = (types.intp, types.intp, types.intp)
        runs = run.get_call_type(context, addresses, {})
        calls = body.get_call_type(context, (types.intp, *args.types), {})

        def generate(context, builder, signature, values):
            tasks, _, args = values
            stored = cgutils.alloca_once_value(builder, args)
            failed = cgutils.alloca_once_value(builder, ir.Constant(ir.IntType(32), 0))
            both = cgutils.alloca_once_value(
                builder, cgutils.make_anonymous_struct(builder, (stored, failed))
            )
            function = trampoline(context, builder.module, body, calls, both.type)
            word = context.get_value_type(types.intp)
            addresses = [builder.ptrtoint(pointer, word) for pointer in (function, both)]
            # Numba forgets this if it found the runner itself in its cache
            context.active_code_library._reload_init.add(prepare)
            prepare()
            context.add_linking_libs([run.dispatcher.get_compile_result(runs).library])
            single = builder.icmp_signed("==", tasks, ir.Constant(word, 1))
            with builder.if_else(single) as (alone, shared):
                with alone:
                    builder.call(function, [ir.Constant(word, 0), addresses[1]])
                with shared:
                    allowed = launch.acquire_in(builder)
                    with cgutils.if_unlikely(builder, builder.not_(allowed)):
                        context.call_conv.return_user_exc(builder, RunError, (launch.FORKED,))
                    context.get_function(run, runs)(builder, [*addresses, tasks])
                    launch.release_in(builder)
            wrong = builder.icmp_unsigned(
                "!=", builder.load(failed), ir.Constant(ir.IntType(32), 0)
            )
            with cgutils.if_unlikely(builder, wrong):
                context.call_conv.return_user_exc(builder, RunError, (launch.FAILED,))
            return context.get_dummy_value()

        return types.void(types.intp, body, args), generate

    return in_parallel


def trampoline(context, module, body, signature, kind):
    """Return a function of a task and an address, at which pointers to the arguments and to a flag
    lie. It calls the body, and sets the flag if that raises."""
    word = context.get_value_type(types.intp)
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [word, word]), module.get_unique_name("task")
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


def run_tasks(function, args, tasks):
    """The runner: Numba's threads share the tasks."""
    for task in prange(tasks):
        call(function, task, args)


@intrinsic
def call(context, function, task, args):
    """Call the function at an address."""

    def generate(context, builder, signature, values):
        function, task, args = values
        kind = ir.FunctionType(ir.VoidType(), [task.type, args.type])
        builder.call(builder.inttoptr(function, kind.as_pointer()), [task, args])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate
