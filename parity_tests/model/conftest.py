"""The generator of both backends, beside torch's global one."""

import pytest
import torch

from parity_tests.support.torch_stream import BACKENDS


@pytest.fixture(autouse=True)
def torch_stream_left_as_found():
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.fixture(params=BACKENDS)
def ops(request):
    return BACKENDS[request.param]
