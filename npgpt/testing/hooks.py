"""Record what a PyTorch module computes, without importing PyTorch.

Modules and tensors are used by their methods alone, so that anything with the same methods can be
recorded.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from npgpt.errors import InputError, show
from npgpt.parity.dump import Dump, from_tensor

METHODS = "named_modules", "named_parameters", "register_forward_hook"


@contextmanager
def capture(module: Any) -> Iterator[Dump]:
    """Record the numbers of the forward and backward passes within the block.

    >>> with capture(model) as dump:                                  # doctest: +SKIP
    ...     loss = model(tokens, targets)
    ...     loss.backward()
    >>> dump.tensors["loss"] = loss                                   # doctest: +SKIP

    Parameters
    ----------
    module : torch.nn.Module
        The port, or an object with the same methods.

    Yields
    ------
    Dump
        Complete at the end of the block. `param/*`: the parameters at its start. `grad/*`: their
        gradients at its end. `act/*` and `dact/*`: the output of each module, and its gradient;
        those of its inputs end with ".in". `tokens`, `targets`, `logits` and `loss`: the arguments
        and results of the module itself, if it has them. Only the first call of each module counts.

    Raises
    ------
    InputError
        If `module` has other methods.
    """
    if missing := [name for name in METHODS if not callable(getattr(module, name, None))]:
        raise InputError(
            f"module is {show(type(module))}, which has no {missing[0]}: it must be a "
            "torch.nn.Module, or have its methods"
        )
    dump = Dump({}, {}, "the captured dump")
    record = Recorder(dump.tensors)
    for name, parameter in module.named_parameters():
        dump.tensors[f"param/{name}"] = from_tensor(parameter)
    n_head = getattr(getattr(module, "config", None), "n_head", None)
    if isinstance(n_head, int):
        dump.meta["n_head"] = n_head
    hooks = [
        part.register_forward_hook(record.hook(name), with_kwargs=True)
        for name, part in module.named_modules()
    ]
    try:
        yield dump
        for name, parameter in module.named_parameters():
            if parameter.grad is not None:
                dump.tensors[f"grad/{name}"] = from_tensor(parameter.grad)
    finally:
        for hook in hooks:
            hook.remove()
        record.seen.clear()


class Recorder:
    """Forward hooks that write what passes through modules into a dict."""

    def __init__(self, found: dict[str, Any]):
        self.found = found
        self.called: set[str] = set()
        # tensors and their versions by id: kept, so that no id is reused
        self.seen: dict[int, tuple[Any, int]] = {}

    def hook(self, name: str) -> Any:
        """Return the forward hook of the module `name`; the root's is ""."""

        def call(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
            if name in self.called:
                return
            self.called.add(name)
            if name:
                for tensor in tensors_in(args):
                    if not self.is_seen(tensor):  # the output of another module, as it is
                        self.keep(f"{name}.in", tensor)
                for tensor in tensors_in(output):
                    self.keep(name, tensor)
            else:
                self.keep_arguments([*args, *kwargs.values()])
                self.keep_results(output)

        return call

    def is_seen(self, tensor: Any) -> bool:
        """Return True if a tensor is recorded, and was not changed in place since."""
        kept = self.seen.get(id(tensor))
        return kept is not None and kept[1] == version_of(tensor)

    def keep(self, name: str, tensor: Any) -> None:
        """Record a tensor of floats, and its gradient once that is computed."""
        if f"act/{name}" in self.found or not is_float(tensor):
            return
        self.seen[id(tensor)] = tensor, version_of(tensor)
        self.found[f"act/{name}"] = from_tensor(tensor)
        if tensor.requires_grad:
            tensor.register_hook(lambda gradient: self.keep_gradient(name, gradient))

    def keep_gradient(self, name: str, gradient: Any) -> None:
        """Record the gradient of an activation."""
        self.found.setdefault(f"dact/{name}", from_tensor(gradient))

    def keep_arguments(self, values: list[Any]) -> None:
        """Record the first two tensors (B, T) of integers: the tokens and the targets."""
        ids = [one for one in tensors_in(values) if len(one.shape) == 2 and not is_float(one)]
        for name, tensor in zip(("tokens", "targets"), ids, strict=False):
            self.found[name] = from_tensor(tensor)

    def keep_results(self, output: Any) -> None:
        """Record the loss, a tensor of one number, and the logits, one of three axes."""
        for tensor in filter(is_float, tensors_in(output)):
            name = {0: "loss", 3: "logits"}.get(len(tensor.shape))
            if name and name not in self.found:
                self.found[name] = from_tensor(tensor)


def version_of(tensor: Any) -> int:
    """Return the number of changes in place of a tensor, 0 if it does not count them."""
    return getattr(tensor, "_version", 0)


def tensors_in(value: Any) -> Iterator[Any]:
    """Yield the tensors in nested tuples, lists and mappings."""
    if is_tensor(value):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)


def is_tensor(value: Any) -> bool:
    """Return True for an object with the methods of torch.Tensor that are used here."""
    return all(hasattr(value, name) for name in ("detach", "register_hook", "shape", "dtype"))


def is_float(tensor: Any) -> bool:
    """Return True for a tensor of floating-point numbers."""
    return bool(tensor.dtype.is_floating_point)
