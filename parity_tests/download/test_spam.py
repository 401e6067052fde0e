"""The SMS Spam Collection: an archive with one file that is kept, both with the right hash."""

import hashlib
import io
import zipfile

import pytest

from npgpt.download import spam
from npgpt.errors import DownloadError
from parity_tests.support.file_server import listed

CONTENT = b"ham\tOk lar...\nspam\tFree entry\n" * 200


def archive(name, content):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("readme", "about it")
        files.writestr(name, content)
    return data.getvalue()


@pytest.fixture
def serve(server, tmp_path, monkeypatch):
    """`serve(archive)`: the local server has it, and its hash is the expected one."""
    monkeypatch.setenv("NPGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(spam, "SPAM_URL", f"{server.url}/spam.zip")
    monkeypatch.setattr(spam, "SPAM_SHA256", hashlib.sha256(CONTENT).hexdigest())

    def make(data):
        server.files["/spam.zip"] = data
        monkeypatch.setattr(spam, "ZIP_SHA256", hashlib.sha256(data).hexdigest())

    return make


def test_the_collection_is_downloaded_and_unpacked_once(serve, tmp_path, no_network):
    serve(archive(spam.SPAM, CONTENT))
    path = spam.download_spam()
    assert path.name == "SMSSpamCollection" and path.read_bytes() == CONTENT
    no_network()
    assert spam.download_spam() == path
    path.write_bytes(b"changed")  # the archive is kept, and has the right hash
    assert spam.download_spam().read_bytes() == CONTENT


@pytest.mark.parametrize(
    "data, says",
    [
        (archive("another", CONTENT), "could not be unpacked"),
        (archive(spam.SPAM, CONTENT[:-1]), "SMSSpamCollection has sha256"),
        (archive(spam.SPAM, bytes(spam.MAX_SIZE + 5)), "SMSSpamCollection has sha256"),
        (b"no archive", "could not be unpacked: File is not a zip file"),
    ],
)
def test_an_archive_without_the_collection(serve, tmp_path, data, says):
    serve(data)
    with pytest.raises(DownloadError, match=says):
        spam.download_spam()
    assert listed(tmp_path / "cache") == ["sms-spam-collection.zip"]


def test_an_archive_with_another_hash(serve, server, tmp_path):
    serve(archive(spam.SPAM, CONTENT))
    server.files["/spam.zip"] = archive(spam.SPAM, CONTENT * 2)
    with pytest.raises(
        DownloadError, match=r"unpack it, and pass SMSSpamCollection as --data PATH"
    ):
        spam.download_spam()
    assert listed(tmp_path / "cache") == []
