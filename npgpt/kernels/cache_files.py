"""Compiled kernels on the disk: one file for each, which begins with a digest of the rest.

Numba runs the machine code that it finds in a file. After a power failure that may be a part of a
kernel, or zeros, because Numba does not wait for the disk. Here a kernel whose digest is wrong is
compiled again.

A file holds machine code, and the LLVM IR from which Numba compiles other kernels that call this
one. Numba parses the IR of every kernel that it loads, and compiles or imports what only
compilation needs. Here this waits until a kernel is compiled: in most runs, none is.

It uses names that are private to Numba. Where another version lacks one, cache.py keeps Numba's
files, which have no digest, or Numba loads the machine code in its own way.
"""

import hashlib
import os
import pickle
import re
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from llvmlite import binding
from numba.core.caching import CompileResultCacheImpl, FunctionCache
from numba.core.codegen import JITCodeLibrary
from numba.core.runtime import _nrt_python, rtsys
from numba.core.serialize import dumps

from npgpt.system import memory
from npgpt.system.atomic import remove, temporary_path

DIGEST = 32  # bytes


class LoadedCode(JITCodeLibrary):
    """Machine code from a file. Its IR is parsed when it is linked into other code."""

    @classmethod
    def load(cls, codegen, state):
        """Return the library that Numba has serialized as `state`."""
        name, kind, (machine_code, ir) = state
        if kind != "object":
            raise ValueError(f"code is stored as {kind}")
        self = cls(codegen, name)
        self.enable_object_caching()
        self._set_compiled_object(machine_code)
        self._finalize_final_module()
        self.ir = ir
        return self

    def get_pointer_to_function(self, name):
        """Return the address of a function, 0 if there is none of this name."""
        return self._codegen._engine.get_function_address(name)

    def _get_module_for_linking(self):
        if self._shared_module is None:
            self._shared_module = binding.parse_bitcode(self.ir)
            self._codegen._engine._load_defined_symbols(self._shared_module)
        return self._shared_module


class CompiledKernel(CompileResultCacheImpl):
    """The parts of a compiled kernel that are stored."""

    def reduce(self, compiled):
        """Return what is stored: without empty environments of functions of Numba's own.

        To load them, Numba would import the modules of these functions.
        """
        *parts, found = super().reduce(compiled)
        kept = [one for one in found if one.consts or not is_from_numba(one)]
        return (*parts, tuple(kept))

    def rebuild(self, target_context, stored):
        """Return the compiled kernel. The caller holds the lock of Numba's compiler."""
        codegen = target_context.codegen()
        try:
            codegen.unserialize_library = partial(LoadedCode.load, codegen)
            return super().rebuild(target_context, stored)
        except (AttributeError, TypeError, ValueError):  # another Numba
            del codegen.unserialize_library
            return super().rebuild(target_context, stored)
        finally:
            vars(codegen).pop("unserialize_library", None)


def is_from_numba(environment) -> bool:
    """Return True if an environment belongs to a function in one of Numba's modules."""
    return environment.globals["__name__"].startswith("numba.")


def define_allocator(target_context) -> None:
    """Define the functions that machine code calls to allocate and free memory.

    Numba also compiles functions here that count references, for other code to be linked with.
    """
    helpers = getattr(_nrt_python, "c_helpers", None)
    if helpers is None:  # another Numba
        rtsys.initialize(target_context)
        return
    for name, address in helpers.items():
        binding.add_symbol(name if name.startswith("_") else f"NRT_{name}", address)


class KernelCache(FunctionCache):
    """Numba's cache of one kernel, with files of our own.

    `state` is a name for the sources and versions that the machine code depends on.
    """

    _impl_class = CompiledKernel

    def __init__(self, function, state: str):
        super().__init__(function)
        for name in ("_cache_file", "_load_overload", "_guard_against_spurious_io_errors"):
            if not hasattr(self, name):
                raise AttributeError(name)  # or it would be ignored
        self._cache_file = KernelFiles(function, Path(self.cache_path), state)

    def load_overload(self, sig, target_context):
        """Load a compiled kernel; None if it must be compiled."""
        memory.require(memory.TO_LOAD, "load a kernel")
        # Numba's own method also imports all that compiling needs, which a compilation does by
        # itself. Machine code needs only the functions that allocate.
        define_allocator(target_context)
        with self._guard_against_spurious_io_errors():
            found = self._load_overload(sig, target_context)
        if found is None:
            memory.require(memory.TO_COMPILE, "compile a kernel")
        return found

    def save_overload(self, sig, data):
        """Save a compiled kernel, unless the disk is full or was made read-only."""
        with suppress(OSError):
            super().save_overload(sig, data)


class KernelFiles:
    """The files of a kernel, in place of Numba's index file and data files.

    `key` describes the types of a call, the CPU and the bytecode. Its hash is a part of the file's
    name. The key itself is stored too, because two types may have the same name, and so is the
    kernel's name: two kernels may have the same types and bytecode, and a file may be renamed.
    """

    def __init__(self, function, directory: Path, state: str):
        self.directory, self.state = directory, state.encode()
        self.name = re.sub(r"[^\w.]", "", f"{function.__module__}.{function.__qualname__}")

    def path(self, key) -> Path:
        """Return the file of a key."""
        text = f"{sys.implementation.cache_tag} {key!r}"
        return self.directory / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.nbc"

    def load(self, key):
        """Return the data that was saved with this key; None if there is none or it is damaged."""
        try:
            content = self.path(key).read_bytes()
        except OSError:
            return None
        body = memoryview(content)[DIGEST:]
        if self.digest(body) != content[:DIGEST]:
            return None
        # Safe although pickle executes code: `cache.directory` returns no directory that another
        # user can write to, and it has machine code anyway. A damaged file has another digest.
        found, data = pickle.loads(body)
        return data if found == (self.name, key) else None

    def save(self, key, data) -> None:
        """Save the data. Raises OSError if that fails."""
        body = dumps(((self.name, key), data))
        write(self.path(key), self.digest(body) + body)

    def flush(self) -> None:
        """Delete all files of the kernel."""
        for path in self.directory.glob(f"{self.name}-*.nbc"):
            path.unlink(missing_ok=True)

    def digest(self, body) -> bytes:
        """Return the digest of a body: another one in each state."""
        return hashlib.blake2b(body, digest_size=DIGEST, key=self.state).digest()


def write(path: Path, content: bytes) -> None:
    """Write a file at once: several processes may write the same one. Raises OSError."""
    temporary = temporary_path(path)
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except BaseException:
        remove(temporary)
        raise
