"""Addresses that npgpt serve cannot listen at."""

import pytest

from npgpt.cli.main import main
from npgpt.errors import InputError
from npgpt.serve import server
from parity_tests.support.play_client import byte_model


def test_a_port_in_use_and_a_port_that_is_none(tmp_path, capsys):
    with pytest.raises(InputError, match="port is 70000"):
        server.bind("127.0.0.1", 70000)
    with server.bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        byte_model().save(tmp_path / "m.h5")
        flags = ["serve", "--model", str(tmp_path / "m.h5"), "--port", str(port)]
        assert main(flags) == 2
    assert f"port {port}" in capsys.readouterr().err
