"""GPT-2 from the Hugging Face Hub."""

import hashlib
import os
import re
import subprocess
import sys

import pytest

from npgpt.download import gpt2
from npgpt.errors import DownloadError
from parity_tests.support.downloads import HUB
from parity_tests.support.file_server import COMMIT, CONTENT, contents, listed, ranges

REPOSITORY = "/openai-community/gpt2"


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """A function that downloads gpt2-small from a local server that answers as the Hub.

    Large files are at another URL.
    """
    from huggingface_hub import constants

    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    on_hub(server)

    def download(**options):
        server.asked.clear()
        return gpt2.download_model("gpt2-small", **options)

    return download


def on_hub(server):
    for revision in ("main", COMMIT):
        for file, data in HUB.items():
            path = f"{REPOSITORY}/resolve/{revision}/{file}"
            server.files[path] = data
            kind = hashlib.sha256 if file == "model.safetensors" else hashlib.sha1
            head = b"" if file == "model.safetensors" else b"blob %d\0" % len(data)
            server.plan["HEAD", path] = [f"hub {kind(head + data).hexdigest()}"]
        server.plan[path.replace("config.json", "model.safetensors")] = [f"to {server.url}/cdn"]
    server.files["/cdn"] = CONTENT


def test_the_hub(hub, server, tmp_path, no_network):
    server.plan["/cdn"] = ["cut 100000", "good"]
    told = []
    folder = hub(progress=lambda *at: told.append(at))
    assert folder == tmp_path / "cache" / "huggingface" / "gpt2-small"
    assert contents(folder) == HUB
    at = f"{REPOSITORY}/resolve/{COMMIT}"
    assert ranges(server)[-5:] == [
        (f"{at}/model.safetensors", None),
        ("/cdn", None),
        (f"{at}/model.safetensors", "bytes=100000-"),
        ("/cdn", "bytes=100000-"),
        (f"{at}/config.json", None),
    ]
    assert {at[0] for at in told} == {*HUB}
    no_network()
    assert hub() == folder


@pytest.mark.parametrize("file", HUB)
def test_bytes_without_the_hubs_hash(hub, server, tmp_path, file):
    at = "/cdn" if file == "model.safetensors" else f"{REPOSITORY}/resolve/{COMMIT}/{file}"
    server.plan[at] = ["wrong"]
    with pytest.raises(DownloadError, match=rf"{file} could not .*received .* expected"):
        hub()
    server.plan[at] = ["good"]
    assert contents(hub(to=tmp_path / "to")) == HUB


def test_a_busy_hub_is_asked_again(hub, server):
    at = f"{REPOSITORY}/resolve/main/model.safetensors"
    server.plan["HEAD", at] = [503, "hangup", *server.plan["HEAD", at]]
    assert contents(hub()) == HUB
    # the library makes a request of its own, the first time in a process and once a day
    asked = [path for path in server.paths if path.startswith(REPOSITORY)]
    assert asked[:3] == [at] * 3


NO_HUB = {
    "404": (404, r"\(.*404.*\)"),
    "401": (401, r"\(.*401.*\)"),
    "500": (500, r"\(.*500.*\)"),
    "another server": ("good", "has no commit, size or hash of model.safetensors"),
    "an unknown hash": ("hub abc", "has no commit, size or hash of model.safetensors"),
    "hangup": ("hangup", "disconnected"),
}


@pytest.mark.parametrize("case", NO_HUB)
def test_wrong_answers_of_the_hub(hub, server, tmp_path, case):
    how, said = NO_HUB[case]
    server.plan["HEAD", f"{REPOSITORY}/resolve/main/model.safetensors"] = [how]
    with pytest.raises(DownloadError, match=said) as caught:
        hub(to=tmp_path / "to")
    message = str(caught.value)
    assert message.startswith(
        "the files of openai-community/gpt2 could not be found on the Hugging Face Hub ("
    )
    assert message.endswith("; you can also try --source openai")
    assert "\n" not in message
    assert listed(tmp_path / "to") == []


def test_the_hubs_own_cache_is_used(hub, server, tmp_path, no_network):
    import huggingface_hub

    for file in HUB:
        huggingface_hub.hf_hub_download("openai-community/gpt2", file, endpoint=server.url)
    no_network()
    folder = hub()
    assert folder.is_relative_to(tmp_path / "hub")
    assert contents(folder) == HUB
    assert not (tmp_path / "cache").exists()
    assert contents(hub(to=tmp_path / "to")) == HUB


FOR_REAL = """
import sys
from npgpt.download import gpt2 as download
assert "huggingface_hub" not in sys.modules
try:
    print(download.download_model("gpt2-small"))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_the_hubs_own_settings(server, tmp_path):
    """HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and a proxy; the server is the proxy."""
    on_hub(server)
    at = f"{REPOSITORY}/resolve/{COMMIT}/model.safetensors"
    server.plan[at] = ["to http://cdn.invalid/cdn"]
    settings = {"HF_ENDPOINT": "http://hub.invalid", "HF_HOME": str(tmp_path / "hf"),
                "NPGPT_CACHE": str(tmp_path / "cache"), "http_proxy": server.url}  # fmt: skip

    def said(**more):
        done = subprocess.run([sys.executable, "-W", "error", "-c", FOR_REAL], text=True,
                              env={**os.environ, **settings, **more},
                              capture_output=True)  # fmt: skip
        assert done.stderr == ""
        return done.stdout.strip()

    assert re.match("DownloadError the files of .*offline mode", said(HF_HUB_OFFLINE="1"))
    assert server.asked == []
    folder = tmp_path / "cache" / "huggingface" / "gpt2-small"
    assert said() == str(folder)
    assert contents(folder) == HUB
    assert {f"http://hub.invalid{at}", "http://cdn.invalid/cdn"} <= {*server.paths}
    server.asked.clear()
    assert said(HF_HUB_OFFLINE="1") == said() == str(folder)
    assert server.asked == []
