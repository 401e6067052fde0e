"""Download the instructions that chapter 7 of the book trains on.

1,100 entries of Sebastian Raschka's LLMs-from-scratch, a repository under the Apache licence 2.0.
"""

from pathlib import Path

from npgpt.download.cache_dir import cache_dir
from npgpt.download.verdict import download_small

INSTRUCTIONS = "instruction-data.json"
INSTRUCTIONS_URL = (
    "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/"
    "b80e7804b30830a00eb55d2abc7ac25a07f36fdc/ch07/01_main-chapter-code/instruction-data.json"
)
INSTRUCTIONS_SHA256 = "7e09a9af353722ca15c18bc580f093f9c39d3178335a75177319cb1e1d163944"
INSTRUCTIONS_SIZE = 203_524  # bytes


def download_instructions() -> Path:
    """Return the path of the instructions in the cache directory; download them if missing.

    Raises DownloadError as `download_small`.
    """
    path = cache_dir() / INSTRUCTIONS
    return download_small(
        INSTRUCTIONS_URL, path, sha256=INSTRUCTIONS_SHA256, max_size=INSTRUCTIONS_SIZE
    )
