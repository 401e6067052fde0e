"""The instructions of chapter 7: a file of a known size and hash, by a small one of the kind."""

import hashlib
import json

import pytest

from npgpt.download import instructions
from npgpt.errors import DownloadError
from parity_tests.support.file_server import listed

CONTENT = json.dumps(
    [{"instruction": f"Add {i}.", "input": "", "output": f"{i}"} for i in range(20)]
)
SHA256 = hashlib.sha256(CONTENT.encode()).hexdigest()


@pytest.fixture
def get(server, tmp_path, monkeypatch):
    """A function that downloads the instructions from a local server, which sends this."""
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(instructions, "INSTRUCTIONS_URL", f"{server.url}/data.json")
    monkeypatch.setattr(instructions, "INSTRUCTIONS_SHA256", SHA256)
    monkeypatch.setattr(instructions, "INSTRUCTIONS_SIZE", len(CONTENT))

    def download(content, *plan):
        server.files["/data.json"] = content.encode()
        server.plan["/data.json"] = list(plan) or ["good"]
        return instructions.download_instructions()

    return download


def test_the_instructions_are_downloaded_once(get, tmp_path, no_network):
    path = get(CONTENT)
    assert path == tmp_path / "cache" / "instruction-data.json"
    assert path.read_text() == CONTENT and listed(path.parent) == ["instruction-data.json"]
    no_network()
    assert instructions.download_instructions() == path


@pytest.mark.parametrize(
    "content, plan, says",
    [
        (CONTENT.replace("Add 7", "Add 8"), (), f"sha256 .*, expected {SHA256[:12]}"),
        (CONTENT[:-1], (), f"received {len(CONTENT) - 1} bytes with sha256"),
        (CONTENT + " ", (), f"received {len(CONTENT) + 1} bytes or more"),
        (CONTENT, ("cut 100",), "instruction-data.json could not be downloaded"),
        (CONTENT, ("hangup",), "instruction-data.json could not be downloaded"),
        (CONTENT, (404,), "Not Found"),
    ],
)
def test_another_file_is_refused_in_one_line(get, server, tmp_path, content, plan, says):
    with pytest.raises(DownloadError, match=says) as caught:
        get(content, *plan)
    said, path = str(caught.value), tmp_path / "cache" / "instruction-data.json"
    assert said.startswith(f"{path} could not be downloaded (") and "\n" not in said
    assert said.endswith(f"download it yourself and pass it as --data PATH: {server.url}/data.json")
    assert listed(path.parent) == []


def test_the_address_is_that_of_one_commit():
    """A branch would have another file some day, and not the expected hash."""
    assert "/b80e7804b30830a00eb55d2abc7ac25a07f36fdc/" in instructions.INSTRUCTIONS_URL
