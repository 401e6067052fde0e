"""npgpt.testing.capture: a module's numbers, found by hooks, with and without PyTorch."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from npgpt import named, testing
from npgpt.errors import InputError
from npgpt.parity import dump as dumps
from npgpt.parity import pairing
from parity_tests.ports import files, torch_port


class Tiny(nn.Module):
    """Two layers with an activation in place, a shared dropout, and a parameter without use."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(n_head=3)
        self.emb = nn.Embedding(5, 4)
        self.drop = nn.Dropout(0.0)
        self.fc = nn.Linear(4, 4)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5, bias=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, ids, *, labels=None):
        x = self.drop(self.emb(ids))
        x = x + self.drop(self.act(self.fc(x)))
        logits = self.head(x)
        loss = None if labels is None else nn.functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten())  # fmt: skip
        return {"logits": logits, "loss": loss}


@pytest.fixture
def tiny():
    torch.manual_seed(1)
    return Tiny()


IDS = torch.tensor([[0, 1, 2], [3, 4, 0]])


def test_what_is_recorded(tiny):
    with testing.capture(tiny) as dump:
        tiny(IDS, labels=IDS.flip(1))["loss"].backward()
    found, x = dump.tensors, tiny.emb(IDS)
    assert dump.meta == {"n_head": 3}
    np.testing.assert_array_equal(found["tokens"], IDS)
    np.testing.assert_array_equal(found["targets"], IDS.flip(1))
    np.testing.assert_array_equal(found["act/emb"], x.detach())
    np.testing.assert_array_equal(found["act/fc"], tiny.fc(x).detach())  # before it is overwritten
    assert (found["logits"].shape, found["loss"].shape) == ((2, 3, 5), ())
    probs = torch.softmax(torch.tensor(found["logits"]), -1)
    expected = (probs - nn.functional.one_hot(IDS.flip(1), 5)) / 6
    np.testing.assert_allclose(found["dact/head"], expected, atol=1e-7)
    np.testing.assert_allclose(
        found["dact/head.in"], expected @ tiny.head.weight.detach(), atol=1e-7
    )
    for name, parameter in tiny.named_parameters():
        np.testing.assert_array_equal(found[f"param/{name}"], parameter.detach())
        assert (f"grad/{name}" in found) == (name != "unused")
    np.testing.assert_array_equal(found["grad/fc.weight"], tiny.fc.weight.grad)


def test_numbers_are_copies_from_before_a_step(tiny):
    before = tiny.fc.bias.detach().clone()
    with testing.capture(tiny) as dump:
        tiny(IDS, labels=IDS)["loss"].backward()
        with torch.no_grad():
            tiny.fc.bias.add_(1)
            tiny.fc.bias.grad.mul_(1)
        first = dump.tensors["logits"].copy()
        tiny(IDS.flip(0))  # a second call does not count
    np.testing.assert_array_equal(dump.tensors["tokens"], IDS)
    np.testing.assert_array_equal(dump.tensors["param/fc.bias"], before)
    np.testing.assert_array_equal(dump.tensors["logits"], first)


def test_hooks_are_removed_and_errors_pass(tiny):
    with pytest.raises(ZeroDivisionError):
        with testing.capture(tiny) as dump:
            tiny(IDS)
            1 / 0  # noqa: B018
    assert "logits" in dump.tensors
    assert not any(part._forward_hooks for part in tiny.modules())
    recorded = {*dump.tensors}
    tiny(IDS, labels=IDS)["loss"].backward()
    assert {name for name in dump.tensors if name.startswith("act/")} <= recorded
    assert "loss" not in dump.tensors


def test_bfloat16_is_widened(tiny):
    tiny = tiny.bfloat16()
    with testing.capture(tiny) as dump:
        tiny(IDS)["logits"].sum().backward()
    assert dump.tensors["logits"].dtype == np.float32
    np.testing.assert_array_equal(dump.tensors["grad/fc.bias"], tiny.fc.bias.grad.float())


class Port(torch_port.LanguageModel):
    def forward(self, tokens):
        return super().forward(tokens, torch_port.SILENT)


