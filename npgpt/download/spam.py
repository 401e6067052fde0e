"""Download the SMS Spam Collection, the texts that chapter 6 of the book classifies.

5,574 messages by Almeida, Gómez Hidalgo and Yamakami 2011, doi:10.24432/C5CC84, under CC BY 4.0.
"""

import hashlib
import zipfile
from pathlib import Path

from npgpt.download.cache_dir import cache_dir
from npgpt.download.http import Digest
from npgpt.download.verdict import download_small
from npgpt.errors import DownloadError, RunError
from npgpt.system.atomic import atomic_write

SPAM = "SMSSpamCollection"
SPAM_URL = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
ZIP_SHA256 = "1587ea43e58e82b14ff1f5425c88e17f8496bfcdb67a583dbff9eefaf9963ce3"
SPAM_SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"
MAX_SIZE = 1 << 20  # bytes of the archive, and of the file in it


def download_spam() -> Path:
    """Return the path of the collection in the cache directory; download it if it is missing.

    Raises DownloadError as `download_small`.
    """
    path = cache_dir() / SPAM
    if path.is_file() and Digest("sha256", SPAM_SHA256).compute(path) == SPAM_SHA256:
        return path
    archive = download_small(
        SPAM_URL, cache_dir() / "sms-spam-collection.zip", sha256=ZIP_SHA256, max_size=MAX_SIZE,
        use=f"unpack it, and pass {SPAM} as --data PATH",
    )  # fmt: skip
    try:
        with zipfile.ZipFile(archive) as files, files.open(SPAM) as packed:
            content = packed.read(MAX_SIZE)
        found = hashlib.sha256(content).hexdigest()
        if found != SPAM_SHA256:
            raise DownloadError(f"{SPAM} has sha256 {found[:12]}, expected {SPAM_SHA256[:12]}")
        with atomic_write(path) as file:
            file.write(content)
    except (RunError, OSError, zipfile.BadZipFile, KeyError) as error:
        raise DownloadError(f"{archive} could not be unpacked: {error}") from None
    return path