def test_a_port_of_gpt2(tmp_path):
    """The port's own record of activations is the same, and the dump fits the probe."""
    one = testing.probe()
    weights = {name: torch.tensor(array) for name, array in named(one.params)}
    config = {**vars(one.config), "dropout": 0.0}
    port = Port(config)
    port.load(weights)
    with testing.capture(port) as dump:
        logits = port(torch.tensor(one.tokens))
        loss = torch_port.loss_of(logits, torch.tensor(one.targets))
        loss.backward()
    dump.tensors["loss"] = loss
    dumps.write(tmp_path / "dump.npz", dump)
    assert dumps.read(tmp_path / "dump.npz").tensors.keys() == dump.tensors.keys()
    found = pairing.check(dump, one).tensors
    source = files.Probe(config, vars(one.settings) | {"dropout": 0.0},
                         dict(named(one.params)), one.tokens, one.targets)  # fmt: skip
    kinds = "loss", "logits", "grad", "act", "dact"
    own = torch_port.run(source, kinds)
    outputs = {"fc1", "fc2", "norm1", "norm2", "q_proj", "out_proj", "norm"}
    compared = [name for name in own if name.split("/")[0] in ("loss", "logits", "grad")
                or name.rsplit(".", 1)[-1] in outputs]  # fmt: skip
    assert len(compared) > 50
    for name in compared:
        np.testing.assert_array_equal(found[name], own[name], err_msg=name)


# Without PyTorch


class Vector:
    """A tensor by the methods that capture uses."""

    requires_grad, grad = True, None

    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape = self.values.shape
        self.dtype = SimpleNamespace(is_floating_point=self.values.dtype.kind == "f")
        self.hooks = []

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.values

    def register_hook(self, hook):
        self.hooks.append(hook)


class Module:
    """A module of one layer that doubles."""

    def __init__(self):
        self.weight, self.hooks = Vector([2.0]), {}

    def named_parameters(self):
        return [("w", self.weight)]

    def named_modules(self):
        return [("double", self)]

    def register_forward_hook(self, hook, with_kwargs):
        self.hooks[hook] = True
        return SimpleNamespace(remove=lambda: self.hooks.pop(hook))

    def __call__(self, x):
        out = Vector(2 * x.values)
        for hook in self.hooks:
            hook(self, (x,), {}, out)
        return out


def test_any_object_with_these_methods():
    module = Module()
    with testing.capture(module) as dump:
        out = module(Vector([1.5]))
        module.weight.grad = Vector([1.5])
        for hook in out.hooks:
            hook(Vector([7.0]))
    assert {name: array.tolist() for name, array in dump.tensors.items()} == {
        "param/w": [2.0], "act/double.in": [1.5], "act/double": [3.0], "dact/double": [7.0],
        "grad/w": [1.5],
    }  # fmt: skip
    assert module.hooks == {}


@pytest.mark.parametrize("wrong", [None, "model.pt", np.ones(3), object()])
def test_other_objects_are_named(wrong):
    with pytest.raises(InputError, match="has no named_modules: it must be a torch"):
        with testing.capture(wrong):
            pass


def test_the_names_of_the_package():
    assert {"capture", "probe"} <= {*testing.__all__}
    for name in testing.__all__:
        assert callable(getattr(testing, name))
    with pytest.raises(AttributeError, match="no attribute 'captur'"):
        testing.captur  # noqa: B018


class Nested(nn.Module):
    """A module that returns the very tensor of its last layer, and one that adds in place."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        x = self.block(x)
        x += 1.0
        return self.last(x)


def test_a_tensor_that_two_modules_return_has_both_names():
    """And one that was changed in place since is another one."""
    torch.manual_seed(0)
    module = Nested()
    with testing.capture(module) as dump:
        module(torch.ones(2, 4)).sum().backward()
    found = dump.tensors
    np.testing.assert_array_equal(found["act/block"], found["act/block.1"])
    np.testing.assert_array_equal(found["act/last.in"], found["act/block"] + 1)
    np.testing.assert_array_equal(found["dact/block"], found["dact/last.in"])
    assert "act/block.1.in" not in found  # the output of block.0, as it is
